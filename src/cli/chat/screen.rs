//! Output: the answer on standard output, notes on standard error.
//!
//! A terminal gets no control characters, with which a model's text could control it. A pipe gets the
//! answer unchanged and nothing else.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use tokio::time::timeout;

use super::super::exit::Fatal;
use super::super::output::print;
use super::markdown::Markdown;
use super::wrap::Style;
use phi4d_telemetry::{is_disruptive, is_joiner};

const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";
const CLEAR_LINE: &str = "\r\x1b[K";

/// Columns of a terminal that does not say how many it has.
const COLUMNS: usize = 80;

/// What the answer's last piece was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Nothing,
    Thought,
    Text,
}

/// Where an answer is shown.
#[derive(Debug)]
pub(super) struct Screen {
    /// Whether a person sees standard output.
    out_is_seen: bool,
    /// Whether a person sees standard error.
    notes_are_seen: bool,
    /// Whether a line there can be overwritten.
    lines_can_go: bool,
    dims: bool,
    is_silent: bool,
    part: Part,
    /// The answer so far, if a person sees it.
    layout: Option<Markdown>,
    /// Whether a transient line is shown.
    is_waiting: bool,
}

impl Screen {
    pub(super) fn open() -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        let notes_are_seen = std::io::stderr().is_terminal();
        Self {
            out_is_seen: std::io::stdout().is_terminal(),
            notes_are_seen,
            lines_can_go: notes_are_seen && knows_sequences(variable),
            dims: may_dim(variable),
            is_silent: false,
            part: Part::Nothing,
            layout: None,
            is_waiting: false,
        }
    }

    /// One that shows no answers, for `--json`.
    pub(super) fn silent() -> Self {
        Self { is_silent: true, ..Self::open() }
    }

    /// Shows more of the answer.
    pub(super) fn text(&mut self, text: &str) -> Result<(), Fatal> {
        if self.is_silent {
            return Ok(());
        }
        if self.part == Part::Thought {
            self.end_layout()?;
            print(if self.dims { "\n\n" } else { "\n\nAnswer:\n" })?;
        }
        self.part = Part::Text;
        self.show(text, Style::default())
    }

    /// Shows more of the reasoning, on a terminal only.
    pub(super) fn thought(&mut self, text: &str) -> Result<(), Fatal> {
        if self.is_silent || !self.out_is_seen {
            return Ok(());
        }
        if self.part != Part::Thought && !self.dims {
            print("Thought:\n")?;
        }
        self.part = Part::Thought;
        self.show(text, Style { dim: true, ..Style::default() })
    }

    /// Ends the answer, complete or not.
    pub(super) fn end(&mut self) -> Result<(), Fatal> {
        self.part = Part::Nothing;
        if self.is_silent {
            return Ok(());
        }
        self.end_layout()?;
        print("\n")
    }

    /// Shows text in this style: laid out for a person, as it is for a program.
    fn show(&mut self, text: &str, base: Style) -> Result<(), Fatal> {
        if !self.out_is_seen {
            return print(text);
        }
        // The window may have been resized since the last piece.
        let columns = terminal_size::terminal_size().map_or(COLUMNS, |(width, _)| width.0.into());
        let layout = self.layout.get_or_insert_with(|| Markdown::new(columns, self.dims, base));
        layout.set_columns(columns);
        print(&layout.push(&harmless(text)))
    }

    fn end_layout(&mut self) -> Result<(), Fatal> {
        self.layout.take().map_or(Ok(()), |mut layout| print(&layout.end()))
    }

    /// Shows a dimmed line below an answer, if a person sees that.
    pub(super) fn footer(&self, text: &str) {
        if self.out_is_seen && !text.is_empty() {
            self.aside(text);
        }
    }

    /// Shows a dimmed note on a terminal.
    pub(super) fn aside(&self, text: &str) {
        if !self.notes_are_seen {
            return;
        }
        let text = harmless(text);
        note(&if self.dims { format!("{DIM}{text}{PLAIN}\n") } else { format!("{text}\n") });
    }

    /// Writes a note to standard error, terminal or not.
    pub(super) fn note(&self, text: &str) {
        let text = if self.notes_are_seen { harmless(text) } else { text.to_owned() };
        note(&format!("{text}\n"));
    }

    /// Whether a line of [`Self::waiting`] goes away again.
    pub(super) fn lines_can_go(&self) -> bool {
        self.lines_can_go
    }

    /// Shows a line until the next one or [`Self::done_waiting`]; once only where it would stay.
    pub(super) fn waiting(&mut self, text: &str) {
        let text = harmless(text);
        if self.lines_can_go {
            note(&format!("{CLEAR_LINE}{text}"));
        } else if !self.is_waiting {
            note(&format!("{text}\n"));
        }
        self.is_waiting = true;
    }

    /// Waits for `what`. If it takes longer than `quiet`, a line is shown, and updated each `tick`.
    pub(super) async fn during<T>(
        &mut self,
        what: impl Future<Output = T>,
        [quiet, tick]: [Duration; 2],
        line: impl Fn() -> String,
    ) -> T {
        tokio::pin!(what);
        let mut next = quiet;
        loop {
            if let Ok(done) = timeout(next, &mut what).await {
                return done;
            }
            self.waiting(&line());
            next = tick;
        }
    }

    /// Removes the line.
    pub(super) fn done_waiting(&mut self) {
        if std::mem::take(&mut self.is_waiting) && self.lines_can_go {
            note(CLEAR_LINE);
        }
    }
}

