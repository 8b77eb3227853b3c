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
