//! `phi4d pull` through a proxy that forwards and tunnels, to a server with and without TLS.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::Place;

/// A request that came to the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    /// Method and target.
    what: String,
    credentials: Option<String>,
}

/// Connects everything that is asked for to one server, whatever its name is.
struct Proxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Proxy {
    /// A proxy to `server` that answers with `status` instead of forwarding, if there is one.
    fn start(server: SocketAddr, status: Option<u16>) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        let address = each_connection(move |client| forward(client, server, status, &seen));
        Self { address, asked }
    }

    fn asked(&self) -> Vec<Asked> {
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
fn with_tls(server: SocketAddr, name: &str) -> (SocketAddr, String) {
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

/// What a pull with these variables prints, and its exit code.
fn pull_with(place: &Place, variables: &[(&str, &str)], arguments: &[&str]) -> (i32, String) {
    let mut command = place.command(&["pull", "phi-4", "--variant", "cpu"]);
    let output = command.args(arguments).envs(variables.iter().copied()).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

#[test]
fn https_goes_through_a_tunnel_with_a_private_certificate() {
    let place = Place::new();
    let (tls, certificate) = with_tls(place.hub.address, "hub.invalid");
    let ca = place.folder.path().join("ca.pem");
    std::fs::write(&ca, certificate).unwrap();
    let ca = ca.to_str().unwrap();
    let proxy = Proxy::start(tls, None);
    let storage = Proxy::start(tls, None);
    place.hub.state.lock().unwrap().cdn = "https://hub.invalid:8443".to_owned();
    let url = format!("http://me:s%40crt@{}", proxy.address);
    let variables = [("HF_ENDPOINT", "https://hub.invalid"), ("HTTPS_PROXY", &*url)];
    let (code, said) = pull_with(&place, &variables, &["--ca-file", ca]);
    assert_eq!(code, 0, "{said}");
    let pulled = place.assert_pulled();
    let asked = proxy.asked();
    assert!(asked.iter().any(|asked| asked.what == "CONNECT hub.invalid:8443"), "{asked:?}");
    for asked in asked {
        assert!(asked.what.starts_with("CONNECT hub.invalid:"), "{asked:?}");
        assert_eq!(asked.credentials.as_deref(), Some("Basic bWU6c0BjcnQ="), "me:s@crt");
    }

    // The certificate from the environment, the proxy from the lower case variable.
    std::fs::remove_dir_all(pulled).unwrap();
    let url = format!("http://{}", storage.address);
    let variables =
        [("HF_ENDPOINT", "https://hub.invalid"), ("all_proxy", &*url), ("SSL_CERT_FILE", ca)];
    let (code, said) = pull_with(&place, &variables, &[]);
    assert_eq!(code, 0, "{said}");
    place.assert_pulled();
    assert!(storage.asked().iter().all(|asked| asked.credentials.is_none()));

    // Without the certificate nothing is fetched.
    let (code, said) = pull_with(&place, &[variables[0], variables[1]], &["--replace"]);
    assert_eq!(code, 69, "{said}");
    assert!(said.contains("https://hub.invalid") && said.contains("certificate"), "{said}");
}

#[test]
fn http_is_forwarded_by_its_absolute_url_and_exceptions_go_directly() {
    let place = Place::new();
    let proxy = Proxy::start(place.hub.address, None);
    let url = format!("http://me:secret@{}", proxy.address);
    let variables = [("HF_ENDPOINT", "http://hub.invalid"), ("HTTP_PROXY", &*url)];
    place.hub.state.lock().unwrap().cdn = "http://hub.invalid".to_owned();
    let (code, said) = pull_with(&place, &variables, &[]);
    assert_eq!(code, 0, "{said}");
    place.assert_pulled();
    for asked in proxy.asked() {
        assert!(asked.what.starts_with("GET http://hub.invalid/"), "{asked:?}");
        assert_eq!(asked.credentials.as_deref(), Some("Basic bWU6c2VjcmV0"));
    }
    let seen = proxy.asked().len();
    assert!(seen > 3);

    let place = Place::new();
    for exceptions in ["127.0.0.1", "other,127.0.0.0/8", "*"] {
        let variables = [("HTTP_PROXY", &*url), ("NO_PROXY", exceptions)];
        let (code, said) = pull_with(&place, &variables, &["--replace"]);
        assert_eq!(code, 0, "{exceptions}: {said}");
    }
    assert_eq!(proxy.asked().len(), seen);
}

#[test]
fn a_proxy_that_refuses_or_is_not_there_is_named() {
    let place = Place::new();
    let told = |variables: &[(&str, &str)], code: i32, words: &[&str]| {
        let (ended, said) = pull_with(&place, variables, &[]);
        assert_eq!(ended, code, "{said}");
        for word in words {
            assert!(said.contains(word), "{said}");
        }
        assert!(!said.contains("secret"), "{said}");
    };
    for (variable, endpoint) in
        [("HTTPS_PROXY", "https://hub.invalid"), ("HTTP_PROXY", "http://hub.invalid")]
    {
        let proxy = Proxy::start(place.hub.address, Some(407));
        let address = proxy.address.to_string();
        let url = format!("http://me:secret@{address}");
        let variables = [("HF_ENDPOINT", endpoint), (variable, &*url)];
        told(&variables, 69, &[&address, endpoint, "407", "USER:PASSWORD"]);
        assert_eq!(proxy.asked().len(), 1, "not asked again");
    }
    let proxy = Proxy::start(place.hub.address, Some(403));
    let url = format!("http://{}", proxy.address);
    let endpoint = ("HF_ENDPOINT", "https://hub.invalid");
    told(&[endpoint, ("HTTPS_PROXY", &url)], 69, &[&url, "403", "NO_PROXY"]);
    told(
        &[endpoint, ("ALL_PROXY", "http://me:secret@127.0.0.1:1")],
        69,
        &["the proxy http://127.0.0.1:1"],
    );
    told(&[endpoint, ("ALL_PROXY", "socks5://me:secret@h:1")], 64, &["ALL_PROXY", "http://HOST"]);
}
