//! Regular expressions of a schema (`pattern`, `patternProperties`), which are ECMAScript's, as the
//! grammar library reads expressions: those of Rust's `regex` crate.
//!
//! Where dialects and validators differ in what a class contains (`\s`, `\d`, `.`), the result
//! allows what is in the class for all of them. Control characters other than JSON's short escapes
//! are left out of every class, because the grammar does not let `\u` escapes through.

use std::borrow::Cow;
use std::collections::HashSet;
use std::iter::Peekable;
use std::str::Chars;

use super::properties;

/// Characters that are never generated, as members of a class.
const NEVER: &str = r"\x00-\x07\x0b\x0e-\x1f\x7f";

/// Line ends of ECMAScript, which `.` leaves out.
const LINE_ENDS: &str = r"\n\r\u{2028}\u{2029}";

/// White space of ECMAScript, Python or Rust, as members of a class.
const ALL_SPACE: &str = r"\s\x1c-\x1f\u{feff}";

/// Digits and word characters of any of them. The library would read `\d` and `\w` as ASCII's.
const ALL_DIGITS: &str = r"\p{Nd}";
const ALL_WORD: &str = r"\p{Alphabetic}\p{M}\p{N}\p{Pc}";

/// Characters that mean something by themselves outside classes.
const SYNTAX: &str = r"^$\.*+?()[]{}|/";

/// White space of all of them.
const ASCII_SPACE: &str = r" \t\n\r\x0c";

/// What an expression has that can't be used.
pub(super) type Fault = Cow<'static, str>;

const CONTROL: Fault = Cow::Borrowed(
    "control characters other than \\b, \\f, \\n, \\r and \\t, which are never generated",
);
const END: Fault = Cow::Borrowed("an end in the middle of an escape, a class or a group's head");

/// The library's spelling of an expression. The check has refused those that have none.
pub(super) fn spelled(given: &str) -> String {
    translated(given).unwrap_or_else(|_| given.to_owned())
}

/// `pattern` in the library's dialect.
///
/// # Errors
/// If it is no expression of ECMAScript's, by the rules of the flag `u` or by those without it, or the
/// translation is not possible. What the library lacks itself (look-around, references to groups) is left for
/// it to refuse.
pub(super) fn translated(pattern: &str) -> Result<String, Fault> {
    let mut reader = Reader {
        rest: pattern.chars().peekable(),
        out: String::new(),
        may_repeat: false,
        names: HashSet::new(),
        with_flag: false,
        without_flag: false,
    };
    while let Some(c) = reader.rest.next() {
        let may_repeat = std::mem::replace(&mut reader.may_repeat, true);
        match c {
            '.' => reader.put(&format!("[^{LINE_ENDS}{NEVER}]")),
            '[' => reader.class()?,
            '\\' => reader.escape()?,
            '{' => reader.brace(may_repeat)?,
            '*' | '+' | '?' => reader.quantifier(&c.to_string(), may_repeat)?,
            '(' if reader.rest.peek() == Some(&'?') => reader.group()?,
            '(' | '|' | '^' | '$' => {
                reader.out.push(c);
                reader.may_repeat = false;
            }
            ')' => reader.out.push(c),
            c => {
                reader.without_flag |= matches!(c, ']' | '}');
                reader.literal(c)?;
            }
        }
    }
    if reader.with_flag && reader.without_flag {
        return Err("what the flag `u` allows beside what it forbids".into());
    }
    Ok(reader.out)
}

struct Reader<'p> {
    rest: Peekable<Chars<'p>>,
    out: String,
    /// Whether what was read last can have a quantifier.
    may_repeat: bool,
    /// Names of groups.
    names: HashSet<String>,
    /// Whether something is read as it is with the flag `u` only, and something as without it only.
    with_flag: bool,
    without_flag: bool,
}

