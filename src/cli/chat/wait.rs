//! Waits for a daemon that starts, or loads its model.
//!
//! A daemon listens before its model is loaded: connections are made then, and answered later.

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::super::exit::Fatal;
use super::client::{Client, Readiness};
use super::screen::Screen;

/// How long an answer may take that is not waited for.
const AT_ONCE: Duration = Duration::from_secs(2);

/// How long it may take before the waiting is told, by a line that goes away.
const QUIET: Duration = Duration::from_millis(300);

/// The same for a line that stays.
const QUIET_FOR_GOOD: Duration = Duration::from_secs(3);

/// How often a daemon that is not there is looked for, and the line changes.
const TICK: Duration = Duration::from_millis(200);

/// The longest that a daemon's wish to be asked later is heeded.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long to wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For a daemon that is not there.
    absent: Duration,
    /// For one that is there and not ready.
    loading: Duration,
}

impl Patience {
    /// As asked for, else the defaults.
    pub(super) fn new(seconds: Option<u32>) -> Self {
        let asked = |default| Duration::from_secs(seconds.map_or(default, u64::from));
        Self { absent: asked(5), loading: asked(300) }
    }
}

/// Returns when the daemon takes requests.
///
/// # Errors
/// If it does not within `patience`.
pub(super) async fn until_ready(
    client: &Client,
    patience: Patience,
    screen: &mut Screen,
) -> Result<(), Fatal> {
    let began = Instant::now();
    let ready = wait(client, patience, began, screen).await;
    screen.done_waiting();
    ready
}

async fn wait(
    client: &Client,
    patience: Patience,
    began: Instant,
    screen: &mut Screen,
) -> Result<(), Fatal> {
    loop {
        let left = patience.loading.saturating_sub(began.elapsed());
        let asked = timeout(left.max(AT_ONCE), client.readiness());
        match telling(client, began, screen, asked).await {
            Ok(Ok(Readiness::Ready)) => return Ok(()),
            Ok(Ok(Readiness::NotYet { reason, after })) => {
                if began.elapsed() >= patience.loading {
                    return Err(not_ready(client, &reason));
                }
                let pause = after.unwrap_or(TICK).clamp(TICK, LONGEST_PAUSE).min(left.max(TICK));
                telling(client, began, screen, sleep(pause)).await;
            }
            Ok(Err(fatal @ Fatal::Unreachable { may_come: true, .. })) => {
                if began.elapsed() >= patience.absent {
                    return Err(fatal);
                }
                telling(client, began, screen, sleep(TICK)).await;
            }
            Ok(Err(fatal)) => return Err(fatal),
            Err(_) => {
                let seconds = began.elapsed().as_secs();
                let reason =
                    format!("it has not answered in {seconds} s; it may be loading its model");
                return Err(not_ready(client, &reason));
            }
        }
    }
}

/// Waits for `what`, and tells of it where that takes long.
async fn telling<T>(
    client: &Client,
    began: Instant,
    screen: &mut Screen,
    what: impl Future<Output = T>,
) -> T {
    tokio::pin!(what);
    let quiet = if screen.lines_can_go() { QUIET } else { QUIET_FOR_GOOD };
    let mut next = quiet.saturating_sub(began.elapsed());
    loop {
        if let Ok(done) = timeout(next, &mut what).await {
            return done;
        }
        let seconds = began.elapsed().as_secs();
        screen.waiting(&format!("waiting for the daemon at {}: {seconds} s", client.endpoint));
        next = TICK;
    }
}

fn not_ready(client: &Client, reason: &str) -> Fatal {
    Fatal::NotReady { address: client.endpoint.to_string(), reason: reason.to_owned() }
}
