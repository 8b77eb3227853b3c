//! Who is at the other end of a Unix socket, and names and numbers of users and groups.

use std::ffi::CString;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use super::super::types::Peer;

impl Peer {
    /// Asks the kernel (SO_PEERCRED).
    ///
    /// # Errors
    /// If the socket has no peer.
    pub fn of(stream: &tokio::net::UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        Ok(Self { uid: credentials.uid(), gid: credentials.gid(), pid: credentials.pid() })
    }
}

/// The user that this process acts as.
#[must_use]
pub fn effective_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// The user that a file belongs to.
#[must_use]
pub fn owner(metadata: &Metadata) -> Option<u32> {
    Some(metadata.uid())
}

/// The number of the user named `name`; `None` if there is none.
#[must_use]
pub fn user_id(name: &str) -> Option<u32> {
    User::from_name(name).ok().flatten().map(|user| user.uid.as_raw())
}

/// The number of the group named `name`; `None` if there is none.
#[must_use]
pub fn group_id(name: &str) -> Option<u32> {
    Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw())
}

/// All groups of the user behind `peer`, as the system's databases have them now. May take as long
/// as those do.
#[must_use]
pub fn groups_of(peer: Peer) -> Vec<u32> {
    let user = User::from_uid(Uid::from_raw(peer.uid)).ok().flatten();
    let name = user.and_then(|user| CString::new(user.name).ok());
    let found = name.and_then(|name| getgrouplist(&name, Gid::from_raw(peer.gid)).ok());
    found.map_or_else(|| vec![peer.gid], |groups| groups.iter().map(|gid| gid.as_raw()).collect())
}

/// This machine's name.
#[must_use]
pub fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn knows_this_process() {
        let (stream, _other) = tokio::net::UnixStream::pair().unwrap();
        let peer = Peer::of(&stream).unwrap();
        assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
        assert_eq!(peer.gid, nix::unistd::getegid().as_raw());
        assert_eq!(peer.pid, i32::try_from(std::process::id()).ok());
        assert!(groups_of(peer).contains(&peer.gid));
    }

    #[test]
    fn names_have_numbers_where_they_are_known() {
        assert_eq!((user_id("root"), group_id("root")), (Some(0), Some(0)));
        assert_eq!((user_id("no-such-user"), group_id("no-such-group")), (None, None));
    }
}
