//! Whether the system can create threads.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// Their stack: they only wait.
const STACK: usize = 64 << 10;

/// Creates `count` threads that exist at the same time, and ends them. For libraries that hang or panic
/// if they can't create theirs.
///
/// # Errors
/// If the system has fewer.
pub fn probe_threads(count: usize) -> io::Result<()> {
    let gate = Arc::new(Mutex::new(()));
    // Held until all are there, as each waits for it.
    let closed = gate.lock().unwrap_or_else(PoisonError::into_inner);
    let mut threads = Vec::new();
    let mut made = Ok(());
    for _ in 0..count {
        let gate = Arc::clone(&gate);
        let thread = std::thread::Builder::new().name("phi4d-probe".into()).stack_size(STACK);
        match thread.spawn(move || drop(gate.lock())) {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                made = Err(error);
                break;
            }
        }
    }
    drop(closed);
    for thread in threads {
        // They do nothing that could panic.
        let _ = thread.join();
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_threads_are_there() {
        probe_threads(4).unwrap();
        probe_threads(0).unwrap();
    }
}
