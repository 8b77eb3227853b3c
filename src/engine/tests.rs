//! The whole engine over the fake runner.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tokio::sync::mpsc;

use super::*;
use crate::model::fake::{FakeControl, FakeRunner};

const SLOTS: usize = 3;

fn engine_with(queue: usize, slow_client_timeout: Duration) -> (Engine, Arc<FakeControl>) {
    let (runner, control) = FakeRunner::new(FakeRunner::small_limits(SLOTS));
    let options = Options { queue, slow_client_timeout };
    (start(Box::new(runner), Arc::clone(&control) as _, options).unwrap(), control)
}

fn engine() -> (Engine, Arc<FakeControl>) {
    engine_with(64, Duration::from_secs(60))
}

fn job(prompt: &[u32], max_tokens: usize, room: usize) -> (Job, mpsc::Receiver<Event>) {
    let (events, receiver) = mpsc::channel(room);
    let job = Job {
        caller: CallerId::default(),
        prompt: prompt.to_vec(),
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        max_tokens,
        stop_tokens: Vec::new(),
        deadline: None,
        events,
    };
    (job, receiver)
}

/// All events of a job, up to its end.
fn wait(
    receiver: &mut mpsc::Receiver<Event>,
) -> (Vec<u32>, Option<Result<FinishReason, JobError>>) {
    let mut tokens = Vec::new();
    while let Some(event) = receiver.blocking_recv() {
        match event {
            Event::Started { .. } => {}
            Event::Token(token) => tokens.push(token.id),
            Event::Finished(reason) => return (tokens, Some(Ok(reason))),
            Event::Failed(error) => return (tokens, Some(Err(error))),
        }
    }
    (tokens, None)
}

/// What greedy decoding must give, computed without an engine.
fn expected(prompt: &[u32], max_tokens: usize) -> Vec<u32> {
    let limits = FakeRunner::small_limits(SLOTS);
    let mut tokens = prompt.to_vec();
    while tokens.len() < (prompt.len() + max_tokens).min(limits.context_tokens) {
        tokens.push(FakeRunner::next_token(&tokens, limits.vocab_size));
    }
    tokens.split_off(prompt.len())
}

fn assert_settled(stats: &Stats) {
    assert_eq!((stats.running, stats.waiting), (0, 0));
    assert_eq!(stats.accepted, stats.finished + stats.cancelled + stats.failed);
}

/// Waits until nothing runs or waits; a bounded wait, so that a fault fails the test.
fn settle(handle: &Handle) -> Stats {
    let limit = Instant::now() + Duration::from_secs(10);
    loop {
        let stats = handle.stats();
        if stats.running == 0 && stats.waiting == 0 {
            return stats;
        }
        assert!(Instant::now() < limit, "the engine did not settle: {stats:?}");
        std::thread::yield_now();
    }
}

#[test]
fn a_job_gives_its_tokens_and_its_end() {
    let (engine, _) = engine();
    let prompt: Vec<u32> = (1..11).collect();
    let (job, mut events) = job(&prompt, 7, 64);
    engine.handle().submit(job).unwrap();
    assert_eq!(events.blocking_recv(), Some(Event::Started { cached_tokens: 0 }));
    let (tokens, end) = wait(&mut events);
    assert_eq!(tokens, expected(&prompt, 7));
    assert_eq!(end, Some(Ok(FinishReason::Length)));
    let stats = settle(&engine.handle());
    assert_settled(&stats);
    assert_eq!((stats.finished, stats.prompt_tokens, stats.generated_tokens), (1, 10, 7));
    // 10 prompt tokens in chunks of 4, then 6 decodes after the first token.
    assert_eq!(stats.steps, 3 + 6);
    engine.stop().unwrap();
}