/// A member of a class, or what an escape stands for.
enum Member {
    Char(char),
    /// A predefined class: its letter.
    Class(char),
    /// A class by a property of Unicode, as the library spells it.
    Property(String),
}

impl Reader<'_> {
    fn put(&mut self, text: &str) {
        self.out.push_str(text);
    }

    fn literal(&mut self, c: char) -> Result<(), Fault> {
        if is_never(c) {
            return Err(CONTROL);
        }
        push_char(&mut self.out, c);
        Ok(())
    }

    /// The head of a group. Names are dropped, as nothing can refer to them.
    fn group(&mut self) -> Result<(), Fault> {
        let rest: String = self.rest.clone().take(3).collect();
        let kinds = ["?:", "?=", "?!", "?<=", "?<!"];
        self.may_repeat = false;
        if let Some(kind) = kinds.into_iter().find(|kind| rest.starts_with(kind)) {
            self.put(&format!("({kind}"));
            self.rest.nth(kind.len() - 1);
            return Ok(());
        }
        let head = self.rest.clone().take_while(|c| !":>)".contains(*c)).take(100);
        let head: String = head.collect();
        let Some(name) = head.strip_prefix("?<") else {
            return Err(format!("({head}, which begins no group of ECMAScript 2024").into());
        };
        let begins = |c: char| c.is_alphabetic() || matches!(c, '_' | '$');
        let is_name =
            name.starts_with(begins) && name.chars().all(|c| begins(c) || c.is_ascii_digit());
        self.rest.nth(head.chars().count() - 1);
        if !is_name || self.rest.next() != Some('>') || !self.names.insert(name.to_owned()) {
            return Err(format!("({head}, which is no name of a group, or that of two").into());
        }
        self.put("(?:");
        Ok(())
    }

    /// A quantifier, which may be lazy.
    fn quantifier(&mut self, quantifier: &str, may_repeat: bool) -> Result<(), Fault> {
        if !may_repeat {
            let shown: String = quantifier.chars().take(40).collect();
            return Err(format!("{shown} where there is nothing that it could repeat").into());
        }
        self.put(quantifier);
        if self.rest.next_if_eq(&'?').is_some() {
            self.out.push('?');
        }
        self.may_repeat = false;
        Ok(())
    }

    /// A quantifier, or else the character itself.
    fn brace(&mut self, may_repeat: bool) -> Result<(), Fault> {
        let counts = self.rest.clone().take_while(|c| c.is_ascii_digit() || *c == ',');
        let counts: String = counts.collect();
        let (least, most) = counts.split_once(',').unwrap_or((&counts, ""));
        let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
        let closed = self.rest.clone().nth(counts.chars().count()) == Some('}');
        if closed && !least.is_empty() && digits(least) && digits(most) {
            self.rest.nth(counts.chars().count());
            return self.quantifier(&format!("{{{counts}}}"), may_repeat);
        }
        self.without_flag = true;
        self.put(r"\{");
        Ok(())
    }

    fn escape(&mut self) -> Result<(), Fault> {
        // The library refuses these; an assertion is no member of a class.
        if let Some(assertion @ ('b' | 'B' | '1'..='9' | 'k')) = self.rest.peek().copied() {
            self.rest.next();
            self.out.push('\\');
            self.out.push(assertion);
            self.may_repeat = !matches!(assertion, 'b' | 'B');
            return Ok(());
        }
        match self.member("")? {
            Member::Char(c) => self.literal(c),
            member => {
                self.out.push('[');
                put_member(&mut self.out, &member, true);
                self.out.push(']');
                Ok(())
            }
        }
    }

    /// What follows a backslash, which may be before `also` beside what is syntax everywhere.
    fn member(&mut self, also: &str) -> Result<Member, Fault> {
        let c = self.rest.next().ok_or(END)?;
        self.without_flag |= ![SYNTAX, also].concat().contains(c) && !c.is_ascii_alphanumeric();
        Ok(Member::Char(match c {
            'd' | 'D' | 'w' | 'W' | 's' | 'S' => return Ok(Member::Class(c)),
            'p' | 'P' => return self.property(c),
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'f' => '\x0c',
            'b' => '\x08',
            'v' => '\x0b',
            '0' if !self.rest.peek().is_some_and(char::is_ascii_digit) => '\0',
            'x' => self.code(c, 2)?,
            'u' if self.rest.next_if_eq(&'{').is_some() => {
                self.with_flag = true;
                let digits: String = self.rest.by_ref().take_while(|c| *c != '}').collect();
                character(&digits).ok_or_else(|| escape(&format!("u{{{digits}}}")))?
            }
            'u' => self.code(c, 4)?,
            'c' => return Err(CONTROL),
            c if c.is_ascii_alphanumeric() => return Err(escape(&c.to_string())),
            c => c,
        }))
    }

    fn code(&mut self, letter: char, digits: usize) -> Result<char, Fault> {
        let code: String = self.rest.by_ref().take(digits).collect();
        let character = if code.len() == digits { character(&code) } else { None };
        character.ok_or_else(|| escape(&format!("{letter}{code}")))
    }

    fn property(&mut self, letter: char) -> Result<Member, Fault> {
        let is_open = self.rest.next_if_eq(&'{').is_some();
        let name: String = self.rest.by_ref().take_while(|c| *c != '}' && is_open).collect();
        if !properties::is_known(&name) {
            return Err(escape(&format!("{letter}{{{name}}}")));
        }
        self.with_flag = true;
        Ok(Member::Property(format!("\\{letter}{{{name}}}")))
    }

    /// A class between brackets.
    fn class(&mut self) -> Result<(), Fault> {
        let negated = self.rest.next_if_eq(&'^').is_some();
        let mut members = String::new();
        let mut generated = false;
        loop {
            let first = match self.rest.next().ok_or(END)? {
                ']' => break,
                '\\' => self.member("-")?,
                c => Member::Char(c),
            };
            let Member::Char(from) = first else {
                put_member(&mut members, &first, !negated);
                generated = true;
                continue;
            };
            push_char(&mut members, from);
            let mut to = from;
            if self.rest.peek() == Some(&'-') && self.rest.clone().nth(1) != Some(']') {
                self.rest.next();
                let last = match self.rest.next().ok_or(END)? {
                    '\\' => self.member("-")?,
                    c => Member::Char(c),
                };
                match last {
                    Member::Char(last) => {
                        to = last;
                        members.push('-');
                        push_char(&mut members, last);
                    }
                    class => {
                        self.without_flag = true;
                        members.push_str(r"\-");
                        put_member(&mut members, &class, !negated);
                        generated = true;
                    }
                }
            }
            generated |= (from..=to).take(33).any(|c| !is_never(c));
        }
        match (negated, members.is_empty()) {
            // Anything at all, and nothing.
            (true, true) => self.put(&format!("[^{NEVER}]")),
            (false, true) => return Err("an empty class, which matches nothing".into()),
            (true, false) => self.put(&format!("[^{NEVER}{members}]")),
            (false, false) if !generated => return Err(CONTROL),
            (false, false) => self.put(&format!("[{members}]")),
        }
        Ok(())
    }
}

