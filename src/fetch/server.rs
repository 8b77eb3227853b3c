//! Where servers listen, and byte streams to them.

use std::fmt;
use std::path::PathBuf;

use tokio::io::{AsyncRead, AsyncWrite};

use super::url::Url;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// A Unix socket's path.
    Unix(PathBuf),
    /// A URL, of which only the origin counts.
    Url(Url),
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Url(url) => f.write_str(&url.origin()),
        }
    }
}

/// A byte stream to a server. Boxed, since TLS can run in a proxy's tunnel, which itself can run in
/// TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}
