//! `phi4d chat` and `phi4d run`: the daemon's own API, for people and for scripts.
//!
//! In a terminal, lines are edited, those that begin with a slash are commands, and Ctrl-C stops an
//! answer, not the program. Piped, each line of the input is one message, and the end of the input
//! ends the program.

mod answer;
pub(super) mod client;
mod commands;
mod conversation;
mod files;
mod history;
mod inline;
mod input;
mod markdown;
mod multiline;
mod once;
mod parameters;
mod saved;
mod screen;
mod session;
mod spinner;
mod table;
mod wait;
mod wrap;

#[cfg(any(test, feature = "testing"))]
pub(super) use screen::check as check_terminal;

use super::args::{ChatArgs, RunArgs};
use super::exit::Fatal;

pub(super) fn run(arguments: &ChatArgs) -> Result<(), Fatal> {
    session::run(arguments)
}

/// One question, its answer, and the end.
pub(super) fn once(arguments: &RunArgs) -> Result<(), Fatal> {
    once::run(arguments)
}
