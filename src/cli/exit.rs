//! The one map from errors to exit codes, which are those of `sysexits.h` where it has one.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use phi4d_engine::{Crashed, StartError};
use phi4d_fetch::FetchError;
use phi4d_generate::TextLoadError;
use phi4d_model::LoadError;
use phi4d_os::{self as os, ActivationError, BindError};
use phi4d_server::{AccessError, KeysFileError};
use phi4d_settings::SettingsError;
use phi4d_telemetry as telemetry;

/// How long the last lines may take to be written: whoever reads them may have stopped.
pub(super) const FLUSH_LIMIT: Duration = Duration::from_millis(500);

/// What an exit code says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    Ok = 0,
    Unwell = 1,
    Cut = 2,
    Usage = 64,
    Data = 65,
    NoInput = 66,
    Unavailable = 69,
    Internal = 70,
    Os = 71,
    CannotCreate = 73,
    Io = 74,
    Protocol = 76,
    Settings = 78,
}

const CODES: [(Code, &str); 13] = [
    (Code::Ok, "Success. For serve: the daemon stopped on request, or was idle for idle_exit."),
    (Code::Unwell, "For doctor: it found problems and reported them."),
    (Code::Cut, "For run: the answer was cut by max_tokens or the context length."),
    (Code::Usage, "The command line is wrong."),
    (Code::Data, "A file in the model folder is damaged, or is not of a form that phi4d runs."),
    (
        Code::NoInput,
        "The model folder or a file in it is missing or unreadable. For pull: there is no such model. For chat and run: a named file can't be used.",
    ),
    (
        Code::Unavailable,
        "ONNX Runtime or the execution provider can't be used. For chat and run: no daemon answers, or it is not ready. For pull: the endpoint does not answer.",
    ),
    (Code::Internal, "Internal error."),
    (Code::Os, "The system refused a resource, such as a TCP address, memory or a thread."),
    (
        Code::CannotCreate,
        "The Unix socket or the keys file can't be written. For pull: the model is already there.",
    ),
    (
        Code::Io,
        "Input or output failed, for example because a model file was truncated while in use.",
    ),
    (
        Code::Protocol,
        "For chat, run and pull: the server refused a request or sent an invalid response.",
    ),
    (Code::Settings, "The settings are wrong."),
];

/// Why the program ends with another code than 0.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fatal {
    /// The command line is wrong.
    #[error("{0}; see phi4d --help")]
    Usage(String),
    /// The settings are wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The settings leave nothing to listen on.
    #[error(
        "listen and socket are both off and the service manager passed no socket; set one of them"
    )]
    NothingToListenOn,
    /// The daemon would end when idle and not be started again.
    #[error(
        "idle_exit is set, but {setting} = {place:?} is a socket of the daemon's own, at which no connection \
         would start it again: set {setting} to off and let systemd hold the socket (phi4d.socket, \
         phi4d-http.socket), or set idle_exit to 0"
    )]
    NotWoken {
        /// The setting of the socket.
        setting: &'static str,
        /// Where it is.
        place: String,
    },
    /// The rules of access are wrong, or let everyone in.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The keys file can't be changed.
    #[error(transparent)]
    Keys(#[from] KeysFileError),
    /// The model can't be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The tokenizer or chat template can't be used.
    #[error(transparent)]
    Text(#[from] TextLoadError),
    /// A socket can't be made.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The service manager's sockets can't be used.
    #[error(transparent)]
    Activation(#[from] ActivationError),
    /// The engine's thread can't be started.
    #[error(transparent)]
    EngineStart(#[from] StartError),
    /// The engine's thread panicked.
    #[error(transparent)]
    EngineCrashed(#[from] Crashed),
    /// A model can't be downloaded, listed or removed.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The doctor reported problems.
    #[error("problems found: {0}; each is listed above with a fix")]
    Unwell(usize),
    /// A part of the program ended that should not have.
    #[error("internal error: {0}")]
    Internal(String),
    /// The system refused something.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// No daemon answers.
    #[error(
        "cannot reach the daemon at {address}: {reason}{}",
        if *may_come { "; is phi4d serve running?" } else { "" }
    )]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// Why it was not found.
        reason: String,
        /// Whether it may be on its way.
        may_come: bool,
    },
    /// The daemon's socket is closed to this user.
    #[error("you may not use the daemon's socket {}; {hint}", path.display())]
    Denied {
        /// The socket.
        path: std::path::PathBuf,
        /// What to do.
        hint: String,
    },
    /// The daemon takes no requests yet.
    #[error("the daemon at {address} takes no requests: {reason}")]
    NotReady {
        /// Where it is.
        address: String,
        /// What it says.
        reason: String,
    },
    /// The answer is not all that it would have been.
    #[error("the answer was cut: it has as many tokens as were allowed or fit the context")]
    Cut,
    /// The daemon refused a request or broke off its answer.
    #[error("{0}")]
    Refused(String),
    /// A file that was named can't be used.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// What is the matter.
        reason: String,
    },
    /// Input can't be read.
    #[error("cannot read the input: {0}")]
    Input(std::io::Error),
    /// Output can't be written.
    #[error("cannot write the output: {0}")]
    Output(std::io::Error),
    /// A file can't be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or folder.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Fatal {
    /// An error of the command line's parser, in one line.
    pub(super) fn usage(error: &clap::Error) -> Self {
        let text = error.to_string();
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let telling: Vec<&str> = lines
            .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
            .map(|line| line.trim_start_matches("error: "))
            .collect();
        Self::Usage(telling.join(" "))
    }

    /// The exit code.
    pub(super) fn code(&self) -> Code {
        match self {
            Self::Usage(_) => Code::Usage,
            Self::Unwell(_) => Code::Unwell,
            Self::Settings(_)
            | Self::NothingToListenOn
            | Self::NotWoken { .. }
            | Self::Access(_)
            | Self::Keys(KeysFileError::Faults(_))
            | Self::EngineStart(StartError::Memory { .. }) => Code::Settings,
            Self::Load(error) => match error {
                LoadError::Runtime { .. } | LoadError::Provider { .. } => Code::Unavailable,
                LoadError::Read { .. } => Code::NoInput,
                LoadError::Write { .. } => Code::Io,
                LoadError::Invalid { .. } | LoadError::Contract { .. } => Code::Data,
                LoadError::Memory { .. }
                | LoadError::Threads { .. }
                | LoadError::Weights { .. } => Code::Os,
                LoadError::Session(_) | LoadError::Cancelled => Code::Internal,
            },
            Self::Text(error) => match error {
                TextLoadError::Read { .. } => Code::NoInput,
                TextLoadError::Invalid { .. } => Code::Data,
                TextLoadError::Thread { .. } => Code::Os,
                TextLoadError::Threads(_) => Code::Os,
            },
            Self::Fetch(error) => of_fetch(error),
            Self::Bind(BindError::Tcp { .. })
            | Self::Activation(_)
            | Self::EngineStart(StartError::Thread(_))
            | Self::System { .. } => Code::Os,
            Self::Bind(_) | Self::Keys(KeysFileError::System { .. }) => Code::CannotCreate,
            Self::Keys(KeysFileError::Taken(_) | KeysFileError::Unknown { .. }) => Code::Usage,
            Self::EngineCrashed(_) | Self::Internal(_) => Code::Internal,
            Self::Unreachable { .. } | Self::Denied { .. } | Self::NotReady { .. } => {
                Code::Unavailable
            }
            Self::Cut => Code::Cut,
            Self::File { .. } => Code::NoInput,
            Self::Refused(_) => Code::Protocol,
            Self::Input(_) | Self::Output(_) | Self::Write { .. } => Code::Io,
        }
    }

    /// What to print: one line, or one for each fault of the settings.
    pub(super) fn lines(&self) -> Vec<String> {
        let texts = match self {
            Self::Settings(error) => error.faults.iter().map(ToString::to_string).collect(),
            Self::Access(error) => error.faults.iter().map(ToString::to_string).collect(),
            Self::Keys(KeysFileError::Faults(faults)) => {
                faults.iter().map(ToString::to_string).collect()
            }
            other => vec![other.to_string()],
        };
        texts.iter().map(|text| one_line(text)).collect()
    }
}

