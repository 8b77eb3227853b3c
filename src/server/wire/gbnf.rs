//! llama.cpp's grammar notation (GBNF) as a Lark grammar in llguidance's dialect.
//!
//! Each rule becomes one of Lark's, under a number, since Lark does not take all of GBNF's names;
//! `root` becomes `start`. Sets of characters become regular expressions of one character.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::iter::Peekable;
use std::str::Chars;

/// Deepest nesting of groups, for which the translation recurs.
const DEEPEST: usize = 64;

/// The grammar that `text` is in GBNF.
///
/// # Errors
/// What is wrong with it, to follow the field's name.
pub(crate) fn to_lark(text: &str) -> Result<String, String> {
    let mut reader = Reader { rest: text.chars().peekable(), rules: Rules::default(), depth: 0 };
    reader.skip_blank();
    while reader.rest.peek().is_some() {
        reader.rule()?;
    }
    reader.rules.written()
}

/// Whether `text` is in this notation: some line begins a rule with `::=`.
pub(crate) fn is_gbnf(text: &str) -> bool {
    let begins_rule = |line: &str| {
        let name = line.trim_start().split("::=").next().unwrap_or_default().trim_end();
        line.contains("::=") && name.chars().all(is_of_name)
    };
    text.lines().any(begins_rule)
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

/// Rules by name, each with its number and, once it was read, its body.
#[derive(Default)]
struct Rules {
    numbers: HashMap<String, usize>,
    bodies: Vec<(String, Option<String>)>,
}

impl Rules {
    fn number(&mut self, name: &str) -> usize {
        let next = self.bodies.len();
        let number = *self.numbers.entry(name.to_owned()).or_insert(next);
        if number == next {
            self.bodies.push((name.to_owned(), None));
        }
        number
    }

    fn written(&self) -> Result<String, String> {
        let root = self.numbers.get("root").ok_or("it has no rule \"root\"")?;
        let mut lark = format!("start: r{root}\n");
        for (number, (name, body)) in self.bodies.iter().enumerate() {
            let body = body.as_ref().ok_or_else(|| format!("it has no rule {name:?}"))?;
            // Writing to a string can't fail.
            let _ = writeln!(lark, "r{number}: {body}");
        }
        Ok(lark)
    }
}

struct Reader<'t> {
    rest: Peekable<Chars<'t>>,
    rules: Rules,
    depth: usize,
}

