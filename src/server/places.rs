//! Which connections are accepted, and which are closed for others, when there are too many.
//!
//! The acceptor owns this. No address holds more connections than its limit. When all places are
//! taken, a newcomer replaces a connection that does nothing: the longest idle one of the address
//! that holds the most.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::Id;

use super::activity::{Activity, Doing};

/// Beside TCP, one in this many places is kept for the Unix socket, so that clients on the network
/// can't shut out programs on this machine.
const UNIX_SHARE: usize = 8;

/// An address holds at most one in this many of TCP's places, unless the settings say otherwise.
const ADDRESS_SHARE: usize = 4;

/// The fraction of places from which on heads have less time.
const CROWDED: (usize, usize) = (7, 8);

/// How long a client may leave an answer unread, or a request's body unsent, before its connection
/// can be replaced.
const GRACE: Duration = Duration::from_secs(2);

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    /// A version 4 address, or the network (/64) of a version 6 address, whose lower half a machine
    /// may choose.
    Remote(IpAddr),
    /// An address of this machine.
    Loopback(IpAddr),
    /// A user of this machine, by the Unix socket.
    User(u32),
}

impl Holder {
    pub(super) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            address if address.is_loopback() => Self::Loopback(address),
            IpAddr::V6(address) => {
                let network = address.to_bits() & !u128::from(u64::MAX);
                Self::Remote(IpAddr::V6(network.into()))
            }
            address @ IpAddr::V4(_) => Self::Remote(address),
        }
    }

    fn is_tcp(self) -> bool {
        !matches!(self, Self::User(_))
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Remote(address @ IpAddr::V6(_)) => write!(f, "{address}/64"),
            Self::Remote(address) | Self::Loopback(address) => write!(f, "{address}"),
            Self::User(uid) => write!(f, "uid:{uid}"),
        }
    }
}

/// How many connections there may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Over all sockets.
    pub(super) most: usize,
    /// Of these, TCP's.
    pub(super) tcp: usize,
    /// Of these, one address's.
    pub(super) per_address: usize,
    /// Of these, one loopback address's, or of all one user's.
    pub(super) per_local: usize,
}

impl Bounds {
    /// Of `most` connections; 0 for an address or a local caller is the default share.
    pub(super) fn new(
        most: usize,
        beside_unix: bool,
        per_address: usize,
        per_local: usize,
    ) -> Self {
        let tcp = tcp_share(most, beside_unix);
        let or = |bound, share| if bound == 0 { share } else { bound };
        Self {
            most,
            tcp,
            per_address: or(per_address, tcp.div_ceil(ADDRESS_SHARE)),
            // A reverse proxy on this machine has one address for all its clients.
            per_local: or(per_local, (tcp * 3).div_ceil(4)),
        }
    }

    fn of(&self, holder: Holder) -> usize {
        match holder {
            Holder::Remote(_) => self.per_address,
            Holder::Loopback(_) | Holder::User(_) => self.per_local,
        }
    }
}

/// How many of `most` connections TCP may hold, beside a Unix socket or alone.
fn tcp_share(most: usize, beside_unix: bool) -> usize {
    // With a single place, keeping one for the Unix socket would leave TCP none.
    let kept = if beside_unix { most.div_ceil(UNIX_SHARE).min(most - 1) } else { 0 };
    most - kept
}

/// What happens to a newcomer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Enter,
    /// Until a connection closes: one that was asked to, or one whose request ends.
    Wait,
    /// Its address holds this many, which is its limit.
    OverBound(usize),
    /// All places are taken, and its address holds this many, its fair share or more.
    Crowded(usize),
}

#[derive(Debug)]
struct Open {
    holder: Holder,
    activity: Arc<Activity>,
}

/// The open connections.
#[derive(Debug)]
pub(super) struct Places {
    bounds: Bounds,
    open: HashMap<Id, Open>,
    held: HashMap<Holder, usize>,
    tcp: usize,
    /// For TCP and for the Unix socket: whether nearly all places are taken.
    crowded: [Arc<AtomicBool>; 2],
}

impl Places {
    pub(super) fn new(bounds: Bounds) -> Self {
        let (open, held) = (HashMap::new(), HashMap::new());
        Self { bounds, open, held, tcp: 0, crowded: Default::default() }
    }

    /// Whether nearly all places for connections like the holder's are taken, now and later.
    pub(super) fn crowded(&self, holder: Holder) -> Arc<AtomicBool> {
        Arc::clone(&self.crowded[usize::from(holder.is_tcp())])
    }

