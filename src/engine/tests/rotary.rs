//! Sequences that outgrow the short one of two rotary tables.

use super::*;
use phi4d_model::ModelLimits;

/// The most tokens that the short table is for.
const SWITCH: usize = 20;

fn switching(options: Options) -> (Engine, Arc<FakeControl>) {
    let limits = ModelLimits { rotary_switch: Some(SWITCH), ..FakeRunner::small_limits(SLOTS + 2) };
    let (runner, control) = FakeRunner::new(limits);
    (start(Box::new(runner), Arc::clone(&control) as _, options).unwrap(), control)
}

/// What greedy decoding must give: each token from all before it, by the table for so many.
fn expected(prompt: &[u32], max_tokens: usize) -> Vec<u32> {
    let limits = FakeRunner::small_limits(SLOTS);
    let mut tokens = prompt.to_vec();
    while tokens.len() < (prompt.len() + max_tokens).min(limits.context_tokens) {
        let next = if tokens.len() > SWITCH {
            FakeRunner::next_token_by_long(&tokens, limits.vocab_size)
        } else {
            FakeRunner::next_token(&tokens, limits.vocab_size)
        };
        tokens.push(next);
    }
    tokens.split_off(prompt.len())
}

fn prompt(length: usize) -> Vec<u32> {
    (0..).map(|i| (i * 7 + 3) % 40).take(length).collect()
}

#[test]
fn a_sequence_restarts_once_when_it_outgrows_its_table() {
    let (engine, _) = switching(Options { draft_tokens: 0, ..options() });
    let (job, mut events) = job(&prompt(15), 20, 64);
    engine.handle().submit(job).unwrap();
    assert_eq!(wait(&mut events).0, expected(&prompt(15), 20));
    let stats = settle(&engine.handle());
    assert_eq!(stats.prompt_tokens, (15 + SWITCH + 1) as u64);
    assert_eq!(stats.preempted, 0);
    engine.stop().unwrap();
}

#[test]
fn cached_tokens_are_shared_on_one_side_of_the_switch_only() {
    let (engine, _) = switching(options());
    let cached = |length: usize| {
        let (job, mut events) = job(&prompt(length), 1, 64);
        engine.handle().submit(job).unwrap();
        let Some(Event::Started { cached_tokens }) = events.blocking_recv() else {
            panic!("the job did not start")
        };
        assert_eq!(wait(&mut events).0, expected(&prompt(length), 1), "{length}");
        cached_tokens
    };
    assert_eq!(cached(18), 0);
    assert_eq!(cached(19), 18);
    // Of the same beginning, and past the switch.
    assert_eq!(cached(30), 0);
    assert_eq!(cached(40), 30);
    assert_eq!(cached(20), 19);
    engine.stop().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn sequences_on_both_sides_run_together_as_they_do_alone(
        jobs in prop::collection::vec((1usize..40, 1usize..40), 1..12),
        repeat in any::<bool>(),
        draft_tokens in 0usize..6,
        budget in 80usize..400,
    ) {
        let kv_cache_bytes = budget * FakeRunner::small_limits(1).kv_bytes_per_token;
        let (engine, control) =
            switching(Options { draft_tokens, kv_cache_bytes, ..options() });
        let submitted: Vec<_> = jobs
            .iter()
            .map(|&(length, count)| {
                let (job, events) = job(&prompt(length), count, 64);
                engine.handle().submit(job).unwrap();
                (length, count, events)
            })
            .collect();
        for (length, count, mut events) in submitted {
            let (tokens, end) = wait(&mut events);
            prop_assert_eq!(end, Some(Ok(FinishReason::Length)));
            prop_assert_eq!(tokens, expected(&prompt(length), count));
        }
        // Text that repeats is speculated on, up to the switch and past it; the fake checks that
        // no step mixes tables.
        control.repeat.store(repeat, Ordering::Release);
        let (job, mut events) = job(&prompt(12), 40, 64);
        engine.handle().submit(job).unwrap();
        prop_assert_eq!(wait(&mut events).1, Some(Ok(FinishReason::Length)));
        assert_settled(&settle(&engine.handle()));
        engine.stop().unwrap();
    }
}
