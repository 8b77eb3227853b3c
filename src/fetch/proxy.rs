//! Which proxy a request goes through, by the variables that curl reads.

use hyper::header::HeaderValue;
use hyper::{StatusCode, Uri};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};

use super::error::FetchError;
use super::server::Server;
use super::url::Url;

/// The proxies that the environment names.
#[derive(Debug, Default)]
pub struct Proxies {
    http: Option<Setting>,
    https: Option<Setting>,
    /// NO_PROXY as it was given.
    exceptions: String,
}

/// A proxy as the environment names it. The value may hold a password: it is shown nowhere.
#[derive(Clone)]
struct Setting {
    variable: &'static str,
    value: String,
}

impl std::fmt::Debug for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.variable)
    }
}

impl Proxies {
    /// Reads HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, each also in lower case, which has
    /// precedence as it has in curl.
    pub fn from_environment(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &'static str| {
            let value = [&*name.to_ascii_lowercase(), name]
                .into_iter()
                .find_map(|name| lookup(name).filter(|value| !value.trim().is_empty()))?;
            Some(Setting { variable: name, value: value.trim().to_owned() })
        };
        Self {
            http: set("HTTP_PROXY").or_else(|| set("ALL_PROXY")),
            https: set("HTTPS_PROXY").or_else(|| set("ALL_PROXY")),
            exceptions: set("NO_PROXY").map(|setting| setting.value).unwrap_or_default(),
        }
    }

    /// The proxy for `url`; `None` connects directly.
    ///
    /// # Errors
    /// If the environment names one that can't be used. `Matcher` by itself would connect directly.
    pub(super) fn find(&self, url: &Url) -> Result<Option<Proxy>, FetchError> {
        let setting = if url.is_secure() { &self.https } else { &self.http };
        let Some(setting) = setting else { return Ok(None) };
        let unusable = || FetchError::ProxySetting { variable: setting.variable };
        let target: Uri = url.to_string().parse().map_err(|_| unusable())?;
        let any = Matcher::builder().all("http://proxy").no(self.exceptions_for(url)).build();
        if any.intercept(&target).is_none() {
            return Ok(None);
        }
        let found = Matcher::builder().all(&*setting.value).build().intercept(&target);
        let found = found.ok_or_else(unusable)?;
        let url = Url::parse(&found.uri().to_string()).map_err(|_| unusable())?;
        Ok(Some(Proxy { url, found }))
    }

    /// The exceptions as `Matcher` reads them: it knows suffixes, addresses and networks, but
    /// neither ports, nor brackets, nor `*.` before a suffix.
    fn exceptions_for(&self, url: &Url) -> String {
        // `Matcher` applies `*` to names only.
        let entries = self.exceptions.split([',', ' ']).filter_map(|entry| {
            if entry == "*" {
                return Some(url.host().to_owned());
            }
            let entry = entry.strip_prefix('*').unwrap_or(entry);
            let bare = |host: &str| host.trim_matches(['[', ']']).to_owned();
            match entry.rsplit_once(':') {
                // More colons without brackets are an IPv6 address without a port.
                Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                    (port.parse() == Ok(url.port())).then(|| bare(host))
                }
                _ => Some(bare(entry)),
            }
        });
        entries.collect::<Vec<_>>().join(",")
    }
}

/// A proxy for one request.
#[derive(Debug)]
pub(super) struct Proxy {
    url: Url,
    found: Intercept,
}

impl Proxy {
    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// The user and password of the proxy's URL as a header's value.
    pub(super) fn authorization(&self) -> Option<&HeaderValue> {
        self.found.basic_auth()
    }

    /// Whether requests to `server` go through a tunnel (CONNECT), because they use TLS.
    pub(super) fn tunnels(&self, server: &Server) -> bool {
        matches!(server, Server::Url(url) if url.is_secure())
    }

