//! Markdown on a terminal, while it streams: lines are read as they come, each word is shown once it
//! is complete, and only tables wait for their end.
//!
//! It is no complete Markdown: what models write is recognised, everything else is shown as written.
//! Without styles the source itself is shown, with words kept whole: its marks say what styles would.

use super::inline::spans;
use super::table::Table;
use super::wrap::{Style, Wrap};

/// Columns of the rules above and below code.
const RULE: usize = 24;

/// The widest indentation of a list that is kept.
const MOST_INDENT: usize = 16;

/// Turns pieces of an answer into what a terminal shows.
#[derive(Debug)]
pub(super) struct Markdown {
    wrap: Wrap,
    /// The style of plain text.
    base: Style,
    /// The line that is coming in.
    line: String,
    /// Up to which byte of it spans were written; `None` until it is known what line it is.
    written: Option<usize>,
    /// The style of its text.
    style: Style,
    /// Marks of the code block that is open.
    fence: Option<String>,
    table: Table,
    /// The indentation of text that goes on after a list item.
    hanging: usize,
}

/// What a line is, with the byte at which its text begins.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Blank,
    Text(usize),
    Heading {
        level: usize,
        text: usize,
    },
    /// `mark` is shown before the item's text.
    Item {
        indent: usize,
        mark: String,
        text: usize,
    },
    Quote(usize),
    Fence {
        mark: String,
        label: String,
    },
    Rule,
    TableRow,
}

impl Markdown {
    /// For a terminal of so many columns.
    pub(super) fn new(columns: usize, is_styled: bool, base: Style) -> Self {
        Self {
            wrap: Wrap::new(columns, is_styled),
            base,
            line: String::new(),
            written: None,
            style: base,
            fence: None,
            table: Table::default(),
            hanging: 0,
        }
    }

    /// The terminal has so many columns now.
    pub(super) fn set_columns(&mut self, columns: usize) {
        self.wrap.set_columns(columns);
    }

    /// Reads more text, and returns what is to be written for it.
    pub(super) fn push(&mut self, text: &str) -> String {
        for part in text.split_inclusive('\n') {
            match part.strip_suffix('\n') {
                Some(end) => {
                    self.line.push_str(end);
                    self.advance(true);
                    self.line.clear();
                    self.written = None;
                }
                None => {
                    self.line.push_str(part);
                    self.advance(false);
                }
            }
        }
        self.wrap.take()
    }

    /// The text has ended; returns what was held back. Line ends at the end are left out.
    pub(super) fn end(&mut self) -> String {
        if !self.line.is_empty() {
            self.advance(true);
            self.line.clear();
            self.written = None;
        }
        self.end_table();
        self.fence = None;
        self.wrap.plain();
        self.wrap.take()
    }

    /// Shows as much of the line as is decided.
    fn advance(&mut self, is_complete: bool) {
        if self.written.is_none() {
            if let Some(mark) = self.fence.take() {
                // Code is shown by lines: the next characters may end it.
                if is_complete {
                    self.code_line(mark);
                } else {
                    self.fence = Some(mark);
                }
                return;
            }
            match kind(&self.line, is_complete) {
                Some(kind) => self.begin(kind),
                None => return,
            }
        }
        let Some(from) = self.written else { return };
        if self.wrap.is_styled() {
            let (spans, end) = spans(&self.line, from, is_complete, self.style);
            for (text, style) in spans {
                self.wrap.words(&text, style);
            }
            self.written = Some(end);
        } else {
            self.wrap.words(&self.line[from..], self.style);
            self.written = Some(self.line.len());
        }
        if is_complete {
            self.wrap.line_end();
        }
    }

    /// Shows what stands before the text of a line of this kind.
    fn begin(&mut self, kind: Kind) {
        if kind != Kind::TableRow {
            self.end_table();
        }
        self.style = self.base;
        let dim = Style { dim: true, ..self.base };
        let is_styled = self.wrap.is_styled();
        let kind = match kind {
            // The source says what it is.
            Kind::Heading { .. } | Kind::Item { .. } | Kind::Quote(_) if !is_styled => {
                self.hanging = 0;
                Kind::Text(self.line.len() - self.line.trim_start().len())
            }
            kind => kind,
        };
        let text = match kind {
            Kind::Blank => {
                self.hanging = 0;
                0
            }
            Kind::TableRow => {
                self.table.push(&self.line);
                if self.table.is_full() {
                    self.end_table();
                }
                return;
            }
            Kind::Rule | Kind::Fence { .. } if !is_styled => {
                if let Kind::Fence { mark, .. } = kind {
                    self.fence = Some(mark);
                }
                self.wrap.raw(&self.line, self.base);
                self.line.len()
            }
            Kind::Rule => {
                self.wrap.raw(&"─".repeat(RULE.min(self.wrap.columns())), dim);
                self.line.len()
            }
            Kind::Fence { mark, label } => {
                self.fence = Some(mark);
                self.rule(&label);
                self.line.len()
            }
            Kind::Heading { level, text } => {
                self.style = Style { bold: true, underline: level == 1, ..self.base };
                self.hanging = 0;
                text
            }
            Kind::Item { indent, mark, text } => {
                self.hanging = indent + super::wrap::width(&mark);
                let first = format!("{}{mark}", " ".repeat(indent));
                self.wrap.begin(&first, &" ".repeat(self.hanging), self.base);
                text
            }
            Kind::Quote(text) => {
                self.wrap.begin("│ ", "│ ", dim);
                text
            }
            Kind::Text(text) => {
                let indent = " ".repeat(if self.hanging > 0 { self.hanging } else { text });
                let indent = indent.get(..MOST_INDENT).unwrap_or(&indent);
                self.wrap.begin(indent, indent, self.base);
                text
            }
        };
        self.written = Some(text);
    }