#[test]
fn a_stop_token_ends_the_job_and_is_not_reported_as_a_token() {
    let (engine, _) = engine();
    let whole = expected(&[9, 8], 10);
    let (mut job, mut events) = job(&[9, 8], 10, 64);
    job.stop_tokens = vec![whole[4]];
    engine.handle().submit(job).unwrap();
    let before: Vec<u32> = whole.iter().copied().take_while(|&t| t != whole[4]).collect();
    assert_eq!(wait(&mut events), (before, Some(Ok(FinishReason::StopToken(whole[4])))));
    engine.stop().unwrap();
}

#[test]
fn a_full_context_ends_the_job() {
    let (engine, _) = engine();
    let (job, mut events) = job(&[1; 60], 1000, 64);
    engine.handle().submit(job).unwrap();
    let (tokens, end) = wait(&mut events);
    assert_eq!((tokens.len(), end), (4, Some(Ok(FinishReason::Length))));
    engine.stop().unwrap();
}

#[test]
fn dropping_the_receiver_cancels_a_running_and_a_waiting_job() {
    let (engine, control) = engine();
    control.step_us.store(200, Ordering::Release);
    let handle = engine.handle();
    let mut receivers: Vec<_> = (0..5)
        .map(|i| {
            let (job, receiver) = job(&[i], 60, 64);
            handle.submit(job).unwrap();
            receiver
        })
        .collect();
    // The first runs for certain; of five, two wait for one of the three slots.
    assert!(receivers[0].blocking_recv().is_some());
    drop(receivers);
    let stats = settle(&handle);
    assert_settled(&stats);
    assert_eq!(stats.cancelled, 5);
    engine.stop().unwrap();
}

#[test]
fn the_queue_is_bounded_and_says_so() {
    let (engine, control) = engine_with(2, Duration::from_secs(60));
    control.step_us.store(20_000, Ordering::Release);
    let handle = engine.handle();
    let mut receivers = Vec::new();
    let refused = (0..SLOTS + 40).find_map(|_| {
        let (job, receiver) = job(&[1], 3, 64);
        receivers.push(receiver);
        handle.submit(job).err()
    });
    assert_eq!(refused, Some(SubmitError::Full { limit: 2 }));
    // Nothing that was accepted is lost.
    receivers.pop();
    for receiver in &mut receivers {
        assert_eq!(wait(receiver).0, expected(&[1], 3));
    }
    assert_settled(&settle(&handle));
    engine.stop().unwrap();
}

#[test]
fn a_slow_reader_is_parked_and_loses_nothing() {
    let (engine, _) = engine();
    let (slow, mut slow_events) = job(&[3], 20, 4);
    let (fast, mut fast_events) = job(&[4], 20, 64);
    let handle = engine.handle();
    handle.submit(slow).unwrap();
    handle.submit(fast).unwrap();
    assert_eq!(wait(&mut fast_events).0, expected(&[4], 20));
    assert_eq!(handle.stats().running, 1);
    assert_eq!(wait(&mut slow_events), (expected(&[3], 20), Some(Ok(FinishReason::Length))));
    engine.stop().unwrap();
}

#[test]
fn a_reader_that_never_reads_is_given_up_and_told() {
    let (engine, _) = engine_with(64, Duration::from_millis(20));
    let (job, mut events) = job(&[3], 20, 4);
    engine.handle().submit(job).unwrap();
    let stats = settle(&engine.handle());
    assert_settled(&stats);
    assert_eq!(stats.failed, 1);
    assert_eq!(wait(&mut events).1, Some(Err(JobError::SlowClient)));
    engine.stop().unwrap();
}

#[test]
fn a_deadline_fails_running_and_waiting_jobs() {
    let (engine, control) = engine();
    control.step_us.store(2000, Ordering::Release);
    let mut receivers: Vec<_> = (0..6)
        .map(|i| {
            let (mut job, receiver) = job(&[i], 60, 64);
            job.deadline = Some(Instant::now() + Duration::from_millis(30));
            engine.handle().submit(job).unwrap();
            receiver
        })
        .collect();
    for receiver in &mut receivers {
        assert_eq!(wait(receiver).1, Some(Err(JobError::DeadlineExceeded)));
    }
    assert_settled(&settle(&engine.handle()));
    engine.stop().unwrap();
}

