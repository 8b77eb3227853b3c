//! The composition root: reads the command line, puts the layers together, and turns every fatal
//! error into one line and a documented exit code.

#![forbid(unsafe_code)]

mod args;
mod ask;
mod bench;
mod chat;
mod check;
mod client;
mod config;
mod confinement;
mod doctor;
mod documents;
mod embedding;
mod exit;
mod fleet;
#[cfg(unix)]
mod forms;
#[cfg(all(unix, any(test, feature = "testing")))]
pub mod fuzzing;
mod help;
mod inspect;
mod key;
mod loading;
mod manager;
#[cfg(unix)]
mod model_files;
mod output;
mod places;
mod prepare;
mod pull;
mod reload;
mod report;
mod serve;
mod service;
mod setup;
mod sizes;
mod start;
mod threads;
mod traces;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use args::{Cli, Command};
use exit::Fatal;

/// Runs the program with its arguments, the first of which is its name.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    phi4d_model::disable_telemetry();
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    // Undocumented: only the daemon starts it.
    #[cfg(unix)]
    if arguments.len() == 2 && arguments[1] == forms::SUBCOMMAND {
        return forms::run();
    }
    if let Some(help) = help::all(&arguments) {
        return exit::code_of(output::print(&help));
    }
    let parsed = help::short(Cli::command()).try_get_matches_from(arguments);
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) if !error.use_stderr() => {
            // Help or version: to standard output. If that is closed, nobody reads it.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => return exit::report(&Fatal::usage(&error)),
    };
    let done = match &cli.command {
        Command::Serve(arguments) => ask::serve(arguments),
        Command::Check(settings) => check::run(settings),
        Command::Chat(chat) => chat::run(chat),
        Command::Run(arguments) => ask::run(arguments),
        Command::Doctor(arguments) => doctor::run(arguments),
        Command::Inspect(arguments) => inspect::run(arguments),
        Command::Prepare(settings) => prepare::run(settings),
        Command::Bench(bench) => bench::run(bench),
        Command::Key(command) => key::run(command),
        Command::Pull(arguments) => pull::pull(arguments),
        Command::List(arguments) => pull::list(arguments),
        Command::Remove(arguments) => pull::remove(arguments),
        Command::Use(arguments) => service::switch::run(arguments),
        Command::Setup(command) => setup::run(command),
        Command::Config(command) => config::run(command),
        Command::Man(man) => documents::man(&man.folder),
        Command::Completions(shell) => documents::completions(shell.shell),
        Command::ExitCodes => output::print(&exit::table()),
    };
    let code = exit::code_of(done);
    phi4d_telemetry::flush(exit::FLUSH_LIMIT);
    code
}

/// The command line's definition, from which help and other documents are made.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}
