//! What is typed at the prompt: a question, or a command, which begins with a slash.

use std::path::PathBuf;

use super::multiline::inside;
use super::saved::typed_path;

/// Commands with what follows them and what they do.
pub(super) const TABLE: [(&str, &str, &str); 11] = [
    ("/help", "", "list the commands"),
    ("/system", "[TEXT]", "show or replace the instructions; \"\" removes them"),
    ("/set", "[NAME [VALUE]]", "show or set parameters of the API, as JSON; null unsets one"),
    (
        "/save",
        "[-f] FILE",
        "write the conversation and its parameters; -f over a file that is there",
    ),
    ("/load", "FILE", "go on with a saved conversation"),
    ("/clear", "", "forget the conversation, but not instructions and parameters"),
    ("/new", "", "the same as /clear"),
    ("/retry", "", "answer the last question again"),
    (
        "/stats",
        "[on|off]",
        "show figures of the last answer, or after each; off hides the line below answers",
    ),
    ("/exit", "", "leave, as does Ctrl-D"),
    ("/quit", "", "the same as /exit"),
];

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Question(String),
    Help,
    /// Shows the instructions, or replaces them.
    System(Option<String>),
    /// Shows all parameters.
    Parameters,
    /// Shows one parameter, or sets it.
    Set(String, Option<String>),
    Save {
        path: PathBuf,
        overwrite: bool,
    },
    Load(PathBuf),
    Clear,
    Retry,
    /// Shows the last answer's figures, or sets whether to show each answer's.
    Stats(Option<bool>),
    Exit,
}

/// Reads what was typed.
///
/// # Errors
/// If it is a command and can't be understood.
pub(super) fn read(text: &str) -> Result<Entry, String> {
    if let Some(question) = inside(text) {
        return Ok(Entry::Question(question.to_owned()));
    }
    let trimmed = text.trim();
    let Some(rest) = trimmed.strip_prefix('/') else {
        return Ok(Entry::Question(text.to_owned()));
    };
    if rest.starts_with('/') {
        return Ok(Entry::Question(rest.to_owned()));
    }
    let (name, argument) = trimmed.split_once(char::is_whitespace).unwrap_or((trimmed, ""));
    let argument = argument.trim();
    let entry = match (name, argument) {
        ("/help", "") => Entry::Help,
        ("/system", "") => Entry::System(None),
        ("/system", text) => Entry::System(Some(unquoted(text))),
        ("/set", "") => Entry::Parameters,
        ("/set", text) => set(text),
        ("/save" | "/load", "" | "-f") => return Err(format!("{name} needs the name of a file")),
        ("/save", text) => {
            let forced =
                text.strip_prefix("-f").filter(|file| file.starts_with(char::is_whitespace));
            let path = typed_path(forced.map_or(text, str::trim));
            Entry::Save { path, overwrite: forced.is_some() }
        }
        ("/load", text) => Entry::Load(typed_path(text)),
        ("/clear" | "/new", "") => Entry::Clear,
        ("/retry", "") => Entry::Retry,
        ("/stats", "") => Entry::Stats(None),
        ("/stats", "on") => Entry::Stats(Some(true)),
        ("/stats", "off") => Entry::Stats(Some(false)),
        ("/exit" | "/quit", "") => Entry::Exit,
        _ => return Err(not_understood(name, argument)),
    };
    Ok(entry)
}

/// `NAME`, `NAME VALUE` or `NAME = VALUE`.
fn set(text: &str) -> Entry {
    let end = text.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(text.len());
    let (name, value) = text.split_at(end);
    let value = value.trim();
    let value = value.strip_prefix('=').map_or(value, str::trim);
    Entry::Set(name.to_owned(), (!value.is_empty()).then(|| value.to_owned()))
}

fn unquoted(text: &str) -> String {
    match inside(text) {
        Some(text) => text.to_owned(),
        None if text == "\"\"" => String::new(),
        None => text.to_owned(),
    }
}

fn not_understood(name: &str, argument: &str) -> String {
    if let Some((name, expected, _)) = TABLE.iter().find(|(known, _, _)| *known == name) {
        let expected = if expected.is_empty() { "nothing" } else { expected };
        return format!("{name} {argument} is not accepted; expected {expected} after {name}");
    }
    let names: Vec<&str> = TABLE.iter().map(|(name, _, _)| *name).collect();
    format!(
        "{name} is no command; there are {}. A question that begins with a slash is typed with two",
        names.join(", ")
    )
}

/// The commands, one a line.
pub(super) fn help() -> String {
    let lines = TABLE.iter().map(|(name, argument, does)| {
        let usage = format!("{name} {argument}");
        format!("{usage:<22} {does}\n")
    });
    let lines: String = lines.collect();
    format!(
        "{lines}\n\
         Text between lines of \"\"\" may have several lines, and a line that ends in a backslash continues.\n\
         // begins a question with a slash. Ctrl-C stops an answer."
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn commands_are_read_with_what_follows() {
        let question = |text: &str| Entry::Question(text.to_owned());
        let set = |name: &str, value: Option<&str>| Entry::Set(name.into(), value.map(Into::into));
        for (text, expected) in [
            ("What?", question("What?")),
            ("//etc/fstab?", question("/etc/fstab?")),
            ("\"\"\"\n/help\n\"\"\"", question("/help")),
            ("/help ", Entry::Help),
            ("/system", Entry::System(None)),
            ("/system be  brief", Entry::System(Some("be  brief".into()))),
            ("/system \"\"\"a\nb\"\"\"", Entry::System(Some("a\nb".into()))),
            ("/system \"\"", Entry::System(Some(String::new()))),
            ("/set", Entry::Parameters),
            ("/set seed", set("seed", None)),
            ("/set seed 7", set("seed", Some("7"))),
            ("/set stop = [\"a b\"]", set("stop", Some("[\"a b\"]"))),
            ("/set seed=7", set("seed", Some("7"))),
            ("/save a b", Entry::Save { path: "a b".into(), overwrite: false }),
            ("/save -f a", Entry::Save { path: "a".into(), overwrite: true }),
            ("/save -fa", Entry::Save { path: "-fa".into(), overwrite: false }),
            ("/load a", Entry::Load("a".into())),
            ("/new", Entry::Clear),
            ("/retry", Entry::Retry),
            ("/stats", Entry::Stats(None)),
            ("/stats off", Entry::Stats(Some(false))),
            ("/quit", Entry::Exit),
        ] {
            assert_eq!(read(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_says_what_would_be() {
        let unknown = read("/sve a").unwrap_err();
        for (name, _, _) in TABLE {
            assert!(unknown.contains(name), "{unknown}");
        }
        assert!(read("/stats maybe").unwrap_err().contains("[on|off]"));
        assert!(read("/exit now").unwrap_err().contains("nothing after /exit"));
        assert!(read("/save -f").unwrap_err().contains("a file"));
    }

    proptest! {
        #[test]
        fn any_line_is_understood_or_reported(text in "(/[a-z]{0,6}[ =]{0,2})?.{0,12}") {
            if let Err(fault) = read(&text) {
                prop_assert!(text.trim().starts_with('/') && !fault.is_empty());
            }
        }

        #[test]
        fn any_text_can_be_asked(text in "[^\"]*") {
            let fenced = format!("\"\"\"\n{text}\n\"\"\"");
            prop_assert_eq!(read(&fenced), Ok(Entry::Question(text)));
        }
    }
}
