//! Emphasis, code and links within a line of Markdown that is still growing.
//!
//! What begins like emphasis is held back until its end comes; if none comes within [`FAR`] bytes or
//! the line, it was none, and stays as it was written. So no character of an answer is lost, and the
//! result does not depend on how the text was cut into pieces.

use super::wrap::Style;

/// The longest emphasis, code or link in bytes: longer text is not held back for it.
const FAR: usize = 400;

/// What a backslash makes stand for itself. LaTeX's own, such as `\\,` and `\\{`, are none of these.
const ESCAPED: &[u8] = b"*_`~#+-.";

/// A piece of text of one style.
pub(super) type Span = (String, Style);

/// The spans of `line` from byte `from` on, and the byte up to which it is decided what they are. If
/// the line `is_complete`, that is its end.
pub(super) fn spans(
    line: &str,
    from: usize,
    is_complete: bool,
    style: Style,
) -> (Vec<Span>, usize) {
    let mut spans = Spans::default();
    let mut at = from;
    while let Some(next) = line.get(at..).and_then(|rest| rest.chars().next()) {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        match mark(line, at, before, is_complete) {
            Mark::None => {
                spans.push(next, style);
                at += next.len_utf8();
            }
            Mark::Undecided => break,
            Mark::Literal(length) => {
                line[at..at + length].chars().for_each(|c| spans.push(c, style));
                at += length;
            }
            Mark::Escape => {
                line[at + 1..at + 2].chars().for_each(|c| spans.push(c, style));
                at += 2;
            }
            Mark::Code { text, end } => {
                spans.0.push((text.to_owned(), Style { code: true, ..style }));
                at = end;
            }
            Mark::Emphasis { text, end, add } => {
                let inner = Style {
                    bold: style.bold || add.bold,
                    italic: style.italic || add.italic,
                    strike: style.strike || add.strike,
                    ..style
                };
                spans.0.extend(self::spans(text, 0, true, inner).0);
                at = end;
            }
            Mark::Link { text, url, end } => {
                spans.0.push((text.to_owned(), Style { underline: true, ..style }));
                if text != url {
                    spans.0.push((format!(" ({url})"), Style { dim: true, ..style }));
                }
                at = end;
            }
        }
    }
    (spans.0, at)
}

#[derive(Default)]
struct Spans(Vec<Span>);

impl Spans {
    fn push(&mut self, character: char, style: Style) {
        match self.0.last_mut() {
            Some((text, last)) if *last == style => text.push(character),
            _ => self.0.push((character.to_string(), style)),
        }
    }
}

/// What begins at a byte of the line.
enum Mark<'a> {
    /// Nothing but a character.
    None,
    /// More of the line is needed.
    Undecided,
    /// So many bytes that only look like a mark.
    Literal(usize),
    /// A backslash before a character that stands for itself.
    Escape,
    Code {
        text: &'a str,
        end: usize,
    },
    Emphasis {
        text: &'a str,
        end: usize,
        add: Style,
    },
    Link {
        text: &'a str,
        url: &'a str,
        end: usize,
    },
}

fn mark(line: &str, at: usize, before: Option<char>, is_complete: bool) -> Mark<'_> {
    let rest = &line[at..];
    let window = &rest[..floor(rest, FAR)];
    // Nothing that comes later can change what is decided about these bytes.
    let is_final = is_complete || rest.len() > FAR;
    let otherwise = |length| if is_final { Mark::Literal(length) } else { Mark::Undecided };
    match rest.as_bytes()[0] {
        b'\\' => match rest.as_bytes().get(1) {
            Some(next) if ESCAPED.contains(next) => Mark::Escape,
            Some(_) => Mark::None,
            None => otherwise(1),
        },
        b'$' => formula(window, is_final),
        b'`' => {
            let run = run(window, b'`');
            match run_at(window, run, b'`', run) {
                // It may grow, and end nothing then.
                Some(end) if end + run == window.len() && !is_final => Mark::Undecided,
                Some(end) => {
                    Mark::Code { text: trimmed_code(&window[run..end]), end: at + end + run }
                }
                None => otherwise(run),
            }
        }
        sign @ (b'*' | b'_' | b'~') => emphasis(window, at, sign, before, is_final),
        b'!' | b'[' => link(window, at, is_final),
        _ => Mark::None,
    }
}

