//! The daemon as `chat`, `run` and `bench` see it: where it is, requests, and streamed answers.

pub(super) mod events;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap};
use hyper::{Request, Response};
use serde_json::Value;

use super::args::{ClientArgs, ambient_inputs};
use super::exit::Fatal;
use events::Events;
use phi4d_fetch::{Client, FetchError, Server, Trust, Url};
use phi4d_os::{effective_uid, owner};
use phi4d_settings::{ListenAddress, SocketSetting, client_socket_candidates, resolve};

/// Where systemd puts the service's socket.
const SERVICE_FOLDER: &str = "/run/phi4d";

/// The daemon's address, and how to send requests to it. Proxies are not used: the daemon is on
/// this machine or near it.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) server: Server,
    client: Client,
}

impl Daemon {
    /// The one at `server`.
    pub(super) fn at(server: Server) -> Self {
        // While the daemon loads its model, its responses wait.
        Self { server, client: Client::default().without_timeout() }
    }

    /// The one named on the command line, else the one that a daemon with this machine's settings
    /// listens on.
    pub(super) fn choose(arguments: &ClientArgs) -> Result<Self, Fatal> {
        if let Some(url) = &arguments.url {
            return Self::from_url(url, arguments.ca_file.as_deref());
        }
        if let Some(path) = &arguments.socket {
            return Ok(Self::at(Server::Unix(path.clone())));
        }
        // Without readable settings, which `phi4d check` reports, the default places are left.
        let settings = resolve(&ambient_inputs(std::env::var_os("PHI4D_CONFIG").map(Into::into)));
        let settings = settings.ok().map(|resolved| resolved.settings);
        match settings.map(|settings| (settings.socket, settings.listen)) {
            Some((SocketSetting::At(path), _)) => Ok(Self::at(Server::Unix(path))),
            Some((SocketSetting::Off, Some(address))) => Self::listening(&address),
            // Where there are no Unix sockets, the default is none.
            Some((SocketSetting::Default, Some(address))) if cfg!(windows) => {
                Self::listening(&address)
            }
            _ => Ok(Self::at(Server::Unix(default_socket()))),
        }
    }

    fn listening(address: &ListenAddress) -> Result<Self, Fatal> {
        Ok(Self::at(Server::Url(Url::parse(&format!("http://{address}"))?)))
    }

    fn from_url(url: &str, ca_file: Option<&Path>) -> Result<Self, Fatal> {
        let parsed = Url::parse(url).ok().filter(|url| url.target() == "/").ok_or_else(|| {
            Fatal::Usage(format!(
                "--url = {url:?} is not accepted; expected http://HOST:PORT or https://HOST:PORT \
                 without a path"
            ))
        })?;
        let is_secure = parsed.is_secure();
        let mut daemon = Self::at(Server::Url(parsed));
        if is_secure {
            // At once, so that a file that can't be used is an error of the command line.
            let trust = Trust::new(ca_file);
            let trust = trust.map_err(|error| Fatal::Usage(format!("cannot use TLS: {error}")))?;
            daemon.client = daemon.client.with_trust(trust);
        } else if ca_file.is_some() {
            return Err(Fatal::Usage(format!("--ca-file is for https, and --url is {url:?}")));
        }
        Ok(daemon)
    }

    /// The same with an API key.
    pub(super) fn with_key(self, key: &str) -> Result<Self, Fatal> {
        let refused = |_| Fatal::Usage("the API key has characters that no key has".to_owned());
        Ok(Self { client: self.client.with_token(key).map_err(refused)?, ..self })
    }

    /// Gets `path`.
    pub(super) async fn get(&self, path: &str) -> Result<Response<Incoming>, Fatal> {
        self.client.send(&self.server, Request::get(path), Bytes::new()).await.map_err(absent)
    }

    /// Posts `body` to `path` and returns the events of its answer.
    pub(super) async fn stream(&self, path: &str, body: &Value) -> Result<EventStream, Fatal> {
        let request = Request::post(path)
            .header(ACCEPT, "text/event-stream, application/json")
            .header(CONTENT_TYPE, "application/json");
        let body = Bytes::from(body.to_string());
        let response = self.client.send(&self.server, request, body).await.map_err(absent)?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        Ok(EventStream {
            headers: response.headers().clone(),
            body: response.into_body(),
            events: Events::default(),
            complete: VecDeque::new(),
        })
    }
}

fn absent(error: FetchError) -> Fatal {
    match error {
        FetchError::Denied { path } => Fatal::Denied { hint: socket_hint(&path), path },
        FetchError::Unreachable { host, reason, may_come } => {
            Fatal::Unreachable { address: host, reason, may_come }
        }
        other => Fatal::Fetch(other),
    }
}

/// The reason in a response that is no success.
pub(super) async fn refusal(response: Response<Incoming>) -> Fatal {
    let status = response.status();
    let body = response.into_body().collect().await.map(|body| body.to_bytes());
    let body: Value =
        body.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    refused(&body).unwrap_or_else(|| Fatal::Refused(format!("the daemon answered {status}")))
}

/// The error in an event or a response's body, if it is one.
pub(super) fn refused(body: &Value) -> Option<Fatal> {
    let message = body["error"]["message"].as_str()?;
    Some(Fatal::Refused(format!("the daemon refused: {message}")))
}

/// A streamed answer.
#[derive(Debug)]
pub(super) struct EventStream {
    pub(super) headers: HeaderMap,
    body: Incoming,
    events: Events,
    complete: VecDeque<String>,
}

impl EventStream {
    /// Waits for the next event's data; `None` at the end. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Option<String>, Fatal> {
        loop {
            if let Some(data) = self.complete.pop_front() {
                return Ok(Some(data));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    self.complete.extend(self.events.push(&frame.into_data().unwrap_or_default()));
                }
                Some(Err(error)) => {
                    return Err(Fatal::Refused(format!("the answer broke off: {error}")));
                }
                None => return Ok(None),
            }
        }
    }
}

/// What lets a user connect to the socket at `path`.
pub(super) fn socket_hint(path: &Path) -> String {
    let user = std::env::var("USER").ok().filter(|name| !name.is_empty());
    let user = user.unwrap_or_else(|| "NAME".to_owned());
    if path.starts_with(SERVICE_FOLDER) {
        format!(
            "members of the group phi4d may use it: sudo adduser {user} phi4d, then log in again \
             (or, in this shell: newgrp phi4d)"
        )
    } else {
        "ask its owner, or name another daemon by --socket or --url".to_owned()
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
            ("http://box/", "http://box"),
            ("http://[::1]:1/", "http://[::1]:1"),
        ] {
            assert_eq!(Daemon::from_url(url, None).unwrap().server.to_string(), expected);
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
            let error = Daemon::from_url(url, None).unwrap_err().to_string();
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
            assert_eq!(Daemon::from_url(url, Some(&ca)).unwrap().server.to_string(), expected);
        }
        assert!(
            Daemon::from_url("http://box", Some(&ca))
                .unwrap_err()
                .to_string()
                .contains("--ca-file")
        );
        let none = folder.path().join("none.pem");
        let error = Daemon::from_url("https://box", Some(&none)).unwrap_err().to_string();
        assert!(error.contains("none.pem"), "{error}");
    }
}
