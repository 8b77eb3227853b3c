//! Standard output, whose failure is an error and not a panic.

use std::io::Write as _;

use super::exit::Fatal;

/// Writes `text` as it is.
pub(super) fn print(text: &str) -> Result<(), Fatal> {
    let mut output = std::io::stdout().lock();
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).map_err(Fatal::Output)
}

/// Writes a line for people to standard error; a program that reads standard output does not see it.
/// Without the program's name before it, it is progress and no complaint.
pub(super) fn aside(text: &str) {
    // Without standard error the line has no reader.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// As [`aside`], for what the reader should heed.
pub(super) fn note(text: &str) {
    aside(&format!("phi4d: {text}"));
}
