//! HTTP/1 requests over TCP, TLS or a Unix socket, directly or through a proxy.

use std::io::{self, ErrorKind};
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{
    AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderValue, LOCATION, PROXY_AUTHORIZATION, USER_AGENT,
};
use hyper::http::request::Builder;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::error::FetchError;
use super::proxy::{Proxies, Proxy};
use super::server::{Server, Stream};
use super::tls::Trust;
use super::url::Url;

/// How long connecting and the head of the response may take, unless the client has no limit.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How long a body may be silent.
pub(super) const SILENCE: Duration = Duration::from_secs(60);

/// Most redirections that are followed.
const MAX_REDIRECTIONS: usize = 8;

/// The largest body that is read into memory.
const MAX_BODY_BYTES: usize = 16 << 20;

/// Sends requests, each over a connection of its own: downloads are few and long, and requests to
/// the daemon must not depend on how long it keeps idle connections.
#[derive(Debug)]
pub struct Client {
    authorization: Option<HeaderValue>,
    /// Read from the system when the first TLS connection is made, unless it was given.
    trust: OnceLock<Trust>,
    proxies: Proxies,
    timeout: Option<Duration>,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            authorization: None,
            trust: OnceLock::new(),
            proxies: Proxies::default(),
            timeout: Some(TIMEOUT),
        }
    }
}

impl Client {
    /// Sends `token` as a bearer token, to the server of a request but to none that it redirects to.
    ///
    /// # Errors
    /// If `token` can't be sent in a header.
    pub fn with_token(mut self, token: &str) -> Result<Self, FetchError> {
        let value = HeaderValue::try_from(format!("Bearer {token}"));
        let mut value = value.map_err(|_| FetchError::Token)?;
        value.set_sensitive(true);
        self.authorization = Some(value);
        Ok(self)
    }

    /// Verifies servers by `trust` instead of the system's certificates.
    #[must_use]
    pub fn with_trust(mut self, trust: Trust) -> Self {
        self.trust = OnceLock::from(trust);
        self
    }

    /// Connects through `proxies`.
    #[must_use]
    pub fn with_proxies(mut self, proxies: Proxies) -> Self {
        self.proxies = proxies;
        self
    }

    /// Waits for responses without a limit.
    #[must_use]
    pub fn without_timeout(mut self) -> Self {
        self.timeout = None;
        self
    }

    /// Sends `request`, whose URI is a path with or without a query, and returns the response with
    /// its body still to be read.
    ///
    /// # Errors
    /// If no response arrives.
    pub async fn send(
        &self,
        server: &Server,
        mut request: Builder,
        body: Bytes,
    ) -> Result<Response<Incoming>, FetchError> {
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        self.send_as_is(server, request, body).await
    }

    /// Gets `url` and follows redirections.
    pub(super) async fn get(
        &self,
        url: &Url,
        headers: &[(&str, &str)],
    ) -> Result<Response<Incoming>, FetchError> {
        self.follow(&Method::GET, url, headers).await
    }

