//! Where questions come from: edited lines in a terminal, else lines of standard input.

use std::cell::RefCell;
use std::io::{BufRead as _, IsTerminal as _};
use std::path::PathBuf;

use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::{History as _, MemHistory};
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Behavior, CompletionType, Config, Context, Editor, Helper};

use super::super::exit::Fatal;
use super::commands::TABLE;
use super::history::{self, MOST_ENTRIES};
use super::multiline::{goes_on, is_open, join};
use super::parameters;

/// The source of questions.
pub(super) enum Input {
    Terminal(Box<Terminal>),
    Piped,
}

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Text(String),
    /// Ctrl-C at the prompt.
    Interrupted,
    End,
}

impl Input {
    /// `history` is the file of earlier questions, if they are kept. `note`
    /// reports what goes wrong with it.
    pub(super) fn open(history: Option<PathBuf>, note: &impl Fn(&str)) -> Result<Self, Fatal> {
        if !std::io::stdin().is_terminal() {
            return Ok(Self::Piped);
        }
        Ok(Self::Terminal(Box::new(Terminal::open(history, note)?)))
    }

    pub(super) fn is_interactive(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// Waits for the next line, or for lines that belong together.
    pub(super) fn read(&mut self, note: &impl Fn(&str)) -> Result<Line, Fatal> {
        match self {
            Self::Terminal(terminal) => terminal.read(note),
            Self::Piped => {
                let mut bytes = Vec::new();
                let read = std::io::stdin().lock().read_until(b'\n', &mut bytes);
                if read.map_err(Fatal::Input)? == 0 {
                    return Ok(Line::End);
                }
                let text = String::from_utf8_lossy(&bytes);
                Ok(Line::Text(text.trim_end_matches(['\n', '\r']).to_owned()))
            }
        }
    }
}

/// Lines that are edited.
pub(super) struct Terminal {
    editor: Editor<Typing, MemHistory>,
    /// Where questions are kept; `None` if they are not, or can't be.
    history: Option<PathBuf>,
}

impl Terminal {
    fn open(history: Option<PathBuf>, note: &impl Fn(&str)) -> Result<Self, Fatal> {
        // Prompts are for who types, wherever the answers go.
        let behavior = match std::io::stdout().is_terminal() {
            true => Behavior::Stdio,
            false => Behavior::PreferTerm,
        };
        let config = Config::builder()
            .behavior(behavior)
            .completion_type(CompletionType::List)
            .max_history_size(MOST_ENTRIES)
            .map_err(|error| Fatal::Input(from_editor(error)))?
            .build();
        let mut entries = MemHistory::with_config(&config);
        let mut kept = history;
        if let Some(path) = &kept {
            match history::read(path) {
                // One that is not remembered is only missed.
                Ok(old) => old.iter().for_each(|entry| drop(entries.add(entry))),
                Err(error) => {
                    note(&format!("{} can't be read, and is left alone: {error}", path.display()));
                    kept = None;
                }
            }
        }
        let mut editor = Editor::with_history(config, entries)
            .map_err(|error| Fatal::Input(from_editor(error)))?;
        editor.set_helper(Some(Typing::default()));
        Ok(Self { editor, history: kept })
    }

    fn read(&mut self, note: &impl Fn(&str)) -> Result<Line, Fatal> {
        if let Some(typing) = self.editor.helper() {
            typing.joints.borrow_mut().clear();
        }
        match self.editor.readline("> ") {
            Ok(text) => {
                let joints = self.editor.helper().map(|typing| typing.joints.take());
                let text = join(&text, &joints.unwrap_or_default());
                if !text.trim().is_empty() {
                    self.remember(&text, note);
                }
                Ok(Line::Text(text))
            }
            Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
            Err(ReadlineError::Eof) => Ok(Line::End),
            Err(error) => Err(Fatal::Input(from_editor(error))),
        }
    }

    fn remember(&mut self, text: &str, note: &impl Fn(&str)) {
        // A line that is not remembered can still be asked.
        let is_new = self.editor.add_history_entry(text).unwrap_or(false);
        if let Some(path) = self.history.take_if(|_| is_new) {
            match history::add(&path, text) {
                Ok(()) => self.history = Some(path),
                Err(error) => note(&format!("{} can't be written: {error}", path.display())),
            }
        }
    }
}

/// What the editor asks while a line is typed.
#[derive(Default)]
struct Typing {
    files: FilenameCompleter,
    /// Lengths of the text where a backslash made it go on.
    joints: RefCell<Vec<usize>>,
}

impl Validator for Typing {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let text = context.input();
        if !is_open(text) {
            return Ok(ValidationResult::Valid(None));
        }
        if goes_on(text) {
            self.joints.borrow_mut().push(text.len());
        }
        Ok(ValidationResult::Incomplete)
    }
}

impl Completer for Typing {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        at: usize,
        context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        if line.starts_with("/save ") || line.starts_with("/load ") {
            return self.files.complete(line, at, context);
        }
        Ok(complete(line.get(..at).unwrap_or_default()))
    }
}

impl Hinter for Typing {
    type Hint = String;
}

impl Highlighter for Typing {}

impl Helper for Typing {}

/// Commands and names of parameters that begin as `typed` does, and where they are to be put.
fn complete(typed: &str) -> (usize, Vec<Pair>) {
    let pair = |name: &str| Pair { display: name.to_owned(), replacement: format!("{name} ") };
    if let Some(name) = typed.strip_prefix("/set ") {
        let found = parameters::names().filter(|known| known.starts_with(name)).map(pair);
        return (typed.len() - name.len(), found.collect());
    }
    let found = TABLE.iter().map(|(name, _, _)| *name);
    let found = found.filter(|known| !typed.is_empty() && known.starts_with(typed)).map(pair);
    (0, found.collect())
}

fn from_editor(error: ReadlineError) -> std::io::Error {
    match error {
        ReadlineError::Io(error) => error,
        other => std::io::Error::other(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_parameters_are_completed() {
        let found = |typed: &str| {
            let (at, pairs) = complete(typed);
            (at, pairs.into_iter().map(|pair| pair.display).collect::<Vec<_>>())
        };
        assert_eq!(
            found("/s"),
            (0, ["/system", "/set", "/save", "/stats"].map(String::from).into())
        );
        assert_eq!(found("/set te"), (5, vec!["temperature".to_owned()]));
        assert_eq!(found("").1, [""; 0]);
        assert_eq!(found("hello").1, [""; 0]);
        assert_eq!(complete("/he").1[0].replacement, "/help ");
    }
}