    /// Adds a connection that the task `id` serves.
    pub(super) fn enter(&mut self, id: Id, holder: Holder, activity: Arc<Activity>) {
        *self.held.entry(holder).or_default() += 1;
        self.tcp += usize::from(holder.is_tcp());
        self.open.insert(id, Open { holder, activity });
        self.update_crowded();
    }

    /// Whether every connection is kept open between two requests and does nothing else.
    pub(super) fn are_idle(&self) -> bool {
        self.open.values().all(|open| open.activity.now().0 == Doing::Idle)
    }

    /// Removes the connection of the task `id`, which has ended.
    pub(super) fn leave(&mut self, id: Id) {
        let Some(Open { holder, .. }) = self.open.remove(&id) else { return };
        if let Some(held) = self.held.get_mut(&holder) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&holder);
            }
        }
        self.tcp -= usize::from(holder.is_tcp());
        self.update_crowded();
    }

    fn update_crowded(&self) {
        let is_crowded = |taken: usize, places: usize| taken * CROWDED.1 >= places * CROWDED.0;
        let all = is_crowded(self.open.len(), self.bounds.most);
        self.crowded[0].store(all, Ordering::Release);
        self.crowded[1].store(all || is_crowded(self.tcp, self.bounds.tcp), Ordering::Release);
    }

    /// Decides on a newcomer. If a connection can be replaced, it is asked to close and the
    /// newcomer waits; call this again when a connection has ended, or after a while.
    pub(super) fn judge(&self, holder: Holder) -> Verdict {
        let held = self.held_by(holder);
        let (bound, places) = (self.bounds.of(holder), self.places(holder));
        // If one address may have all places, its further connections wait in the backlog.
        let is_bound = bound < places;
        if is_bound && held >= bound {
            return Verdict::OverBound(held);
        }
        if self.has_place(holder) {
            return Verdict::Enter;
        }
        // Only one newcomer waits, so one connection at a time is asked to close.
        let one_is_closing = self.rivals(holder).any(|open| open.activity.is_leaving());
        if one_is_closing {
            return Verdict::Wait;
        }
        if let Some(open) = self.replaceable(holder, held) {
            open.activity.ask_to_leave();
            return Verdict::Wait;
        }
        // An address with its fair share is rejected at once, since it would hold up other
        // newcomers.
        if is_bound && held > 0 && held * self.holders(holder) >= places {
            return Verdict::Crowded(held);
        }
        Verdict::Wait
    }

    fn held_by(&self, holder: Holder) -> usize {
        self.held.get(&holder).copied().unwrap_or_default()
    }

    /// How many holders compete for the places that `holder` could have, itself included.
    fn holders(&self, holder: Holder) -> usize {
        self.held.keys().filter(|other| other.is_tcp() || !holder.is_tcp()).count()
    }

    fn places(&self, holder: Holder) -> usize {
        if holder.is_tcp() { self.bounds.tcp } else { self.bounds.most }
    }

    fn has_place(&self, holder: Holder) -> bool {
        let within_all = self.open.len() < self.bounds.most;
        within_all && (!holder.is_tcp() || self.tcp < self.bounds.tcp)
    }

    /// Connections that hold a place which `holder` could have.
    fn rivals(&self, holder: Holder) -> impl Iterator<Item = &Open> {
        let tcp_only = holder.is_tcp() && self.tcp >= self.bounds.tcp;
        self.open.values().filter(move |open| open.holder.is_tcp() || !tcp_only)
    }

    /// A connection that does nothing: an idle one of the newcomer's address or of one that holds
    /// at least as many; else one that waits for a head, a body or its client to read, of an
    /// address that holds more. Among these, that of the address with the most, and there the one
    /// of longest standing.
    fn replaceable(&self, holder: Holder, held: usize) -> Option<&Open> {
        let ranked = |may_go: &dyn Fn(&Open, usize) -> Option<Duration>| {
            let candidates = self.rivals(holder).filter_map(|open| {
                let theirs = self.held_by(open.holder);
                may_go(open, theirs).map(|age| ((theirs, age), open))
            });
            candidates.max_by_key(|(rank, _)| *rank).map(|(_, open)| open)
        };
        let idle = |open: &Open, theirs: usize| match open.activity.now() {
            (Doing::Idle, age) if theirs >= held || open.holder == holder => Some(age),
            _ => None,
        };
        let useless = |open: &Open, theirs: usize| match open.activity.now() {
            (Doing::Head, age) if theirs > held => Some(age),
            (Doing::Unread | Doing::Body, age) if theirs > held && age >= GRACE => Some(age),
            _ => None,
        };
        ranked(&idle).or_else(|| ranked(&useless))
    }
}

#[cfg(test)]
#[path = "places_tests.rs"]
mod tests;
