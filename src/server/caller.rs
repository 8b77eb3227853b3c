//! The peer of a connection, for fairness between callers and for the log.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::OnceCell;

use phi4d_engine::CallerId;
use phi4d_os::{Peer, UnixStream};

/// A caller. All connections of one caller share its place in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Caller {
    /// A user of this machine, over the Unix socket, as the kernel knows it.
    User(u32),
    /// A machine, over TCP.
    Address(IpAddr),
    /// The holder of the API key of this name, from wherever.
    Key(Arc<str>),
    /// The system could not name it.
    Unknown,
}

/// Where a connection comes from.
#[derive(Debug)]
pub(super) struct Origin {
    caller: Caller,
    /// Over the Unix socket: the peer's credentials, from the kernel.
    peer: Option<Peer>,
    /// The user's groups, looked up when first needed.
    groups: OnceCell<Vec<u32>>,
    transport: &'static str,
}

impl Origin {
    pub(super) fn of_tcp(stream: &TcpStream) -> Self {
        let address = stream.peer_addr();
        let caller =
            address.map_or(Caller::Unknown, |address| Caller::Address(address.ip().to_canonical()));
        Self { caller, peer: None, groups: OnceCell::new(), transport: "tcp" }
    }

    /// `None` if the kernel does not name the peer: no rule could apply to it.
    pub(super) fn of_unix(stream: &UnixStream) -> Option<Self> {
        let peer = Peer::of(stream).ok()?;
        let (caller, groups) = (Caller::User(peer.uid), OnceCell::new());
        Some(Self { caller, peer: Some(peer), groups, transport: "unix" })
    }

    /// The kind of socket, as metrics name it.
    pub(super) fn transport(&self) -> &'static str {
        self.transport
    }

    /// The caller by its address or user; a key may name another.
    pub(super) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The groups of the peer's user, looked up once for a connection.
    pub(super) async fn groups(&self) -> &[u32] {
        let Some(peer) = self.peer else { return &[] };
        let query = || async {
            // The system's user database may be on the network, so this can block.
            let found = tokio::task::spawn_blocking(move || phi4d_os::groups_of(peer)).await;
            found.unwrap_or_default()
        };
        self.groups.get_or_init(query).await
    }

    /// Whether it is on this machine.
    pub(super) fn is_local(&self) -> bool {
        let by_loopback = matches!(&self.caller, Caller::Address(address) if address.is_loopback());
        self.peer.is_some() || by_loopback
    }

    /// The peer's credentials, from the kernel; `None` over TCP.
    pub(super) fn peer(&self) -> Option<Peer> {
        self.peer
    }
}

impl Caller {
    /// The caller's number in the engine: its kind in the two highest bits, then the user, the
    /// version 4 address, or the network of a version 6 address, because a machine may choose
    /// another lower half for each connection. A key's is a hash of its name, never 0.
    pub(super) fn id(&self) -> CallerId {
        let kind = |kind: u64, value: u64| CallerId(kind << 62 | value);
        match self {
            Self::Unknown => kind(0, 0),
            Self::Key(name) => {
                let hash = blake3::hash(name.as_bytes());
                let mut number = [0; 8];
                number.copy_from_slice(&hash.as_bytes()[..8]);
                kind(0, (u64::from_le_bytes(number) >> 2) | 1)
            }
            Self::User(uid) => kind(1, (*uid).into()),
            Self::Address(address) => match address.to_canonical() {
                IpAddr::V4(address) => kind(2, address.to_bits().into()),
                IpAddr::V6(address) => {
                    let network = address.to_bits() >> 66;
                    kind(3, u64::try_from(network).unwrap_or(u64::MAX >> 2))
                }
            },
        }
    }

    /// The caller's name as far as its number in the engine holds it: not the lower half of a
    /// version 6 address, and no key's name (`Rules` knows those in force).
    pub(super) fn name_of(id: CallerId) -> String {
        let value = id.0 & (u64::MAX >> 2);
        let low = || u32::try_from(value).unwrap_or_default();
        match id.0 >> 62 {
            1 => Self::User(low()).to_string(),
            2 => Self::Address(Ipv4Addr::from_bits(low()).into()).to_string(),
            3 => format!("{}/62", Ipv6Addr::from_bits(u128::from(value) << 66)),
            _ => Self::Unknown.to_string(),
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(uid) => write!(f, "uid:{uid}"),
            Self::Address(address) => write!(f, "{address}"),
            Self::Key(name) => write!(f, "key:{name}"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_of_any_kind_differ_and_one_stays_the_same() {
        let address = |text: &str| Caller::Address(text.parse().unwrap());
        let callers = [
            Caller::Unknown,
            Caller::Key("a".into()),
            Caller::Key("b".into()),
            Caller::User(0),
            Caller::User(1000),
            address("0.0.0.0"),
            address("10.0.3.232"),
            address("2001:db8:1:2::1"),
            address("2001:db8:1:8::1"),
            address("::1"),
        ];
        for (place, caller) in callers.iter().enumerate() {
            for other in &callers[place + 1..] {
                assert_ne!(caller.id(), other.id(), "{caller} and {other}");
            }
        }
        assert_eq!(address("2001:db8:1:2::1").id(), address("2001:db8:1:2::2").id());
        for (caller, name) in [
            (Caller::Unknown, "unknown"),
            (Caller::User(1000), "uid:1000"),
            (address("10.0.3.232"), "10.0.3.232"),
            (address("2001:db8:1:8::1"), "2001:db8:1:8::/62"),
        ] {
            assert_eq!(Caller::name_of(caller.id()), name);
        }
        assert_eq!(address("::ffff:10.0.3.232").id(), address("10.0.3.232").id());
    }
}
