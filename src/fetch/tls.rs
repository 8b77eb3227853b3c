//! TLS for clients: which certificates are trusted.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use super::server::Stream;

/// The file with certificates can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct TrustError {
    reason: String,
}

/// Which certificates are trusted.
#[derive(Debug, Clone)]
pub struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Trusts the certificates in the PEM file `ca`; without one those in SSL_CERT_FILE and
    /// SSL_CERT_DIR, or else the system's.
    ///
    /// # Errors
    /// If there are none.
    pub fn new(ca: Option<&Path>) -> Result<Self, TrustError> {
        let build = || {
            let provider = Arc::new(crypto::ring::default_provider());
            let config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(|error| error.to_string())?
                .with_root_certificates(ca.map_or_else(of_system, of_file)?)
                .with_no_client_auth();
            Ok(Self(Arc::new(config)))
        };
        build().map_err(|reason| TrustError { reason })
    }

    /// Starts TLS with `host` on `stream`; errors as text.
    pub(super) async fn secure<S: Stream>(
        &self,
        host: &str,
        stream: S,
    ) -> Result<TlsStream<S>, String> {
        let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
        let connector = TlsConnector::from(Arc::clone(&self.0));
        connector.connect(name, stream).await.map_err(|error| error.to_string())
    }
}

fn of_system() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err("this machine has no certificates to trust (package ca-certificates)".into());
    }
    Ok(roots)
}

fn of_file(path: &Path) -> Result<RootCertStore, String> {
    let wrong = |why: String| format!("{}: {why}", path.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| wrong(e.to_string()))? {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("there is no certificate in it; expected PEM".to_owned()));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        assert!(Trust::new(Some(&path)).unwrap_err().to_string().contains("ca.pem"));
        std::fs::write(&path, "nothing").unwrap();
        let error = Trust::new(Some(&path)).unwrap_err().to_string();
        assert!(error.contains("ca.pem") && error.contains("expected PEM"), "{error}");
    }
}
