//! What the machine has: cores and memory.
#![expect(unsafe_code, reason = "the system's calls fill in what they are pointed at")]

use windows_sys::Win32::System::SystemInformation::{
    GetLogicalProcessorInformation, GlobalMemoryStatusEx, MEMORYSTATUSEX, RelationProcessorCore,
    SYSTEM_LOGICAL_PROCESSOR_INFORMATION,
};

use crate::types::Cores;

/// Physical cores of this process's processor group (64 hardware threads at most), at most as many as
/// it may use; at least one. Hardware threads of one core share the units that a matrix product keeps
/// busy, so that counting them twice only makes threads wait for each other. Slow cores count as
/// fast ones do.
#[must_use]
pub fn cores() -> Cores {
    let logical = std::thread::available_parallelism().map_or(1, usize::from);
    let entries = relations();
    let cores = entries.iter().filter(|entry| entry.Relationship == RelationProcessorCore);
    let all = match cores.count() {
        0 => logical,
        cores => cores.clamp(1, logical),
    };
    Cores { all, used: all }
}

fn relations() -> Vec<SYSTEM_LOGICAL_PROCESSOR_INFORMATION> {
    let entry = size_of::<SYSTEM_LOGICAL_PROCESSOR_INFORMATION>();
    let mut bytes = 0;
    // SAFETY: no place for entries and a length of none: the call only returns the size it needs.
    unsafe { GetLogicalProcessorInformation(std::ptr::null_mut(), &raw mut bytes) };
    let count = bytes as usize / entry;
    let mut entries = vec![SYSTEM_LOGICAL_PROCESSOR_INFORMATION::default(); count];
    // SAFETY: there is place for as many bytes as the length says.
    let filled = unsafe { GetLogicalProcessorInformation(entries.as_mut_ptr(), &raw mut bytes) };
    if filled == 0 {
        return Vec::new();
    }
    entries.truncate(bytes as usize / entry);
    entries
}

/// Bytes that this process can take without swapping, or less where the system has promised its
/// memory and page file to others.
#[must_use]
pub fn spare_memory() -> usize {
    let mut status = MEMORYSTATUSEX {
        dwLength: u32::try_from(size_of::<MEMORYSTATUSEX>()).unwrap_or_default(),
        ..MEMORYSTATUSEX::default()
    };
    // SAFETY: the structure is there and says its own length.
    if unsafe { GlobalMemoryStatusEx(&raw mut status) } == 0 {
        return 0;
    }
    usize::try_from(status.ullAvailPhys.min(status.ullAvailPageFile)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_cores_and_memory() {
        let granted = std::thread::available_parallelism().unwrap().get();
        assert!((1..=granted).contains(&cores().used));
        assert!(spare_memory() > 0);
    }
}