    /// Bytes of what `url` leads to, as its server says.
    pub(super) async fn size(&self, url: &Url) -> Result<u64, FetchError> {
        let response = self.follow(&Method::HEAD, url, &[]).await?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err(FetchError::Status { url: url.to_string(), status });
        }
        let length = response.headers().get(CONTENT_LENGTH).and_then(|text| text.to_str().ok());
        length
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| FetchError::Answer { url: url.to_string(), expected: "Content-Length" })
    }

    async fn follow(
        &self,
        method: &Method,
        url: &Url,
        headers: &[(&str, &str)],
    ) -> Result<Response<Incoming>, FetchError> {
        let mut at = url.clone();
        for _ in 0..MAX_REDIRECTIONS {
            let mut request = Request::builder().method(method).uri(at.target());
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let server = Server::Url(at.clone());
            let response = if at.is_same_origin(url) {
                self.send(&server, request, Bytes::new()).await?
            } else {
                self.send_as_is(&server, request, Bytes::new()).await?
            };
            let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            let Some(to) = to.filter(|_| response.status().is_redirection()) else {
                return Ok(response);
            };
            let next = at.join(to)?;
            // What was requested over TLS must not arrive without it.
            if at.is_secure() && !next.is_secure() {
                return Err(FetchError::Answer {
                    url: at.to_string(),
                    expected: "redirection to https",
                });
            }
            at = next;
        }
        Err(FetchError::Answer { url: url.to_string(), expected: "end of redirections" })
    }

    /// Gets the whole body of a response with status 200, and its header of this name.
    pub(super) async fn get_whole(
        &self,
        url: &Url,
        header: &str,
    ) -> Result<(Bytes, Option<String>), FetchError> {
        let response = self.get(url, &[("accept", "application/json")]).await?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err(FetchError::Status { url: url.to_string(), status });
        }
        let value = response.headers().get(header).and_then(|value| value.to_str().ok());
        let value = value.map(ToOwned::to_owned);
        let body = http_body_util::Limited::new(response.into_body(), MAX_BODY_BYTES);
        match timeout(SILENCE, body.collect()).await {
            Ok(Ok(body)) => Ok((body.to_bytes(), value)),
            Ok(Err(error)) => Err(FetchError::broken(url.origin(), error.to_string())),
            Err(_) => Err(FetchError::broken(url.origin(), "the response stopped".to_owned())),
        }
    }

    async fn send_as_is(
        &self,
        server: &Server,
        request: Builder,
        body: Bytes,
    ) -> Result<Response<Incoming>, FetchError> {
        let response = self.exchange(server, request, body);
        let Some(limit) = self.timeout else { return response.await };
        let silent = |_| {
            FetchError::broken(server.to_string(), format!("no response in {} s", limit.as_secs()))
        };
        timeout(limit, response).await.map_err(silent)?
    }

    async fn exchange(
        &self,
        server: &Server,
        mut request: Builder,
        body: Bytes,
    ) -> Result<Response<Incoming>, FetchError> {
        let proxy = match server {
            Server::Unix(_) => None,
            Server::Url(url) => self.proxies.find(url)?,
        };
        let stream = match (server, &proxy) {
            (Server::Url(url), Some(proxy)) => self.connect_through(proxy, url).await?,
            _ => self.connect(server).await?,
        };
        let host = match server {
            Server::Unix(_) => "localhost".to_owned(),
            Server::Url(url) => url.authority(),
        };
        // A proxy forwards requests without TLS by their absolute URL; with TLS it sees none.
        let forwarded = proxy.filter(|proxy| !proxy.tunnels(server));
        if let Some(proxy) = &forwarded {
            let target = request.uri_ref().map(ToString::to_string).unwrap_or_default();
            request = request.uri(format!("{server}{target}"));
            if let Some(credentials) = proxy.authorization() {
                request = request.header(PROXY_AUTHORIZATION, credentials);
            }
        }
        let request = request
            .header(HOST, host)
            .header(USER_AGENT, concat!("phi4d/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body))
            .map_err(|error| FetchError::Invalid {
                given: server.to_string(),
                expected: format!("a URL that can be requested ({error})"),
            })?;
        let failed = |error: hyper::Error| FetchError::Unreachable {
            host: server.to_string(),
            reason: error.to_string(),
            // The server closed the connection without a response, as one that restarts does.
            may_come: true,
        };
        let mut sender = start_http(server, stream).await?;
        let response = sender.send_request(request).await.map_err(failed)?;
        match forwarded {
            Some(proxy) if response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                Err(proxy.refused(server, response.status()))
            }
            _ => Ok(response),
        }
    }

    /// Connects to `server` itself, with TLS if its URL says so.
    async fn connect(&self, server: &Server) -> Result<Box<dyn Stream>, FetchError> {
        let failed = |error: io::Error| FetchError::Unreachable {
            host: server.to_string(),
            reason: error.to_string(),
            may_come: matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset
            ),
        };
        match server {
            Server::Unix(path) => {
                super::system::connect(path).await.map_err(|error| match error.kind() {
                    ErrorKind::PermissionDenied => FetchError::Denied { path: path.clone() },
                    _ => failed(error),
                })
            }
            Server::Url(url) => {
                let stream = TcpStream::connect((url.host(), url.port())).await.map_err(failed)?;
                self.secure(url, Box::new(stream)).await
            }
        }
    }

    /// Connects to `url` through `proxy`: to the proxy itself, or for `https` in a tunnel.
    async fn connect_through(
        &self,
        proxy: &Proxy,
        url: &Url,
    ) -> Result<Box<dyn Stream>, FetchError> {
        let server = Server::Url(proxy.url().clone());
        let stream = self.connect(&server).await.map_err(|error| proxy.unreachable(error))?;
        let target = Server::Url(url.clone());
        if !proxy.tunnels(&target) {
            return Ok(stream);
        }
        let address = format!("{}:{}", url.bracketed_host(), url.port());
        let mut request = Request::connect(&address).header(HOST, &address);
        if let Some(credentials) = proxy.authorization() {
            request = request.header(PROXY_AUTHORIZATION, credentials);
        }
        let failed =
            |reason: String| proxy.unreachable(FetchError::broken(server.to_string(), reason));
        let request = request.body(Empty::<Bytes>::new()).map_err(|e| failed(e.to_string()))?;
        let mut sender = start_http(&server, stream).await.map_err(|e| proxy.unreachable(e))?;
        let response = sender.send_request(request).await.map_err(|e| failed(e.to_string()))?;
        if !response.status().is_success() {
            return Err(proxy.refused(&target, response.status()));
        }
        let tunnel = hyper::upgrade::on(response).await.map_err(|e| failed(e.to_string()))?;
        self.secure(url, Box::new(TokioIo::new(tunnel))).await
    }

    /// `stream` with TLS on top if `url` is `https`.
    async fn secure(
        &self,
        url: &Url,
        stream: Box<dyn Stream>,
    ) -> Result<Box<dyn Stream>, FetchError> {
        if !url.is_secure() {
            return Ok(stream);
        }
        let shake_hands = async {
            if self.trust.get().is_none() {
                let system = Trust::new(None).map_err(|error| error.to_string())?;
                // Another request may have been faster; both read the same certificates.
                let _ = self.trust.set(system);
            }
            match self.trust.get() {
                Some(trust) => trust.secure(url.host(), stream).await,
                None => Err("there are no certificates to trust".to_owned()),
            }
        };
        match shake_hands.await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(reason) => Err(FetchError::broken(url.origin(), reason)),
        }
    }
}

/// Starts HTTP on `stream`, which a task of its own then serves.
async fn start_http<B>(
    server: &Server,
    stream: Box<dyn Stream>,
) -> Result<SendRequest<B>, FetchError>
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream))
        .await
        .map_err(|error| FetchError::broken(server.to_string(), error.to_string()))?;
    // Whoever reads the response sees the connection's errors.
    tokio::spawn(async move { drop(connection.with_upgrades().await) });
    Ok(sender)
}
