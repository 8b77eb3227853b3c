//! Faults in the access rules and in the files that they name.

use std::io;
use std::path::PathBuf;

/// All faults in the access rules.
#[derive(Debug, thiserror::Error)]
#[error("{}", join(.faults))]
pub struct AccessError {
    /// At least one.
    pub faults: Vec<AccessFault>,
}

/// One fault in the access rules.
#[derive(Debug, thiserror::Error)]
pub enum AccessFault {
    /// A line of the keys file.
    #[error("{}:{line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong, and what would be accepted.
        reason: String,
    },
    /// An unusable file.
    #[error("{key}: cannot read {}: {source}", path.display())]
    File {
        /// The setting that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A user or group that the system does not know.
    #[error("{key}: there is no {kind} named {name:?}; expected a {kind}'s name or number")]
    Nobody {
        /// The setting.
        key: &'static str,
        /// `user` or `group`.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// One file is given without the other.
    #[error("{given} is set and {missing} not; TLS needs both a certificate and its key")]
    Incomplete {
        /// The setting that is there.
        given: &'static str,
        /// What is missing.
        missing: &'static str,
    },
    /// Other machines would get in without a key.
    #[error(
        "listen = \"{address}\"{by} is not accepted without keys, as other machines can reach it; \
         make keys by `phi4d key add` and set api_keys_file, or set allow_unauthenticated_lan = true \
         to let everyone on the network in"
    )]
    OpenToNetwork {
        /// The address.
        address: String,
        /// Who gave it, where it was not the settings.
        by: &'static str,
    },
}

/// All faults in one line.
pub(super) fn join(faults: &[AccessFault]) -> String {
    let texts: Vec<String> = faults.iter().map(ToString::to_string).collect();
    texts.join("; ")
}
