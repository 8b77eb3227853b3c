//! The limits of a worker, which it puts on itself before it reads any input.
//!
//! Memory and stack are the kernel's to limit. Processor time is measured by a timer that is set for
//! each piece of work. A limit raises a signal, whose handler says why and ends the process. All
//! state is for handlers, which may do little: numbers in atomics, and system calls.

use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::{self, c_int, c_void};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use super::super::super::confine::Profile;
use super::super::confine as system_calls;
use super::pipe::{Ended, HEAD, Pipe};

/// What a worker may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of memory beyond what the process has when it is confined.
    pub data: u64,
    /// Bytes of stack.
    pub stack: u64,
    /// How much lower its priority becomes when a piece of work is not short.
    pub nice: i32,
}

/// Descriptors that a worker may have: its pipe, one to fork by, its own size, the three of
/// standard streams, and some to spare.
const DESCRIPTORS: u64 = 16;

/// How often the time of a piece of work is looked at. Work that has taken this long is not short.
const TICK: Duration = Duration::from_millis(50);

/// Bytes of the stack on which handlers run.
const HANDLER_STACK: usize = 32 << 10;

/// The worker's pipe.
static PIPE: AtomicI32 = AtomicI32::new(-1);

/// Ticks that the piece of work has left; the most there can be between such pieces.
static TICKS: AtomicU32 = AtomicU32::new(u32::MAX);

/// How much the priority is still to be lowered.
static NICE: AtomicI32 = AtomicI32::new(0);

/// Limits this process, has it end when the peer of `pipe` closes, and takes from it the system calls
/// that a worker does not need. For a process that was made for one piece of work: the limits stay,
/// and hold for its forks.
///
/// # Errors
/// If the system refuses a limit. Such a process must not do the work.
pub fn confine(pipe: &Pipe, limits: &Limits) -> io::Result<()> {
    // The kernel's first choice where memory is short. Refused, the limits below still hold.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    NICE.store(limits.nice, Ordering::Relaxed);
    install_handlers()?;
    let data = data_bytes().saturating_add(limits.data);
    for (resource, most) in [
        (Resource::RLIMIT_DATA, data),
        (Resource::RLIMIT_STACK, limits.stack),
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_FSIZE, 0),
        (Resource::RLIMIT_NOFILE, DESCRIPTORS),
    ] {
        let (_, hard) = getrlimit(resource)?;
        let most = most.min(hard);
        setrlimit(resource, most, most)?;
    }
    follow(pipe)?;
    // Where the kernel has no filters the limits above still hold; the daemon, which asks the same of
    // the same kernel, logs that.
    let _ = system_calls::confine(Profile::Worker);
    Ok(())
}

/// Has this process end when the peer of `pipe` closes, whatever it does then, and measure its time.
/// A fork of a confined process does this for a pipe of its own.
///
/// # Errors
/// If the system refuses to signal that.
pub fn follow(pipe: &Pipe) -> io::Result<()> {
    let descriptor = pipe.descriptor();
    PIPE.store(descriptor, Ordering::Relaxed);
    let own = nix::unistd::getpid().as_raw();
    // SAFETY: commands that take a number and touch no memory.
    Errno::result(unsafe { libc::fcntl(descriptor, libc::F_SETOWN, own) })?;
    // SAFETY: as above.
    let flags = Errno::result(unsafe { libc::fcntl(descriptor, libc::F_GETFL) })?;
    // SAFETY: as above.
    Errno::result(unsafe { libc::fcntl(descriptor, libc::F_SETFL, flags | libc::O_ASYNC) })?;
    start_ticking();
    // It may have closed before the signal was asked for.
    end_if_closed();
    Ok(())
}

/// Begins a piece of work that may take `budget` of processor time, give or take a tick; the process
/// ends with [`Ended::Time`] when that is over.
pub fn begin(budget: Duration) {
    let ticks = budget.as_millis().div_ceil(TICK.as_millis());
    // A tick of the work before may come first.
    TICKS.store(u32::try_from(ticks).unwrap_or(u32::MAX - 2) + 1, Ordering::Relaxed);
}

