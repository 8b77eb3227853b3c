//! The hashes by which an endpoint names its files' contents.

use std::fmt::Write as _;

use super::error::FetchError;
use super::names::is_plain;
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

/// The hash that a file's content must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expected {
    /// SHA-256 of the content, of files in large-file storage.
    Sha256(String),
    /// Git's name of the content: SHA-1 of `blob SIZE`, a zero byte and the content.
    GitBlob(String),
    /// Nothing says what it is.
    Any,
}

impl Expected {
    /// Begins to read a content of `size` bytes.
    pub(super) fn begin(&self, size: u64) -> Context {
        match self {
            Self::Sha256(_) | Self::Any => Context::new(&SHA256),
            Self::GitBlob(_) => {
                let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
                context.update(format!("blob {size}\0").as_bytes());
                context
            }
        }
    }

    /// Compares the content of `file`, read into `context`, with what is expected.
    ///
    /// # Errors
    /// If it is another.
    pub(super) fn check(&self, file: &str, context: Context) -> Result<(), FetchError> {
        let (kind, expected) = match self {
            Self::Sha256(hex) => ("SHA-256", hex),
            Self::GitBlob(hex) => ("git hash", hex),
            Self::Any => return Ok(()),
        };
        let (file, found, expected) = (file.to_owned(), hex(context), expected.clone());
        if found == expected {
            return Ok(());
        }
        Err(FetchError::WrongBytes { file, kind, found, expected })
    }

    /// Whether this can be a hash of its kind.
    pub(super) fn is_sane(&self) -> bool {
        let (hex, digits) = match self {
            Self::Sha256(hex) => (hex, 64),
            Self::GitBlob(hex) => (hex, 40),
            Self::Any => return true,
        };
        hex.len() == digits && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
    }
}

/// Reads what `sha256sum` writes: a hash and a name on each line. Names keep below their folder.
pub(super) fn read_sums(text: &str) -> Option<Vec<(String, Expected)>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let read = |line: &str| {
        let (hash, name) = line.split_once(char::is_whitespace)?;
        // An asterisk stands before names of files that were read as binary.
        let name = name.trim_start().trim_start_matches('*').trim_start_matches("./");
        let expected = Expected::Sha256(hash.to_ascii_lowercase());
        let fits = expected.is_sane() && name.split('/').all(is_plain);
        fits.then(|| (name.to_owned(), expected))
    };
    lines.map(read).collect()
}

/// SHA-256 of `bytes` in hexadecimal digits.
pub(super) fn sha256(bytes: &[u8]) -> String {
    let mut context = Context::new(&SHA256);
    context.update(bytes);
    hex(context)
}

/// A finished hash in hexadecimal digits.
pub(super) fn hex(context: Context) -> String {
    let mut text = String::new();
    for byte in context.finish().as_ref() {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_git_and_sha256sum() {
        let of = |expected: Expected| {
            let mut context = expected.begin(6);
            context.update(b"hel");
            context.update(b"lo\n");
            assert!(expected.is_sane());
            assert!(expected.check("a", context).is_ok());
            let other = expected.check("a", expected.begin(6)).unwrap_err();
            assert!(other.to_string().starts_with("a is damaged"), "{other}");
        };
        // From `printf 'hello\n' | git hash-object --stdin` and `| sha256sum`.
        of(Expected::GitBlob("ce013625030ba8dba906f756967f9e9ca394464a".to_owned()));
        of(Expected::Sha256(
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03".to_owned(),
        ));
        assert!(!Expected::Sha256("ce01".to_owned()).is_sane());
    }

    #[test]
    fn sums_are_read_as_sha256sum_writes_them() {
        let hash = sha256(b"hello\n");
        let text = format!("{hash}  a.onnx\n{hash} *b/c.json\n\n{hash}  ./d\n");
        let read = read_sums(&text).unwrap();
        let names: Vec<&str> = read.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a.onnx", "b/c.json", "d"]);
        assert!(read.iter().all(|(_, expected)| *expected == Expected::Sha256(hash.clone())));
        for wrong in ["<html>", "ce01  a", &format!("{hash}  ../a"), &format!("{hash}  /etc/a")] {
            assert_eq!(read_sums(wrong), None, "{wrong}");
        }
    }
}
