//! The start of a TCP connection: the TLS handshake, if TLS is configured. It has a time limit and
//! runs in the connection's task, so that a slow client does not hold up the accept loop.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;

use super::activity::Activity;
use super::app::{App, Phase};
use super::caller::Origin;
use super::conn::serve_connection;

/// How long a handshake may take; the wait for a request's head may be set shorter.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// The first byte of a TLS connection; no HTTP method begins with it.
const TLS_HANDSHAKE: u8 = 22;

/// The answer to plain HTTP on a TLS port.
const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\
    content-type: text/plain\r\ncontent-length: 43\r\n\r\nthis port speaks TLS; ask by https:// here\n";

/// Serves one TCP connection, over TLS if the rules ask for it.
pub(super) async fn serve_tcp(app: App, stream: TcpStream, activity: Arc<Activity>) {
    // Each token of a stream is a small write that must not wait for the acknowledgement of the
    // last.
    let _ = stream.set_nodelay(true);
    let origin = Origin::of_tcp(&stream);
    let Some(config) = app.rules().tls() else {
        return serve_connection(app, origin, stream, activity).await;
    };
    let limit = HANDSHAKE_LIMIT.min(app.options().header_timeout);
    let shaken = tokio::select! {
        shaken = tokio::time::timeout(limit, handshake(config, stream)) => shaken,
        // There is no request yet that would need an answer.
        () = app.reached(Phase::Draining) => return,
    };
    match shaken {
        Ok(Ok(stream)) => serve_connection(app, origin, stream, activity).await,
        Ok(Err(error)) => log::debug!(from:% = origin.caller(); "no TLS: {error}"),
        Err(_) => log::debug!(from:% = origin.caller(); "no TLS within {limit:?}"),
    }
}

async fn handshake(
    config: Arc<ServerConfig>,
    mut stream: TcpStream,
) -> io::Result<TlsStream<TcpStream>> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 1 && first[0] != TLS_HANDSHAKE {
        stream.write_all(PLAIN_HTTP).await?;
        // Closing a socket with unread bytes resets it, and the client may lose the answer.
        let mut rest = [0; 4096];
        let _ = stream.shutdown().await;
        while tokio::io::AsyncReadExt::read(&mut stream, &mut rest).await? > 0 {}
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the client speaks plain HTTP"));
    }
    TlsAcceptor::from(config).accept(stream).await
}
