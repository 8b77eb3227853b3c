//! A proxy that forwards and tunnels, and an end of TLS before a server that has none.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A request that came to the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Method and target.
    pub(crate) what: String,
    pub(crate) credentials: Option<String>,
}

/// Connects everything that is asked for to one server, whatever its name is.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    pub(crate) asked: Arc<Mutex<Vec<Asked>>>,
}

impl Proxy {
    /// A proxy to `server` that answers with `status` instead of forwarding, if there is one.
    pub(crate) fn start(server: SocketAddr, status: Option<u16>) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        let address = each_connection(move |client| forward(client, server, status, &seen));
        Self { address, asked }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

/// Runs `serve` on a thread for each connection to a new port.
fn each_connection(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

fn forward(client: TcpStream, server: SocketAddr, status: Option<u16>, asked: &Mutex<Vec<Asked>>) {
    let mut reader = BufReader::new(client);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
    }
    let (first, headers) = head.split_once("\r\n").unwrap();
    let what = first.strip_suffix(" HTTP/1.1").unwrap().to_owned();
    let mut lines = headers.lines().filter_map(|line| line.split_once(": "));
    let credentials = lines.find(|(name, _)| name.eq_ignore_ascii_case("proxy-authorization"));
    let credentials = credentials.map(|(_, value)| value.to_owned());
    let is_tunnel = what.starts_with("CONNECT ");
    asked.lock().unwrap().push(Asked { what, credentials });
    let mut client = reader.into_inner();
    if let Some(status) = status {
        let _ = write!(client, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n");
        return;
    }
    let mut upstream = TcpStream::connect(server).unwrap();
    if is_tunnel {
        client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").unwrap();
    } else {
        // The hub reads paths; a proxy turns the absolute URL into one.
        let (method, url) = first.split_once(' ').unwrap();
        let path = url.splitn(4, '/').nth(3).unwrap();
        write!(upstream, "{method} /{path}\r\n{headers}").unwrap();
    }
    let (mut from, mut to) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let _ = std::io::copy(&mut upstream, &mut client);
    let _ = client.shutdown(Shutdown::Both);
}

/// Serves `server` over TLS as `name`; returns the address and the certificate in PEM.
pub(crate) fn with_tls(server: SocketAddr, name: &str) -> (SocketAddr, String) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let address = each_connection(move |stream| {
        let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut client = StreamOwned::new(connection, stream);
        // A request has no body, and its response ends with the connection.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if client.read(&mut byte).unwrap_or(0) == 0 {
                return;
            }
            head.push(byte[0]);
        }
        let mut upstream = TcpStream::connect(server).unwrap();
        upstream.write_all(&head).unwrap();
        let _ = std::io::copy(&mut upstream, &mut client);
        client.conn.send_close_notify();
        let _ = client.flush();
    });
    (address, made.cert.pem())
}
