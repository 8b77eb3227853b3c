//! Whether AMX may be used: the processor has it, and the system lets this process.
#![expect(unsafe_code, reason = "a system call that the standard library does not have")]

use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

/// Whether this processor multiplies tiles of bytes (`amx_tile` and `amx_int8`).
pub(crate) fn is_there() -> bool {
    const TILES_OF_BYTES: u32 = 1 << 24 | 1 << 25;
    let most = __cpuid_count(0, 0).eax;
    most >= 7 && __cpuid_count(7, 0).edx & TILES_OF_BYTES == TILES_OF_BYTES
}

/// Whether this process may use it. Linux keeps the tiles of no process that has not asked, for they make a
/// thread's saved state eight kilobytes larger. What it grants holds for all threads, those that run
/// already among them, unless one has a signal stack that is too small for that state.
pub(crate) fn is_permitted() -> bool {
    static PERMITTED: OnceLock<bool> = OnceLock::new();
    *PERMITTED.get_or_init(|| is_there() && ask())
}

#[cfg(target_os = "linux")]
fn ask() -> bool {
    use nix::libc;
    // Of <asm/prctl.h>, and the number of the tiles' state in XCR0.
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and touches no memory.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn ask() -> bool {
    false
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::Command;

    use nix::libc;

    use crate::InstructionSet;

    /// Run by the test below, in a process that has not asked yet: the answer is for all of a process.
    #[test]
    #[ignore = "run by `what_the_system_withholds_is_not_used`"]
    fn the_system_withholds_it() {
        let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
        let (end, ends) = std::sync::mpsc::sync_channel::<()>(1);
        let thread = std::thread::spawn(move || {
            // Too small for a signal's frame with tiles, which is why Linux refuses.
            let mut memory = vec![0_u8; libc::MINSIGSTKSZ];
            let stack = libc::stack_t {
                ss_sp: memory.as_mut_ptr().cast(),
                ss_flags: 0,
                ss_size: memory.len(),
            };
            // SAFETY: the memory lives as long as the thread has the stack.
            let set = unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) };
            ready.send(set).unwrap();
            let _ = ends.recv();
            let none = libc::stack_t { ss_flags: libc::SS_DISABLE, ..stack };
            // SAFETY: as above.
            unsafe { libc::sigaltstack(&raw const none, std::ptr::null_mut()) };
        });
        assert_eq!(is_ready.recv().unwrap(), 0);
        assert_eq!(InstructionSet::withheld(), Some(InstructionSet::Amx));
        assert_eq!(InstructionSet::available()[0], InstructionSet::Avx512Vnni);
        drop(end);
        thread.join().unwrap();
        assert!(!InstructionSet::Amx.is_available(), "the answer stays");
    }

    #[test]
    fn what_the_system_withholds_is_not_used() {
        if !InstructionSet::Amx.is_available() {
            return;
        }
        let name = "amx::tests::the_system_withholds_it";
        let mut tests = Command::new(std::env::current_exe().unwrap());
        let output = tests.args(["--ignored", "--exact", name]).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && printed.contains("1 passed"), "{printed}");
    }
}
