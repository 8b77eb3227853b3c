//! The kernel stops a thread that reads a mapped file which can't be read with SIGBUS, which by
//! default ends the process without a word.
#![expect(unsafe_code, reason = "a handler of a signal")]

use std::ffi::{c_int, c_void};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// How long the process goes on beside the stopped thread, so that clients can get an error.
const GRACE: Duration = Duration::from_millis(1500);

const MESSAGE: &[u8] = b"phi4d: a file of the model can't be read any more while it is in use: it was \
cut short in place, or its disk fails. The daemon stops. Put new files in place by renaming them, and \
restart the daemon\n";

static LOST: AtomicBool = AtomicBool::new(false);
static EXIT_CODE: AtomicI32 = AtomicI32::new(0);

/// From now on, a thread that reads a page of a mapped file which is gone is halted, a line is written to
/// standard error, and the process ends with `exit_code` a little later. [`is_file_lost`] reports
/// the other threads meanwhile.
///
/// # Errors
/// If the system refuses the handler.
pub fn end_on_lost_file(exit_code: u8) -> io::Result<()> {
    EXIT_CODE.store(exit_code.into(), Ordering::Release);
    let handler = SigHandler::SigAction(on_bus_error);
    // On the thread's own stack, and not on that for handlers (SA_ONSTACK): Rust makes that as small as the
    // system allows, and what is saved of a thread that has used AMX leaves 400 bytes of it.
    let action = SigAction::new(handler, SaFlags::SA_SIGINFO, SigSet::empty());
    // SAFETY: the handler calls nothing but what may be called in one, and shares two atomics.
    unsafe { sigaction(Signal::SIGBUS, &action) }?;
    Ok(())
}

/// Whether a thread was halted since a file can't be read.
#[must_use]
pub fn is_file_lost() -> bool {
    LOST.load(Ordering::Acquire)
}

extern "C" fn on_bus_error(signal: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel passes a valid pointer, as SA_SIGINFO asks it to.
    let code = unsafe { (*info).si_code };
    if code != libc::BUS_ADRERR {
        // Broken memory, or a signal by hand: what it does where there is no handler.
        // SAFETY: sets no handler of ours.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        // SAFETY: takes no pointer.
        unsafe { libc::raise(signal) };
        return;
    }
    if !LOST.swap(true, Ordering::AcqRel) {
        // SAFETY: the bytes live for ever. A failure could be reported nowhere.
        let _ = unsafe { libc::write(libc::STDERR_FILENO, MESSAGE.as_ptr().cast(), MESSAGE.len()) };
    }
    // Going back would read the same page again.
    std::thread::sleep(GRACE);
    // Destructors would wait for this thread, or run beside ones that still compute.
    // SAFETY: takes no pointer and does not return.
    unsafe { libc::_exit(EXIT_CODE.load(Ordering::Acquire)) }
}
