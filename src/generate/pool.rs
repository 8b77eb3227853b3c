//! Threads for work that grows with a request, so that the threads of the connections stay free.
//! Callers get round-robin turns.
//!
//! Work is done in steps. After each step the next caller has its turn, so that long work does not
//! hold up the others, and work whose client has disconnected is dropped.

use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::turns::Turns;
use phi4d_engine::CallerId;

/// Number of threads. Few, since they compete with the model for the CPU.
pub(super) const THREADS: usize = 2;

/// How much lower their priority is than that of the engine and the connections: beside a busy
/// thread of those, one of these gets a quarter of a core. The model's threads wait for each other
/// in each step, so whoever takes one core's time takes all of them.
const NICE: i32 = 5;

/// Bounds of the queue, in all and for one caller. More is refused.
const MOST_WAITING: usize = 512;
const MOST_OF_CALLER: usize = 64;

/// The longest wait for the first turn; a deadline may end it sooner.
const PATIENCE: Duration = Duration::from_secs(10);

/// The threads and their queue. The threads end when this is dropped.
#[derive(Debug)]
pub struct Pool(Arc<Shared>);

/// Why work was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undone {
    /// Its turn did not come in time, or the queue is full.
    Busy,
    /// Its deadline passed while it was being done.
    Late,
    /// It panicked, or the program is stopping.
    Failed(String),
}

struct Shared {
    state: Mutex<State>,
    /// Signalled for each piece of work that is added, and at the end.
    changed: Condvar,
}

struct State {
    waiting: Turns<Box<dyn Work>>,
    closed: bool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// A piece of work.
trait Work: Send {
    /// Whether anyone waits for it.
    fn is_wanted(&self) -> bool;
    /// Does the next step; true after the last.
    fn step(&mut self) -> bool;
}

struct Task<T, S> {
    step: S,
    begun: Arc<AtomicBool>,
    answer: Option<oneshot::Sender<Result<T, Undone>>>,
}

impl<T: Send, S: FnMut() -> Option<T> + Send> Work for Task<T, S> {
    fn is_wanted(&self) -> bool {
        self.answer.as_ref().is_some_and(|answer| !answer.is_closed())
    }

    fn step(&mut self) -> bool {
        self.begun.store(true, Ordering::Relaxed);
        let done = match catch_unwind(AssertUnwindSafe(&mut self.step)) {
            Ok(None) => return false,
            Ok(Some(done)) => Ok(done),
            Err(panic) => Err(Undone::Failed(message(panic.as_ref()))),
        };
        if let Some(answer) = self.answer.take() {
            // Fails if the client has disconnected.
            let _ = answer.send(done);
        }
        true
    }
}

/// A value that the pool drops if it is `large`: dropping a deep structure takes as long as
/// building it.
#[derive(Debug)]
pub struct Elsewhere<T: Send + 'static> {
    /// `None` only while it is dropped.
    value: Option<T>,
    pool: Arc<Pool>,
    caller: CallerId,
    large: bool,
}

impl<T: Send + 'static> Elsewhere<T> {
    /// `value`, which the pool drops if it is `large`.
    pub fn new(pool: &Arc<Pool>, caller: CallerId, large: bool, value: T) -> Self {
        Self { value: Some(value), pool: Arc::clone(pool), caller, large }
    }
}

#[expect(clippy::expect_used, reason = "the value is taken by nothing but the drop")]
impl<T: Send + 'static> Deref for Elsewhere<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("there until it is dropped")
    }
}

#[expect(clippy::expect_used, reason = "the value is taken by nothing but the drop")]
impl<T: Send + 'static> DerefMut for Elsewhere<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("there until it is dropped")
    }
}

impl<T: Send + 'static> Drop for Elsewhere<T> {
    fn drop(&mut self) {
        if self.large
            && let Some(value) = self.value.take()
        {
            self.pool.drop_there(self.caller, value);
        }
    }
}

/// A value to drop.
struct Leftover<T>(Option<T>);

impl<T: Send> Work for Leftover<T> {
    fn is_wanted(&self) -> bool {
        true
    }

    fn step(&mut self) -> bool {
        drop(self.0.take());
        true
    }
}

impl Pool {
    /// Starts the threads.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(super) fn start() -> std::io::Result<Self> {
        let waiting = Turns::new(MOST_WAITING, MOST_OF_CALLER);
        let state = Mutex::new(State { waiting, closed: false });
        let pool = Self(Arc::new(Shared { state, changed: Condvar::new() }));
        for index in 0..THREADS {
            let shared = Arc::clone(&pool.0);
            std::thread::Builder::new().name(format!("phi4d-text-{index}")).spawn(move || {
                phi4d_os::lower_priority(NICE);
                shared.work();
            })?;
        }
        Ok(pool)
    }

    /// Does `work` in one step.
    ///
    /// # Errors
    /// If it was not done.
    pub async fn run<T: Send + 'static>(
        &self,
        caller: CallerId,
        deadline: Option<Instant>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Undone> {
        let mut work = Some(work);
        self.run_steps(caller, deadline, move || work.take().map(|work| work())).await
    }

    /// Does work in steps, each of them short: `None` means that there is more to do. Dropping the
    /// future ends the work after the current step.
    ///
    /// # Errors
    /// If it was not done.
    pub async fn run_steps<T: Send + 'static>(
        &self,
        caller: CallerId,
        deadline: Option<Instant>,
        step: impl FnMut() -> Option<T> + Send + 'static,
    ) -> Result<T, Undone> {
        let (answer, mut result) = oneshot::channel();
        let begun = Arc::new(AtomicBool::new(false));
        let task = Task { step, begun: Arc::clone(&begun), answer: Some(answer) };
        self.0.add(caller, Box::new(task)).map_err(|_| Undone::Busy)?;
        let patience = Instant::now() + PATIENCE;
        let until = deadline.map_or(patience, |deadline| deadline.min(patience));
        let done = match timeout_at(until, &mut result).await {
            Ok(done) => done,
            Err(_) if !begun.load(Ordering::Relaxed) => return Err(Undone::Busy),
            Err(_) => match deadline {
                None => result.await,
                Some(deadline) => timeout_at(deadline, result).await.map_err(|_| Undone::Late)?,
            },
        };
        done.unwrap_or_else(|_| Err(Undone::Failed("its threads have ended".to_owned())))
    }

    /// Drops `value` on one of the threads, as the caller's next work. Never refused: each value was made by work
    /// that had its turn.
    fn drop_there<T: Send + 'static>(&self, caller: CallerId, value: T) {
        self.0.lock().waiting.put_back(caller, Box::new(Leftover(Some(value))));
        self.0.changed.notify_one();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    /// Ignores poison: each change is one call, so no panic leaves half of one.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, caller: CallerId, work: Box<dyn Work>) -> Result<(), Box<dyn Work>> {
        let mut state = self.lock();
        let added = state.waiting.push(caller, work).or_else(|work| {
            // Work whose client has disconnected makes room. What it holds may be large, so it is not dropped here.
            let unwanted = state.waiting.remove_unless(|work| work.is_wanted());
            let added = state.waiting.push(caller, work);
            if !unwanted.is_empty() {
                state.waiting.put_back(caller, Box::new(Leftover(Some(unwanted))));
            }
            added
        });
        drop(state);
        self.changed.notify_one();
        added
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if state.closed {
                return;
            }
            let Some((caller, mut work)) = state.waiting.take() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            let mut work = (work.is_wanted() && !work.step()).then_some(work);
            state = self.lock();
            if let Some(work) = work.take() {
                state.waiting.put_back(caller, work);
            }
        }
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "it panicked".to_owned())
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