impl Reader<'_> {
    /// Skips white space, line breaks and comments.
    fn skip_blank(&mut self) {
        while let Some(&c) = self.rest.peek() {
            if c == '#' {
                while self.rest.next_if(|c| *c != '\n').is_some() {}
            } else if !c.is_whitespace() {
                return;
            } else {
                self.rest.next();
            }
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.rest.next_if(|c| is_of_name(*c)) {
            name.push(c);
        }
        name
    }

    fn takes(&mut self, wanted: char) -> bool {
        self.rest.next_if_eq(&wanted).is_some()
    }

    /// Whether `::=` follows, which makes the name before it a rule's.
    fn begins_body(&mut self) -> bool {
        self.skip_blank();
        let mut ahead = self.rest.clone();
        [':', ':', '='].into_iter().all(|c| ahead.next() == Some(c))
    }

    fn rule(&mut self) -> Result<(), String> {
        let name = self.name();
        if name.is_empty() || !self.begins_body() {
            return Err(match self.rest.peek() {
                Some(c) => format!("a rule (NAME ::= …) is expected at {c:?}"),
                None => format!("the rule {name:?} has no ::="),
            });
        }
        self.rest.nth(2);
        let number = self.rules.number(&name);
        let body = self.alternatives()?;
        if self.rest.peek().is_some_and(|c| !is_of_name(*c)) {
            return Err(format!("{:?} is not expected in the rule {name:?}", self.rest.peek()));
        }
        self.rules.bodies[number].1 = Some(body);
        Ok(())
    }

    fn alternatives(&mut self) -> Result<String, String> {
        let mut text = self.sequence()?;
        while self.takes('|') {
            text.push_str(" | ");
            text += &self.sequence()?;
        }
        Ok(text)
    }

    /// Items up to an alternative, the end of a group, or the next rule.
    fn sequence(&mut self) -> Result<String, String> {
        let mut items: Vec<String> = Vec::new();
        loop {
            self.skip_blank();
            let before = self.rest.clone();
            let item = match self.rest.peek() {
                None | Some('|' | ')') => break,
                Some('"') => self.literal()?,
                Some('[') => self.set()?,
                Some('.') => {
                    self.rest.next();
                    "/(.|\\n)/".to_owned()
                }
                Some('(') => self.group()?,
                Some(&c) if is_of_name(c) => {
                    let name = self.name();
                    if self.begins_body() {
                        self.rest = before;
                        break;
                    }
                    format!("r{}", self.rules.number(&name))
                }
                Some(c) => return Err(format!("{c:?} is not expected")),
            };
            items.push(item + &self.repetition()?);
        }
        // An empty sequence matches the empty text.
        Ok(if items.is_empty() { "\"\"".to_owned() } else { items.join(" ") })
    }

    fn group(&mut self) -> Result<String, String> {
        self.rest.next();
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(format!("its groups are nested more than {DEEPEST} deep"));
        }
        let inner = self.alternatives()?;
        self.depth -= 1;
        if !self.takes(')') {
            return Err("a group has no closing \")\"".to_owned());
        }
        Ok(format!("({inner})"))
    }

    /// `*`, `+`, `?`, `{m}`, `{m,}` or `{m,n}`, after the item that it repeats.
    fn repetition(&mut self) -> Result<String, String> {
        self.skip_blank();
        if let Some(c) = self.rest.next_if(|c| "*+?".contains(*c)) {
            return Ok(c.to_string());
        }
        if !self.takes('{') {
            return Ok(String::new());
        }
        let mut inner = String::new();
        while let Some(c) = self.rest.next_if(|c| c.is_ascii_digit() || *c == ',' || *c == ' ') {
            inner.push(c);
        }
        let parts: Vec<&str> = inner.split(',').map(str::trim).collect();
        let counts = parts.iter().filter(|part| part.parse::<u16>().is_ok()).count();
        let fits = matches!((parts.as_slice(), counts), ([_], 1) | ([_, _], 2) | ([_, ""], 1));
        if !fits || !self.takes('}') {
            return Err(format!(
                "\"{{{inner}\" is no repetition; expected {{m}}, {{m,}} or {{m,n}}"
            ));
        }
        Ok(format!("{{{}}}", parts.join(",")))
    }

    fn literal(&mut self) -> Result<String, String> {
        self.rest.next();
        let mut text = String::new();
        loop {
            match self.rest.next() {
                Some('"') => break,
                Some('\\') => text.push(self.escaped()?),
                Some('\n') | None => return Err("a text has no closing \"\\\"\"".to_owned()),
                Some(c) => text.push(c),
            }
        }
        // Lark's texts are JSON's.
        Ok(serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f"))
    }

    /// A set of characters as a regular expression.
    fn set(&mut self) -> Result<String, String> {
        self.rest.next();
        let mut regex = String::from("/[");
        if self.takes('^') {
            regex.push('^');
        }
        let mut is_empty = true;
        while !self.takes(']') {
            let first = self.of_set()?;
            regex += &hex(first);
            is_empty = false;
            let mut ahead = self.rest.clone();
            if ahead.next() == Some('-') && ahead.next().is_some_and(|c| c != ']') {
                self.rest.next();
                let last = self.of_set()?;
                if last < first {
                    return Err(format!("the range {first:?}-{last:?} is empty"));
                }
                let _ = write!(regex, "-{}", hex(last));
            }
        }
        if is_empty {
            return Err("a set of characters ([…]) is empty".to_owned());
        }
        Ok(regex + "]/")
    }

    fn of_set(&mut self) -> Result<char, String> {
        match self.rest.next() {
            Some('\\') => self.escaped(),
            Some(c) if c != '\n' => Ok(c),
            _ => Err("a set of characters has no closing \"]\"".to_owned()),
        }
    }

    /// The character that an escape stands for, after its backslash.
    fn escaped(&mut self) -> Result<char, String> {
        let digits = match self.rest.next() {
            Some('n') => return Ok('\n'),
            Some('r') => return Ok('\r'),
            Some('t') => return Ok('\t'),
            Some(c @ ('\\' | '"' | '[' | ']' | '-' | '^' | '/')) => return Ok(c),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            other => return Err(format!("\\{} is no escape", other.unwrap_or(' '))),
        };
        let text: String = self.rest.by_ref().take(digits).collect();
        let code = u32::from_str_radix(&text, 16).ok().filter(|_| text.len() == digits);
        code.and_then(char::from_u32).ok_or_else(|| format!("{text:?} is no character's number"))
    }
}