/// The character of a code; of half of a surrogate pair there is none.
fn character(code: &str) -> Option<char> {
    // The library's numbers may have a sign.
    let code = code.chars().all(|c| c.is_ascii_hexdigit()).then_some(code)?;
    char::from_u32(u32::from_str_radix(code, 16).ok()?)
}

fn escape(rest: &str) -> Fault {
    let shown: String = rest.chars().take(40).collect();
    format!("\\{shown}, an escape that the standard does not have or that stands for no character")
        .into()
}

/// Whether the grammar lets no string contain the character.
pub(super) fn is_never(c: char) -> bool {
    c.is_ascii_control() && !matches!(c, '\x08' | '\t' | '\n' | '\x0c' | '\r')
}

fn push_char(out: &mut String, c: char) {
    if c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii() {
        out.push(c);
    } else {
        // No notation of either dialect takes this for anything but the character.
        out.push_str(&format!("\\x{:02x}", u32::from(c)));
    }
}

/// Adds a predefined class to a class: if that is to match what is in it (`wanted`), what all
/// dialects agree to be in the class; otherwise what any of them has in it.
fn put_member(out: &mut String, member: &Member, wanted: bool) {
    let letter = match member {
        Member::Char(c) => return push_char(out, *c),
        Member::Property(name) => return out.push_str(name),
        Member::Class(letter) => *letter,
    };
    match (letter, wanted) {
        ('d', true) => out.push_str("0-9"),
        ('w', true) => out.push_str("0-9A-Za-z_"),
        ('s', true) => out.push_str(ASCII_SPACE),
        ('d', false) => out.push_str(ALL_DIGITS),
        ('w', false) => out.push_str(ALL_WORD),
        ('s', false) => out.push_str(ALL_SPACE),
        ('D', true) => out.push_str(&format!("[^{ALL_DIGITS}{NEVER}]")),
        ('W', true) => out.push_str(&format!("[^{ALL_WORD}{NEVER}]")),
        ('S', true) => out.push_str(&format!("[^{ALL_SPACE}{NEVER}]")),
        ('D', _) => out.push_str("[^0-9]"),
        ('W', _) => out.push_str("[^0-9A-Za-z_]"),
        _ => out.push_str(&format!("[^{ASCII_SPACE}]")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::Regex;

    use super::*;

    fn regex(pattern: &str) -> Regex {
        let text = translated(pattern).unwrap_or_else(|fault| panic!("{pattern}: {fault}"));
        Regex::new(&text).unwrap_or_else(|error| panic!("{pattern}: {error}"))
    }

    #[test]
    fn expressions_mean_what_ecmascript_says() {
        for (pattern, matching, others) in [
            (r"^\d+$", &["0", "42"][..], &["٣", "", "a"][..]),
            (r"^\D+$", &["a", "\u{2028}"], &["1", "٣"]),
            (r"^[\w.-]+$", &["a_9.-"], &["é", "a b"]),
            (r"^\W$", &["-", "€"], &["a", "_", "é"]),
            (r"^\s$", &[" ", "\t", "\n"], &["\u{85}", "\u{feff}", "a"]),
            (r"^[^\s]$", &["a", "€"], &[" ", "\u{85}", "\u{feff}", "\u{1c}"]),
            (r"^[\S]$", &["a"], &[" ", "\u{feff}"]),
            ("^.$", &["a", "😀"], &["\n", "\r", "\u{2028}", "\u{1}"]),
            ("^[^]$", &["a", "\n"], &["\u{0}"]),
            ("^[[]&&~~a]$", &["[&&~~a]"], &["[", "a"]),
            ("^[[a&&~-]$", &["[", "a", "&", "~", "-"], &["b"]),
            ("^{a}$", &["{a}"], &["a"]),
            ("^a{2,3}?$", &["aa", "aaa"], &["a", "aaaa"]),
            (r"^\/\-\_?$", &["/-", "/-_"], &["/"]),
            (r"^\u00e9\x41\u{1F600}$", &["éA😀"], &["e"]),
            (r"^[\u0000-\u007f]$", &["a", "\n"], &["é"]),
            (r"^[a-\d]$", &["a", "-", "5"], &["b"]),
            ("^a b#c$", &["a b#c"], &["ab"]),
            ("^(?:red|green)?$", &["", "red"], &["reds"]),
            (r"^\p{Lu}+$", &["ÄB"], &["ab"]),
        ] {
            // `_` is no escape of ECMAScript with the flag `u`, but of it without.
            let regex = regex(pattern);
            for text in matching {
                assert!(regex.is_match(text), "{pattern}: {text:?}");
            }
            for text in others {
                assert!(!regex.is_match(text), "{pattern}: {text:?}");
            }
        }
    }

    #[test]
    fn what_ecmascript_lacks_is_refused_by_name() {
        for (pattern, named) in [
            ("a**", "* where"),
            ("a++", "+ where"),
            ("a?+", "+ where"),
            ("a*??", "? where"),
            ("a{2}{3}", "{3} where"),
            ("(*a)", "* where"),
            ("a|+", "+ where"),
            ("^*", "* where"),
            (r"\b+", "+ where"),
            ("{2}", "{2} where"),
            ("(?i)a", "(?i,"),
            ("(?i:a)", "(?i,"),
            ("(?-s:a)", "(?-s,"),
            ("(?P<n>a)", "(?P<n,"),
            ("(?P=n)", "(?P=n,"),
            ("(?#a)", "(?#a,"),
            ("(?>a)", "(?,"),
            ("(?'n'a)", "(?'n'a,"),
            ("(?<1>a)", "(?<1,"),
            ("(?<a>.)(?<a>.)", "(?<a,"),
            (r"\Aa", r"\A,"),
            (r"a\z", r"\z,"),
            (r"a\Z", r"\Z,"),
            (r"\Qa\E", r"\Q,"),
            (r"\a", r"\a,"),
            (r"\h", r"\h,"),
            (r"\x{61}", r"\x{6,"),
            (r"\u+061", r"\u+061,"),
            (r"[\01]", r"\0,"),
            (r"\pL", r"\p{},"),
            (r"\p{l}", r"\p{l},"),
            (r"\p{Greek}", r"\p{Greek},"),
            (r"\p{sc=greek}", r"\p{sc=greek},"),
            (r"\p{L}\-", "flag `u`"),
            (r"\u{61}]", "flag `u`"),
        ] {
            let fault = translated(pattern).expect_err(pattern);
            assert!(fault.contains(named), "{pattern}: {fault}");
        }
        for pattern in [
            "a*?b+?c??d{2}?",
            "(?<a>.)|(?<b$1>.)",
            r"\p{Script=Greek}\p{gc=Nd}",
            r"(a)*|(?:b)+",
            r"[\-\]]{2,}",
        ] {
            regex(pattern);
        }
    }

    /// The daemon reads expressions of up to a megabyte.
    #[test]
    fn the_work_is_in_proportion_to_the_expression() {
        for part in ["{", "{1", "(?<", "[", "\\p{", "(?<a>"] {
            let _ = translated(&part.repeat(200_000));
        }
        let names: String = (0..50_000).map(|number| format!("(?<a{number}>)")).collect();
        assert!(translated(&names).is_ok());
    }

    #[test]
    fn what_no_string_can_hold_is_refused() {
        for pattern in ["\u{1}", r"\x00", r"\u001f", r"[\x00-\x07]", r"\cA", "[]", "a\u{7f}"] {
            assert!(translated(pattern).is_err(), "{pattern:?}");
        }
        for pattern in ["[", "\\", r"\u12", r"\xg0", r"\ud800", r"\q", "[a", r"\p", r"[\"] {
            assert!(translated(pattern).is_err(), "{pattern:?}");
        }
        for pattern in [r"[\x00-a]", r"[^\x00]", r"[\s\S]", "\n"] {
            regex(pattern);
        }
    }

    proptest! {
        /// Any text is translated or refused, and characters without a meaning keep theirs.
        #[test]
        fn no_text_is_misread(text in r"[ -~é€]{0,20}", plain in "[a-zA-Z0-9 #/:;<>=@!'\"%&,~`é-]{1,20}") {
            let _ = translated(&text);
            let regex = regex(&format!("^{plain}$"));
            prop_assert!(regex.is_match(&plain));
        }
    }
}
