//! By which names this server may be called over TCP.
//!
//! A web page can have its own name resolve to this machine's address (DNS rebinding) and then ask
//! as if it came from here. Its requests still carry its name in `Host`, so only our names are
//! answered. Addresses always are: a page can't be called by an address that is not its own.

use std::net::{IpAddr, Ipv6Addr};

use hyper::Uri;
use hyper::header::{HOST, HeaderMap};

use phi4d_os as os;
use phi4d_settings::Settings;

/// The names, in lower case.
#[derive(Debug)]
pub(super) struct Hosts {
    any: bool,
    names: Vec<String>,
}

impl Default for Hosts {
    fn default() -> Self {
        Self { any: true, names: Vec::new() }
    }
}

impl Hosts {
    /// The name listened on, the machine's, and those of the settings, of which `*` is any.
    pub(super) fn of(settings: &Settings) -> Self {
        let mut names: Vec<String> =
            settings.allowed_hosts.iter().map(|name| name.to_ascii_lowercase()).collect();
        let any = names.iter().any(|name| name == "*");
        names.extend(settings.listen.iter().map(|address| address.host.to_ascii_lowercase()));
        if let Some(machine) = os::host_name() {
            let machine = machine.to_ascii_lowercase();
            let short = machine.split('.').next().unwrap_or_default();
            names.extend([format!("{short}.local"), short.to_owned(), machine]);
        }
        Self { any, names }
    }

    /// Refuses the first name that is not ours.
    pub(super) fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), String> {
        if self.any {
            return Ok(());
        }
        // The attack needs a browser, and browsers always send the header; HTTP/1.0 programs may
        // not.
        let by_header = headers.get_all(HOST).iter();
        let by_header = by_header.map(|value| String::from_utf8_lossy(value.as_bytes()));
        let by_uri = uri.authority().map(|authority| authority.as_str().into());
        match by_header.chain(by_uri).find(|host| !self.has(host)) {
            Some(host) => Err(host.into_owned()),
            None => Ok(()),
        }
    }

    /// Whether `host`, with a port or without, is one of ours.
    fn has(&self, host: &str) -> bool {
        let Some(name) = without_port(host) else { return false };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        name.parse::<IpAddr>().is_ok()
            || name == "localhost"
            || name.ends_with(".localhost")
            || self.names.contains(&name)
    }
}

/// A host's name or address; `None` if it is neither.
pub(super) fn without_port(host: &str) -> Option<&str> {
    let port_is_good = |rest: &str| {
        rest.is_empty() || rest.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
    };
    if let Some(rest) = host.strip_prefix('[') {
        let (address, rest) = rest.split_once(']')?;
        return (address.parse::<Ipv6Addr>().is_ok() && port_is_good(rest)).then_some(address);
    }
    let (name, rest) = host.split_at(host.find(':').unwrap_or(host.len()));
    (!name.is_empty() && port_is_good(rest)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    #[test]
    fn our_names_and_addresses_pass_and_others_do_not() {
        let hosts =
            Hosts { any: false, names: vec!["box".to_owned(), "ai.example.org".to_owned()] };
        for ours in [
            "localhost",
            "LOCALHOST:8484",
            "localhost.",
            "a.localhost",
            "127.0.0.1",
            "127.0.0.1:1",
            "10.1.2.3:8484",
            "[::1]",
            "[::1]:8484",
            "box",
            "Box:80",
            "ai.example.org.",
        ] {
            assert!(hosts.has(ours), "{ours}");
        }
        for other in [
            "",
            ":80",
            "evil.example",
            "localhost.evil.example",
            "xlocalhost",
            "box.evil",
            "127.0.0.1.evil",
            "[::1].evil",
            "[evil]",
            "localhost:port",
            "localhost:1:2",
            "a@localhost",
        ] {
            assert!(!hosts.has(other), "{other}");
        }
    }

    #[test]
    fn every_name_in_the_request_counts() {
        let hosts = Hosts { any: false, names: Vec::new() };
        let mut headers = HeaderMap::new();
        let here = Uri::from_static("/v1/models");
        assert_eq!(hosts.check(&here, &headers), Ok(()));
        let evil = Uri::from_static("http://evil.example/v1/models");
        assert_eq!(hosts.check(&evil, &headers), Err("evil.example".to_owned()));
        headers.append(HOST, HeaderValue::from_static("localhost"));
        assert_eq!(hosts.check(&here, &headers), Ok(()));
        headers.append(HOST, HeaderValue::from_static("evil.example"));
        assert_eq!(hosts.check(&here, &headers), Err("evil.example".to_owned()));
        assert_eq!(Hosts::default().check(&evil, &headers), Ok(()));
    }
}
