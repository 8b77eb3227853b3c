//! Frames over a Unix socket: a length of four bytes, little-endian, then as many bytes. A frame may
//! carry a descriptor.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The longest frame. Longer ones are an error of the peer's.
const MOST_BYTES: usize = 64 << 20;

/// A length that no frame has says why the peer ends; its last byte is an [`Ended`].
const ENDS: u32 = 0xFFFF_FF00;

/// Bytes of a frame's length.
pub(super) const HEAD: usize = 4;

/// Which limit ended a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Processor time.
    Time = 1,
    /// Memory.
    Memory = 2,
    /// The stack.
    Depth = 3,
}

impl Ended {
    /// The whole frame that says so.
    pub(super) fn frame(self) -> [u8; HEAD] {
        (ENDS | self as u32).to_le_bytes()
    }

    fn of_head(head: u32) -> Option<Self> {
        [Self::Time, Self::Memory, Self::Depth]
            .into_iter()
            .find(|ended| ENDS | *ended as u32 == head)
    }
}

/// An error that carries why the peer ended, if it said so.
fn ended(ended: Ended) -> io::Error {
    io::Error::new(ErrorKind::ConnectionAborted, LimitReached(ended))
}

#[derive(Debug)]
struct LimitReached(Ended);

impl std::fmt::Display for LimitReached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the process reached its limit of {:?}", self.0)
    }
}

impl std::error::Error for LimitReached {}

/// One end of a socket pair. The daemon's end never blocks but where it says so.
#[derive(Debug)]
pub struct Pipe {
    stream: UnixStream,
    /// The frame that is being read, its length first.
    partial: Vec<u8>,
}