    /// `error` with the proxy as the one that can't be reached.
    pub(super) fn unreachable(&self, error: FetchError) -> FetchError {
        match error {
            FetchError::Unreachable { host, reason, may_come } => {
                FetchError::Unreachable { host: format!("the proxy {host}"), reason, may_come }
            }
            other => other,
        }
    }

    pub(super) fn refused(&self, server: &Server, status: StatusCode) -> FetchError {
        FetchError::ProxyRefused {
            proxy: self.url.origin(),
            host: server.to_string(),
            status: status.as_u16(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(variables: &[(&str, &str)], url: &str) -> Option<String> {
        let lookup = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        let proxies = Proxies::from_environment(lookup);
        let proxy = proxies.find(&Url::parse(url).unwrap()).map_err(|error| error.to_string());
        match proxy {
            Ok(proxy) => proxy.map(|proxy| proxy.url().origin()),
            Err(error) => Some(error),
        }
    }

    #[test]
    fn each_scheme_has_its_variable_and_lower_case_wins() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(found(&[], "https://a"), None);
        let https = [("HTTPS_PROXY", "http://p:1")];
        assert_eq!(found(&https, "https://a"), some("http://p:1"));
        assert_eq!(found(&https, "http://a"), None);
        let both = [("http_proxy", "p:1"), ("HTTP_PROXY", "http://q:1"), ("ALL_PROXY", "http://r")];
        assert_eq!(found(&both, "http://a"), some("http://p:1"));
        assert_eq!(found(&both, "https://a"), some("http://r"));
        let empty = [("https_proxy", ""), ("HTTPS_PROXY", "https://p")];
        assert_eq!(found(&empty, "https://a"), some("https://p"));
    }

    #[test]
    fn exceptions_are_hosts_suffixes_ports_addresses_and_networks() {
        for (exceptions, url, direct) in [
            ("a.example", "https://a.example", true),
            ("a.example", "https://b.a.example", true),
            ("a.example", "https://ba.example", false),
            (".a.example", "https://b.a.example", true),
            ("*.a.example", "https://b.a.example", true),
            ("x, A.EXAMPLE y", "https://a.example", true),
            ("a.example:443", "https://a.example", true),
            ("a.example:8443", "https://a.example", false),
            ("a.example:8443", "https://a.example:8443", true),
            ("10.0.0.1", "https://10.0.0.1", true),
            ("10.0.0.1:443", "https://10.0.0.1", true),
            ("10.0.0.0/8", "https://10.9.9.9:1", true),
            ("10.0.0.0/8", "https://11.9.9.9", false),
            ("::1", "https://[::1]:9", true),
            ("[::1]", "https://[::1]:9", true),
            ("[::1]:9", "https://[::1]:9", true),
            ("[::1]:8", "https://[::1]:9", false),
            ("fd00::/8", "https://[fd00::7]", true),
            ("*", "https://a.example", true),
            ("*", "https://[::1]:9", true),
            ("x,*", "https://10.0.0.1", true),
            ("", "https://a.example", false),
        ] {
            let variables = [("ALL_PROXY", "http://p:1"), ("NO_PROXY", exceptions)];
            let proxy = found(&variables, url);
            assert_eq!(proxy.is_none(), direct, "{exceptions:?} {url}: {proxy:?}");
        }
    }

    #[test]
    fn a_proxy_that_can_not_be_used_is_an_error_without_its_password() {
        for value in ["socks5://me:secret@p:1", "http://me:secret@", "ftp://secret", "a secret"] {
            let error = found(&[("ALL_PROXY", value)], "https://a").unwrap();
            assert!(error.contains("ALL_PROXY") && !error.contains("secret"), "{error}");
            let debug = format!(
                "{:?}",
                Proxies::from_environment(|name| {
                    (name == "ALL_PROXY").then(|| value.to_owned())
                })
            );
            assert!(!debug.contains("secret"), "{debug}");
        }
    }
}
