//! URLs, as far as fetching needs them.

use std::fmt;

use hyper::Uri;
use tokio_rustls::rustls::pki_types::ServerName;

use super::error::FetchError;

/// An absolute `http` or `https` URL without a user or a fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    secure: bool,
    host: String,
    port: u16,
    /// With its query; begins with `/`.
    target: String,
}

impl Url {
    /// Reads a URL.
    ///
    /// # Errors
    /// If it is not `http://` or `https://`, a host, perhaps a port, and perhaps a path.
    pub fn parse(text: &str) -> Result<Self, FetchError> {
        Self::read(text).ok_or_else(|| FetchError::Invalid {
            given: text.to_owned(),
            expected: "http://HOST:PORT/PATH or https://HOST/PATH".to_owned(),
        })
    }

    fn read(text: &str) -> Option<Self> {
        // `Uri` takes schemes in capitals, other bytes than ASCII's, users, and ports that are none.
        let (scheme, _) = text.split_once("://")?;
        let (secure, default_port) = match scheme {
            "http" => (false, 80),
            "https" => (true, 443),
            _ => return None,
        };
        let text = text.split('#').next().filter(|text| text.bytes().all(|b| b.is_ascii_graphic()));
        let uri: Uri = text?.parse().ok()?;
        let authority = uri.authority()?;
        let port = match authority.as_str().strip_prefix(authority.host())? {
            "" => default_port,
            port if port[1..].bytes().all(|byte| byte.is_ascii_digit()) => {
                port[1..].parse().ok()?
            }
            _ => return None,
        };
        let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
        // Whoever can be named in a certificate can be named in a URL.
        ServerName::try_from(&*host).ok()?;
        let target = uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        let target = if target.starts_with('/') { target } else { format!("/{target}") };
        Some(Self { secure, host, port, target })
    }

    /// Where a `Location` or `Link` of an answer leads.
    ///
    /// # Errors
    /// If that is no URL.
    pub fn join(&self, reference: &str) -> Result<Self, FetchError> {
        if reference.starts_with('/') && !reference.starts_with("//") {
            return Self::parse(&format!("{}{reference}", self.origin()));
        }
        Self::parse(reference)
    }

    /// The same place with `path` (each part percent-encoded) behind it.
    #[must_use]
    pub fn below(&self, path: &str) -> Self {
        let mut target = self.target.trim_end_matches('/').to_owned();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            target.push('/');
            for byte in part.bytes() {
                if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                    target.push(char::from(byte));
                } else {
                    target.push_str(&format!("%{byte:02X}"));
                }
            }
        }
        Self { target, ..self.clone() }
    }

    /// The same with a query.
    #[must_use]
    pub fn with_query(mut self, query: &str) -> Self {
        self.target = format!("{}?{query}", self.target);
        self
    }

    /// Whether both are served by one machine in one way.
    #[must_use]
    pub fn is_same_origin(&self, other: &Self) -> bool {
        self.origin() == other.origin()
    }

    /// Scheme, host and port.
    #[must_use]
    pub fn origin(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}", self.authority())
    }

    /// The value of the `Host` header: the port is left out where it is the scheme's.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = self.bracketed_host();
        match (self.secure, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }

    /// The host as it stands before a port.
    pub(super) fn bracketed_host(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }

    /// Whether it is `https`.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// Name or address, an IPv6 one without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, that of the scheme if none was written.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path and query.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin(), self.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn urls_are_read_and_written() {
        for (text, again) in [
            ("http://a", "http://a/"),
            ("HTTP://a", ""),
            ("http://A.b:80/x?y#z", "http://a.b/x?y"),
            ("https://a:443", "https://a/"),
            ("https://a:8443/", "https://a:8443/"),
            ("http://[::1]:9/x", "http://[::1]:9/x"),
            ("http://[::1]/x", "http://[::1]/x"),
            ("http://a?b", "http://a/?b"),
            ("http://", ""),
            ("http://a:", ""),
            ("http://a:x/", ""),
            ("http://a:99999/", ""),
            ("http://user@a/", ""),
            ("http://a b/", ""),
            ("http://a/x y", ""),
            ("ftp://a/", ""),
            ("a/b", ""),
        ] {
            let url = Url::parse(text).map(|url| url.to_string());
            assert_eq!(url.unwrap_or_default(), again, "{text}");
        }
    }

    #[test]
    fn references_and_paths_lead_on() {
        let base = Url::parse("http://a:1/hub/").unwrap();
        assert_eq!(base.below("api/x y/ü").to_string(), "http://a:1/hub/api/x%20y/%C3%BC");
        assert_eq!(base.join("/c?d").unwrap().to_string(), "http://a:1/c?d");
        assert_eq!(base.join("https://cdn/c").unwrap().to_string(), "https://cdn/c");
        assert!(base.join("//cdn/c").is_err());
        assert!(!base.is_same_origin(&Url::parse("http://a:2/").unwrap()));
        assert!(base.is_same_origin(&Url::parse("http://A:1/x").unwrap()));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(text in "https?://[a-z0-9.:\\[\\]@?#/%-]{0,24}") {
            if let Ok(url) = Url::parse(&text) {
                prop_assert_eq!(Url::parse(&url.to_string()).unwrap(), url);
            }
        }
    }
}
