//! TLS: the files, the handshake, clients' certificates.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::table::{Class, May, check_by};
use super::{SETTINGS, bearer, with_keys};
use crate::common::{PATIENCE, Response, Setup, set_mode, write_private};

/// Who signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as files.
pub struct Identity {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its own certificate as a file.
    pub fn file(&self, folder: &Path) -> PathBuf {
        let path = folder.join("ca.pem");
        std::fs::write(&path, self.0.as_ref().pem()).unwrap();
        path
    }

    /// A certificate for localhost, in files that begin with `name`.
    pub fn sign(&self, folder: &Path, name: &str) -> Identity {
        self.sign_until(folder, name, 4000)
    }

    /// As [`Authority::sign`], valid up to the beginning of a year.
    pub fn sign_until(&self, folder: &Path, name: &str, year: i32) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 1, 1);
        let cert = params.signed_by(&key, &self.0).unwrap();
        let (cert_path, key_path) =
            (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
        std::fs::write(&cert_path, cert.pem()).unwrap();
        write_private(&key_path, &key.serialize_pem());
        Identity { cert: cert_path, key: key_path }
    }
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A connection that trusts `authority`, as `identity` if that is given.
pub fn connect(address: SocketAddr, authority: &Authority, identity: Option<&Identity>) -> Stream {
    let mut roots = RootCertStore::empty();
    roots.add(authority.0.as_ref().der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match identity {
        None => config.with_no_client_auth(),
        Some(identity) => config
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_file(&identity.cert).unwrap()],
                PrivateKeyDer::from_pem_file(&identity.key).unwrap(),
            )
            .unwrap(),
    };
    let client = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    StreamOwned::new(client, stream)
}

/// Asks on a connection and leaves it open.
pub fn ask(
    stream: &mut Stream,
    method: &str,
    path: &str,
    key: Option<&str>,
) -> std::io::Result<Response> {
    let token = key.map_or_else(String::new, |key| format!("Authorization: {}\r\n", bearer(key)));
    let body = if method == "POST" { "Content-Length: 2\r\n\r\n{}" } else { "\r\n" };
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{token}{body}")?;
    stream.flush()?;
    // The first byte shows whether there is an answer at all.
    let mut first = [0];
    stream.read_exact(&mut first)?;
    Ok(Response::read_one(&mut first.chain(stream), method))
}

/// The arguments that turn TLS on.
pub fn arguments(identity: &Identity) -> Vec<String> {
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    vec![
        "--tls-cert-file".to_owned(),
        path(&identity.cert),
        "--tls-key-file".to_owned(),
        path(&identity.key),
    ]
}

fn with(setup: Setup, arguments: &[String]) -> Setup {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    setup.with(&arguments)
}

#[test]
fn keys_count_over_tls_as_without() {
    let (setup, plain, admin) = with_keys();
    let authority = Authority::new();
    let identity = authority.sign(setup.folder.path(), "server");
    let daemon = with(setup, &arguments(&identity)).start();
    for (key, may) in [
        (None, May::Nothing),
        (Some("wrong"), May::Nothing),
        (Some(plain.as_str()), May::Use),
        (Some(admin.as_str()), May::Administrate),
    ] {
        let by = |method: &str, path: &str| {
            let mut stream = connect(daemon.address(), &authority, None);
            ask(&mut stream, method, path, key).unwrap()
        };
        check_by(by, may, Class::Use);
    }
    // The Unix socket has no TLS.
    assert_eq!(daemon.unix().get("/v1/models").status, 200);
}

#[test]
fn plain_http_to_the_tls_port_is_answered_so() {
    let setup = Setup::new();
    let identity = Authority::new().sign(setup.folder.path(), "server");
    let daemon = with(setup, &arguments(&identity)).start();
    let response = daemon.tcp().get("/v1/models");
    assert_eq!(response.status, 400);
    assert!(response.text().contains("https://"), "{}", response.text());
    // Nobody who does not trust the certificate is served, and nobody else is disturbed.
    let mut stream = connect(daemon.address(), &Authority::new(), None);
    assert!(ask(&mut stream, "GET", "/health", None).is_err());
}

