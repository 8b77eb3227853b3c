//! Which system calls a process keeps after its start, and why it can't be confined.

/// What a confined process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// The daemon, with its model on the CPU: files, sockets, threads, memory.
    Daemon,
    /// The daemon with its model on a device. What drivers call is not known, so only what no part of it
    /// needs is refused, such as running programs.
    DaemonWithDevice,
    /// A worker of the helper process: it computes on what it reads from its pipe, with one thread. It
    /// may fork, and opens nothing.
    Worker,
}

/// Why the process is not confined.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// The kernel or this build has no such filters.
    #[error("this system has no seccomp filters: {0}")]
    Unsupported(String),
    /// The kernel refused it.
    #[error("the kernel refused the seccomp filter: {0}")]
    Refused(String),
}
