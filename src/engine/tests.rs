//! The whole engine over the fake runner.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tokio::sync::mpsc;

mod door;
mod masks;
mod pacing;
mod paged;
mod progress;
mod reproducible;
mod rotary;
mod scheduling;

use super::*;
use phi4d_model::KvTooSmall;
use phi4d_model::fake::{FakeControl, FakeRunner};

/// Sequences that run at once; the fake has two slots more, for prefixes.
const SLOTS: usize = 3;

fn options() -> Options {
    Options { max_running: SLOTS, queue: 64, queue_per_caller: 64, ..Options::default() }
}

fn engine_with(options: Options) -> (Engine, Arc<FakeControl>) {
    engine_over(FakeRunner::small_limits(SLOTS + 2), options)
}

fn engine_over(limits: ModelLimits, options: Options) -> (Engine, Arc<FakeControl>) {
    let (runner, control) = FakeRunner::new(limits);
    (start(Box::new(runner), Arc::clone(&control) as _, options).unwrap(), control)
}

fn engine() -> (Engine, Arc<FakeControl>) {
    engine_with(options())
}

fn job(prompt: &[u32], max_tokens: usize, room: usize) -> (Job, mpsc::Receiver<Event>) {
    let (events, receiver) = mpsc::channel(room);
    let job = Job {
        caller: CallerId::default(),
        priority: 0,
        has_waited: false,
        cache_scope: 0,
        prompt: prompt.to_vec(),
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        mask: None,
        prompt_logprobs: None,
        progress: false,
        max_tokens,
        stop_tokens: TokenSet::default(),
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
    let mut done = None;
    while let Some(event) = receiver.blocking_recv() {
        match event {
            Event::Started { .. } | Event::Prompt(_) | Event::Stop(_) => {}
            Event::Prefill { processed_tokens } => {
                assert!(
                    tokens.is_empty() && done < Some(processed_tokens),
                    "{processed_tokens} after {done:?}"
                );
                done = Some(processed_tokens);
            }
            Event::Token(token) => tokens.push(token.id),
            Event::Finished(reason) => return (tokens, Some(Ok(reason))),
            Event::Failed(error) => return (tokens, Some(Err(error))),
        }
    }
    (tokens, None)
}

/// What greedy decoding must give, computed without an engine.
fn expected(prompt: &[u32], max_tokens: usize) -> Vec<u32> {
    expected_with(prompt, max_tokens, None)
}

/// The same for a model with two rotary tables, if there is a `switch`.
fn expected_with(prompt: &[u32], max_tokens: usize, switch: Option<usize>) -> Vec<u32> {
    let limits = FakeRunner::small_limits(SLOTS);
    let mut tokens = prompt.to_vec();
    while tokens.len() < (prompt.len() + max_tokens).min(limits.context_tokens) {
        let long = switch.is_some_and(|switch| tokens.len() > switch);
        let next = if long { FakeRunner::next_token_by_long } else { FakeRunner::next_token };
        tokens.push(next(&tokens, limits.vocab_size));
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
    // 10 prompt tokens in chunks of 4, then 6 tokens after the first, except accepted draft tokens.
    assert_eq!(stats.steps, 3 + 6 - stats.accepted_draft_tokens);
    engine.stop().unwrap();
}

#[test]
fn a_stop_token_ends_the_job_and_is_not_reported_as_a_token() {
    let (engine, _) = engine();
    let whole = expected(&[9, 8], 10);
    let (mut job, mut events) = job(&[9, 8], 10, 64);
    job.stop_tokens = [whole[4]].into();
    engine.handle().submit(job).unwrap();
    let before: Vec<u32> = whole.iter().copied().take_while(|&t| t != whole[4]).collect();
    assert_eq!(wait(&mut events), (before, Some(Ok(FinishReason::StopToken(whole[4])))));
    engine.stop().unwrap();
}

#[test]
fn a_stop_token_has_its_log_probabilities_if_they_are_asked_for() {
    let (engine, _) = engine();
    let whole = expected(&[9, 8], 10);
    let (mut job, mut events) = job(&[9, 8], 10, 64);
    job.stop_tokens = [whole[4]].into();
    job.sampling.top_logprobs = Some(1);
    engine.handle().submit(job).unwrap();
    let mut last = None;
    while let Some(event) = events.blocking_recv() {
        if let Event::Finished(reason) = event {
            assert_eq!(reason, FinishReason::StopToken(whole[4]));
            break;
        }
        last = Some(event);
    }
    let Some(Event::Stop(Token { id, logprobs: Some(logprobs) })) = last else {
        panic!("{last:?} is before the end")
    };
    // Greedy decoding chose the likeliest token.
    assert_eq!((id, logprobs.top.first()), (whole[4], Some(&(id, logprobs.chosen))));
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

/// Submits jobs till one is refused; returns why, and the receivers of those that were not.
fn fill(
    handle: &Handle,
    control: &FakeControl,
) -> (Option<SubmitError>, Vec<mpsc::Receiver<Event>>) {
    control.step_us.store(20_000, Ordering::Release);
    let mut receivers = Vec::new();
    let refused = (0..SLOTS + 40).find_map(|_| {
        let (job, receiver) = job(&[1], 3, 64);
        let refused = handle.submit(job).err();
        if refused.is_none() {
            receivers.push(receiver);
        }
        refused
    });
    (refused, receivers)
}

#[test]
fn the_queue_is_bounded_and_says_so() {
    let (engine, control) = engine_with(Options { queue: 1, ..options() });
    let handle = engine.handle();
    let (refused, mut receivers) = fill(&handle, &control);
    assert_eq!(refused, Some(SubmitError::Full { limit: 1 }));
    // Nothing that was accepted is lost.
    for receiver in &mut receivers {
        assert_eq!(wait(receiver).0, expected(&[1], 3));
    }
    assert_settled(&settle(&handle));
    engine.stop().unwrap();
}

#[test]
fn a_slow_reader_is_paused_and_loses_nothing() {
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
fn a_reader_that_never_reads_is_cancelled_with_an_error() {
    let (engine, _) =
        engine_with(Options { slow_client_timeout: Duration::from_millis(20), ..options() });
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
    let failed = Some(Err(JobError::Model("asked to fail".into())));
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

#[test]
fn a_caller_over_its_share_is_refused_and_others_are_not() {
    let (engine, control) = engine_with(Options { queue_per_caller: 1, ..options() });
    let handle = engine.handle();
    let (refused, _receivers) = fill(&handle, &control);
    assert_eq!(refused, Some(SubmitError::CallerFull { limit: 1 }));
    let (mut other, mut events) = job(&[2], 3, 64);
    other.caller = CallerId(9);
    handle.submit(other).unwrap();
    assert_eq!(wait(&mut events).0, expected(&[2], 3));
    engine.stop().unwrap();
}

/// Runs a job alone and returns its tokens and how many of its prompt were cached.
fn run(handle: &Handle, job: Job, receiver: &mut mpsc::Receiver<Event>) -> (Vec<u32>, usize) {
    handle.submit(job).unwrap();
    let Some(Event::Started { cached_tokens }) = receiver.blocking_recv() else {
        panic!("a job begins with Started");
    };
    (wait(receiver).0, cached_tokens)
}

#[test]
fn the_next_message_reads_only_what_is_new() {
    let (engine, _) = engine();
    let handle = engine.handle();
    let first: Vec<u32> = (0..20).collect();
    let (job_1, mut events) = job(&first, 5, 64);
    let (answer, cached) = run(&handle, job_1, &mut events);
    assert_eq!(cached, 0);
    let next: Vec<u32> = first.iter().chain(&answer).copied().chain(30..36).collect();
    let (job_2, mut events) = job(&next, 5, 64);
    let (tokens, cached) = run(&handle, job_2, &mut events);
    assert_eq!(tokens, expected(&next, 5));
    // All but the answer's last token, which the model had not read.
    assert_eq!(cached, first.len() + answer.len() - 1);
    let (mut foreign, mut events) = job(&next, 5, 64);
    foreign.cache_scope = 1;
    assert_eq!(run(&handle, foreign, &mut events), (expected(&next, 5), 0));
    engine.stop().unwrap();
}

#[test]
fn without_memory_for_all_the_last_to_come_waits_and_loses_nothing() {
    // Two blocks of four tokens less than two whole rows.
    let kv_cache_bytes = (64 * 2 - 8) * 8;
    let (engine, control) = engine_with(Options { kv_cache_bytes, ..options() });
    control.step_us.store(100, Ordering::Release);
    let handle = engine.handle();
    let mut open: Vec<_> = (0..6)
        .map(|i| {
            let (job, receiver) = job(&[i, 3, 4], 1000, 64);
            handle.submit(job).unwrap();
            (i, receiver)
        })
        .collect();
    for (i, receiver) in &mut open {
        let answer = (expected(&[*i, 3, 4], 1000), Some(Ok(FinishReason::Length)));
        assert_eq!(wait(receiver), answer);
    }
    let stats = settle(&handle);
    assert_settled(&stats);
    assert!(stats.preempted > 0 && stats.kv_tokens <= stats.kv_budget_tokens, "{stats:?}");
    engine.stop().unwrap();
}

#[test]
fn seeded_requests_skip_speculative_decoding() {
    let (engine, control) = engine();
    control.repeat.store(true, Ordering::Release);
    let (mut job, mut events) = job(&[5, 6, 7, 5, 6], 50, 64);
    job.sampling = Sampling { seed: Some(3), ..Sampling::default() };
    run(&engine.handle(), job, &mut events);
    assert_eq!(settle(&engine.handle()).draft_tokens, 0);
    engine.stop().unwrap();
}

#[test]
fn a_prompt_that_can_never_run_is_refused_at_the_door() {
    let (engine, _) = engine();
    for length in [0, 64, 65] {
        let refused = engine.handle().submit(job(&vec![1; length], 5, 64).0);
        let expected = SubmitError::PromptLength { prompt_tokens: length, context_tokens: 64 };
        assert_eq!(refused, Err(expected));
    }
    assert_eq!(engine.handle().stats().accepted, 0);
    engine.stop().unwrap();
}

#[test]
fn too_little_memory_is_refused_at_the_start() {
    let (runner, control) = FakeRunner::new(FakeRunner::small_limits(2));
    let options = Options { kv_cache_bytes: 7 * 8, ..options() };
    let error = start(Box::new(runner), control, options).unwrap_err();
    assert!(matches!(error, StartError::Memory(KvTooSmall { tokens: 7, least: 8, .. })), "{error}");
}

#[test]
fn speculative_decoding_changes_the_steps_and_not_the_tokens() {
    // With sampling, too: each position is drawn as in plain decoding.
    for temperature in [0.0, 0.7] {
        let mut answers = Vec::new();
        for draft_tokens in [0, 3] {
            let (engine, control) =
                engine_with(Options { draft_tokens, fallback_seed: Some(3), ..options() });
            // The fake's logits are nearly uniform noise; only a bias makes its text repeat.
            control.repeat.store(true, Ordering::Release);
            let (mut job, mut events) = job(&[5, 6, 7, 5, 6], 50, 64);
            job.sampling = Sampling { temperature, ..Sampling::default() };
            let (tokens, _) = run(&engine.handle(), job, &mut events);
            let stats = settle(&engine.handle());
            assert_eq!(stats.draft_tokens == 0, draft_tokens == 0);
            answers.push((tokens, stats));
            engine.stop().unwrap();
        }
        assert_eq!(answers[0].0, answers[1].0);
        let (plain, drafted) = (&answers[0].1, &answers[1].1);
        assert_eq!(drafted.steps, plain.steps - drafted.accepted_draft_tokens);
        assert!(drafted.accepted_draft_tokens > 0);
        assert_eq!(drafted.generated_tokens, plain.generated_tokens);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// Joins, leaves and different lengths at once: every answer equals the one computed alone.
    #[test]
    fn jobs_do_not_disturb_each_other(
        shapes in prop::collection::vec(
            (prop::collection::vec(0u32..2, 1..30), 1usize..30, prop::option::of(0usize..10)),
            1..25,
        ),
        draft_tokens in 0usize..4,
        rows_in_memory in 1usize..5,
        mixed_steps in any::<bool>(),
        switches in any::<bool>(),
    ) {
        let kv_cache_bytes = 64 * 8 * rows_in_memory;
        let rotary_switch = switches.then_some(20);
        let limits =
            ModelLimits { mixed_steps, rotary_switch, ..FakeRunner::small_limits(SLOTS + 2) };
        let options = Options { draft_tokens, kv_cache_bytes, ..options() };
        let (engine, _) = engine_over(limits, options);
        let handle = engine.handle();
        let mut open = Vec::new();
        for (prompt, max_tokens, leave_after) in &shapes {
            let (mut job, receiver) = job(prompt, *max_tokens, 64);
            job.progress = true;
            handle.submit(job).unwrap();
            open.push((receiver, prompt, *max_tokens, *leave_after));
        }
        for (mut receiver, prompt, max_tokens, leave_after) in open {
            let whole = expected_with(prompt, max_tokens, rotary_switch);
            let Some(leave_after) = leave_after else {
                prop_assert_eq!(wait(&mut receiver), (whole, Some(Ok(FinishReason::Length))));
                continue;
            };
            let mut seen = Vec::new();
            while seen.len() < leave_after {
                match receiver.blocking_recv() {
                    Some(Event::Token(token)) => seen.push(token.id),
                    Some(Event::Started { .. } | Event::Prefill { .. }) => {}
                    _ => break,
                }
            }
            prop_assert!(whole.starts_with(&seen));
        }
        assert_settled(&settle(&handle));
        engine.stop().unwrap();
    }
}
