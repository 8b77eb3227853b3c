//! Words, whole and with styles, at a terminal's width.

use std::fmt::Write as _;

use unicode_width::UnicodeWidthChar as _;

/// How a piece of text looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Style {
    pub(super) bold: bool,
    pub(super) dim: bool,
    pub(super) italic: bool,
    pub(super) underline: bool,
    pub(super) strike: bool,
    /// The terminal's own colour for code.
    pub(super) code: bool,
}

impl Style {
    /// The sequence that switches from no style to this one; empty for none.
    fn sequence(self) -> String {
        let parts = [
            (self.bold, "1"),
            (self.dim, "2"),
            (self.italic, "3"),
            (self.underline, "4"),
            (self.strike, "9"),
            (self.code, "36"),
        ];
        let codes: Vec<&str> = parts.iter().filter(|(is_on, _)| *is_on).map(|(_, c)| *c).collect();
        if codes.is_empty() { String::new() } else { format!("\x1b[{}m", codes.join(";")) }
    }
}

/// Columns that a text takes.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// Puts words on lines. A word is written when it is complete, so that none is ever broken unless it
/// is longer than a line.
#[derive(Debug)]
pub(super) struct Wrap {
    /// Columns of a line.
    columns: usize,
    /// Whether sequences may be written.
    is_styled: bool,
    out: String,
    /// What the terminal's style is now.
    current: Style,
    /// The column that is written next, from 0.
    column: usize,
    /// What each further line of the paragraph begins with.
    prefix: String,
    /// Line ends that are written before the next text; those at the end of an answer never are.
    line_ends: usize,
    /// Blanks before the pending word.
    spaces: usize,
    word: Vec<(char, Style)>,
}

impl Wrap {
    pub(super) fn new(columns: usize, is_styled: bool) -> Self {
        Self {
            columns: columns.max(1),
            is_styled,
            out: String::new(),
            current: Style::default(),
            column: 0,
            prefix: String::new(),
            line_ends: 0,
            spaces: 0,
            word: Vec::new(),
        }
    }

    pub(super) fn is_styled(&self) -> bool {
        self.is_styled
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    pub(super) fn set_columns(&mut self, columns: usize) {
        self.columns = columns.max(1);
    }

    /// What is to be written now.
    pub(super) fn take(&mut self) -> String {
        std::mem::take(&mut self.out)
    }

    /// Begins a paragraph: `first` is written at once, `rest` before each of its further lines.
    pub(super) fn begin(&mut self, first: &str, rest: &str, style: Style) {
        if !first.is_empty() {
            self.raw(first, style);
        }
        rest.clone_into(&mut self.prefix);
    }

    /// Writes text that is wrapped between words.
    pub(super) fn words(&mut self, text: &str, style: Style) {
        for character in text.chars() {
            match character {
                '\n' => self.line_end(),
                ' ' | '\t' => {
                    self.flush();
                    // Blanks at a line's beginning are its author's.
                    self.spaces += 1;
                }
                _ => {
                    self.word.push((character, style));
                    // Scripts that are written without blanks can be broken after any character.
                    if character.width() == Some(2) {
                        self.flush();
                    }
                }
            }
        }
    }

    /// Writes text as it is, without wrapping.
    pub(super) fn raw(&mut self, text: &str, style: Style) {
        self.flush();
        self.start();
        self.switch(style);
        self.out.push_str(text);
        self.column += width(text);
    }

    /// Ends the line.
    pub(super) fn line_end(&mut self) {
        self.flush();
        self.spaces = 0;
        self.line_ends += 1;
        self.prefix.clear();
    }

    /// Ends all styles.
    pub(super) fn plain(&mut self) {
        self.flush();
        self.switch(Style::default());
    }

    /// Writes the line ends that are due.
    fn start(&mut self) {
        if self.line_ends == 0 {
            return;
        }
        self.switch(Style::default());
        for _ in 0..std::mem::take(&mut self.line_ends) {
            self.out.push('\n');
        }
        self.column = 0;
    }

    fn switch(&mut self, style: Style) {
        if style == self.current || !self.is_styled {
            return;
        }
        if self.current != Style::default() {
            self.out.push_str("\x1b[0m");
        }
        self.current = style;
        // Writing to a String can't fail.
        let _ = write!(self.out, "{}", style.sequence());
    }

    /// Writes the pending word, on a new line if it does not fit this one.
    fn flush(&mut self) {
        if self.word.is_empty() {
            return;
        }
        self.start();
        let word = std::mem::take(&mut self.word);
        let spaces = std::mem::take(&mut self.spaces);
        let wide: usize = word.iter().map(|(c, _)| c.width().unwrap_or(0)).sum();
        let at_start = self.column <= width(&self.prefix);
        if self.column + spaces + wide > self.columns && !at_start {
            self.next_line();
        } else {
            // A blank between two styles belongs to neither.
            if word.first().is_some_and(|(_, style)| *style != self.current) {
                self.switch(Style::default());
            }
            self.out.extend(std::iter::repeat_n(' ', spaces));
            self.column += spaces;
        }
        for (character, style) in word {
            let wide = character.width().unwrap_or(0);
            if self.column + wide > self.columns && self.column > width(&self.prefix) {
                self.next_line();
            }
            self.switch(style);
            self.out.push(character);
            self.column += wide;
        }
    }

    fn next_line(&mut self) {
        let before = self.current;
        self.switch(Style::default());
        self.out.push('\n');
        self.column = width(&self.prefix);
        self.switch(Style { dim: !self.prefix.trim().is_empty(), ..Style::default() });
        self.out.push_str(&self.prefix);
        self.switch(before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wrapped(columns: usize, text: &str) -> String {
        let mut wrap = Wrap::new(columns, false);
        wrap.words(text, Style::default());
        wrap.plain();
        wrap.take()
    }

    #[test]
    fn words_stay_whole_and_long_ones_are_broken() {
        assert_eq!(wrapped(10, "one two three four"), "one two\nthree four");
        assert_eq!(wrapped(10, "a abcdefghijklm b"), "a\nabcdefghij\nklm b");
        assert_eq!(wrapped(6, "日本語日本語"), "日本語\n日本語");
        assert_eq!(wrapped(10, "  two blanks"), "  two\nblanks");
        assert_eq!(wrapped(10, "end\n\n\n"), "end");
    }

    #[test]
    fn further_lines_have_their_prefix_and_no_style_crosses_a_line_end() {
        let mut wrap = Wrap::new(8, true);
        wrap.begin("• ", "  ", Style::default());
        wrap.words("bold words here", Style { bold: true, ..Style::default() });
        wrap.plain();
        assert_eq!(
            wrap.take(),
            "• \x1b[1mbold\x1b[0m\n  \x1b[1mwords\x1b[0m\n  \x1b[1mhere\x1b[0m"
        );
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_no_line_is_too_long(text in "[a-c日 \n]{0,80}", columns in 2_usize..20) {
            let shown = wrapped(columns, &text);
            let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            prop_assert_eq!(letters(&shown), letters(&text));
            for line in shown.lines() {
                prop_assert!(width(line.trim_end()) <= columns.max(width(line) - width(line.trim_start()) + 2), "{line:?}");
            }
        }
    }
}
