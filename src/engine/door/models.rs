//! The door through every order of its threads: submitting, cancelling, draining, stopping and a
//! panic of the engine's thread.

use std::collections::VecDeque;

use loom::model::Builder;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use super::{Bounds, CallerId, Counts, Door, End, SubmitError, Waiting};

/// What is sent to the engine's thread.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Run(CallerId),
    Stop,
}

/// Stands for the channel of commands: never full, and it refuses once its receiver is gone.
#[derive(Default)]
struct Channel {
    queue: Mutex<(VecDeque<Command>, bool)>,
    filled: Condvar,
}

impl Channel {
    fn send(&self, command: Command) -> bool {
        let mut queue = self.queue.lock().unwrap();
        if !queue.1 {
            queue.0.push_back(command);
            self.filled.notify_one();
        }
        !queue.1
    }

    fn receive(&self) -> Command {
        let mut queue = self.queue.lock().unwrap();
        loop {
            if let Some(command) = queue.0.pop_front() {
                return command;
            }
            queue = self.filled.wait(queue).unwrap();
        }
    }

    /// Closes it and takes what is in it.
    fn close(&self) -> VecDeque<Command> {
        let mut queue = self.queue.lock().unwrap();
        queue.1 = true;
        std::mem::take(&mut queue.0)
    }
}

#[derive(Clone)]
struct World {
    door: Arc<Door>,
    channel: Arc<Channel>,
}

impl World {
    fn new(total: usize, per_caller: usize) -> Self {
        let door = Arc::new(Door::new(Bounds { total, per_caller }));
        Self { door, channel: Arc::default() }
    }

    fn submit(&self, caller: u64) -> Result<(), SubmitError> {
        let caller = CallerId(caller);
        self.door.enter(caller, || self.channel.send(Command::Run(caller)))
    }

    /// The counts, which always add up.
    fn counts(&self) -> Counts {
        let counts = self.door.counts();
        let ended = counts.finished + counts.cancelled + counts.failed;
        let inside = (counts.waiting + counts.running) as u64;
        assert_eq!(counts.accepted, inside + ended, "{counts:?}");
        counts
    }

    /// The engine's thread. Of three jobs one ends in the queue; of the others each second is put back
    /// once, and is then cancelled.
    fn run(&self) {
        let mut taken = 0;
        while let Command::Run(caller) = self.channel.receive() {
            let queued = Waiting::Queued(caller);
            taken += 1;
            if taken % 3 == 0 {
                self.door.end_waiting(queued, End::Cancelled);
                continue;
            }
            self.door.start(queued);
            if taken % 2 == 0 {
                self.door.put_back();
                self.door.start(Waiting::PutBack);
            }
            self.door.end_running(if taken % 2 == 0 { End::Cancelled } else { End::Finished });
        }
        self.door.close(SubmitError::Stopped);
        for command in self.channel.close() {
            if let Command::Run(caller) = command {
                self.door.end_waiting(Waiting::Queued(caller), End::Failed);
            }
        }
    }

    /// The engine's thread, which panics after the first job that it takes.
    fn crash(&self) {
        if let Command::Run(caller) = self.channel.receive() {
            self.door.start(Waiting::Queued(caller));
        }
        drop(self.channel.close());
        self.door.abandon();
    }
}

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

#[test]
fn whatever_is_accepted_ends_once_when_the_engine_stops() {
    check(|| {
        let world = World::new(2, 2);
        let engine = thread::spawn({
            let world = world.clone();
            move || world.run()
        });
        let other = thread::spawn({
            let world = world.clone();
            move || [world.submit(1), world.submit(1)]
        });
        let mut submitted = vec![world.submit(2)];
        world.counts();
        world.door.close(SubmitError::ShuttingDown);
        // Draining: refused from now on, whoever asks.
        assert_eq!(world.submit(2), Err(SubmitError::ShuttingDown));
        world.channel.send(Command::Stop);
        submitted.extend(other.join().unwrap());
        engine.join().unwrap();
        let counts = world.counts();
        let accepted = submitted.iter().filter(|result| result.is_ok()).count();
        assert_eq!(counts.accepted, accepted as u64);
        assert_eq!((counts.waiting, counts.running), (0, 0));
    });
}

#[test]
fn whatever_is_accepted_ends_once_when_the_engine_s_thread_panics() {
    check(|| {
        let world = World::new(2, 1);
        let engine = thread::spawn({
            let world = world.clone();
            move || world.crash()
        });
        let other = thread::spawn({
            let world = world.clone();
            move || [world.submit(1), world.submit(1)]
        });
        let mut submitted = vec![world.submit(2)];
        world.counts();
        submitted.extend(other.join().unwrap());
        // For where all were refused.
        world.channel.send(Command::Stop);
        engine.join().unwrap();
        let counts = world.counts();
        let accepted = submitted.iter().filter(|result| result.is_ok()).count() as u64;
        assert_eq!((counts.accepted, counts.failed), (accepted, accepted));
        assert_eq!((counts.waiting, counts.running), (0, 0));
        assert_eq!(world.submit(3), Err(SubmitError::Stopped));
    });
}

#[test]
fn no_order_lets_more_wait_than_may() {
    check(|| {
        let world = World::new(2, 1);
        let others: Vec<_> = [1, 1]
            .map(|caller| {
                let world = world.clone();
                thread::spawn(move || world.submit(caller))
            })
            .into();
        let mut results = vec![world.submit(2)];
        results.extend(others.into_iter().map(|other| other.join().unwrap()));
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 2);
        assert_eq!(results[0], Ok(()));
        assert!(
            results.contains(&Err(SubmitError::CallerFull { limit: 1 }))
                || results.contains(&Err(SubmitError::Full { limit: 2 }))
        );
        assert_eq!(world.submit(3), Err(SubmitError::Full { limit: 2 }));
        world.door.end_waiting(Waiting::Queued(CallerId(2)), End::Cancelled);
        assert_eq!(world.submit(3), Ok(()));
        assert_eq!(world.counts().waiting, 2);
    });
}

#[test]
fn no_order_of_two_callers_takes_the_last_place() {
    check(|| {
        let world = World::new(4, 4);
        let others: Vec<_> = [1, 2]
            .map(|caller| {
                let world = world.clone();
                thread::spawn(move || [(); 3].map(|()| world.submit(caller).is_ok()))
            })
            .into();
        world.counts();
        let accepted = others.into_iter().flat_map(|other| other.join().unwrap());
        let accepted = accepted.filter(|&accepted| accepted).count();
        assert_eq!(world.counts().waiting, accepted);
        assert!((2..4).contains(&accepted), "{accepted}");
        assert_eq!(world.submit(3), Ok(()));
    });
}
