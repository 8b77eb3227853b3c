//! Which sequences wait for which, over the fake runner.

use super::*;

#[test]
fn equal_prompts_sent_together_are_read_once() {
    let (engine, control) = engine();
    control.step_us.store(500, Ordering::Release);
    let handle = engine.handle();
    let prompt: Vec<u32> = (0..40).collect();
    let mut receivers: Vec<_> = (0..3)
        .map(|caller| {
            let (mut job, events) = job(&prompt, 3, 64);
            job.caller = CallerId(caller);
            handle.submit(job).unwrap();
            events
        })
        .collect();
    let cached = receivers.started();
    // All but the last token, whose logits are needed.
    assert_eq!(cached, [0, 39, 39]);
    for receiver in &mut receivers {
        assert_eq!(wait(receiver).0, expected(&prompt, 3));
    }
    let stats = settle(&handle);
    assert_eq!((stats.prompt_tokens, stats.cached_prompt_tokens), (42, 78));
    engine.stop().unwrap();
}

#[test]
fn a_prompt_that_begins_like_one_being_read_waits_for_the_common_part_only() {
    let (engine, control) = engine();
    control.step_us.store(500, Ordering::Release);
    let handle = engine.handle();
    let common: Vec<u32> = (0..20).collect();
    let with = |last: u32, count: usize| -> Vec<u32> {
        common.iter().copied().chain(std::iter::repeat_n(last, count)).collect()
    };
    let (first, second) = (with(30, 25), with(31, 3));
    let mut receivers = Vec::new();
    for prompt in [&first, &second] {
        let (job, events) = job(prompt, 3, 64);
        handle.submit(job).unwrap();
        receivers.push(events);
    }
    let cached = receivers.started();
    // Whichever was read first, the other took at least what is common from it.
    assert_eq!(cached.iter().sum::<usize>(), 20, "{cached:?}");
    assert_eq!(wait(&mut receivers[0]).0, expected(&first, 3));
    assert_eq!(wait(&mut receivers[1]).0, expected(&second, 3));
    engine.stop().unwrap();
}

/// The cached tokens that each job started with.
trait Starts {
    fn started(&mut self) -> Vec<usize>;
}

impl Starts for Vec<mpsc::Receiver<Event>> {
    fn started(&mut self) -> Vec<usize> {
        let started = |receiver: &mut mpsc::Receiver<Event>| match receiver.blocking_recv() {
            Some(Event::Started { cached_tokens }) => cached_tokens,
            other => panic!("a job begins with Started, not {other:?}"),
        };
        self.iter_mut().map(started).collect()
    }
}

#[test]
fn the_lower_priority_is_preempted_although_it_came_first() {
    // A little more than one slot's tokens.
    let kv_cache_bytes = 72 * 8;
    let (engine, control) = engine_with(Options { kv_cache_bytes, ..options() });
    control.step_us.store(500, Ordering::Release);
    let handle = engine.handle();
    let (low, mut low_events) = job(&[1, 3, 4], 1000, 64);
    let (mut high, mut high_events) = job(&[2, 3, 4], 1000, 64);
    high.priority = 1;
    handle.submit(low).unwrap();
    assert!(low_events.blocking_recv().is_some());
    handle.submit(high).unwrap();
    assert_eq!(wait(&mut high_events).0, expected(&[2, 3, 4], 1000));
    let stats = handle.stats();
    assert_eq!((stats.finished, stats.preempted > 0), (1, true), "{stats:?}");
    assert_eq!(wait(&mut low_events).0, expected(&[1, 3, 4], 1000));
    let stats = settle(&handle);
    // What a preempted sequence continues from is no cached prompt.
    assert_eq!(stats.cached_prompt_tokens, 0);
    engine.stop().unwrap();
}

/// Prompts of as many long jobs as there are slots or memory for, and more that wait.
fn greedy_prompts(length: usize) -> Vec<Vec<u32>> {
    (0..9).map(|number| vec![number; length]).collect()
}

/// The jobs of one caller with the highest priority, of which `running` have begun. They stay: nobody reads their
/// events yet.
fn greedy(handle: &Handle, prompts: &[Vec<u32>], running: usize) -> Vec<mpsc::Receiver<Event>> {
    let jobs = prompts.iter().map(|prompt| {
        let (mut job, events) = job(prompt, 1000, 8);
        (job.caller, job.priority) = (CallerId(1), i32::MAX);
        handle.submit(job).unwrap();
        events
    });
    let mut all: Vec<_> = jobs.collect();
    for events in &mut all[..running] {
        assert!(events.blocking_recv().is_some());
    }
    all
}

#[test]
fn a_caller_without_a_slot_waits_for_nobody_who_has_several() {
    let (engine, _) = engine();
    let handle = engine.handle();
    let prompts = greedy_prompts(3);
    let mut others = greedy(&handle, &prompts, SLOTS);
    for number in 0..4 {
        let prompt = [7, number];
        let (mut job, mut events) = job(&prompt, 3, 64);
        job.caller = CallerId(2);
        handle.submit(job).unwrap();
        assert_eq!(wait(&mut events).0, expected(&prompt, 3));
    }
    // None of those that came first had ended.
    let stats = handle.stats();
    assert!(stats.finished == 4 && stats.preempted > 0, "{stats:?}");
    for (prompt, events) in prompts.iter().zip(&mut others) {
        assert_eq!(wait(events).0, expected(prompt, 1000));
    }
    assert_settled(&settle(&handle));
    engine.stop().unwrap();
}

