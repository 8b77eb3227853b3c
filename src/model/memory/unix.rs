//! Memory by Linux's calls: reserved without commitment, pages moved and given back.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use nix::unistd::{SysconfVar, sysconf};

use super::Plain;

/// Bytes of the system's memory pages.
pub(crate) fn page_bytes() -> usize {
    let size = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| usize::try_from(size).ok()).unwrap_or(4096)
}

fn length(bytes: usize) -> io::Result<NonZeroUsize> {
    NonZeroUsize::new(bytes).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Bytes of a huge page on x86-64, and on arm64 with pages of 4 KiB.
const HUGE_PAGE: usize = 2 << 20;

fn anonymous(bytes: usize) -> io::Result<NonNull<c_void>> {
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory
    // that anything else uses.
    Ok(unsafe { mmap_anonymous(None, length(bytes)?, protection, flags) }?)
}

/// Reserves `bytes` bytes of address space, which take memory page by page as they are touched.
pub(super) fn reserve(bytes: usize) -> io::Result<NonNull<c_void>> {
    let start = anonymous(bytes)?;
    // A huge page would commit 2 MiB where a short sequence needs a few KiB, in each head of
    // each layer. Kernels without huge pages refuse the advice, which is as good.
    // SAFETY: the range is this mapping.
    let _ = unsafe { madvise(start, bytes, MmapAdvise::MADV_NOHUGEPAGE) };
    Ok(start)
}

/// As [`reserve`], in huge pages where the system allows them: memory begins at a multiple of 2 MiB and
/// is committed 2 MiB at a time. `bytes` is whole pages; what is left of the last 2 MiB has small pages, so nothing is wasted.
pub(super) fn reserve_huge(bytes: usize) -> io::Result<NonNull<c_void>> {
    let whole = bytes.checked_add(HUGE_PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
    let mapped = anonymous(whole)?;
    let before = mapped.as_ptr().addr().next_multiple_of(HUGE_PAGE) - mapped.as_ptr().addr();
    // SAFETY: less than the 2 MiB that were mapped in addition.
    let start = unsafe { mapped.byte_add(before) };
    // SAFETY: within the mapping as well, since `before` is at most 2 MiB.
    let end = unsafe { start.byte_add(bytes) };
    for (unused, bytes) in [(mapped, before), (end, HUGE_PAGE - before)] {
        if bytes > 0 {
            // SAFETY: whole pages of the new mapping, before and after the part that is kept.
            let _ = unsafe { munmap(unused, bytes) };
        }
    }
    // Most systems give huge pages only to memory that asks for them. A refusal costs speed only.
    // SAFETY: the range is what is left of this mapping.
    let _ = unsafe { madvise(start, bytes, MmapAdvise::MADV_HUGEPAGE) };
    Ok(start)
}

/// Gives up what [`reserve`] made.
///
/// # Safety
/// `start` and `bytes` are those of one reservation, which nobody uses any more.
pub(super) unsafe fn free(start: NonNull<c_void>, bytes: usize) {
    // SAFETY: by the caller's word.
    let _ = unsafe { munmap(start, bytes) };
}

/// Gives pages back; they read as 0 from then on. A refusal leaves them as they are, which costs
/// memory and nothing else.
///
/// # Safety
/// Whole pages of one reservation, which nobody uses.
pub(super) unsafe fn discard(start: NonNull<c_void>, bytes: usize) {
    // SAFETY: by the caller's word.
    let _ = unsafe { madvise(start, bytes, MmapAdvise::MADV_DONTNEED) };
}

/// Moves pages to a place whose own are given up. The first place is left empty.
///
/// # Errors
/// If the system can't; nothing has changed then.
///
/// # Safety
/// Two ranges of whole pages of one reservation that do not overlap and that nobody uses.
pub(super) unsafe fn move_pages(
    from: NonNull<c_void>,
    to: NonNull<c_void>,
    bytes: usize,
) -> io::Result<()> {
    // Without DONTUNMAP the first range would be a hole, which another mapping of the process may
    // fill.
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
    // SAFETY: by the caller's word; both ranges stay mapped (DONTUNMAP).
    let moved = unsafe { libc::mremap(from.as_ptr(), bytes, bytes, flags, to.as_ptr()) };
    if moved == libc::MAP_FAILED { Err(Errno::last().into()) } else { Ok(()) }
}

/// Maps a file's first `bytes` bytes to be read.
pub(super) fn map_file(file: &File, bytes: usize) -> io::Result<NonNull<c_void>> {
    let (protection, flags) = (ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE);
    // SAFETY: a new mapping at an address of the kernel's choice.
    Ok(unsafe { mmap(None, length(bytes)?, protection, flags, file, 0) }?)
}

/// Gives up what [`map_file`] made.
///
/// # Safety
/// `start` and `bytes` are those of one mapping, which nobody uses any more.
pub(super) unsafe fn unmap_file(start: NonNull<c_void>, bytes: usize) {
    // SAFETY: by the caller's word.
    let _ = unsafe { munmap(start, bytes) };
}

/// Whether memory that asks for huge pages gets them.
#[must_use]
pub fn has_huge_pages() -> bool {
    // `always [madvise] never`, with the choice in brackets. Other systems have no such file.
    let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    setting.is_ok_and(|setting| !setting.contains("[never]"))
}

/// Fills `bytes` with what the file holds from `offset` on.
pub(super) fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    file.read_exact_at(bytes, offset)
}

/// Lets the system's cache forget a file that was read into memory of our own. A hint: what it keeps, it
/// gives up when memory is wanted.
pub(crate) fn forget_file(file: &File) {
    #[cfg(target_os = "linux")]
    let _ =
        nix::fcntl::posix_fadvise(file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    #[cfg(not(target_os = "linux"))]
    let _ = file;
}

/// Lets go of the whole pages of `constant`, a constant tensor, if they are a file's: they leave this
/// process's memory, and are read again if they are wanted. Memory of other kinds stays.
pub(crate) fn forget_file_pages<T: Plain>(constant: &[T]) {
    let page = page_bytes();
    let place = constant.as_ptr() as usize;
    let (start, end) = (place.next_multiple_of(page), place + size_of_val(constant));
    let end = end / page * page;
    // On anonymous memory the advice below would destroy what it holds, and ONNX Runtime may have
    // copied the constant: only the kernel's own list shows it.
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    if start >= end || !maps.lines().any(|line| is_file(line, start..end)) {
        return;
    }
    let Some(address) = NonNull::new(start as *mut c_void) else { return };
    // SAFETY: pages of a file read the same afterwards, since nobody writes to a constant.
    let _ = unsafe { madvise(address, end - start, MmapAdvise::MADV_DONTNEED) };
}

/// Whether a line of `/proc/self/maps` is of a file's private mapping with all of `range` in it.
fn is_file(line: &str, range: Range<usize>) -> bool {
    let mut parts = line.split_ascii_whitespace();
    let (Some(place), Some(access)) = (parts.next(), parts.next()) else { return false };
    let file = parts.nth(2).is_some_and(|inode| inode != "0");
    let hex = |text| usize::from_str_radix(text, 16).ok();
    let within = place.split_once('-').is_some_and(|(from, to)| {
        hex(from).is_some_and(|from| from <= range.start)
            && hex(to).is_some_and(|to| range.end <= to)
    });
    // A shared mapping (`s`) may be one that is written to, whose pages are not the file's alone.
    file && within && access.ends_with('p')
}

#[cfg(test)]
mod tests {
    use super::super::Mapping;
    use super::*;

    #[test]
    fn released_pages_read_zero() {
        let mapping = Mapping::reserve(1 << 20).unwrap();
        let page = page_bytes() / size_of::<i64>();
        // SAFETY: no reference is held and nothing runs.
        unsafe { mapping.write((0..4 * page).map(|i| i as i64 + 1)) };
        let half = page_bytes() / 2;
        // SAFETY: no reference is held and nothing runs.
        unsafe { mapping.release(half..3 * page_bytes() + half) };
        // SAFETY: nobody writes while the slice lives.
        let values = unsafe { mapping.read::<i64>(4 * page) };
        assert!(values[page..3 * page].iter().all(|&value| value == 0));
    }

    #[test]
    fn pages_are_exchanged_whole() {
        let page = page_bytes();
        let mapping = Mapping::reserve(5 * page).unwrap();
        let at = page / size_of::<i64>();
        // SAFETY: no reference is held and nothing runs.
        unsafe { mapping.write((0..4 * at).map(|i| i as i64 + 1)) };
        let firsts = || -> [i64; 5] {
            // SAFETY: nobody writes while the slice lives, which is till this returns.
            let values: &[i64] = unsafe { mapping.read(5 * at) };
            std::array::from_fn(|index| values[index * at])
        };
        let before = firsts();
        // SAFETY: no reference is held and nothing runs.
        unsafe { mapping.exchange([0, 2 * page], 4 * page, page) }.unwrap();
        assert_eq!(firsts(), [before[2], before[1], before[0], before[3], 0]);
        // SAFETY: no reference is held and nothing runs.
        let crooked = unsafe { mapping.exchange([8, 2 * page], 4 * page, page) };
        assert_eq!(crooked.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn huge_memory_begins_at_a_huge_page_and_holds_values_to_its_last_byte() {
        for bytes in [1, HUGE_PAGE - 1, HUGE_PAGE, 3 * HUGE_PAGE + 4097] {
            let mapping = Mapping::reserve_huge(bytes).unwrap();
            assert_eq!(mapping.address(0, bytes).as_ptr().addr() % HUGE_PAGE, 0);
            // SAFETY: nobody else uses the memory.
            let values = unsafe { mapping.bytes_mut(0, bytes) };
            assert!(values.iter().all(|value| *value == 0));
            values.fill(7);
            // SAFETY: no reference is used any more and nothing runs.
            unsafe { mapping.release(0..bytes) };
        }
    }

    #[test]
    fn far_more_than_the_machine_has_can_be_reserved() {
        // 1 TiB: committed memory does not change with it.
        let mapping = Mapping::reserve(1 << 40).unwrap();
        assert_eq!(mapping.bytes, 1 << 40);
    }
}
