//! Small pieces of a manual page.

use clap_mangen::roff::{Roff, bold, roman};

/// A page's title line. Without a date, so that equal sources give equal pages. Written by hand, as
/// the roff crate drops an empty argument and what follows takes its place.
pub(super) fn title(name: &str, section: &str, manual: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(".TH \"{name}\" \"{section}\" \"\" \"phi4d {version}\" \"{manual}\"\n")
}

pub(super) fn heading(roff: &mut Roff, name: &str) {
    roff.control("SH", [name]);
}

pub(super) fn paragraph(roff: &mut Roff, text: &str) {
    roff.control("PP", []);
    roff.text([roman(text)]);
}

/// A word and what there is to say of it.
pub(super) fn entry(roff: &mut Roff, word: &str, text: &str) {
    roff.control("TP", []);
    roff.text([bold(word)]);
    roff.text([roman(text)]);
}

/// The codes that the program ends with.
pub(super) fn exit_status(roff: &mut Roff) {
    heading(roff, "EXIT STATUS");
    for (code, meaning) in super::super::exit::codes() {
        entry(roff, &code.to_string(), meaning);
    }
}

/// Pages to read on, such as `phi4d(1)`.
pub(super) fn see_also(roff: &mut Roff, pages: &[&str]) {
    heading(roff, "SEE ALSO");
    roff.text([roman(pages.join(", "))]);
}
