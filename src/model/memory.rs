//! Memory that tensors lie in: reserved whole, committed as it is touched, given back on request.
#![expect(unsafe_code, reason = "tensors are bound to raw memory that ONNX Runtime writes")]

use std::ffi::c_void;
use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use nix::unistd::{SysconfVar, sysconf};

/// Anonymous memory of fixed size. Pages that nobody has touched take no memory; they read as 0.
///
/// It is shared by tensors (which ONNX Runtime reads and writes during a run) and by the runner
/// (which reads and writes between runs). There is no lock: all of that happens on the one thread
/// that owns the runner.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<c_void>,
    bytes: usize,
    page: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl Send for Mapping {}
// SAFETY: a shared reference gives out the address and advice to the kernel only; reading and
// writing are unsafe functions whose callers guarantee that they alone do it.
unsafe impl Sync for Mapping {}

/// Bytes of the system's memory pages.
pub(super) fn page_bytes() -> usize {
    let size = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| usize::try_from(size).ok()).unwrap_or(4096)
}

/// A type whose every bit pattern is a value.
pub(super) trait Plain: Copy {}
impl Plain for f32 {}
impl Plain for i64 {}
impl Plain for u8 {}
impl Plain for half::f16 {}
impl Plain for half::bf16 {}
#[cfg(target_arch = "x86_64")]
impl Plain for phi4d_int4::Unit {}

impl Mapping {
    /// Reserves `bytes` bytes of address space.
    pub(super) fn reserve(bytes: usize) -> std::io::Result<Self> {
        let length = NonZeroUsize::new(bytes).unwrap_or(NonZeroUsize::MIN);
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory
        // that anything else uses.
        let start = unsafe { mmap_anonymous(None, length, protection, flags) }?;
        let mapping = Self { start, bytes: length.get(), page: page_bytes() };
        // A huge page would commit 2 MiB where a short sequence needs a few KiB, in each head of
        // each layer. Kernels without huge pages refuse the advice, which is as good.
        // SAFETY: the range is this mapping.
        let _ = unsafe { madvise(start, mapping.bytes, MmapAdvise::MADV_NOHUGEPAGE) };
        Ok(mapping)
    }

    /// The address `offset` bytes into the mapping.
    ///
    /// # Panics
    /// If `offset..offset + bytes` is not within the mapping.
    pub(super) fn address(&self, offset: usize, bytes: usize) -> NonNull<c_void> {
        let end = offset.checked_add(bytes);
        assert!(end.is_some_and(|end| end <= self.bytes), "{offset}+{bytes} of {}", self.bytes);
        // SAFETY: just checked to lie within the mapping.
        unsafe { self.start.byte_add(offset) }
    }

    /// Gives the whole pages within `range` back to the system; they read as 0 from then on.
    ///
    /// # Safety
    /// Nobody may hold a reference into the range, and no run may be using it.
    pub(super) unsafe fn release(&self, range: Range<usize>) {
        let start = range.start.next_multiple_of(self.page);
        let end = range.end / self.page * self.page;
        if start >= end {
            return;
        }
        let address = self.address(start, end - start);
        // SAFETY: whole pages within this mapping, which the caller says nobody uses. A refusal
        // leaves the pages as they are, which costs memory and nothing else.
        let _ = unsafe { madvise(address, end - start, MmapAdvise::MADV_DONTNEED) };
    }

    /// Exchanges the pages of two ranges of `bytes` bytes, by way of a third whose pages are free:
    /// no byte is copied and no page committed. Ranges begin at `a`, `b` and `spare`.
    ///
    /// # Errors
    /// If the system can't move pages (or the ranges are not whole pages); nothing has changed then.
    ///
    /// # Panics
    /// If the system takes pages from one place and can't put them into another, which it has
    /// just done: going on would mix up sequences.
    ///
    /// # Safety
    /// Nobody may hold a reference into the ranges, and no run may be using them.
    pub(super) unsafe fn exchange(
        &self,
        [a, b]: [usize; 2],
        spare: usize,
        bytes: usize,
    ) -> Result<(), Errno> {
        if [a, b, spare, bytes].iter().any(|offset| offset % self.page != 0) {
            return Err(Errno::EINVAL);
        }
        self.move_pages(a, spare, bytes)?;
        if let Err(error) = self.move_pages(b, a, bytes) {
            let back = self.move_pages(spare, a, bytes);
            assert!(back.is_ok(), "pages were moved away and can't be moved back: {error}");
            return Err(error);
        }
        let put = self.move_pages(spare, b, bytes);
        assert!(put.is_ok(), "pages were moved away and can't be moved on: {put:?}");
        Ok(())
    }