#[test]
fn clients_need_a_certificate_where_it_is_asked_for() {
    let setup = Setup::new();
    let authority = Authority::new();
    let folder = setup.folder.path().to_owned();
    let server = authority.sign(&folder, "server");
    let ca = authority.file(&folder);
    let mut all = arguments(&server);
    all.extend(["--tls-client-ca-file".to_owned(), ca.to_str().unwrap().to_owned()]);
    let daemon = with(setup, &all).start();
    let stranger = Authority::new().sign(&folder, "stranger");
    let client = authority.sign(&folder, "client");
    for (identity, let_in) in [(None, false), (Some(&stranger), false), (Some(&client), true)] {
        let mut stream = connect(daemon.address(), &authority, identity);
        let answer = ask(&mut stream, "GET", "/v1/models", None);
        assert_eq!(answer.is_ok_and(|answer| answer.status == 200), let_in);
    }
}

#[test]
fn a_handshake_that_never_ends_is_given_up_and_holds_up_nobody() {
    let setup = Setup::new();
    let authority = Authority::new();
    let identity = authority.sign(setup.folder.path(), "server");
    let daemon = with(setup, &arguments(&identity)).with(&["--header-timeout-s", "2"]).start();
    let silent = TcpStream::connect(daemon.address()).unwrap();
    let mut half = TcpStream::connect(daemon.address()).unwrap();
    half.write_all(&[22, 3, 1, 2, 0]).unwrap();
    let begun = Instant::now();
    let mut stream = connect(daemon.address(), &authority, None);
    assert_eq!(ask(&mut stream, "GET", "/v1/models", None).unwrap().status, 200);
    for mut dawdler in [silent, half] {
        dawdler.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut rest = Vec::new();
        // Closed or reset, after the limit.
        let _ = dawdler.read_to_end(&mut rest);
    }
    let took = begun.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(20)).contains(&took), "{took:?}");
}

#[test]
fn a_crowd_of_half_handshakes_and_idle_sessions_shuts_nobody_out() {
    let setup = Setup::new();
    let authority = Authority::new();
    let identity = authority.sign(setup.folder.path(), "server");
    let daemon = with(setup, &arguments(&identity)).with(&["--max-connections", "32"]).start();
    let address = daemon.address();
    let from = |number| crate::common::connect_from([127, 0, 0, number].into(), address);
    let mut hello = Vec::new();
    connect(address, &authority, None).conn.write_tls(&mut hello).unwrap();
    let (mut halves, mut idle) = (Vec::new(), Vec::new());
    for number in 2..6 {
        for count in 0..20 {
            let mut stream = from(number);
            // It may be closed at once.
            let _ = stream.write_all(&hello[..count % hello.len()]);
            halves.push(stream);
        }
        let mut stream = connect(address, &authority, None);
        assert_eq!(ask(&mut stream, "GET", "/v1/models", None).unwrap().status, 200);
        idle.push(stream);
    }
    let begun = Instant::now();
    let mut stream = connect(address, &authority, None);
    assert_eq!(ask(&mut stream, "GET", "/v1/models", None).unwrap().status, 200);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

/// Whatever breaks on one connection breaks that one, leaves nothing open and is not logged loudly.
#[test]
fn handshakes_and_records_that_break_off_are_forgotten() {
    let setup = Setup::new();
    let authority = Authority::new();
    let identity = authority.sign(setup.folder.path(), "server");
    let daemon = with(setup, &arguments(&identity)).start();
    let address = daemon.address();
    let open = || std::fs::read_dir(format!("/proc/{}/fd", daemon.id())).unwrap().count();
    let before = open();
    let mut kept = connect(address, &authority, None);
    assert_eq!(ask(&mut kept, "GET", "/v1/models", None).unwrap().status, 200);
    // What a client says first, to be cut anywhere.
    let mut hello = Vec::new();
    connect(address, &authority, None).conn.write_tls(&mut hello).unwrap();
    for cut in (1..hello.len()).step_by(hello.len() / 12) {
        TcpStream::connect(address).unwrap().write_all(&hello[..cut]).unwrap();
    }
    // Whole, and then nothing, noise, or a record of another kind.
    for next in [&[][..], &[0; 300], b"GET / HTTP/1.1\r\n\r\n", &[21, 3, 3, 0, 2, 2, 40]] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&hello).unwrap();
        stream.read_exact(&mut [0; 5]).unwrap();
        stream.write_all(next).unwrap();
    }
    // Within an established connection, and within a request.
    for sent in ["", "GET /v1/models HTTP/1.1\r\nHo"] {
        let mut stream = connect(address, &authority, None);
        assert_eq!(ask(&mut stream, "GET", "/health", None).unwrap().status, 200);
        stream.write_all(sent.as_bytes()).unwrap();
        stream.flush().unwrap();
        stream.sock.write_all(&[0; 100]).unwrap();
        let mut rest = Vec::new();
        let _ = stream.sock.read_to_end(&mut rest);
    }
    assert_eq!(ask(&mut kept, "GET", "/v1/models", None).unwrap().status, 200);
    drop(kept);
    crate::common::wait_for("all to be closed", || (open() <= before).then_some(()));
    let log = daemon.log.text();
    assert!(!log.contains(" ERROR ") && !log.contains(" WARN "), "{log}");
}

