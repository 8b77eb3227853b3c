//! URLs, as far as fetching needs them.

use std::fmt;

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
        let printable = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        let (secure, rest) = match text.strip_prefix("https://") {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix("http://")?),
        };
        let rest = rest.split('#').next()?;
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(at);
        let target = match target {
            target if target.starts_with('/') => target.to_owned(),
            query => format!("/{query}"),
        };
        let default_port = if secure { 443 } else { 80 };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
                (host, digits.then(|| port.parse().ok()).flatten()?)
            }
            _ => (authority, default_port),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let valid = match bare {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
                !host.is_empty() && host.bytes().all(fits)
            }
        };
        let host = bare.unwrap_or(host).to_ascii_lowercase();
        (valid && printable(&target)).then_some(Self { secure, host, port, target })
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

    /// What the `Host` header says.
    #[must_use]
    pub fn authority(&self) -> String {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.secure, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
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