    /// Shows a complete line of code, or the end of the block.
    fn code_line(&mut self, mark: String) {
        let trimmed = self.line.trim();
        let closes =
            trimmed.starts_with(&mark) && trimmed.trim_start_matches(&mark[..1]).is_empty();
        if !closes {
            let code = Style { code: true, ..self.base };
            self.wrap.raw(&self.line, code);
            self.fence = Some(mark);
        } else if self.wrap.is_styled() {
            self.rule("");
        } else {
            self.wrap.raw(&self.line, self.base);
        }
        self.wrap.line_end();
    }

    /// A rule of a code block, with its language.
    fn rule(&mut self, label: &str) {
        let columns = RULE.min(self.wrap.columns());
        let text = match label {
            "" => "─".repeat(columns),
            _ => format!("── {label} {}", "─".repeat(columns.saturating_sub(label.len() + 4))),
        };
        self.wrap.raw(&text, Style { dim: true, ..self.base });
    }

    fn end_table(&mut self) {
        self.table.show(&mut self.wrap, self.base);
    }
}

/// What a line is; `None` while more of it is needed to know.
fn kind(line: &str, is_complete: bool) -> Option<Kind> {
    let body = line.trim_start_matches([' ', '\t']);
    let indent = line.len() - body.len();
    let unless_more = |kind| is_complete.then_some(kind);
    let Some(first) = body.chars().next() else { return unless_more(Kind::Blank) };
    match first {
        '#' => heading(body, indent, is_complete),
        '>' if body.len() == 1 => unless_more(Kind::Quote(line.len())),
        '>' => Some(Kind::Quote(indent + if body[1..].starts_with(' ') { 2 } else { 1 })),
        '|' => unless_more(Kind::TableRow),
        '`' | '~' => fence(body, first, indent, is_complete),
        '-' | '*' | '+' | '_' => bullet(body, first, indent, is_complete),
        '0'..='9' => numbered(body, indent, is_complete),
        _ => Some(Kind::Text(indent)),
    }
}

fn heading(body: &str, indent: usize, is_complete: bool) -> Option<Kind> {
    let level = body.bytes().take_while(|byte| *byte == b'#').count();
    match body.as_bytes().get(level) {
        Some(b' ') if level <= 6 => Some(Kind::Heading { level, text: indent + level + 1 }),
        None if !is_complete => None,
        _ => Some(Kind::Text(indent)),
    }
}

fn fence(body: &str, sign: char, indent: usize, is_complete: bool) -> Option<Kind> {
    let mark: String = body.chars().take_while(|c| *c == sign).collect();
    let info = body[mark.len()..].trim();
    match () {
        () if mark.len() < 3 && mark.len() < body.len() => Some(Kind::Text(indent)),
        () if !is_complete => None,
        // Code within a line, such as ```x```.
        () if mark.len() < 3 || info.contains('`') => Some(Kind::Text(indent)),
        () => {
            let label = info.split_whitespace().next().unwrap_or_default();
            Some(Kind::Fence { mark, label: label.chars().take(RULE).collect() })
        }
    }
}

fn bullet(body: &str, sign: char, indent: usize, is_complete: bool) -> Option<Kind> {
    if body.chars().all(|c| c == sign || c == ' ') {
        // A rule such as `---`, unless more comes.
        let count = body.chars().filter(|c| *c == sign).count();
        let kind = if count >= 3 && sign != '+' { Kind::Rule } else { Kind::Text(indent) };
        return is_complete.then_some(kind);
    }
    if sign == '_' || !body[1..].starts_with(' ') {
        return Some(Kind::Text(indent));
    }
    let text = body.len() - body[1..].trim_start_matches(' ').len();
    let indent_shown = indent.min(MOST_INDENT);
    Some(Kind::Item { indent: indent_shown, mark: "• ".to_owned(), text: indent + text })
}

fn numbered(body: &str, indent: usize, is_complete: bool) -> Option<Kind> {
    let digits = body.bytes().take_while(u8::is_ascii_digit).count();
    let mut rest = body[digits..].chars();
    match (rest.next(), rest.next()) {
        (Some('.' | ')'), Some(' ')) if digits <= 9 => {
            let mark = format!("{} ", &body[..=digits]);
            let text = body.len() - body[digits + 1..].trim_start_matches(' ').len();
            Some(Kind::Item { indent: indent.min(MOST_INDENT), mark, text: indent + text })
        }
        (None, _) | (Some('.' | ')'), None) if !is_complete => None,
        _ => Some(Kind::Text(indent)),
    }
}

#[cfg(test)]
#[path = "markdown_tests.rs"]
mod tests;
