//! Where the daemon is, and a connection to it.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::super::args::{ClientArgs, ambient_inputs};
use super::super::exit::Fatal;
use phi4d_fetch::{Trust, Url};
use phi4d_os::{UnixStream, effective_uid, owner};
use phi4d_settings::{ListenAddress, SocketSetting, client_socket_candidates, resolve};

/// The daemon's address.
#[derive(Debug, Clone)]
pub(crate) enum Endpoint {
    Unix(PathBuf),
    Tcp(ListenAddress),
    Tls(Url, Trust),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => write!(f, "http://{address}"),
            Self::Tls(url, _) => f.write_str(&url.origin()),
        }
    }
}

/// A request's body, whole.
pub(crate) type Body = http_body_util::Full<bytes::Bytes>;

impl Endpoint {
    /// The one named on the command line, else the one that a daemon with this machine's settings
    /// listens on.
    pub(super) fn choose(arguments: &ClientArgs) -> Result<Self, Fatal> {
        if let Some(url) = &arguments.url {
            return Self::from_url(url, arguments.ca_file.as_deref());
        }
        if let Some(path) = &arguments.socket {
            return Ok(Self::Unix(path.clone()));
        }
        // Settings that can't be read, or are the daemon's trouble, leave the default places.
        let settings = resolve(&ambient_inputs(std::env::var_os("PHI4D_CONFIG").map(Into::into)));
        let settings = settings.ok().map(|resolved| resolved.settings);
        match settings.map(|settings| (settings.socket, settings.listen)) {
            Some((SocketSetting::At(path), _)) => Ok(Self::Unix(path)),
            Some((SocketSetting::Off, Some(address))) => Ok(Self::Tcp(address)),
            // Where there are no Unix sockets, the default is none.
            Some((SocketSetting::Default, Some(address))) if cfg!(windows) => {
                Ok(Self::Tcp(address))
            }
            _ => Ok(Self::Unix(default_socket())),
        }
    }

    pub(super) fn from_url(url: &str, ca_file: Option<&Path>) -> Result<Self, Fatal> {
        let refused = || {
            Fatal::Usage(format!(
                "--url = {url:?} is not accepted; expected http://HOST:PORT or https://HOST:PORT \
                 without a path"
            ))
        };
        if url.starts_with("https://") {
            let parsed = Url::parse(url).ok().filter(|url| url.target() == "/");
            let trust = |error| Fatal::Usage(format!("cannot use TLS: {error}"));
            return Ok(Self::Tls(parsed.ok_or_else(refused)?, Trust::new(ca_file).map_err(trust)?));
        }
        if ca_file.is_some() {
            return Err(Fatal::Usage(format!("--ca-file is for https, and --url is {url:?}")));
        }
        let address = url.strip_prefix("http://").ok_or_else(refused)?;
        let address = address.trim_end_matches('/');
        let with_port = format!("{address}:80");
        let address = ListenAddress::parse(address).or_else(|| ListenAddress::parse(&with_port));
        address.map(Self::Tcp).ok_or_else(refused)
    }

    /// Opens a connection, which is carried by a task of its own.
    pub(crate) async fn connect(&self) -> Result<SendRequest<Body>, Fatal> {
        match self {
            Self::Unix(path) => {
                let stream = UnixStream::connect(path).await;
                self.carry(stream.map_err(|error| self.refused(&error))?).await
            }
            Self::Tcp(address) => {
                let stream = TcpStream::connect((address.host.as_str(), address.port)).await;
                self.carry(stream.map_err(|error| self.refused(&error))?).await
            }
            Self::Tls(url, trust) => {
                let stream = TcpStream::connect((url.host(), url.port())).await;
                let stream = stream.map_err(|error| self.refused(&error))?;
                let stream = trust.secure(url.host(), stream).await;
                self.carry(stream.map_err(|error| self.unreachable(&error))?).await
            }
        }
    }

    /// What the `Host` header says.
    pub(crate) fn host(&self) -> String {
        match self {
            Self::Unix(_) => "localhost".to_owned(),
            Self::Tcp(address) => address.to_string(),
            Self::Tls(url, _) => url.authority(),
        }
    }

    /// That the daemon is not there, and will not be either.
    pub(crate) fn unreachable(&self, reason: &impl fmt::Display) -> Fatal {
        let (address, reason) = (self.to_string(), reason.to_string());
        Fatal::Unreachable { address, reason, may_come: false }
    }

    /// That it is not there; where it was looked for, it may come up.
    pub(super) fn absent(&self, reason: &impl fmt::Display) -> Fatal {
        let (address, reason) = (self.to_string(), reason.to_string());
        Fatal::Unreachable { address, reason, may_come: true }
    }

    fn refused(&self, error: &io::Error) -> Fatal {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => {
                self.absent(error)
            }
            _ => self.unreachable(error),
        }
    }

    async fn carry<S>(&self, stream: S) -> Result<SendRequest<Body>, Fatal>
    where
        TokioIo<S>: Read + Write + Unpin + Send + 'static,
    {
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| self.unreachable(&error))?;
        // Its errors come up where the answer is read.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }
}

fn default_socket() -> PathBuf {
    let own = effective_uid();
    let lookup = |name: &str| std::env::var(name).ok();
    let candidates = client_socket_candidates(lookup, own);
    let there = candidates.iter().find(|path| is_usable(path, own));
    there.or(candidates.first()).cloned().unwrap_or_default()
}

/// Whether a socket is there. In /tmp anyone could have put one, so that only one's own counts.
fn is_usable(path: &Path, own: u32) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| {
        let owner = owner(&metadata);
        !path.starts_with("/tmp") || owner == Some(own) || owner == Some(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_host_and_perhaps_a_port() {
        for (url, expected) in [
            ("http://127.0.0.1:8484", "http://127.0.0.1:8484"),
            ("http://box/", "http://box:80"),
            ("http://[::1]:1/", "http://[::1]:1"),
        ] {
            assert_eq!(Endpoint::from_url(url, None).unwrap().to_string(), expected);
        }
        for url in [
            "ftp://box",
            "box:1",
            "http://box/v1",
            "https://box/v1",
            "http://",
            "https://",
            "http://a b",
        ] {
            let error = Endpoint::from_url(url, None).unwrap_err().to_string();
            assert!(error.contains(url) && error.contains("http://HOST:PORT"), "{error}");
        }
    }

    #[test]
    fn https_is_by_the_certificates_that_were_named() {
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        let made = rcgen::generate_simple_self_signed(["box".to_owned()]).unwrap();
        std::fs::write(&ca, made.cert.pem()).unwrap();
        for (url, expected) in
            [("https://box", "https://box"), ("https://Box:8484/", "https://box:8484")]
        {
            assert_eq!(Endpoint::from_url(url, Some(&ca)).unwrap().to_string(), expected);
        }
        assert!(
            Endpoint::from_url("http://box", Some(&ca))
                .unwrap_err()
                .to_string()
                .contains("--ca-file")
        );
        let none = folder.path().join("none.pem");
        let error = Endpoint::from_url("https://box", Some(&none)).unwrap_err().to_string();
        assert!(error.contains("none.pem"), "{error}");
    }
}
