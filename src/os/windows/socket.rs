//! Unix sockets, of which there are none. The types have no values, so that code for them needs no
//! cases of its own.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::listen::{BindError, Listener};
use super::super::types::Peer;

/// A connection that can't be.
#[derive(Debug)]
pub enum UnixStream {}

/// A listening socket that can't be.
#[derive(Debug)]
pub enum UnixListener {}

/// The file of a socket that can't be.
#[derive(Debug)]
pub enum SocketFile {}

fn unsupported() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "phi4d has no Unix sockets on Windows; use TCP")
}

/// Refuses.
///
/// # Errors
/// Always.
pub fn bind_unix(path: &Path, _mode: u32) -> Result<(Listener, SocketFile), BindError> {
    let (path, action) = (path.to_owned(), "make a socket");
    Err(BindError::Unix { path, action, source: unsupported() })
}

/// No listener has a path.
pub fn path_of(listener: &UnixListener) -> Option<PathBuf> {
    match *listener {}
}

impl UnixListener {
    /// Never called.
    pub fn poll_accept(&self, _cx: &mut Context<'_>) -> Poll<io::Result<(UnixStream, ())>> {
        match *self {}
    }
}

impl UnixStream {
    /// Refuses.
    ///
    /// # Errors
    /// Always.
    #[expect(clippy::unused_async, reason = "where there are Unix sockets it waits")]
    pub async fn connect(_path: &Path) -> io::Result<Self> {
        Err(unsupported())
    }
}

impl Peer {
    /// Never called.
    ///
    /// # Errors
    /// None.
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        match *stream {}
    }
}

impl AsyncRead for UnixStream {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        _buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match *self {}
    }
}

impl AsyncWrite for UnixStream {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        _bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match *self {}
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match *self {}
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match *self {}
    }
}
