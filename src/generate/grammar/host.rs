//! The interface to the processes in which forms are compiled and followed. Frames of bytes are all
//! that passes between them and the daemon; `cli` implements the transport.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

/// The future of a method that may wait.
pub type FormWait<'a, T> = Pin<Box<dyn Future<Output = Result<T, FormEnd>> + Send + 'a>>;

/// Why a form's process has ended or could not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormEnd {
    /// It exceeded the CPU time of a form.
    #[error("more processor time than a form may take")]
    Time,
    /// It exceeded the memory of a form.
    #[error("more memory than a form may take")]
    Memory,
    /// It exceeded the stack, by nesting.
    #[error("more stack than a form may take: it nests or refers too deeply")]
    Depth,
    /// It ended without a reason: the system killed it, or it crashed.
    #[error("more memory or time than a form may take")]
    Lost,
    /// It could not be created, for want of processes or memory.
    #[error("no process could be made for the form")]
    Refused,
    /// The process that creates them has ended.
    #[error("the process that compiles forms has ended")]
    Gone,
}

/// Creates processes for forms.
pub trait FormHost: fmt::Debug + Send + Sync {
    /// Sends the vocabulary, before the first form. May take some tenths of a second.
    fn prepare(&self, vocabulary: Vec<u8>) -> FormWait<'_, ()>;

    /// A process for one form.
    ///
    /// # Errors
    /// [`FormEnd::Gone`] or [`FormEnd::Refused`].
    fn open(&self) -> Result<Box<dyn FormLink>, FormEnd>;
}

/// The daemon's end of the connection to a form's process. Dropping it ends the process.
pub trait FormLink: fmt::Debug + Send {
    /// Sends a frame of any length.
    fn send<'a>(&'a mut self, frame: &'a [u8]) -> FormWait<'a, ()>;

    /// The next frame. Cancel-safe.
    fn receive(&mut self) -> FormWait<'_, Vec<u8>>;

    /// Sends a short frame without waiting.
    ///
    /// # Errors
    /// If the process has ended or reads nothing.
    fn send_now(&mut self, frame: &[u8]) -> Result<(), FormEnd>;

    /// The next frame, if it arrives within `limit`; zero does not wait.
    ///
    /// # Errors
    /// If the process has ended.
    fn receive_within(&mut self, limit: Duration) -> Result<Option<Vec<u8>>, FormEnd>;

    /// Sends `frame`, which asks the process to fork, and returns the connection to the fork.
    ///
    /// # Errors
    /// If the process has ended or reads nothing.
    fn fork(&mut self, frame: &[u8]) -> Result<Box<dyn FormLink>, FormEnd>;
}

/// The process's end of the connection.
pub trait FormPort {
    /// The next frame; `None` when the daemon has closed the link.
    fn receive(&mut self) -> Option<Vec<u8>>;

    /// Sends a frame. Errors are ignored: if the daemon has closed the link, the process is about
    /// to end.
    fn send(&mut self, frame: &[u8]);

    /// Begins a piece of work, which must [`end`](Self::end) within `budget` of CPU time.
    fn begin(&mut self, budget: Duration);

    /// Ends a piece of work.
    fn end(&mut self);

    /// CPU time of the piece of work so far, or elapsed time if the system has no such clock.
    fn spent(&self) -> Duration;

    /// Bytes that the process has allocated since it was created.
    fn weight(&mut self) -> usize;

    /// Forks the process, for the link that came with the last received frame.
    fn fork(&mut self) -> FormFork;
}

/// The process that returns from [`FormPort::fork`].
pub enum FormFork {
    /// The original, whether the fork succeeded or not.
    Original,
    /// The fork; the port is now its own.
    Copy,
    /// The original, where processes are threads: it must serve this port with a copy of the form.
    Thread(Box<dyn FormPort + Send>),
}

impl fmt::Debug for FormFork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Original => "Original",
            Self::Copy => "Copy",
            Self::Thread(_) => "Thread",
        })
    }
}

/// The host if none could be started: it refuses every form.
#[derive(Debug)]
pub struct NoForms;

impl FormHost for NoForms {
    fn prepare(&self, _vocabulary: Vec<u8>) -> FormWait<'_, ()> {
        Box::pin(async { Err(FormEnd::Gone) })
    }

    fn open(&self) -> Result<Box<dyn FormLink>, FormEnd> {
        Err(FormEnd::Gone)
    }
}
