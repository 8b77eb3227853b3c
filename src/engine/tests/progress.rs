//! What jobs hear of prefill, over the fake runner.

use super::*;

/// All events of a job that are there: the prompt's progress, and the tokens after it.
fn heard(events: &mut mpsc::Receiver<Event>) -> (Vec<usize>, Vec<u32>) {
    let (mut progress, mut tokens) = (Vec::new(), Vec::new());
    while let Some(event) = events.blocking_recv() {
        match event {
            Event::Prefill { processed_tokens } => progress.push(processed_tokens),
            Event::Token(token) => tokens.push(token.id),
            Event::Started { .. } | Event::Finished(_) => {}
            other => panic!("{other:?}"),
        }
    }
    (progress, tokens)
}

#[test]
fn each_prefill_step_is_reported_to_jobs_that_ask() {
    let (engine, _) = engine();
    let handle = engine.handle();
    let prompt: Vec<u32> = (1..11).collect();
    let run = |asks| {
        let (mut job, mut events) = job(&prompt, 3, 64);
        job.progress = asks;
        handle.submit(job).unwrap();
        let (progress, tokens) = heard(&mut events);
        assert_eq!(tokens, expected(&prompt, 3));
        progress
    };
    // Chunks of 4 tokens.
    assert_eq!(run(true), [0, 4, 8, 10]);
    // All but the last token are cached.
    assert_eq!(run(true), [9, 10]);
    assert_eq!(run(false), [0; 0]);
    engine.stop().unwrap();
}

#[test]
fn progress_that_nobody_reads_leaves_the_output_its_room() {
    let (engine, _) = engine();
    let handle = engine.handle();
    let prompt: Vec<u32> = (0..55).map(|token| token % 50).collect();
    let (mut job, mut events) = job(&prompt, 5, 16);
    job.progress = true;
    handle.submit(job).unwrap();
    // It ends although its 14 chunks would have filled the channel.
    let stats = settle(&handle);
    assert_eq!((stats.finished, stats.generated_tokens), (1, 5));
    assert_eq!(heard(&mut events), (vec![0, 4, 8, 12, 16, 20, 24], expected(&prompt, 5)));
    engine.stop().unwrap();
}

#[test]
fn a_prompt_that_is_read_again_is_not_reported_again() {
    // A little more than one slot's tokens.
    let (engine, control) = engine_with(Options { kv_cache_bytes: 72 * 8, ..options() });
    control.step_us.store(500, Ordering::Release);
    let handle = engine.handle();
    let submit = |prompt: &[u32], priority| {
        let (mut job, events) = job(prompt, 1000, 128);
        (job.priority, job.progress) = (priority, true);
        handle.submit(job).unwrap();
        events
    };
    let (low, high) = ([1; 12], [2; 12]);
    let mut low_events = submit(&low, 0);
    assert!(low_events.blocking_recv().is_some());
    let mut high_events = submit(&high, 1);
    assert_eq!(heard(&mut high_events), (vec![0, 4, 8, 12], expected(&high, 1000)));
    assert!(handle.stats().preempted > 0);
    assert_eq!(heard(&mut low_events), (vec![0, 4, 8, 12], expected(&low, 1000)));
    engine.stop().unwrap();
}
