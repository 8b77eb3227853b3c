//! Waits for a daemon that is starting or loading its model.
//!
//! A daemon listens before its model is loaded: it accepts connections then, and answers later.

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::super::exit::Fatal;
use super::client::{Client, Readiness};
use super::screen::Screen;

/// How long the first response may take when waiting is off.
const AT_ONCE: Duration = Duration::from_secs(2);

/// How long a wait may be before a transient line shows it.
const QUIET: Duration = Duration::from_millis(300);

/// The same where lines are permanent.
const QUIET_FOR_GOOD: Duration = Duration::from_secs(3);

/// How often a missing daemon is tried again, and the line is updated.
const TICK: Duration = Duration::from_millis(200);

/// The longest `Retry-After` that is honoured.
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

/// Returns when the daemon accepts requests.
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
        match showing(client, began, screen, asked).await {
            Ok(Ok(Readiness::Ready)) => return Ok(()),
            Ok(Ok(Readiness::NotYet { reason, after })) => {
                if began.elapsed() >= patience.loading {
                    return Err(not_ready(client, &reason));
                }
                let pause = after.unwrap_or(TICK).clamp(TICK, LONGEST_PAUSE).min(left.max(TICK));
                showing(client, began, screen, sleep(pause)).await;
            }
            Ok(Err(fatal @ Fatal::Unreachable { may_come: true, .. })) => {
                if began.elapsed() >= patience.absent {
                    return Err(fatal);
                }
                showing(client, began, screen, sleep(TICK)).await;
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

/// Waits for `what`, and shows that it waits if it takes long.
async fn showing<T>(
    client: &Client,
    began: Instant,
    screen: &mut Screen,
    what: impl Future<Output = T>,
) -> T {
    let quiet = if screen.lines_can_go() { QUIET } else { QUIET_FOR_GOOD };
    let line = || {
        let seconds = began.elapsed().as_secs();
        format!("waiting for the daemon at {}: {seconds} s", client.server())
    };
    screen.during(what, [quiet.saturating_sub(began.elapsed()), TICK], line).await
}

fn not_ready(client: &Client, reason: &str) -> Fatal {
    Fatal::NotReady { address: client.server().to_string(), reason: reason.to_owned() }
}
