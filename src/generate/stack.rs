//! Work whose recursion grows with its input, on a stack that is as large as the input can ask for.

use std::io;
use std::panic::resume_unwind;

/// What any work may take.
const BASE: usize = 2 << 20;

/// Does `work` on a thread of its own, with `bytes` of stack beyond the usual. The system commits
/// what is touched only.
///
/// # Errors
/// If the system has no such thread to give.
pub(super) fn with_stack<T: Send>(bytes: usize, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("phi4d-load".into()).stack_size(BASE + bytes);
        match thread.spawn_scoped(scope, work)?.join() {
            Ok(done) => Ok(done),
            Err(panic) => resume_unwind(panic),
        }
    })
}
