//! The version of ONNX Runtime that a provider library was built with, read from its file: what is of
//! another version than ONNX Runtime itself may crash when it is loaded.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The longest version that is looked for, with a null character on both sides.
const LONGEST: usize = 16;

/// The library's version, such as `1.32.0`; `None` where it has none in it.
pub(super) fn of_library(path: &Path) -> io::Result<Option<String>> {
    find(File::open(path)?)
}

/// The first text `1.N.N` that stands alone between null characters.
fn find(mut data: impl Read) -> io::Result<Option<String>> {
    // By parts: such a library has hundreds of megabytes.
    let mut buffer = vec![0; 1 << 20];
    let mut held = 0;
    loop {
        let read = data.read(&mut buffer[held..])?;
        if read == 0 {
            return Ok(None);
        }
        let end = held + read;
        if let Some(version) = first_in(&buffer[..end]) {
            return Ok(Some(version));
        }
        // A version may begin at the end of this part and end in the next.
        let keep = end.min(LONGEST);
        buffer.copy_within(end - keep..end, 0);
        held = keep;
    }
}

fn first_in(data: &[u8]) -> Option<String> {
    let starts = data.windows(3).enumerate().filter(|(_, window)| *window == b"\x001.");
    starts.map(|(at, _)| &data[at + 1..]).find_map(|rest| {
        let length = rest.iter().take(LONGEST).position(|byte| *byte == 0)?;
        let text = std::str::from_utf8(&rest[..length]).ok()?;
        is_version(text).then(|| text.to_owned())
    })
}

fn is_version(text: &str) -> bool {
    let numbers: Vec<&str> = text.split('.').collect();
    let number = |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    numbers.len() == 3 && numbers.iter().all(number)
}

/// Whether `version` is a patch release of `minor`, which is as `1.32`.
pub(super) fn fits(version: &str, minor: &str) -> bool {
    version.strip_prefix(minor).is_some_and(|rest| rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_version_wherever_it_stands() {
        for before in [0, 5, (1 << 20) - 4, (1 << 20) - 1, 1 << 20, (2 << 20) - 20] {
            let mut data = vec![b'x'; before];
            data.extend(b"\x001.2\x001.2.x\x001.31.1\x00more");
            assert_eq!(find(data.as_slice()).unwrap().as_deref(), Some("1.31.1"), "{before}");
        }
        for none in ["", "\x001.31.1", "a1.31.1\0", "\x002.0.0\0", "\x001..1\0"] {
            assert_eq!(find(none.as_bytes()).unwrap(), None, "{none:?}");
        }
    }

    #[test]
    fn patch_releases_fit() {
        assert!(fits("1.32.1", "1.32"));
        assert!(!fits("1.3.1", "1.32"));
        assert!(!fits("1.320.1", "1.32"));
    }
}