    /// Moves the pages of one range to another, whose own are given up. The first is left empty.
    fn move_pages(&self, from: usize, to: usize, bytes: usize) -> Result<(), Errno> {
        let (old, new) = (self.address(from, bytes), self.address(to, bytes));
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
        // SAFETY: both ranges are whole pages of this anonymous private mapping, do not overlap,
        // and stay mapped (DONTUNMAP); the callers see to it that nobody uses them.
        let moved = unsafe { libc::mremap(old.as_ptr(), bytes, bytes, flags, new.as_ptr()) };
        if moved == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(()) }
    }

    /// Copies `bytes` bytes from one range to another that does not overlap it.
    ///
    /// # Safety
    /// Nobody may hold a reference into the ranges, and no run may be using them.
    pub(super) unsafe fn copy(&self, from: usize, to: usize, bytes: usize) {
        debug_assert!(from.abs_diff(to) >= bytes, "ranges overlap");
        let source = self.address(from, bytes).cast::<u8>();
        let target = self.address(to, bytes).cast::<u8>();
        // SAFETY: both in bounds, apart, and used by nobody else by the caller's word.
        unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), target.as_ptr(), bytes) };
    }

    /// Exchanges the bytes of two ranges that do not overlap.
    ///
    /// # Safety
    /// Nobody may hold a reference into the ranges, and no run may be using them.
    pub(super) unsafe fn exchange_bytes(&self, a: usize, b: usize, bytes: usize) {
        debug_assert!(a.abs_diff(b) >= bytes, "ranges overlap");
        let (left, right) = (self.address(a, bytes).cast::<u8>(), self.address(b, bytes).cast());
        // SAFETY: both in bounds, apart, and used by nobody else by the caller's word.
        unsafe { std::ptr::swap_nonoverlapping(left.as_ptr(), right.as_ptr(), bytes) };
    }

    /// The bytes of a range.
    ///
    /// # Safety
    /// Nobody may write to them while the result lives.
    pub(super) unsafe fn bytes(&self, offset: usize, count: usize) -> &[u8] {
        let address = self.address(offset, count);
        // SAFETY: in bounds, initialised, and not written while the result lives by the caller's
        // word.
        unsafe { std::slice::from_raw_parts(address.as_ptr().cast::<u8>(), count) }
    }

    /// The bytes of a range, to be written.
    ///
    /// # Safety
    /// Nobody else may use them while the result lives.
    #[expect(clippy::mut_from_ref, reason = "the memory is shared with the session's tensors")]
    pub(super) unsafe fn bytes_mut(&self, offset: usize, count: usize) -> &mut [u8] {
        let address = self.address(offset, count);
        // SAFETY: in bounds, initialised, and used by nobody else by the caller's word.
        unsafe { std::slice::from_raw_parts_mut(address.as_ptr().cast::<u8>(), count) }
    }

    /// The first `count` values of type `T`.
    ///
    /// # Safety
    /// Nobody may write to them while the result lives.
    pub(super) unsafe fn read<T: Plain>(&self, count: usize) -> &[T] {
        let address = self.address(0, count * size_of::<T>());
        // SAFETY: in bounds, page-aligned, initialised (fresh pages are 0, and every bit pattern
        // is a `T`), and not written while the result lives by the caller's word.
        unsafe { std::slice::from_raw_parts(address.as_ptr().cast::<T>(), count) }
    }

    /// Writes `values` to the front of the mapping.
    ///
    /// # Safety
    /// Nobody may hold a reference into the mapping, and no run may be using it.
    pub(super) unsafe fn write<T: Plain>(&self, values: impl ExactSizeIterator<Item = T>) {
        let count = values.len();
        let address = self.address(0, count * size_of::<T>()).as_ptr().cast::<T>();
        for (index, value) in values.take(count).enumerate() {
            // SAFETY: below `count`, so in bounds.
            let place = unsafe { address.add(index) };
            // SAFETY: aligned, since the mapping begins at a page, and used by nobody else by the
            // caller's word.
            unsafe { place.write(value) };
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped, and the last owner is going: tensors own a share.
        let _ = unsafe { munmap(self.start, self.bytes) };
    }
}

/// A whole file in memory, read as it is touched.
#[derive(Debug)]
pub(super) struct FileMapping {
    start: NonNull<c_void>,
    bytes: usize,
}

// SAFETY: memory that nobody writes belongs to the process, not to a thread.
unsafe impl Send for FileMapping {}
// SAFETY: as above.
unsafe impl Sync for FileMapping {}

