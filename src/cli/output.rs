//! Standard output, whose failure is an error and not a panic.

use std::io::Write as _;

use super::exit::Fatal;

/// Writes `text` as it is.
pub(super) fn print(text: &str) -> Result<(), Fatal> {
    let mut output = std::io::stdout().lock();
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).map_err(Fatal::Output)
}
