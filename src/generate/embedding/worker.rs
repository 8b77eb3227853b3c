//! The thread that owns the embedding model, and the requests that wait for it.
//!
//! Each run takes texts of the caller whose turn it is, and of the next ones while they fit, so that a
//! caller with many texts does not delay the others. A request whose client has left is dropped before
//! the next run.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::error::GenerateError;
use crate::turns::Turns;
use phi4d_engine::{CallerId, JobError, SubmitError};
use phi4d_model::{EmbeddingModel, RunError};

/// A vector for each text, in their order.
pub(super) type Vectors = Vec<Vec<f32>>;

/// What runs texts: the model, and in tests a stand-in.
pub(super) trait Runs: Send {
    /// As [`EmbeddingModel::run`].
    fn run(&mut self, texts: &[&[u32]]) -> Result<Vectors, RunError>;
}

impl Runs for EmbeddingModel {
    fn run(&mut self, texts: &[&[u32]]) -> Result<Vectors, RunError> {
        Self::run(self, texts)
    }
}

/// A request's texts on their way to vectors.
#[derive(Debug)]
pub(super) struct Job {
    texts: Vec<Vec<u32>>,
    /// Places of the texts that are still to run, the longest last.
    left: Vec<usize>,
    vectors: Vectors,
    answer: oneshot::Sender<Result<Vectors, GenerateError>>,
}

impl Job {
    /// `texts`, none of them empty, whose vectors go to `answer`.
    pub(super) fn new(
        texts: Vec<Vec<u32>>,
        answer: oneshot::Sender<Result<Vectors, GenerateError>>,
    ) -> Self {
        let mut left: Vec<usize> = (0..texts.len()).collect();
        // Of equals the first is run first.
        left.sort_by_key(|&place| (texts[place].len(), std::cmp::Reverse(place)));
        Self { vectors: vec![Vec::new(); texts.len()], texts, left, answer }
    }

    fn is_wanted(&self) -> bool {
        !self.answer.is_closed()
    }

    /// Tokens of its next text.
    fn next_length(&self) -> Option<usize> {
        self.left.last().map(|&place| self.texts[place].len())
    }

    fn finish(self, result: Result<(), GenerateError>) {
        // Fails if the client has left.
        let _ = self.answer.send(result.map(|()| self.vectors));
    }
}

/// How runs are made up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Padded tokens of a run; one text alone may have more.
    pub(super) run_tokens: usize,
    /// Whether texts may share a run.
    pub(super) batches: bool,
    /// Requests that may wait.
    pub(super) queue: usize,
    /// Requests of one caller that may wait.
    pub(super) queue_per_caller: usize,
}

/// Counters since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EmbeddingStats {
    /// Requests that wait.
    pub waiting: usize,
    /// Requests whose vectors are complete.
    pub finished: u64,
    /// Texts that were run.
    pub texts: u64,
    /// Tokens of these.
    pub tokens: u64,
    /// Runs of the model.
    pub runs: u64,
}

#[derive(Debug)]
struct State {
    waiting: Turns<Job>,
    stats: EmbeddingStats,
    closed: bool,
}

/// The queue, shared by the thread and those who ask.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Signalled for each job that is added, and at the end.
    changed: Condvar,
    limits: Limits,
}

/// Jobs with the places of those of their texts that run now.
type Batch = Vec<(CallerId, Job, Vec<usize>)>;

