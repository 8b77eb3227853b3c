//! Whether the system can create threads.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Their stack: they only wait.
const STACK: usize = 64 << 10;

/// Creates `count` threads that exist at the same time, and ends them. For libraries that hang or panic
/// if they can't create theirs.
///
/// # Errors
/// If the system has fewer.
pub fn probe_threads(count: usize) -> io::Result<()> {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let mut threads = Vec::new();
    let mut made = Ok(());
    for _ in 0..count {
        let held = Arc::clone(&gate);
        let wait = move || {
            let mut open = held.0.lock().unwrap_or_else(PoisonError::into_inner);
            while !*open {
                open = held.1.wait(open).unwrap_or_else(PoisonError::into_inner);
            }
        };
        let thread = std::thread::Builder::new().name("phi4d-probe".into()).stack_size(STACK);
        match thread.spawn(wait) {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                made = Err(error);
                break;
            }
        }
    }
    *gate.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
    gate.1.notify_all();
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