impl Pipe {
    /// A pipe that does not block, and the descriptor of its other end, which does.
    ///
    /// # Errors
    /// If the system gives no sockets.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok((Self { stream: ours, partial: Vec::new() }, theirs.into()))
    }

    /// The other end, in the process that does the work. It blocks.
    #[must_use]
    pub fn of(descriptor: OwnedFd) -> Self {
        Self { stream: descriptor.into(), partial: Vec::new() }
    }

    pub(super) fn descriptor(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// Which limit ended the peer, by an error of this type's methods.
    #[must_use]
    pub fn ended_by(error: &io::Error) -> Option<Ended> {
        error.get_ref()?.downcast_ref::<LimitReached>().map(|reached| reached.0)
    }

    /// The next frame; `None` where it is not here yet. Does not block (on the daemon's end).
    ///
    /// # Errors
    /// `UnexpectedEof` if the peer has ended, or an error of [`Self::ended_by`].
    pub fn try_receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let wanted = self.wanted()?;
            if self.partial.len() >= HEAD && self.partial.len() == wanted {
                let mut frame = std::mem::take(&mut self.partial);
                frame.drain(..HEAD);
                return Ok(Some(frame));
            }
            // Not more than one frame, and not all of a long one at once.
            let start = self.partial.len();
            self.partial.resize(wanted.min(start + (64 << 10)), 0);
            let read = self.stream.read(&mut self.partial[start..]);
            self.partial.truncate(start + read.as_ref().map_or(0, |count| *count));
            match read {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Bytes of the frame that is being read, with its length.
    fn wanted(&self) -> io::Result<usize> {
        let Some(head) = self.partial.first_chunk::<HEAD>() else { return Ok(HEAD) };
        let head = u32::from_le_bytes(*head);
        if let Some(reason) = Ended::of_head(head) {
            return Err(ended(reason));
        }
        match usize::try_from(head) {
            Ok(length) if length <= MOST_BYTES => Ok(HEAD + length),
            _ => Err(io::Error::other("a frame that is too long")),
        }
    }

    /// As [`Self::try_receive`], waiting up to `limit` for it.
    ///
    /// # Errors
    /// As [`Self::try_receive`].
    pub fn receive_within(&mut self, limit: Duration) -> io::Result<Option<Vec<u8>>> {
        let mut until = None;
        loop {
            if let Some(frame) = self.try_receive()? {
                return Ok(Some(frame));
            }
            let until = *until.get_or_insert_with(|| Instant::now() + limit);
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || !poll_readable(self.descriptor(), left)? {
                return Ok(None);
            }
        }
    }

    /// The next frame. Must be called within the tokio runtime; can be cancelled and called again.
    ///
    /// # Errors
    /// As [`Self::try_receive`].
    pub async fn receive(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(frame) = self.try_receive()? {
                return Ok(frame);
            }
            drop(registered(self.stream.as_fd(), Interest::READABLE)?.readable().await?);
        }
    }

    /// Sends a frame of any length. Must be called within the tokio runtime.
    ///
    /// # Errors
    /// If the peer has ended.
    pub async fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        let whole = framed(frame)?;
        let mut rest = whole.as_slice();
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    drop(registered(self.stream.as_fd(), Interest::WRITABLE)?.writable().await?);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends a frame in one piece: a short one on the daemon's end, any on the worker's.
    ///
    /// # Errors
    /// If the peer has ended, or has not read what was sent before.
    pub fn send_now(&mut self, frame: &[u8]) -> io::Result<()> {
        self.stream.write_all(&framed(frame)?)
    }

    /// Sends a short frame with a descriptor.
    ///
    /// # Errors
    /// As [`Self::send_now`].
    pub fn pass(&mut self, frame: &[u8], descriptor: &OwnedFd) -> io::Result<()> {
        pass(&self.stream, &framed(frame)?, descriptor)
    }

    /// The next frame and the descriptor that came with it; `None` when the peer has closed. Blocks.
    ///
    /// # Errors
    /// If the socket fails or the frame is none.
    pub fn take(&mut self) -> io::Result<Option<(Vec<u8>, Option<OwnedFd>)>> {
        let mut head = [0; HEAD];
        let (count, descriptor) = take(&self.stream, &mut head)?;
        if count == 0 {
            return Ok(None);
        }
        self.partial.extend_from_slice(&head[..count]);
        match self.try_receive() {
            Ok(Some(frame)) => Ok(Some((frame, descriptor))),
            Ok(None) => Err(ErrorKind::WouldBlock.into()),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A descriptor that the runtime waits for, as long as it is borrowed.
fn registered(descriptor: BorrowedFd<'_>, what: Interest) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
    // SAFETY: the borrow keeps the descriptor open, and the same, for as long as this lives.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, what) };
    registered.map_err(|error| io::Error::other(error.to_string()))
}

fn framed(frame: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(frame.len()).ok().filter(|_| frame.len() <= MOST_BYTES);
    let length = length.ok_or_else(|| io::Error::other("a frame that is too long"))?;
    let mut whole = Vec::with_capacity(HEAD + frame.len());
    whole.extend_from_slice(&length.to_le_bytes());
    whole.extend_from_slice(frame);
    Ok(whole)
}

/// Sends bytes that fit the socket's buffer, and a descriptor with them.
pub(super) fn pass(stream: &UnixStream, bytes: &[u8], descriptor: &OwnedFd) -> io::Result<()> {
    let descriptors = [descriptor.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let vector = [IoSlice::new(bytes)];
    let sent = loop {
        match sendmsg::<()>(stream.as_raw_fd(), &vector, &rights, MsgFlags::MSG_NOSIGNAL, None) {
            Err(Errno::EINTR) => {}
            other => break other?,
        }
    };
    if sent == bytes.len() { Ok(()) } else { Err(ErrorKind::WouldBlock.into()) }
}

/// Reads up to `bytes.len()` bytes, and the descriptor that came with them.
pub(super) fn take(stream: &UnixStream, bytes: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut vector = [IoSliceMut::new(bytes)];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    loop {
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(stream.as_raw_fd(), &mut vector, Some(&mut space), flags);
        let message = match message {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        let mut passed = None;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(descriptors) = control {
                for descriptor in descriptors {
                    // SAFETY: the kernel made this descriptor for this message, which is read once.
                    passed = Some(unsafe { OwnedFd::from_raw_fd(descriptor) });
                }
            }
        }
        return Ok((message.bytes, passed));
    }
}

/// Waits up to `limit` for something to read, or for the peer's end.
fn poll_readable(descriptor: RawFd, limit: Duration) -> io::Result<bool> {
    let mut waited = libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
    let limit = libc::timespec {
        tv_sec: libc::time_t::try_from(limit.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(limit.subsec_nanos()),
    };
    // SAFETY: both pointers are to locals that outlive the call, one entry is announced.
    let count = unsafe { libc::ppoll(&raw mut waited, 1, &raw const limit, std::ptr::null()) };
    match Errno::result(count) {
        Ok(count) => Ok(count > 0),
        Err(Errno::EINTR) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}