fn note(text: &str) {
    let mut out = std::io::stderr().lock();
    // Without standard error the text has no reader.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// `text` without characters that control a terminal, hide text or reverse it. Joiners of letters and
/// emoji stay.
pub(super) fn harmless(text: &str) -> String {
    let is_fine = |c: &char| !is_disruptive(*c) || is_joiner(*c) || matches!(c, '\n' | '\t');
    text.chars().filter(is_fine).collect()
}

/// See [`crate::fuzzing::terminal`].
#[cfg(any(test, feature = "testing"))]
pub(in super::super) fn check(data: &[u8]) {
    let [cut, columns, is_styled, text @ ..] = data else { return };
    let text = harmless(&String::from_utf8_lossy(text));
    let is_styled = is_styled % 2 == 1;
    let shown = |pieces: &[&str]| {
        let mut layout = Markdown::new(usize::from(*columns), is_styled, Style::default());
        let mut out: String = pieces.iter().map(|piece| layout.push(piece)).collect();
        out.push_str(&layout.end());
        out
    };
    let whole = shown(&[&text]);
    let cut = (0..=usize::from(*cut).min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    let (first, second) = text.split_at(cut.unwrap_or_default());
    assert_eq!(shown(&[first, second]), whole, "cut or not");
    let mut sequences = whole.split('\x1b');
    let letters = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).count();
    let mut count = letters(sequences.next().unwrap_or_default());
    for sequence in sequences {
        let body = sequence.strip_prefix('[').and_then(|rest| rest.split_once('m'));
        assert!(body.is_some(), "a sequence that sets no style: {sequence:?}");
        let Some((codes, rest)) = body else { return };
        assert!(codes.chars().all(|c| c.is_ascii_digit() || c == ';'), "{codes:?}");
        assert_eq!(harmless(rest), rest, "control characters");
        count += letters(rest);
    }
    assert!(is_styled || count == letters(&text), "letters of the source");
}

/// Whether a terminal is there for more than plain text, by its user's wish too.
fn may_dim(variable: impl Fn(&str) -> Option<String>) -> bool {
    let refused = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && knows_sequences(variable)
}

fn knows_sequences(variable: impl Fn(&str) -> Option<String>) -> bool {
    let terminal = variable("TERM");
    // Windows has terminals that say nothing of themselves and know no sequences.
    let known = terminal.is_some() || variable("WT_SESSION").is_some();
    known && terminal.as_deref() != Some("dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_go_and_text_stays() {
        assert_eq!(harmless("a\u{202e}b\u{2028}c\u{2066}\u{feff}d\u{e0041}"), "abcd");
        assert_eq!(harmless("👩\u{200d}🚀 می\u{200c}خواهم"), "👩\u{200d}🚀 می\u{200c}خواهم");
        assert_eq!(harmless("a\u{1b}[2J\r\u{9b}31m\u{7}ä\tb\nc\u{0}"), "a[2J31mä\tb\nc");
    }

    proptest::proptest! {
        #[test]
        fn any_answer_is_shown_without_its_control_characters(
            head in proptest::array::uniform3(0_u8..120),
            text in "([a-c0-2#>|`*_~$\\[\\]()!. \t\x1b\x07\u{202e}é日-]{0,8}\n?){0,12}",
        ) {
            check(&[&head[..], text.as_bytes()].concat());
        }
    }

    #[test]
    fn text_is_dimmed_where_it_is_wanted_and_understood() {
        let with = |pairs: &'static [(&str, &str)]| {
            may_dim(move |name| {
                let pair = pairs.iter().find(|(known, _)| *known == name)?;
                Some(pair.1.to_owned())
            })
        };
        assert!(with(&[("TERM", "xterm")]));
        assert!(with(&[("TERM", "xterm"), ("NO_COLOR", "")]));
        assert!(!with(&[("TERM", "xterm"), ("NO_COLOR", "1")]));
        assert!(!with(&[("TERM", "dumb")]));
        assert!(!with(&[]));
    }
}