#[test]
fn files_that_will_not_do_end_the_start_and_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (one, two) = (authority.sign(folder.path(), "one"), authority.sign(folder.path(), "two"));
    let text = folder.path().join("text");
    std::fs::write(&text, "no PEM").unwrap();
    let missing = folder.path().join("missing");
    let path = |path: &PathBuf| path.to_str().unwrap().to_owned();
    for (flags, said) in [
        (vec![("cert", &one.cert)], vec!["tls_key_file not"]),
        (vec![("key", &one.key)], vec!["tls_cert_file not"]),
        (vec![("client-ca", &one.cert)], vec!["tls_client_ca_file is set"]),
        (vec![("cert", &one.cert), ("key", &two.key)], vec!["tls_key_file", "two.key", "one.pem"]),
        (
            vec![("cert", &text), ("key", &text)],
            vec!["tls_cert_file", "tls_key_file", "a certificate"],
        ),
        (vec![("cert", &missing), ("key", &missing)], vec!["tls_cert_file", "tls_key_file"]),
        (
            vec![("cert", &one.cert), ("key", &one.key), ("client-ca", &text)],
            vec!["tls_client_ca_file", "a certificate"],
        ),
    ] {
        let arguments: Vec<String> = flags
            .iter()
            .flat_map(|(name, file)| [format!("--tls-{name}-file"), path(file)])
            .collect();
        let (status, found) = with(Setup::new(), &arguments).run_to_end();
        assert_eq!(status.code(), Some(SETTINGS), "{found}");
        for part in said {
            assert!(found.contains(part), "{part} is not in {found}");
        }
    }
}

/// As sshd does it: what others may write lets them in, and a private key that others read is none.
#[test]
fn secrets_that_others_may_write_or_read_are_refused_at_start_and_at_reload() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (one, ca) = (authority.sign(folder.path(), "one"), authority.file(folder.path()));
    let keys = folder.path().join("keys");
    write_private(&keys, "");
    let files = [("tls_key_file", &one.key), ("tls_client_ca_file", &ca), ("api_keys_file", &keys)];
    let mut arguments = arguments(&one);
    arguments.extend(["--tls-client-ca-file".to_owned(), ca.to_str().unwrap().to_owned()]);
    arguments.extend(["--api-keys-file".to_owned(), keys.to_str().unwrap().to_owned()]);
    // What certificates and hashes of keys say is no secret.
    for (mode, files) in [(0o644, &files[..1]), (0o660, &files[..]), (0o602, &files[..])] {
        for (name, file) in files {
            set_mode(file, mode);
            let (status, said) = with(Setup::new(), &arguments).run_to_end();
            set_mode(file, 0o600);
            assert_eq!(status.code(), Some(SETTINGS), "{name} {mode:o}: {said}");
            assert!(said.contains(name) && said.contains(file.to_str().unwrap()), "{said}");
            assert!(said.contains(&format!("{mode:04o}")) && said.contains("0600"), "{said}");
        }
    }
    for (_, file) in &files[1..] {
        set_mode(file, 0o644);
    }
    let daemon = with(Setup::new(), &arguments).start();
    set_mode(&one.key, 0o644);
    daemon.signal("HUP");
    daemon.log.says("reload: refused");
    daemon.log.says("reload: tls_key_file");
}
