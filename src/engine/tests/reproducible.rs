//! Answers that are the same each time, over a runner whose logits show how wide each step was.

use super::*;
use phi4d_model::ModelLimits;

/// An engine whose every step shows in the answers, with two rotary tables if there is a `switch`.
fn shown(options: Options, switch: Option<usize>) -> Engine {
    let limits = ModelLimits { rotary_switch: switch, ..FakeRunner::small_limits(SLOTS + 2) };
    let (runner, control) = FakeRunner::new(limits);
    control.widths_show.store(true, Ordering::Release);
    start(Box::new(runner), control, options).unwrap()
}

fn reproducible() -> Options {
    Options { reproducible: true, ..options() }
}

/// What the job gives on an engine of its own.
fn cold(prompt: &[u32], max_tokens: usize, switch: Option<usize>) -> Vec<u32> {
    let engine = shown(reproducible(), switch);
    let (job, mut events) = job(prompt, max_tokens, 64);
    engine.handle().submit(job).unwrap();
    let tokens = wait(&mut events).0;
    engine.stop().unwrap();
    tokens
}

fn prompt(length: usize, first: u32) -> Vec<u32> {
    (0..).map(|i| (i * 7 + first) % 40).take(length).collect()
}

#[test]
fn a_cached_prompt_is_reused_in_whole_chunks_and_gives_the_same() {
    let engine = shown(reproducible(), None);
    let ask = |length| {
        let (job, mut events) = job(&prompt(length, 3), 6, 64);
        engine.handle().submit(job).unwrap();
        let Some(Event::Started { cached_tokens }) = events.blocking_recv() else {
            panic!("the job did not start")
        };
        (cached_tokens, wait(&mut events).0)
    };
    // Chunks are of 4 tokens, and fewer than 8 are not worth a row's moving.
    for (length, cached) in [(22, 0), (22, 20), (25, 20), (25, 24), (24, 20), (9, 8)] {
        assert_eq!(ask(length), (cached, cold(&prompt(length, 3), 6, None)), "{length}");
    }
    engine.stop().unwrap();
}

#[test]
fn the_runner_of_these_tests_shows_what_the_setting_is_for() {
    // The second request reuses 21 tokens of 22, so its last step is narrower than the first one's.
    let engine = shown(Options { draft_tokens: 0, ..options() }, None);
    let mut answers = Vec::new();
    for _ in 0..2 {
        let (job, mut events) = job(&prompt(22, 3), 6, 64);
        engine.handle().submit(job).unwrap();
        answers.push(wait(&mut events).0);
    }
    assert_ne!(answers[0], answers[1]);
    engine.stop().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn answers_are_those_of_an_idle_engine(
        jobs in prop::collection::vec((1usize..40, 0u32..2, 1usize..24), 1..10),
        budget in 80usize..400,
        switches in any::<bool>(),
    ) {
        let switch = switches.then_some(20);
        let kv_cache_bytes = budget * FakeRunner::small_limits(1).kv_bytes_per_token;
        let engine = shown(Options { kv_cache_bytes, ..reproducible() }, switch);
        // Twice: the second time much is cached.
        for _ in 0..2 {
            let submitted: Vec<_> = jobs
                .iter()
                .map(|&(length, first, count)| {
                    let (job, events) = job(&prompt(length, first), count, 64);
                    engine.handle().submit(job).unwrap();
                    events
                })
                .collect();
            for (&(length, first, count), mut events) in jobs.iter().zip(submitted) {
                let expected = cold(&prompt(length, first), count, switch);
                prop_assert_eq!(wait(&mut events).0, expected);
            }
        }
        engine.stop().unwrap();
    }
}
