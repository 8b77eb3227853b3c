//! Who is at the other end of a Unix socket.

/// The process that connected, as the kernel knew it then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its number; it may have ended since.
    pub pid: Option<i32>,
}