fn of_fetch(error: &FetchError) -> Code {
    match error {
        FetchError::Invalid { .. } | FetchError::Token | FetchError::ProxySetting { .. } => {
            Code::Usage
        }
        FetchError::Status { status: 404, .. }
        | FetchError::NoModel { .. }
        | FetchError::Folder { .. }
        | FetchError::Missing { .. } => Code::NoInput,
        FetchError::Unreachable { .. }
        | FetchError::Denied { .. }
        | FetchError::ProxyRefused { .. } => Code::Unavailable,
        FetchError::Status { .. } | FetchError::Answer { .. } | FetchError::WrongBytes { .. } => {
            Code::Protocol
        }
        FetchError::Exists { .. } | FetchError::Busy { .. } => Code::CannotCreate,
        FetchError::NoSpace { .. } | FetchError::File { .. } => Code::Io,
    }
}

/// Most characters of a line: libraries quote what they refuse, however long it is.
const MAX_LINE: usize = 2000;

/// The text with line feeds and other control characters made spaces, and runs of them one.
fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    let line = words.join(" ");
    match line.char_indices().nth(MAX_LINE) {
        Some((end, _)) => format!("{} ...", &line[..end]),
        None => line,
    }
}

/// Prints why the program ends, and returns its exit code.
pub(super) fn report(fatal: &Fatal) -> ExitCode {
    for line in fatal.lines() {
        if telemetry::is_started() {
            // Behind what was logged before, and without waiting for a reader that has stopped.
            telemetry::write_line(format!("phi4d: {line}"));
        } else {
            os::write_stderr(&format!("phi4d: {line}\n"), FLUSH_LIMIT);
        }
    }
    ExitCode::from(fatal.code() as u8)
}

/// The program's exit code after `done`, whose error is printed.
pub(super) fn code_of(done: Result<(), Fatal>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Who reads our output has seen enough.
        Err(Fatal::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(fatal) => report(&fatal),
    }
}

/// Each code and what it says.
pub(super) fn codes() -> impl Iterator<Item = (u8, &'static str)> {
    CODES.iter().map(|(code, meaning)| (*code as u8, *meaning))
}

/// The codes with their meanings, as `phi4d exit-codes` prints them.
pub(super) fn table() -> String {
    let mut text = String::new();
    for (code, meaning) in codes() {
        // Writing to a String can't fail.
        let _ = writeln!(text, "{code:>3}  {meaning}");
    }
    text
}

#[cfg(test)]
#[path = "exit_tests.rs"]
mod tests;