/// Ends the piece of work.
pub fn end() {
    TICKS.store(u32::MAX, Ordering::Relaxed);
}

/// Has this process tick while it computes. A fork does not go on with it.
fn start_ticking() {
    let every = libc::timeval { tv_sec: 0, tv_usec: libc::suseconds_t::from(TICK.subsec_micros()) };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    // SAFETY: the pointer is to a local that outlives the call; the old value is not asked for.
    unsafe { libc::setitimer(libc::ITIMER_PROF, &raw const timer, std::ptr::null_mut()) };
}

/// Bytes that the allocator has of the system. Of a worker, which can't open what [`data_bytes`] reads.
#[must_use]
pub fn heap_bytes() -> usize {
    // SAFETY: reads the allocator's own counts, under its locks.
    let counts = unsafe { libc::mallinfo2() };
    // What it carves its blocks from, and the blocks that are mappings of their own.
    counts.arena + counts.hblkhd
}

/// Bytes of memory that this process may write: heap, mappings of its own and stack.
fn data_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split(' ').nth(5).and_then(|field| field.parse().ok()).unwrap_or(0);
    // SAFETY: asks for a number.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages.saturating_mul(u64::try_from(size).unwrap_or(4096))
}

fn install_handlers() -> io::Result<()> {
    // A stack that is overflowed has no room for a handler.
    let stack = vec![0_u8; HANDLER_STACK].leak();
    let stack = libc::stack_t {
        ss_sp: stack.as_mut_ptr().cast::<c_void>(),
        ss_flags: 0,
        ss_size: HANDLER_STACK,
    };
    // SAFETY: the memory is leaked, so it is there as long as the process.
    Errno::result(unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) })?;
    for signal in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGABRT, Signal::SIGPROF, Signal::SIGIO]
    {
        let action = SigAction::new(
            SigHandler::Handler(on_signal),
            SaFlags::SA_ONSTACK | SaFlags::SA_RESTART,
            SigSet::empty(),
        );
        // SAFETY: the handler makes system calls that may be made there, and no others.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

extern "C" fn on_signal(number: c_int) {
    match number {
        libc::SIGSEGV | libc::SIGBUS => finish(Ended::Depth),
        // An allocation that failed.
        libc::SIGABRT => finish(Ended::Memory),
        libc::SIGPROF => tick(),
        _ => end_if_closed(),
    }
}

fn tick() {
    if TICKS.load(Ordering::Relaxed) == u32::MAX {
        return;
    }
    let nice = NICE.swap(0, Ordering::Relaxed);
    if nice != 0 {
        // SAFETY: takes numbers. Refused, the priority stays as it is.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
    }
    let left = TICKS.load(Ordering::Relaxed).saturating_sub(1);
    TICKS.store(left, Ordering::Relaxed);
    if left == 0 {
        finish(Ended::Time);
    }
}

/// Says why, and ends the process.
fn finish(ended: Ended) {
    let frame = ended.frame();
    let pipe: RawFd = PIPE.load(Ordering::Relaxed);
    // SAFETY: the pointer is to a local of as many bytes. Failure is ignored.
    unsafe { libc::write(pipe, frame.as_ptr().cast::<c_void>(), HEAD) };
    // SAFETY: ends the process; nothing runs after it.
    unsafe { libc::_exit(1) };
}

fn end_if_closed() {
    let pipe: RawFd = PIPE.load(Ordering::Relaxed);
    let mut state = libc::pollfd { fd: pipe, events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one entry, a local; does not wait.
    let count = unsafe { libc::poll(&raw mut state, 1, 0) };
    if count > 0 {
        // SAFETY: ends the process; nothing runs after it.
        unsafe { libc::_exit(0) };
    }
}
