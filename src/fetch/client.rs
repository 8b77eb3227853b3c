//! Requests over HTTP/1, plain or by TLS with the system's certificates.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, LOCATION, USER_AGENT};
use hyper::http::request::Builder;
use hyper::rt::{Read, Write};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::rustls::ClientConfig;

use super::error::FetchError;
use super::tls;
use super::url::Url;

/// How long a connection may take to be made, and an answer to begin.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a body may be silent.
pub(super) const SILENCE: Duration = Duration::from_secs(60);

/// Most redirections that are followed.
const MAX_HOPS: usize = 8;

/// The largest body that is taken whole.
const MAX_WHOLE_BYTES: usize = 16 << 20;

/// Sends requests. Each has a connection of its own.
#[derive(Debug, Default)]
pub struct Client {
    /// A secret for the machine of the first request, never for one that it redirects to.
    token: Option<String>,
    tls: OnceLock<Arc<ClientConfig>>,
}

type Sender = SendRequest<Full<Bytes>>;

impl Client {
    /// A client that sends `token`, if there is one, as a bearer.
    #[must_use]
    pub fn new(token: Option<String>) -> Self {
        Self { token, tls: OnceLock::new() }
    }

    /// Posts `body` and gives the answer's status; the rest of the answer is not read.
    ///
    /// # Errors
    /// If no answer comes.
    pub async fn post(
        &self,
        url: &Url,
        content_type: &str,
        body: Bytes,
    ) -> Result<u16, FetchError> {
        let request = Request::post(url.target()).header(CONTENT_TYPE, content_type);
        let response = self.send(url, request, body, true).await?;
        Ok(response.status().as_u16())
    }

    /// Gets `url`, through redirections.
    pub(super) async fn get(
        &self,
        url: &Url,
        headers: &[(&str, &str)],
    ) -> Result<Response<Incoming>, FetchError> {
        let mut at = url.clone();
        for _ in 0..MAX_HOPS {
            let is_first = at.is_same_origin(url);
            let mut request = Request::get(at.target());
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let response = self.send(&at, request, Bytes::new(), is_first).await?;
            let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            match to.filter(|_| response.status().is_redirection()) {
                // A page that was fetched by TLS is not to lead out of it.
                Some(to) => {
                    let next = at.join(to)?;
                    if at.is_secure() && !next.is_secure() {
                        return Err(FetchError::Answer {
                            url: at.to_string(),
                            expected: "redirection to https",
                        });
                    }
                    at = next;
                }
                None => return Ok(response),
            }
        }
        Err(FetchError::Answer { url: url.to_string(), expected: "end of redirections" })
    }

    /// Gets the whole body of an answer with status 200, and its header of this name.
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
        let body = http_body_util::Limited::new(response.into_body(), MAX_WHOLE_BYTES);
        match timeout(SILENCE, body.collect()).await {
            Ok(Ok(body)) => Ok((body.to_bytes(), value)),
            Ok(Err(error)) => Err(unreachable(url, error.to_string())),
            Err(_) => Err(unreachable(url, "the answer stopped".to_owned())),
        }
    }

    async fn send(
        &self,
        url: &Url,
        request: Builder,
        body: Bytes,
        with_token: bool,
    ) -> Result<Response<Incoming>, FetchError> {
        let mut request = request
            .header(HOST, url.authority())
            .header(USER_AGENT, concat!("phi4d/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = self.token.as_ref().filter(|_| with_token) {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body)).map_err(|_| FetchError::Invalid {
            given: url.to_string(),
            expected: "a URL and a token of printable characters".to_owned(),
        })?;
        let answer = async {
            let mut sender = self.connect(url).await?;
            sender.send_request(request).await.map_err(|error| error.to_string())
        };
        match timeout(PATIENCE, answer).await {
            Ok(answer) => answer.map_err(|reason| unreachable(url, reason)),
            Err(_) => Err(unreachable(url, format!("no answer in {} s", PATIENCE.as_secs()))),
        }
    }

    async fn connect(&self, url: &Url) -> Result<Sender, String> {
        let text = |error: std::io::Error| error.to_string();
        let stream = TcpStream::connect((url.host(), url.port())).await.map_err(text)?;
        if !url.is_secure() {
            return carry(stream).await;
        }
        carry(tls::secure(&self.tls()?, url.host(), stream).await?).await
    }

    /// TLS by the certificates that this machine trusts.
    fn tls(&self) -> Result<Arc<ClientConfig>, String> {
        if let Some(config) = self.tls.get() {
            return Ok(Arc::clone(config));
        }
        let config = tls::client_config(None)?;
        Ok(Arc::clone(self.tls.get_or_init(|| config)))
    }
}

pub(super) fn unreachable(url: &Url, reason: String) -> FetchError {
    FetchError::Unreachable { host: url.origin(), reason }
}

async fn carry<S>(stream: S) -> Result<Sender, String>
where
    TokioIo<S>: Read + Write + Unpin + Send + 'static,
{
    let shaken = handshake(TokioIo::new(stream)).await;
    let (sender, connection) = shaken.map_err(|error| error.to_string())?;
    // Its errors come up where the answer is read.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}
