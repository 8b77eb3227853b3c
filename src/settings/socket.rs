//! The Unix socket's default path.

use std::path::PathBuf;

/// The `socket` setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketSetting {
    /// The default for who runs the program, see [`SocketSetting::path`].
    Default,
    /// No Unix socket.
    Off,
    /// This path.
    At(PathBuf),
}

const SYSTEM_SOCKET: &str = "/run/phi4d/phi4d.sock";

impl SocketSetting {
    /// The path to listen on, for user `uid` in an environment that `lookup` reads: systemd's
    /// runtime folder, the user's runtime folder, root's `/run/phi4d`, or a folder in `/tmp` that
    /// carries the user's number. On Windows there is none.
    #[must_use]
    pub fn path(&self, lookup: impl Fn(&str) -> Option<String>, uid: u32) -> Option<PathBuf> {
        match self {
            Self::Off => None,
            Self::Default if cfg!(windows) => None,
            Self::At(path) => Some(path.clone()),
            Self::Default => Some(default_path(lookup, uid)),
        }
    }
}

fn default_path(lookup: impl Fn(&str) -> Option<String>, uid: u32) -> PathBuf {
    let folder = |name: &str| {
        let value = lookup(name)?;
        // systemd joins several folders by colons; the first is ours.
        let first = value.split(':').next().unwrap_or_default();
        first.starts_with('/').then(|| PathBuf::from(first).join("phi4d.sock"))
    };
    folder("RUNTIME_DIRECTORY")
        .or_else(|| folder("XDG_RUNTIME_DIR"))
        .or_else(|| (uid == 0).then(|| PathBuf::from(SYSTEM_SOCKET)))
        .unwrap_or_else(|| PathBuf::from(format!("/tmp/phi4d-{uid}/phi4d.sock")))
}

/// Where a client of user `uid` looks for a daemon that uses defaults, best first: the user's own,
/// then the system's.
#[must_use]
pub fn client_socket_candidates(lookup: impl Fn(&str) -> Option<String>, uid: u32) -> Vec<PathBuf> {
    let mut candidates = vec![default_path(lookup, uid), PathBuf::from(SYSTEM_SOCKET)];
    candidates.dedup();
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| {
            let found = pairs.iter().find(|(key, _)| *key == name)?;
            Some(found.1.to_owned())
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_default_follows_who_runs_the_program() {
        let systemd = ("RUNTIME_DIRECTORY", "/run/phi4d:/run/other");
        let session = ("XDG_RUNTIME_DIR", "/run/user/7");
        for (environment, uid, expected) in [
            (vec![systemd, session], 7, "/run/phi4d/phi4d.sock"),
            (vec![session], 7, "/run/user/7/phi4d.sock"),
            (vec![], 0, "/run/phi4d/phi4d.sock"),
            (vec![], 7, "/tmp/phi4d-7/phi4d.sock"),
            (vec![("XDG_RUNTIME_DIR", "")], 7, "/tmp/phi4d-7/phi4d.sock"),
        ] {
            assert_eq!(
                SocketSetting::Default.path(lookup(&environment), uid),
                Some(PathBuf::from(expected))
            );
        }
        assert_eq!(SocketSetting::Off.path(lookup(&[systemd]), 7), None);
    }

    #[test]
    fn clients_look_at_their_own_daemon_first() {
        assert_eq!(
            client_socket_candidates(lookup(&[]), 7),
            [PathBuf::from("/tmp/phi4d-7/phi4d.sock"), PathBuf::from("/run/phi4d/phi4d.sock")]
        );
        assert_eq!(client_socket_candidates(lookup(&[]), 0).len(), 1);
    }
}
