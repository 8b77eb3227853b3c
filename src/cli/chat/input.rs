//! Where questions come from: an edited line in a terminal, else lines of standard input.

use std::io::{BufRead as _, IsTerminal as _};

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::super::exit::Fatal;

/// The source of questions.
pub(super) enum Input {
    Terminal(Box<DefaultEditor>),
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
    pub(super) fn open() -> Result<Self, Fatal> {
        if !std::io::stdin().is_terminal() {
            return Ok(Self::Piped);
        }
        let editor = DefaultEditor::new().map_err(|error| Fatal::Input(from_editor(error)))?;
        Ok(Self::Terminal(Box::new(editor)))
    }

    pub(super) fn is_interactive(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// Waits for the next line.
    pub(super) fn read(&mut self) -> Result<Line, Fatal> {
        match self {
            Self::Terminal(editor) => match editor.readline("> ") {
                Ok(text) => {
                    // A line that is not remembered can still be asked.
                    let _ = editor.add_history_entry(text.as_str());
                    Ok(Line::Text(text))
                }
                Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
                Err(ReadlineError::Eof) => Ok(Line::End),
                Err(error) => Err(Fatal::Input(from_editor(error))),
            },
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

fn from_editor(error: ReadlineError) -> std::io::Error {
    match error {
        ReadlineError::Io(error) => error,
        other => std::io::Error::other(other.to_string()),
    }
}
