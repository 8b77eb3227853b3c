//! Listening sockets.

/// A socket that accepts connections.
#[derive(Debug)]
pub enum Listener {
    /// TCP, for the LAN.
    Tcp(tokio::net::TcpListener),
    /// A Unix socket, for programs on this machine.
    Unix(tokio::net::UnixListener),
}
