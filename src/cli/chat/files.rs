//! Files whose text is put into a question (`phi4d run --file`), in the form in which the chat page
//! sends them.

use std::path::Path;

use super::super::exit::Fatal;

/// Larger files fit no model's context.
const MOST_BYTES: u64 = 64 << 20;

/// The file's name and text, as a block of a question.
///
/// # Errors
/// If the file can't be read, is too large or is not text.
pub(super) fn block(path: &Path) -> Result<String, Fatal> {
    let wrong = |reason: String| Fatal::File { path: path.to_owned(), reason };
    let size = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if size > MOST_BYTES {
        return Err(wrong(format!("it has {size} bytes; at most {MOST_BYTES} are accepted")));
    }
    let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let text = String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
    let text = text.ok_or_else(|| {
        wrong("it is not text in UTF-8; convert it first, such as a PDF with pdftotext".to_owned())
    })?;
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    Ok(fenced(&name, text.trim_start_matches('\u{feff}').trim()))
}

/// `text` in a block that it cannot end itself.
fn fenced(name: &str, text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or_default();
    let fence = "`".repeat(longest.max(2) + 1);
    let name: Vec<&str> = name.split_whitespace().collect();
    format!("File: {}\n{fence}\n{text}\n{fence}", name.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_can_not_end_its_block() {
        assert_eq!(fenced("a  b.txt", "x"), "File: a b.txt\n```\nx\n```");
        assert_eq!(fenced("a.md", "```sh\nls\n```"), "File: a.md\n````\n```sh\nls\n```\n````");
        assert_eq!(fenced("a", "`````"), "File: a\n``````\n`````\n``````");
    }

    #[test]
    fn what_is_no_text_is_refused_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pdf");
        for bytes in [&b"%PDF-1.4 \xff\xfe"[..], b"a\0b"] {
            std::fs::write(&path, bytes).unwrap();
            let error = block(&path).unwrap_err().to_string();
            assert!(error.contains("x.pdf") && error.contains("not text in UTF-8"), "{error}");
        }
        assert!(block(&folder.path().join("none")).is_err());
        std::fs::write(&path, "\u{feff} text\n").unwrap();
        assert_eq!(block(&path).unwrap(), "File: x.pdf\n```\ntext\n```");
    }
}
