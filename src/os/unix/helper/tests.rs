//! Workers forked from a process that runs one test only, confined as in production. Its other thread
//! waits for the test, and holds nothing that a fork could miss.

use std::time::{Duration, Instant};

use super::super::apart;
use super::*;

const LIMITS: Limits = Limits { data: 32 << 20, stack: 4 << 20, nice: 5 };

/// A worker that does `work` and ends.
fn worker(work: impl FnOnce(&mut Pipe)) -> Pipe {
    let (ours, theirs) = Pipe::pair().unwrap();
    match fork().unwrap() {
        Forked::Parent => ours,
        Forked::Child => {
            drop(ours);
            let mut pipe = Pipe::of(theirs);
            if confine(&pipe, &LIMITS).is_ok() {
                work(&mut pipe);
            }
            std::process::exit(0);
        }
    }
}

fn end_of(mut pipe: Pipe) -> io::Error {
    let limit = Duration::from_secs(30);
    loop {
        match pipe.receive_within(limit) {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the worker did not end"),
            Err(error) => return error,
        }
    }
}

#[test]
fn frames_go_both_ways_and_a_plain_end_is_one() {
    apart::in_a_process(module_path!(), "frames_go_both_ways_and_a_plain_end_is_one", || {
        let mut pipe = worker(|pipe| {
            while let Ok(Some((mut frame, _))) = pipe.take() {
                frame.reverse();
                pipe.send_now(&frame).unwrap();
            }
        });
        for frame in [&b"abc"[..], b"", &[7; 100_000]] {
            pipe.send_now(frame).unwrap();
            let back = pipe.receive_within(Duration::from_secs(30)).unwrap().unwrap();
            assert!(back.iter().eq(frame.iter().rev()));
        }
        assert_eq!(pipe.try_receive().unwrap(), None);
        let gone = worker(|_| {});
        assert_eq!(end_of(gone).kind(), io::ErrorKind::UnexpectedEof);
    });
}

#[test]
fn each_limit_ends_the_worker_and_is_named() {
    apart::in_a_process(module_path!(), "each_limit_ends_the_worker_and_is_named", || {
        #[expect(unconditional_recursion, reason = "it is to overflow its stack")]
        fn deeper(depth: &mut [u8; 512]) -> u8 {
            let mut more = *depth;
            more[0] = more[0].wrapping_add(1);
            deeper(std::hint::black_box(&mut more)).wrapping_add(more[1])
        }
        type Work = fn(&mut Pipe);
        let table: [(Work, Ended); 3] = [
            (
                |_| {
                    begin(Duration::from_millis(200));
                    loop {
                        std::hint::spin_loop();
                    }
                },
                Ended::Time,
            ),
            (
                |_| {
                    let mut held = Vec::new();
                    loop {
                        held.push(std::hint::black_box(vec![1_u8; 1 << 20]));
                    }
                },
                Ended::Memory,
            ),
            (
                |pipe| {
                    let end = deeper(&mut [0; 512]);
                    pipe.send_now(&[end]).unwrap();
                },
                Ended::Depth,
            ),
        ];
        for (work, expected) in table {
            let error = end_of(worker(work));
            // Under AddressSanitizer (tests/memory-safety) its own allocator ends the process.
            if std::env::var_os("PHI4D_SANITIZED").is_none() {
                assert_eq!(Pipe::ended_by(&error), Some(expected), "{error}");
            }
        }
    });
}

#[test]
fn a_worker_ends_with_its_pipe_in_the_middle_of_its_work() {
    apart::in_a_process(
        module_path!(),
        "a_worker_ends_with_its_pipe_in_the_middle_of_its_work",
        || {
            // Whoever holds the other end of this sees the worker's end.
            let (mut watch, held) = Pipe::pair().unwrap();
            let pipe = worker(|pipe| {
                pipe.send_now(b"at work").unwrap();
                let _held = &held;
                loop {
                    std::hint::spin_loop();
                }
            });
            drop(held);
            let mut pipe = pipe;
            pipe.receive_within(Duration::from_secs(30)).unwrap().unwrap();
            assert_eq!(watch.try_receive().unwrap(), None);
            let closed = Instant::now();
            drop(pipe);
            let end = watch.receive_within(Duration::from_secs(30)).unwrap_err();
            assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
            assert!(closed.elapsed() < Duration::from_secs(5), "{:?}", closed.elapsed());
        },
    );
}

#[test]
fn a_worker_opens_no_file_and_its_forks_go_on_with_pipes_of_their_own() {
    apart::in_a_process(
        module_path!(),
        "a_worker_opens_no_file_and_its_forks_go_on_with_pipes_of_their_own",
        || {
            let mut pipe = worker(|pipe| {
                let before = heap_bytes();
                let held = vec![1_u8; 8 << 20];
                let grown = heap_bytes() - before;
                assert!(grown >= held.len() && grown < 2 * held.len(), "{grown}");
                let opened = std::fs::File::open("/proc/self/statm").is_ok();
                pipe.send_now(&[u8::from(opened)]).unwrap();
                let (_, passed) = pipe.take().unwrap().unwrap();
                if fork().unwrap() == Forked::Child {
                    *pipe = Pipe::of(passed.unwrap());
                    follow(pipe).unwrap();
                    pipe.send_now(b"fork").unwrap();
                    let _ = pipe.take();
                }
            });
            let limit = Duration::from_secs(30);
            assert_eq!(pipe.receive_within(limit).unwrap().unwrap(), [0]);
            let (mut ours, theirs) = Pipe::pair().unwrap();
            pipe.pass(b"fork", &theirs).unwrap();
            drop(theirs);
            assert_eq!(end_of(pipe).kind(), io::ErrorKind::UnexpectedEof);
            assert_eq!(ours.receive_within(limit).unwrap().unwrap(), b"fork");
        },
    );
}