impl Queue {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        let waiting = Turns::new(limits.queue, limits.queue_per_caller);
        let state = State { waiting, stats: EmbeddingStats::default(), closed: false };
        Arc::new(Self { state: Mutex::new(state), changed: Condvar::new(), limits })
    }

    /// Ignores poison: each change is one call, so no panic leaves half of one.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a job.
    ///
    /// # Errors
    /// If the queue or the caller's part of it is full, or the thread is stopping.
    pub(super) fn add(&self, caller: CallerId, job: Job) -> Result<(), SubmitError> {
        let mut state = self.lock();
        if state.closed {
            return Err(SubmitError::ShuttingDown);
        }
        let added = state.waiting.push(caller, job).or_else(|job| {
            // Jobs whose client has left make room.
            drop(state.waiting.remove_unless(Job::is_wanted));
            state.waiting.push(caller, job)
        });
        let limit = self.limits.queue;
        let (is_full, own) = (state.waiting.len() >= limit, state.waiting.len_of(caller));
        drop(state);
        self.changed.notify_one();
        added.map_err(|_| match is_full {
            true => SubmitError::Full { limit },
            false => SubmitError::CallerFull { limit: own },
        })
    }

    pub(super) fn stats(&self) -> EmbeddingStats {
        let state = self.lock();
        EmbeddingStats { waiting: state.waiting.len(), ..state.stats }
    }

    /// Refuses further jobs and ends those that wait.
    pub(super) fn close(&self) {
        let waiting = {
            let mut state = self.lock();
            state.closed = true;
            state.waiting.remove_unless(|_| false)
        };
        self.changed.notify_all();
        waiting.into_iter().for_each(|job| job.finish(Err(JobError::ShuttingDown.into())));
    }

    /// Runs jobs until the queue is closed: the thread's work.
    pub(super) fn work(&self, model: &mut dyn Runs) {
        while let Some(batch) = self.next() {
            self.run_batch(model, batch);
        }
    }

    fn run_batch(&self, model: &mut dyn Runs, batch: Batch) {
        let mut texts: Vec<&[u32]> = Vec::new();
        for (_, job, places) in &batch {
            texts.extend(places.iter().map(|&place| job.texts[place].as_slice()));
        }
        let tokens: usize = texts.iter().map(|text| text.len()).sum();
        let (count, ran) = (texts.len(), run(model, &texts));
        drop(texts);
        self.deliver(batch, ran, count as u64, tokens as u64);
    }

    /// As [`Self::next`], `None` if nothing waits.
    #[cfg(test)]
    fn next_now(&self) -> Option<Batch> {
        Some(self.take(&mut self.lock().waiting)).filter(|batch| !batch.is_empty())
    }

    /// The next run's texts, once there are any; `None` at the end.
    fn next(&self) -> Option<Batch> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            let batch = self.take(&mut state.waiting);
            if !batch.is_empty() {
                return Some(batch);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes texts for a run out of `waiting`: of the next job, and of those after it while they fit.
    fn take(&self, waiting: &mut Turns<Job>) -> Batch {
        let mut batch: Batch = Vec::new();
        let (mut width, mut count) = (0, 0);
        loop {
            let fits = |length: usize, width: usize, count: usize| {
                // A much shorter text would be mostly padding.
                count == 0
                    || self.limits.batches
                        && length <= width
                        && length.saturating_mul(2) >= width
                        && (count + 1) * width <= self.limits.run_tokens
            };
            let next = waiting.peek().map(|job| (job.is_wanted(), job.next_length()));
            match next {
                None => return batch,
                Some((true, Some(length))) if !fits(length, width, count) => return batch,
                Some(_) => {}
            }
            let Some((caller, mut job)) = waiting.take() else { return batch };
            if !job.is_wanted() {
                continue;
            }
            let mut places = Vec::new();
            while let Some(length) = job.next_length().filter(|&n| fits(n, width, count)) {
                places.extend(job.left.pop());
                width = width.max(length);
                count += 1;
            }
            let is_whole = job.left.is_empty();
            batch.push((caller, job, places));
            if !is_whole {
                return batch;
            }
        }
    }

    /// Hands the vectors of a run to its jobs; those with more texts wait for another turn.
    fn deliver(&self, batch: Batch, ran: Result<Vectors, GenerateError>, texts: u64, tokens: u64) {
        let mut vectors = match ran {
            Ok(vectors) => vectors.into_iter(),
            Err(error) => {
                batch.into_iter().for_each(|(_, job, _)| job.finish(Err(error.clone())));
                return;
            }
        };
        let mut state = self.lock();
        state.stats.texts += texts;
        state.stats.tokens += tokens;
        state.stats.runs += 1;
        let mut whole = Vec::new();
        for (caller, mut job, places) in batch {
            for (place, vector) in places.into_iter().zip(vectors.by_ref()) {
                job.vectors[place] = vector;
            }
            if job.left.is_empty() {
                state.stats.finished += 1;
                whole.push(job);
            } else if state.closed {
                job.finish(Err(JobError::ShuttingDown.into()));
            } else if job.is_wanted() {
                state.waiting.put_back(caller, job);
            }
        }
        drop(state);
        whole.into_iter().for_each(|job| job.finish(Ok(())));
    }
}

/// The vectors of `texts`.
fn run(model: &mut dyn Runs, texts: &[&[u32]]) -> Result<Vectors, GenerateError> {
    let failed = |reason: String| {
        log::error!("an embedding failed: {reason}");
        GenerateError::Job(JobError::Model(reason))
    };
    match catch_unwind(AssertUnwindSafe(|| model.run(texts))) {
        Ok(Ok(vectors)) if vectors.len() == texts.len() => Ok(vectors),
        Ok(Ok(vectors)) => Err(failed(format!(
            "the model gave {} vectors for {} texts",
            vectors.len(),
            texts.len()
        ))),
        Ok(Err(RunError::Interrupted)) => Err(JobError::ShuttingDown.into()),
        Ok(Err(RunError::Runtime(reason))) => Err(failed(reason)),
        Err(_) => Err(failed("it panicked".to_owned())),
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