#[test]
fn memory_is_given_up_by_those_who_have_several_slots_whatever_their_priority() {
    // For two such prompts and a little.
    let prompts = greedy_prompts(40);
    let kv_cache_bytes = 140 * 8;
    let (engine, _) = engine_with(Options { kv_cache_bytes, ..options() });
    let handle = engine.handle();
    let mut others = greedy(&handle, &prompts, 2);
    let prompt = [20; 40];
    let (mut job, mut events) = job(&prompt, 20, 64);
    job.caller = CallerId(2);
    handle.submit(job).unwrap();
    assert_eq!(wait(&mut events).0, expected(&prompt, 20));
    let stats = handle.stats();
    assert!(stats.finished == 1 && stats.preempted > 0, "{stats:?}");
    for (prompt, events) in prompts.iter().zip(&mut others) {
        assert_eq!(wait(events).0, expected(prompt, 1000));
    }
    assert_settled(&settle(&handle));
    engine.stop().unwrap();
}

#[test]
fn a_job_that_does_not_fit_is_passed_over_by_one_that_does() {
    let kv_cache_bytes = 72 * 8;
    let (engine, control) = engine_with(Options { kv_cache_bytes, ..options() });
    control.step_us.store(500, Ordering::Release);
    let handle = engine.handle();
    let (first, mut first_events) = job(&[1; 20], 30, 64);
    let (large, mut large_events) = job(&[2; 50], 5, 64);
    let (small, mut small_events) = job(&[3; 2], 3, 64);
    handle.submit(first).unwrap();
    assert!(first_events.blocking_recv().is_some());
    handle.submit(large).unwrap();
    handle.submit(small).unwrap();
    assert_eq!(wait(&mut small_events).0, expected(&[3; 2], 3));
    assert_eq!(handle.stats().finished, 1);
    assert_eq!(wait(&mut first_events).0, expected(&[1; 20], 30));
    assert_eq!(wait(&mut large_events).0, expected(&[2; 50], 5));
    engine.stop().unwrap();
}

#[test]
fn a_stop_token_in_a_draft_s_place_is_no_accepted_token() {
    // The text repeats one token until a ban makes the model choose another, which is a stop token.
    let run_with = |draft_tokens| {
        let (engine, control) =
            engine_with(Options { draft_tokens, fallback_seed: Some(3), ..options() });
        control.repeat.store(true, Ordering::Release);
        let (mut job, mut events) = job(&[7, 7, 7, 7], 40, 64);
        job.sampling.bad_words = [vec![7; 8]].into();
        job.stop_tokens = (0..50).filter(|&token| token != 7).collect();
        let (tokens, _) = run(&engine.handle(), job, &mut events);
        assert_eq!(tokens, [7; 7]);
        let stats = settle(&engine.handle());
        engine.stop().unwrap();
        stats
    };
    let (plain, drafted) = (run_with(0), run_with(3));
    assert!(drafted.accepted_draft_tokens > 0);
    assert_eq!(drafted.steps, plain.steps - drafted.accepted_draft_tokens);
}

#[test]
fn seeded_requests_are_speculated_where_a_step_s_width_changes_nothing() {
    let limits = ModelLimits { width_invariant: true, ..FakeRunner::small_limits(SLOTS + 2) };
    let options = Options { reproducible: true, batch_invariant: false, ..options() };
    let (engine, control) = engine_over(limits, options);
    control.repeat.store(true, Ordering::Release);
    let (mut job, mut events) = job(&[5, 6, 7, 5, 6], 50, 64);
    job.sampling = Sampling { seed: Some(3), ..Sampling::default() };
    run(&engine.handle(), job, &mut events);
    assert!(settle(&engine.handle()).draft_tokens > 0);
    engine.stop().unwrap();
}

#[test]
fn a_runner_that_mixes_reads_a_prompt_while_others_decode_in_the_same_steps() {
    let limits = ModelLimits { mixed_steps: true, ..FakeRunner::small_limits(SLOTS + 2) };
    let (engine, control) = engine_over(limits, options());
    control.step_us.store(500, Ordering::Release);
    let handle = engine.handle();
    let (first, mut first_events) = job(&[1, 2], 50, 64);
    handle.submit(first).unwrap();
    let Some(Event::Started { .. }) = first_events.blocking_recv() else { panic!("no start") };
    let prompts = [vec![3; 30], vec![4; 30]];
    let mut others = Vec::new();
    for prompt in &prompts {
        let (job, events) = job(prompt, 10, 64);
        handle.submit(job).unwrap();
        others.push(events);
    }
    assert_eq!(wait(&mut first_events).0, expected(&[1, 2], 50));
    for (prompt, events) in prompts.iter().zip(&mut others) {
        assert_eq!(wait(events).0, expected(prompt, 10));
    }
    // One step for each token of the first and its prompt: the others' work was part of these, but for
    // what was left when it ended.
    let stats = settle(&handle);
    assert!(stats.steps <= 50 + 12, "{} steps", stats.steps);
    engine.stop().unwrap();
}
