//! Which system calls a process keeps after its start, and why it can't be confined.

/// What a confined process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// The daemon, with its model on the CPU: files, sockets, threads, memory.
    Daemon,
    /// The daemon with its model on a device. What drivers call is not known, so only what no part of it
    /// needs is refused, such as running programs.
    DaemonWithDevice,
    /// A process that works on what it reads from descriptors that it has: no files and no sockets of
    /// its own. It may fork.
    Compute,
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