/// The largest length up to `most` that ends between characters.
fn floor(text: &str, most: usize) -> usize {
    (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0)
}

/// How many of `sign` the text begins with.
fn run(text: &str, sign: u8) -> usize {
    text.bytes().take_while(|byte| *byte == sign).count()
}

/// Where a run of exactly `length` of `sign` begins, from byte `from` on.
fn run_at(text: &str, from: usize, sign: u8, length: usize) -> Option<usize> {
    let mut at = from;
    while let Some(found) = text.get(at..)?.bytes().position(|byte| byte == sign) {
        let start = at + found;
        let found = run(&text[start..], sign);
        if found == length {
            return Some(start);
        }
        at = start + found;
    }
    None
}

/// Code in more than one backtick has a blank at both ends.
fn trimmed_code(text: &str) -> &str {
    let inner = text.strip_prefix(' ').and_then(|text| text.strip_suffix(' '));
    inner.filter(|inner| !inner.trim().is_empty()).unwrap_or(text)
}

/// A formula such as `$x_1$`, which is shown as written; before a digit the sign means money.
fn formula(window: &str, is_final: bool) -> Mark<'_> {
    let length = run(window, b'$');
    let otherwise = if is_final { Mark::Literal(length) } else { Mark::Undecided };
    match window.as_bytes().get(length) {
        None => return otherwise,
        Some(next) if next.is_ascii_digit() || *next == b' ' => return Mark::Literal(length),
        Some(_) => {}
    }
    match run_at(window, length, b'$', length) {
        Some(end) if end + length < window.len() || is_final => Mark::Literal(end + length),
        _ => otherwise,
    }
}

fn emphasis(window: &str, at: usize, sign: u8, before: Option<char>, is_final: bool) -> Mark<'_> {
    let otherwise = |length| if is_final { Mark::Literal(length) } else { Mark::Undecided };
    let length = run(window, sign);
    let Some(after) = window[length..].chars().next() else { return otherwise(length) };
    let add = match (sign, length) {
        (b'~', 2) => Style { strike: true, ..Style::default() },
        (b'*' | b'_', 1) => Style { italic: true, ..Style::default() },
        (b'*' | b'_', 2) => Style { bold: true, ..Style::default() },
        (b'*' | b'_', 3) => Style { bold: true, italic: true, ..Style::default() },
        _ => return Mark::Literal(length),
    };
    // Within a word it is a product, a power or a name far more often than emphasis.
    if after.is_whitespace() || before.is_some_and(char::is_alphanumeric) {
        return Mark::Literal(length);
    }
    let mut from = length;
    while let Some(end) = run_at(window, from, sign, length) {
        let closes = !window[..end].ends_with([' ', '\t', '\\']);
        let next = window[end + length..].chars().next();
        if next.is_none() && !is_final {
            // A longer run may be coming, or the rest of a name.
            return Mark::Undecided;
        }
        if closes && (sign != b'_' || !next.is_some_and(char::is_alphanumeric)) {
            return Mark::Emphasis { text: &window[length..end], end: at + end + length, add };
        }
        from = end + length;
    }
    otherwise(length)
}

