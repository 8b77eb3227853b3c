//! TLS from the files that the settings name. The cryptography is ring's.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::client::verify_server_cert_signed_by_trust_anchor;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring::default_provider};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, CertificateError, RootCertStore, ServerConfig};

use super::fault::AccessFault;
use phi4d_os::{self as os, Secrecy};
use phi4d_settings::Settings;

/// TLS as the settings ask for it; `None` for plain HTTP. What is wrong goes to `faults`.
pub(super) fn of(settings: &Settings, faults: &mut Vec<AccessFault>) -> Option<Arc<ServerConfig>> {
    let cert = settings.tls_cert_file.as_deref();
    let key = settings.tls_key_file.as_deref();
    let ca = settings.tls_client_ca_file.as_deref();
    let (Some(cert), Some(key)) = (cert, key) else {
        for (path, given, missing) in [
            (cert, "tls_cert_file", "tls_key_file"),
            (key, "tls_key_file", "tls_cert_file"),
            (ca, "tls_client_ca_file", "tls_cert_file and tls_key_file"),
        ] {
            if path.is_some() {
                faults.push(AccessFault::Incomplete { given, missing });
            }
        }
        return None;
    };
    // All files are read before the first fault returns, so that one run reports all faults.
    let chain = certificates("tls_cert_file", cert);
    let key_der = opened("tls_key_file", key, Secrecy::Private).and_then(|file| {
        PrivateKeyDer::from_pem_reader(file)
            .map_err(|error| unreadable("tls_key_file", key, error, "a private key"))
    });
    let roots = ca.map(|ca| {
        // Whoever can write this file can admit clients.
        opened("tls_client_ca_file", ca, Secrecy::Trusted)?;
        certificates("tls_client_ca_file", ca).map(|found| (ca, found))
    });
    let mut keep = |fault| faults.push(fault);
    let chain = chain.map_err(&mut keep).ok();
    let key_der = key_der.map_err(&mut keep).ok();
    let roots = roots.transpose().map_err(&mut keep).ok();
    build((cert, chain?), (key, key_der?), roots?).map_err(keep).ok()
}

/// Opens a file whose mode is as tight as `secrecy` asks.
fn opened(
    key: &'static str,
    path: &Path,
    secrecy: Secrecy,
) -> Result<BufReader<File>, AccessFault> {
    let open = || {
        let file = File::open(path)?;
        match os::too_open(&file.metadata()?, secrecy) {
            None => Ok(BufReader::new(file)),
            Some(reason) => Err(io::Error::new(io::ErrorKind::PermissionDenied, reason)),
        }
    };
    open().map_err(|source| AccessFault::File { key, path: path.to_owned(), source })
}

type Chain = Vec<CertificateDer<'static>>;

fn build(
    (cert, chain): (&Path, Chain),
    (key, key_der): (&Path, PrivateKeyDer<'static>),
    roots: Option<(&Path, Chain)>,
) -> Result<Arc<ServerConfig>, AccessFault> {
    let provider = Arc::new(default_provider());
    if let Some(fault) = fault_of_dates(cert, &chain, &provider) {
        log::warn!("{fault}");
    }
    let unusable = |name: &'static str, path: &Path, reason: String| AccessFault::File {
        key: name,
        path: path.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidData, reason),
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable("tls_cert_file", cert, error.to_string()))?;
    let builder = match roots {
        None => builder.with_no_client_auth(),
        Some((path, roots)) => {
            let verifier = client_verifier(roots, provider)
                .map_err(|reason| unusable("tls_client_ca_file", path, reason))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key_der).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => unusable(
            "tls_key_file",
            key,
            format!("it is not the key of the certificate in {}", cert.display()),
        ),
        error => unusable("tls_cert_file", cert, error.to_string()),
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// What is wrong with the dates of the certificate that the settings name, if something is and the
/// certificate can be read. It is served all the same: the clock may be wrong, and refusing to start
/// would not help clients.
#[must_use]
pub fn certificate_fault(settings: &Settings) -> Option<String> {
    let path = settings.tls_cert_file.as_deref()?;
    let chain = certificates("tls_cert_file", path).ok()?;
    fault_of_dates(path, &chain, &default_provider())
}

fn fault_of_dates(path: &Path, chain: &Chain, provider: &CryptoProvider) -> Option<String> {
    let parsed = ParsedCertificate::try_from(chain.first()?).ok()?;
    // rustls has no check of dates alone. This one checks them first, and without roots always
    // fails later, so only errors about dates mean something.
    let checked = verify_server_cert_signed_by_trust_anchor(
        &parsed,
        &RootCertStore::empty(),
        &[],
        UnixTime::now(),
        provider.signature_verification_algorithms.all,
    );
    let Err(rustls::Error::InvalidCertificate(fault)) = checked else { return None };
    let said = match fault {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is not valid yet"
        }
        _ => return None,
    };
    let path = path.display();
    Some(format!("tls_cert_file: the certificate in {path} {said}; clients will refuse it"))
}

fn client_verifier(
    roots: Chain,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, String> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root).map_err(|error| error.to_string())?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider)
        .build()
        .map_err(|error: VerifierBuilderError| error.to_string())
}

fn certificates(key: &'static str, path: &Path) -> Result<Chain, AccessFault> {
    let what = "a certificate";
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let chain: Chain = read.map_err(|error| unreadable(key, path, error, what))?;
    if chain.is_empty() {
        return Err(unreadable(key, path, rustls::pki_types::pem::Error::NoItemsFound, what));
    }
    Ok(chain)
}

fn unreadable(
    key: &'static str,
    path: &Path,
    error: rustls::pki_types::pem::Error,
    expected: &str,
) -> AccessFault {
    use rustls::pki_types::pem::Error;
    let source = match error {
        Error::Io(error) => error,
        Error::NoItemsFound => io::Error::new(
            io::ErrorKind::InvalidData,
            format!("there is none in it; expected {expected} in PEM's format"),
        ),
        error => io::Error::new(io::ErrorKind::InvalidData, format!("not PEM: {error}")),
    };
    AccessFault::File { key, path: path.to_owned(), source }
}
