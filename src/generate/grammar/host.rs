//! Where forms are compiled and followed: apart from the daemon. What is below is all that crosses
//! between the two, as frames of bytes; `cli` says how they travel.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

/// What a method returns that may wait.
pub type FormWait<'a, T> = Pin<Box<dyn Future<Output = Result<T, FormEnd>> + Send + 'a>>;

/// Why a form's process says nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormEnd {
    /// It took more processor time than a form may.
    #[error("more processor time than a form may take")]
    Time,
    /// It took more memory than a form may.
    #[error("more memory than a form may take")]
    Memory,
    /// It nests deeper than a form may.
    #[error("more stack than a form may take: it nests or refers too deeply")]
    Depth,
    /// It ended and did not say why: the system ended it, or the work failed.
    #[error("more memory or time than a form may take")]
    Lost,
    /// It could not be made, for want of processes or memory.
    #[error("no process could be made for the form")]
    Refused,
    /// The process that makes such processes is gone.
    #[error("the process that compiles forms has ended")]
    Gone,
}

/// Makes processes for forms.
pub trait FormHost: fmt::Debug + Send + Sync {
    /// Hands over the vocabulary, before the first form. May take some tenths of a second.
    fn prepare(&self, vocabulary: Vec<u8>) -> FormWait<'_, ()>;

    /// A process for one form.
    ///
    /// # Errors
    /// [`FormEnd::Gone`] or [`FormEnd::Refused`].
    fn open(&self) -> Result<Box<dyn FormLink>, FormEnd>;
}

/// The daemon's end of the way to a form's process, which ends when this is dropped.
pub trait FormLink: fmt::Debug + Send {
    /// Sends a frame of any length.
    fn send<'a>(&'a mut self, frame: &'a [u8]) -> FormWait<'a, ()>;

    /// The next frame. Can be cancelled and called again.
    fn receive(&mut self) -> FormWait<'_, Vec<u8>>;

    /// Sends a short frame without waiting.
    ///
    /// # Errors
    /// If the process has ended or reads nothing.
    fn send_now(&mut self, frame: &[u8]) -> Result<(), FormEnd>;

    /// The next frame, if it is there within `limit`; at once where that is zero.
    ///
    /// # Errors
    /// If the process has ended.
    fn receive_within(&mut self, limit: Duration) -> Result<Option<Vec<u8>>, FormEnd>;

    /// Has the process make a copy of itself; the way to it. `frame` says so.
    ///
    /// # Errors
    /// If the process has ended or reads nothing.
    fn fork(&mut self, frame: &[u8]) -> Result<Box<dyn FormLink>, FormEnd>;
}

/// The other end, in the form's process.
pub trait FormPort {
    /// The next frame; `None` when the daemon has closed the link.
    fn receive(&mut self) -> Option<Vec<u8>>;

    /// Sends a frame. Where nobody listens any more, the process is about to end.
    fn send(&mut self, frame: &[u8]);

    /// Begins a piece of work, which must [`end`](Self::end) within `budget` of processor time.
    fn begin(&mut self, budget: Duration);

    /// Ends a piece of work.
    fn end(&mut self);

    /// Processor time, or else time, of the piece of work so far.
    fn spent(&self) -> Duration;

    /// Bytes that the process has taken since it was made.
    fn weight(&mut self) -> usize;

    /// Copies the process, for the link that came with the frame received last.
    fn fork(&mut self) -> FormFork;
}

/// Which process this is after [`FormPort::fork`].
pub enum FormFork {
    /// The one that was copied, or that could not be.
    Original,
    /// The copy: the port is its own.
    Copy,
    /// The original; processes are threads here, and a copy of the form is to serve this port.
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

/// What stands for a host that could not be started: every form is refused.
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