/// `[text](url)`, also of a picture, which a terminal shows as a link.
fn link(window: &str, at: usize, is_final: bool) -> Mark<'_> {
    let open = match window.as_bytes() {
        [b'[', ..] => 1,
        [b'!', b'[', ..] => 2,
        [b'!'] if !is_final => return Mark::Undecided,
        _ => return Mark::None,
    };
    let otherwise = || if is_final { Mark::Literal(open) } else { Mark::Undecided };
    let Some(close) = window[open..].find([']', '[']).map(|found| open + found) else {
        return otherwise();
    };
    match window.as_bytes().get(close + 1) {
        _ if window.as_bytes()[close] == b'[' => return Mark::Literal(open),
        Some(b'(') => {}
        Some(_) => return Mark::Literal(open),
        None => return otherwise(),
    }
    let Some(end) = window[close..].find(')').map(|found| close + found) else {
        return otherwise();
    };
    let url = window[close + 2..end].split(' ').next().unwrap_or_default();
    match (window[open..close].trim(), url) {
        ("", _) | (_, "") => Mark::Literal(open),
        (text, url) => Mark::Link { text, url, end: at + end + 1 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The line with styles as tags.
    fn tagged(line: &str) -> String {
        let (spans, end) = spans(line, 0, true, Style::default());
        assert_eq!(end, line.len());
        let tag = |(text, style): &Span| {
            let mut text = text.clone();
            let marks = [
                (style.bold, 'b'),
                (style.italic, 'i'),
                (style.strike, 's'),
                (style.code, 'c'),
                (style.underline, 'u'),
                (style.dim, 'd'),
            ];
            for (_, mark) in marks.iter().filter(|(is_on, _)| *is_on) {
                text = format!("<{mark}>{text}</{mark}>");
            }
            text
        };
        spans.iter().map(tag).collect()
    }

    #[test]
    fn emphasis_code_and_links_are_found_and_all_else_stays() {
        for (line, expected) in [
            ("a **bold** and *slanted* word", "a <b>bold</b> and <i>slanted</i> word"),
            ("***both*** ~~gone~~", "<i><b>both</b></i> <s>gone</s>"),
            ("**bold with `code`**", "<b>bold with </b><c><b>code</b></c>"),
            ("2 * 3 * 4, 5*3=15*1, 2**10", "2 * 3 * 4, 5*3=15*1, 2**10"),
            ("f(*args, **kwargs)", "f(*args, **kwargs)"),
            ("snake_case_name and __init__", "snake_case_name and <b>init</b>"),
            ("a `x * y` b ``c ` d``", "a <c>x * y</c> b <c>c ` d</c>"),
            ("open **bold", "open **bold"),
            ("\\*not\\* \\(x\\) C:\\dir \\", "*not* \\(x\\) C:\\dir \\"),
            ("p = 2r,\\; $\\{a\\}_1*b*_c$ *$x*y$*", "p = 2r,\\; $\\{a\\}_1*b*_c$ <i>$x</i>y$*"),
            ("$5 *or* $6, $ x", "$5 <i>or</i> $6, $ x"),
            ("[there](https://a.b) [x] a[0](b", "<u>there</u><d> (https://a.b)</d> [x] a[0](b"),
            ("![p](q.png \"t\") !", "<u>p</u><d> (q.png)</d> !"),
            ("[https://a.b](https://a.b)", "<u>https://a.b</u>"),
        ] {
            assert_eq!(tagged(line), expected);
        }
    }

    #[test]
    fn what_is_never_closed_is_held_back_for_a_while_only() {
        let long = format!("**{}", "a ".repeat(FAR));
        let (_, end) = spans(&long, 0, false, Style::default());
        assert!(end > FAR / 2, "{end}");
        assert_eq!(spans("**bold", 0, false, Style::default()).1, 0);
    }

    proptest! {
        #[test]
        fn the_result_does_not_depend_on_the_pieces(line in "[ab *_~`$\\[\\]()!\\\\]{0,40}", cut in 0_usize..40) {
            let whole = tagged(&line);
            let cut = floor(&line, cut);
            let (mut first, at) = spans(&line[..cut], 0, false, Style::default());
            prop_assert!(at <= cut);
            let (second, end) = spans(&line, at, true, Style::default());
            prop_assert_eq!(end, line.len());
            first.extend(second);
            let joined: String = first.iter().map(|(text, _)| text.as_str()).collect();
            let (spans, _) = spans(&line, 0, true, Style::default());
            let expected: String = spans.iter().map(|(text, _)| text.as_str()).collect();
            prop_assert_eq!(joined, expected, "{}", whole);
        }

        #[test]
        fn no_letter_is_lost(line in "[abc *_~`\\\\]{0,60}") {
            let letters = |text: &str| text.chars().filter(|c| c.is_alphabetic()).collect::<String>();
            let (spans, _) = spans(&line, 0, true, Style::default());
            let shown: String = spans.iter().map(|(text, _)| text.as_str()).collect();
            prop_assert_eq!(letters(&shown), letters(&line));
        }
    }
}