impl FileMapping {
    pub(super) fn new(file: &File) -> std::io::Result<Self> {
        let bytes = usize::try_from(file.metadata()?.len()).map_err(std::io::Error::other)?;
        let length = NonZeroUsize::new(bytes).ok_or(std::io::ErrorKind::UnexpectedEof)?;
        let flags = MapFlags::MAP_PRIVATE;
        // SAFETY: a new mapping at an address of the kernel's choice. That nobody shortens the file
        // while it is used is as with the model's own files, which ONNX Runtime maps.
        let start = unsafe { mmap(None, length, ProtFlags::PROT_READ, flags, file, 0) }?;
        Ok(Self { start, bytes })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is so large and lives as long as `self`; nobody writes to it.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.bytes) }
    }

    /// `count` values from the byte `offset` on.
    ///
    /// # Panics
    /// If they are not within the file, or not aligned.
    pub(super) fn slice<T: Plain>(&self, offset: usize, count: usize) -> &[T] {
        let bytes = &self.bytes()[offset..][..count * size_of::<T>()];
        assert!(bytes.as_ptr().cast::<T>().is_aligned());
        // SAFETY: aligned, within the file, and of a type that any bytes are a value of.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), count) }
    }
}

impl Drop for FileMapping {
    fn drop(&mut self) {
        // SAFETY: whoever borrowed from it is gone.
        let _ = unsafe { munmap(self.start, self.bytes) };
    }
}

/// Lets go of the whole pages of `constant`, a constant tensor, if they are a file's: they leave this
/// process's memory, and are read again if they are wanted. Memory of other kinds stays.
pub(super) fn forget_file_pages<T: Plain>(constant: &[T]) {
    let page = page_bytes();
    let place = constant.as_ptr() as usize;
    let (start, end) = (place.next_multiple_of(page), place + size_of_val(constant));
    let end = end / page * page;
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
    file && within && access.ends_with('p')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_memory_reads_zero_takes_values_and_can_be_given_back() {
        let mapping = Mapping::reserve(1 << 20).unwrap();
        let page = mapping.page / size_of::<i64>();
        // SAFETY: no reference is held and nothing runs.
        unsafe { mapping.write((0..4 * page).map(|i| i as i64 + 1)) };
        // SAFETY: nobody writes while the slice lives.
        assert_eq!(unsafe { mapping.read::<i64>(3) }, [1, 2, 3]);
        // From the middle of page 0 to the middle of page 3: whole pages 1 and 2.
        let half = mapping.page / 2;
        // SAFETY: no reference is held and nothing runs.
        unsafe { mapping.release(half..3 * mapping.page + half) };
        // SAFETY: nobody writes while the slice lives.
        let values = unsafe { mapping.read::<i64>(4 * page) };
        assert_eq!(values[page - 1], page as i64);
        assert!(values[page..3 * page].iter().all(|&value| value == 0));
        assert_eq!(values[3 * page], 3 * page as i64 + 1);
    }

    #[test]
    fn pages_are_exchanged_whole_and_bytes_as_well() {
        let page = page_bytes();
        let mapping = Mapping::reserve(5 * page).unwrap();
        let at = page / size_of::<i64>();
        // SAFETY: no reference is held and nothing runs.
        unsafe { mapping.write((0..4 * at).map(|i| i as i64 + 1)) };
        let read = |place: usize| -> i64 {
            // SAFETY: nobody writes while the slice lives, which is till this returns.
            let values: &[i64] = unsafe { mapping.read(5 * at) };
            values[place]
        };
        let before: Vec<i64> = (0..5).map(|index| read(index * at)).collect();
        // SAFETY: no reference is held and nothing runs.
        unsafe { mapping.exchange([0, 2 * page], 4 * page, page) }.unwrap();
        assert_eq!([read(0), read(2 * at), read(4 * at)], [before[2], before[0], 0]);
        assert_eq!([read(at), read(3 * at)], [before[1], before[3]]);
        // SAFETY: no reference is held and nothing runs.
        unsafe { mapping.exchange_bytes(0, 2 * page, 8) };
        assert_eq!([read(0), read(2 * at), read(1)], [before[0], before[2], before[2] + 1]);
        // SAFETY: no reference is held and nothing runs.
        unsafe { mapping.copy(page, 3 * page, 8) };
        assert_eq!([read(at), read(3 * at)], [before[1], before[1]]);
        // SAFETY: no reference is held and nothing runs.
        let crooked = unsafe { mapping.exchange([8, 2 * page], 4 * page, page) };
        assert_eq!(crooked, Err(Errno::EINVAL));
    }

    #[test]
    fn far_more_than_the_machine_has_can_be_reserved() {
        // 1 TiB: committed memory does not change with it.
        let mapping = Mapping::reserve(1 << 40).unwrap();
        assert_eq!(mapping.bytes, 1 << 40);
    }

    #[test]
    #[should_panic(expected = "of 4096")]
    fn an_address_outside_is_refused() {
        let _ = Mapping::reserve(4096).unwrap().address(4000, 97);
    }
}
