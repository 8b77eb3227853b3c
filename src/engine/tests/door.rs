//! Each job is counted once, while others submit, read the counts and stop the engine.

use super::*;

fn balanced(stats: &Stats) -> bool {
    let inside = (stats.waiting + stats.running) as u64;
    stats.accepted == inside + stats.finished + stats.cancelled + stats.failed
}

/// Submits from several threads, some of whose receivers go at once, until the engine has stopped;
/// returns how many were accepted and how many of them heard of no end.
fn crowd(handle: &Handle) -> (u64, u64) {
    let submitter = |number: u32| {
        let handle = handle.clone();
        std::thread::spawn(move || {
            let (mut accepted, mut unheard) = (0, 0);
            for round in 0.. {
                let (job, mut events) = job(&[number, round % 50], 3, 64);
                match handle.submit(Job { caller: CallerId(number.into()), ..job }) {
                    Ok(()) => accepted += 1,
                    Err(SubmitError::ShuttingDown | SubmitError::Stopped) => break,
                    Err(_) => {
                        std::thread::yield_now();
                        continue;
                    }
                }
                if round % 3 != 0 && wait(&mut events).1.is_none() {
                    unheard += 1;
                }
            }
            (accepted, unheard)
        })
    };
    let submitters: Vec<_> = (0..3).map(submitter).collect();
    let results = submitters.into_iter().map(|thread| thread.join().unwrap());
    results.fold((0, 0), |sum, more| (sum.0 + more.0, sum.1 + more.1))
}

#[test]
fn the_counts_find_each_job_once_while_the_engine_is_stopped_or_panics() {
    for panics in [false, true] {
        for _ in 0..10 {
            let (engine, control) = engine();
            let handle = engine.handle();
            let watcher = std::thread::spawn({
                let handle = handle.clone();
                move || {
                    while handle.stats().finished < 200 {
                        assert!(balanced(&handle.stats()), "{:?}", handle.stats());
                    }
                    if panics {
                        control.panic_next.store(true, Ordering::Release);
                    }
                    let _ = engine.stop();
                }
            });
            let (accepted, unheard) = crowd(&handle);
            watcher.join().unwrap();
            let stats = handle.stats();
            assert_settled(&stats);
            assert_eq!(stats.accepted, accepted, "{stats:?}");
            assert!(panics || unheard == 0, "{unheard} receivers were forgotten");
        }
    }
}