#[test]
fn a_failed_step_fails_its_sequence_and_no_other() {
    let (engine, control) = engine();
    let handle = engine.handle();
    control.fail_next.store(true, Ordering::Release);
    let (first, mut first_events) = job(&[1], 5, 64);
    handle.submit(first).unwrap();
    let failed = Some(Err(JobError::Model("told to fail".into())));
    assert_eq!(wait(&mut first_events), (vec![], failed));
    let (second, mut second_events) = job(&[2], 5, 64);
    handle.submit(second).unwrap();
    assert_eq!(wait(&mut second_events).0, expected(&[2], 5));
    assert_settled(&settle(&handle));
    engine.stop().unwrap();
}

#[test]
fn a_panic_closes_every_job_and_the_engine_says_so() {
    let (engine, control) = engine();
    let handle = engine.handle();
    control.panic_next.store(true, Ordering::Release);
    let (first, mut events) = job(&[1], 5, 64);
    handle.submit(first).unwrap();
    assert_eq!(wait(&mut events), (vec![], None));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(handle.ended());
    assert_eq!(handle.submit(job(&[1], 5, 64).0), Err(SubmitError::Stopped));
    assert_eq!(engine.stop(), Err(Crashed));
    let stats = handle.stats();
    assert_settled(&stats);
    assert_eq!(stats.failed, 1);
}

#[test]
fn draining_refuses_new_jobs_and_finishes_the_others() {
    let (engine, _) = engine();
    let handle = engine.handle();
    let (first, mut events) = job(&[1, 2], 30, 64);
    handle.submit(first).unwrap();
    handle.drain();
    assert_eq!(handle.submit(job(&[1], 5, 64).0), Err(SubmitError::ShuttingDown));
    assert_eq!(wait(&mut events).0, expected(&[1, 2], 30));
    engine.stop().unwrap();
}

#[test]
fn stopping_cuts_the_running_step_and_fails_what_is_open() {
    let (engine, control) = engine();
    control.step_us.store(1000, Ordering::Release);
    let mut receivers: Vec<_> = (0..5)
        .map(|i| {
            let (job, receiver) = job(&[i], 60, 64);
            engine.handle().submit(job).unwrap();
            receiver
        })
        .collect();
    let handle = engine.handle();
    engine.stop().unwrap();
    for receiver in &mut receivers {
        assert_eq!(wait(receiver).1, Some(Err(JobError::ShuttingDown)));
    }
    assert_settled(&handle.stats());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// Joins, leaves and different lengths at once: every answer equals the one computed alone.
    #[test]
    fn jobs_do_not_disturb_each_other(
        shapes in prop::collection::vec(
            (prop::collection::vec(0u32..50, 1..30), 1usize..30, prop::option::of(0usize..10)),
            1..25,
        ),
    ) {
        let (engine, _) = engine();
        let handle = engine.handle();
        let mut open = Vec::new();
        for (prompt, max_tokens, leave_after) in &shapes {
            let (job, receiver) = job(prompt, *max_tokens, 64);
            handle.submit(job).unwrap();
            open.push((receiver, prompt, *max_tokens, *leave_after));
        }
        for (mut receiver, prompt, max_tokens, leave_after) in open {
            let whole = expected(prompt, max_tokens);
            let Some(leave_after) = leave_after else {
                prop_assert_eq!(wait(&mut receiver), (whole, Some(Ok(FinishReason::Length))));
                continue;
            };
            let mut seen = Vec::new();
            while seen.len() < leave_after {
                match receiver.blocking_recv() {
                    Some(Event::Token(token)) => seen.push(token.id),
                    Some(Event::Started { .. }) => {}
                    _ => break,
                }
            }
            prop_assert!(whole.starts_with(&seen));
        }
        assert_settled(&settle(&handle));
        engine.stop().unwrap();
    }
}
