//! Listening sockets and their errors.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::system::{UnixListener, path_of};

/// A socket that accepts connections.
#[derive(Debug)]
pub enum Listener {
    /// TCP, for the LAN.
    Tcp(tokio::net::TcpListener),
    /// A Unix socket, for programs on this machine.
    Unix(UnixListener),
}

impl Listener {
    /// The TCP address that it listens on; `None` for a Unix socket.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// The path that it listens on; `None` for TCP and for sockets without a path.
    #[must_use]
    pub fn unix_path(&self) -> Option<PathBuf> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(listener) => path_of(listener),
        }
    }
}

/// Why a socket can't be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The system refused a TCP address.
    #[error("cannot listen on {address}: {source}")]
    Tcp {
        /// The address as it was given.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program answers on the Unix socket's path.
    #[error("cannot listen on {}: another program is listening there", path.display())]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// Something that is no socket is at the path.
    #[error("cannot listen on {}: there is a file that is no socket; it was left alone", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The folder belongs to another user, who could replace the socket.
    #[error(
        "cannot listen on {}: its folder belongs to user {owner}, not to this program's user or root",
        path.display()
    )]
    ForeignFolder {
        /// The path.
        path: PathBuf,
        /// The folder's owner.
        owner: u32,
    },
    /// The system refused to make the socket file.
    #[error("cannot listen on {}: {action}: {source}", path.display())]
    Unix {
        /// The path.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Why the sockets that were passed can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// A variable is not what the protocol says.
    #[error("socket activation: {name}={value:?} is not what a service manager sets")]
    Variable {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// A descriptor is no socket that this program can accept connections from.
    #[error("socket activation: socket {name:?} (descriptor {fd}): {reason}")]
    Socket {
        /// Its name in LISTEN_FDNAMES.
        name: String,
        /// Its number.
        fd: i32,
        /// Why not.
        reason: String,
    },
}

/// Listens on a TCP address. Must be called within the tokio runtime.
///
/// # Errors
/// If the name can't be resolved or the system refuses the address.
pub async fn bind_tcp(host: &str, port: u16) -> Result<Listener, BindError> {
    match tokio::net::TcpListener::bind((host, port)).await {
        Ok(listener) => Ok(Listener::Tcp(listener)),
        Err(source) => Err(BindError::Tcp {
            address: if host.contains(':') {
                format!("[{host}]:{port}")
            } else {
                format!("{host}:{port}")
            },
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn port_0_is_resolved_and_a_taken_address_is_named() {
        let listener = bind_tcp("127.0.0.1", 0).await.unwrap();
        let address = listener.tcp_address().unwrap();
        assert_ne!(address.port(), 0);
        let error = bind_tcp("127.0.0.1", address.port()).await.unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with(&format!("cannot listen on {address}: ")), "{text}");
    }
}