/// A character in a set of a regular expression.
fn hex(c: char) -> String {
    format!("\\x{{{:X}}}", u32::from(c))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn grammars_of_llama_cpp_become_larks() {
        let table = [
            ("root ::= \"yes\" | \"no\"", "start: r0\nr0: \"yes\" | \"no\"\n"),
            (
                "# a list\nroot ::= item+\nitem ::= \"- \" [^\\r\\n\\x0b\\x0c]+ \"\\n\"",
                "start: r0\nr0: r1+\nr1: \"- \" /[^\\x{D}\\x{A}\\x{B}\\x{C}]/+ \"\\n\"\n",
            ),
            (
                "root ::= (a-b\n  | \"x\"{2,3}) ws? \na-b ::= [a-zA-Z_-]\nws ::= | \" \"",
                "start: r0\nr0: (r1 | \"x\"{2,3}) r2?\nr1: /[\\x{61}-\\x{7A}\\x{41}-\\x{5A}\\x{5F}\\x{2D}]/\n\
                 r2: \"\" | \" \"\n",
            ),
            ("root ::= \"\\\"\" . \"\\u00e9\"", "start: r0\nr0: \"\\\"\" /(.|\\n)/ \"é\"\n"),
        ];
        for (gbnf, lark) in table {
            assert!(is_gbnf(gbnf));
            assert_eq!(to_lark(gbnf).unwrap(), lark, "{gbnf}");
        }
        assert!(!is_gbnf("start: \"::=\""));
    }

    #[test]
    fn faults_say_what_is_wrong() {
        let deep = format!("root ::= {}\"a\"{}", "(".repeat(65), ")".repeat(65));
        for (gbnf, part) in [
            ("a ::= \"x\"", "no rule \"root\""),
            ("root ::= b", "no rule \"b\""),
            ("root ::= \"x", "no closing"),
            ("root ::= [a", "no closing"),
            ("root ::= []", "empty"),
            ("root ::= [z-a]", "empty"),
            ("root ::= (\"a\"", "no closing"),
            ("root ::= \"a\")", "not expected"),
            ("root ::= \"a\"{x}", "no repetition"),
            ("root ::= \"\\q\"", "no escape"),
            ("root ::= <[1]>", "not expected"),
            ("root = \"a\"", "is expected"),
            (deep.as_str(), "nested"),
        ] {
            let error = to_lark(gbnf).unwrap_err();
            assert!(error.contains(part), "{gbnf}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_grammar_or_a_fault(text in "[a-c:=\"\\[\\]()|*+?{},.0-9#\\\\ \n^-]{0,80}") {
            let _ = to_lark(&text);
            let _ = to_lark(&format!("root ::= {text}"));
        }
    }
}
