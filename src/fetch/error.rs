//! Errors of requests and downloads.

use std::path::PathBuf;

/// Why something could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// A URL or a model's name is not one.
    #[error("{given:?} is not accepted; expected {expected}")]
    Invalid {
        /// What was given.
        given: String,
        /// What is accepted.
        expected: String,
    },
    /// The access token can't be sent in a header.
    #[error("the access token has characters that no token has")]
    Token,
    /// The server can't be reached, or broke off more often than is tried.
    #[error("cannot reach {host}: {reason}")]
    Unreachable {
        /// The server.
        host: String,
        /// Why not.
        reason: String,
        /// Whether the server may just be starting: nothing listens there yet, or it closed the
        /// connection.
        may_come: bool,
    },
    /// This user may not connect to a Unix socket.
    #[error("cannot reach {}: permission denied", path.display())]
    Denied {
        /// The socket.
        path: PathBuf,
    },
    /// The environment names a proxy that can't be used. Its value may hold a password.
    #[error(
        "{variable} names no proxy that can be used; expected http://HOST:PORT or \
         https://HOST:PORT, with USER:PASSWORD@ before HOST where the proxy needs it"
    )]
    ProxySetting {
        /// The environment variable.
        variable: &'static str,
    },
    /// A proxy does not connect to the server.
    #[error("the proxy {proxy} refused to connect to {host}: status {status}{}", proxy_hint(*.status))]
    ProxyRefused {
        /// The proxy, without user and password.
        proxy: String,
        /// The server.
        host: String,
        /// The proxy's status.
        status: u16,
    },
    /// The endpoint answered with an error status.
    #[error("{url} answered with status {status}{}", hint(*.status))]
    Status {
        /// What was asked for.
        url: String,
        /// The status.
        status: u16,
    },
    /// The endpoint's response is not of the expected kind.
    #[error("{url} returned an invalid {expected}")]
    Answer {
        /// What was asked for.
        url: String,
        /// What was expected.
        expected: &'static str,
    },
    /// A URL leads to neither a repository nor a folder with a list of its files.
    #[error(
        "{url} is no repository of a Hugging Face compatible endpoint, and {list} does not exist; \
         where the folder is, make that by: sha256sum * >SHA256SUMS"
    )]
    NoModel {
        /// The URL.
        url: String,
        /// Where the list was looked for.
        list: String,
    },
    /// The repository has no model folder for this machine, or several.
    #[error("{repository} has {}; name one as {repository}/FOLDER", folders(.found))]
    Folder {
        /// The repository.
        repository: String,
        /// The folders with a model that fit.
        found: Vec<String>,
    },
    /// A file's content is not the one that the endpoint lists.
    #[error("{file} is damaged: its {kind} is {found}; the endpoint lists {expected}")]
    WrongBytes {
        /// The file.
        file: String,
        /// What was compared.
        kind: &'static str,
        /// What arrived.
        found: String,
        /// What was to arrive.
        expected: String,
    },
    /// The disk has no room.
    #[error("{} has {free} bytes free; {wanted} are needed", folder.display())]
    NoSpace {
        /// Where.
        folder: PathBuf,
        /// Bytes free.
        free: u64,
        /// Bytes that are needed.
        wanted: u64,
    },
    /// The model is there already.
    #[error("{} is there already; --replace fetches it again", folder.display())]
    Exists {
        /// Where.
        folder: PathBuf,
    },
    /// Another process fetches the same model.
    #[error("another process is fetching this model into {}", folder.display())]
    Busy {
        /// Where.
        folder: PathBuf,
    },
    /// The model is not there.
    #[error("there is no model {name} in {}", folder.display())]
    Missing {
        /// Its name.
        name: String,
        /// Where.
        folder: PathBuf,
    },
    /// A file or folder can't be used.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl FetchError {
    /// The connection to `host` can't be used, or broke off.
    pub(super) fn broken(host: String, reason: String) -> Self {
        Self::Unreachable { host, reason, may_come: false }
    }

    /// An error of the file system at `path`.
    pub(super) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}

fn hint(status: u16) -> &'static str {
    match status {
        401 | 403 => "; it may want a token (--token-file or HF_TOKEN)",
        404 => "; there is no such model, revision or folder",
        _ => "",
    }
}

fn proxy_hint(status: u16) -> &'static str {
    match status {
        407 => "; it may want a user and a password (http://USER:PASSWORD@HOST:PORT)",
        _ => "; to connect without it, put the host into NO_PROXY",
    }
}

fn folders(found: &[String]) -> String {
    match found {
        [] => "no model folder of this kind".to_owned(),
        several => format!("several: {}", several.join(", ")),
    }
}
