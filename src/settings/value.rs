//! The types of settings that the standard library has no type for.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use http::uri::Authority;

/// Where the model's steps run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Provider {
    /// The first that this machine has and the model was exported for, the CPU at the least.
    Auto,
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// A GPU on Windows.
    DirectMl,
    /// Any GPU with a Vulkan, Direct3D or Metal driver, by the WebGPU provider library.
    WebGpu,
    /// The provider of the library that the settings name.
    Plugin,
}

impl Provider {
    /// Each with its name in the settings.
    pub(super) const NAMED: [(&'static str, Self); 6] = [
        ("auto", Self::Auto),
        ("cpu", Self::Cpu),
        ("cuda", Self::Cuda),
        ("directml", Self::DirectMl),
        ("webgpu", Self::WebGpu),
        ("plugin", Self::Plugin),
    ];

    /// The name in the settings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::NAMED.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which exports may have their activations rounded to int8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Int8Activations {
    /// Those that allow it: `MatMulNBits` of accuracy level 4, and `DequantizeLinear` before a `MatMul`.
    #[default]
    Export,
    /// All: the accuracy level is not looked at.
    Always,
}

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvCacheType {
    /// Half precision.
    F16,
    /// 8-bit integers with a scale for each token and head.
    Int8,
    /// Single precision.
    F32,
}

/// Where log lines go and how they look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// The journal if standard error leads there, else text.
    Auto,
    /// Lines of text to standard error.
    Text,
    /// Lines of JSON to standard error.
    Json,
    /// Entries with fields, to the journal.
    Journal,
}

/// Who may read the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsAccess {
    /// Anyone who reaches the socket.
    Open,
    /// Anyone who may use the API.
    Use,
    /// Administrators.
    Admin,
}

/// Who gets the web page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebPage {
    /// This machine, and where there are API keys others, too.
    Auto,
    /// Anyone who reaches the socket.
    On,
    /// Nobody.
    Off,
}

/// Where weights that were prepared for phi4d's own kernel are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WeightsMemory {
    /// Copied if the system has huge pages and enough memory, else mapped.
    #[default]
    Auto,
    /// Mapped from the file, in small pages that processes share.
    Mapped,
    /// Copied into this process's own memory, in huge pages if the system has them.
    Copied,
}

/// Whether the daemon confines itself by filters on its system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sandbox {
    /// Where the kernel has them.
    Auto,
    /// It does, or does not start.
    On,
    /// It does not.
    Off,
}

/// A TCP address to listen on: a host's name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddress {
    /// A name or an address; IPv6 addresses without brackets.
    pub host: String,
    /// The port; 0 lets the system choose.
    pub port: u16,
}

impl ListenAddress {
    /// Reads `host:port`, `1.2.3.4:port` or `[::1]:port`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = host_and_port(text)?;
        Some(Self { host, port: port? })
    }

    /// Whether only programs on this machine can reach it. Of names only `localhost` counts:
    /// what any other name means is not this program's to decide.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A host without brackets, and the port if there is one.
pub(super) fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let authority: Authority = text.parse().ok()?;
    let host = authority.host();
    // `Authority` also accepts users, ports that are empty or have a sign, and characters that no
    // name has.
    let port = match authority.as_str().strip_prefix(host)? {
        "" => None,
        port => {
            let digits = port.strip_prefix(':')?;
            let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
            Some(is_number.then(|| digits.parse().ok()).flatten()?)
        }
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => inner.parse::<Ipv6Addr>().ok()?.to_string(),
        None if !host.is_empty() && host.bytes().all(is_name) => host.to_owned(),
        None => return None,
    };
    Some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn providers_are_called_by_their_names() {
        let names = Provider::NAMED.map(|(_, provider)| provider.to_string());
        assert_eq!(names, ["auto", "cpu", "cuda", "directml", "webgpu", "plugin"]);
    }

    #[test]
    fn reads_names_and_both_address_families() {
        for (text, host, loopback) in [
            ("127.0.0.1:8484", "127.0.0.1", true),
            ("127.8.0.1:8484", "127.8.0.1", true),
            ("[::1]:8484", "::1", true),
            ("localhost:8484", "localhost", true),
            ("LocalHost:8484", "LocalHost", true),
            ("0.0.0.0:8484", "0.0.0.0", false),
            ("[::]:8484", "::", false),
            ("box.example.org:8484", "box.example.org", false),
        ] {
            let address = ListenAddress::parse(text).expect(text);
            assert_eq!((address.host.as_str(), address.port), (host, 8484));
            assert_eq!(address.is_loopback(), loopback, "{text}");
        }
    }

    #[test]
    fn refuses_what_is_not_host_and_port() {
        for text in [
            "",
            "8484",
            ":8484",
            "localhost",
            "localhost:",
            "localhost:http",
            "localhost:65536",
            "localhost:+80",
            "::1:8484",
            "[::1]",
            "[::1:8484",
            "[localhost]:8484",
            "http://localhost:8484",
            "a b:1",
        ] {
            assert_eq!(ListenAddress::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_reads_back_what_it_writes(text in "[\\[\\]:.0-9a-z+-]{0,24}") {
            if let Some(address) = ListenAddress::parse(&text) {
                prop_assert_eq!(ListenAddress::parse(&address.to_string()), Some(address));
            }
        }
    }
}
