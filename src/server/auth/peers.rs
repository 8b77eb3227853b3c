//! Which users of this machine may use the Unix socket.

use super::fault::AccessFault;
use crate::caller::Origin;
use phi4d_os as os;
use phi4d_settings::Settings;

/// The users and groups that may. If none are named, anyone who can connect may.
#[derive(Debug, Default)]
pub(super) struct Peers {
    users: Vec<u32>,
    groups: Vec<u32>,
}

impl Peers {
    /// Looks up the settings' names; unknown ones go to `faults`.
    pub(super) fn of(settings: &Settings, faults: &mut Vec<AccessFault>) -> Self {
        let mut ids = |key, names: &[String], kind, find: fn(&str) -> Option<u32>| {
            let mut found = Vec::with_capacity(names.len());
            for name in names {
                match name.parse().ok().or_else(|| find(name)) {
                    Some(id) => found.push(id),
                    None => faults.push(AccessFault::Nobody { key, kind, name: name.clone() }),
                }
            }
            found
        };
        let users = &settings.socket_allow_users;
        let groups = &settings.socket_allow_groups;
        Self {
            users: ids("socket_allow_users", users, "user", os::user_id),
            groups: ids("socket_allow_groups", groups, "group", os::group_id),
        }
    }

    /// Whether the user behind `origin` may. All groups of the user count, as the system's database
    /// has them; the socket's credentials have the process's primary group only.
    pub(super) async fn admit(&self, origin: &Origin) -> bool {
        let Some(peer) = origin.peer() else { return true };
        if (self.users.is_empty() && self.groups.is_empty()) || self.users.contains(&peer.uid) {
            return true;
        }
        if self.groups.is_empty() {
            return false;
        }
        self.groups.contains(&peer.gid)
            || origin.groups().await.iter().any(|group| self.groups.contains(group))
    }
}
