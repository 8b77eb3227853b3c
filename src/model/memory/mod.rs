//! Memory that tensors lie in: reserved whole, committed as it is touched, given back on request.
#![expect(unsafe_code, reason = "tensors are bound to raw memory that ONNX Runtime writes")]

mod arena;
mod read;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::ptr::NonNull;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

pub(super) use arena::Arena;
pub(super) use read::read_file;
pub use system::has_huge_pages;
pub(super) use system::{forget_file, forget_file_pages, page_bytes};

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

/// A type whose every bit pattern is a value.
pub(super) trait Plain: Copy {}
impl Plain for f32 {}
impl Plain for i32 {}
impl Plain for i64 {}
impl Plain for u8 {}
impl Plain for half::f16 {}
impl Plain for half::bf16 {}
impl Plain for phi4d_matmul::Line {}

impl Mapping {
    /// Reserves `bytes` bytes of address space.
    pub(super) fn reserve(bytes: usize) -> io::Result<Self> {
        // The system maps no empty range, and a model may have an empty tensor.
        let bytes = bytes.max(1);
        Ok(Self { start: system::reserve(bytes)?, bytes, page: page_bytes() })
    }

    /// Reserves `bytes` bytes of address space that begin at a multiple of 2 MiB, and asks for huge
    /// pages: memory that is streamed, such as weights, is read up to 1.5 times as fast from them.
    pub(super) fn reserve_huge(bytes: usize) -> io::Result<Self> {
        // Whole pages: what is cut off the end of the reservation must begin at one.
        let page = page_bytes();
        let bytes = bytes.max(1).checked_next_multiple_of(page);
        let bytes = bytes.ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start: system::reserve_huge(bytes)?, bytes, page })
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

    /// Gives the whole pages within `range` back to the system; they hold nothing from then on.
    ///
    /// # Safety
    /// Nobody may hold a reference into the range, and no run may be using it.
    pub(super) unsafe fn release(&self, range: Range<usize>) {
        // Inwards at both ends: the pages at the edges may hold what lies beside the range.
        let start = range.start.next_multiple_of(self.page);
        let end = range.end / self.page * self.page;
        if start >= end {
            return;
        }
        let address = self.address(start, end - start);
        // SAFETY: whole pages within this mapping, which the caller says nobody uses.
        unsafe { system::discard(address, end - start) };
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
    ) -> io::Result<()> {
        // Callers copy instead then, so this is no failure of theirs.
        if [a, b, spare, bytes].iter().any(|offset| offset % self.page != 0) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.move_pages(a, spare, bytes)?;
        if let Err(error) = self.move_pages(b, a, bytes) {
            // Without its pages the first range would read as zeros, which no later step would
            // notice.
            let back = self.move_pages(spare, a, bytes);
            assert!(back.is_ok(), "pages were moved away and can't be moved back: {error}");
            return Err(error);
        }
        let put = self.move_pages(spare, b, bytes);
        assert!(put.is_ok(), "pages were moved away and can't be moved on: {put:?}");
        Ok(())
    }

    /// Moves the pages of one range to another, whose own are given up. The first is left empty.
    fn move_pages(&self, from: usize, to: usize, bytes: usize) -> io::Result<()> {
        let (old, new) = (self.address(from, bytes), self.address(to, bytes));
        // SAFETY: both ranges are whole pages of this mapping and do not overlap; the callers see
        // to it that nobody uses them.
        unsafe { system::move_pages(old, new, bytes) }
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
        // By a pointer and not as a slice: no reference may exist beside the session's tensors over
        // this memory.
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
        unsafe { system::free(self.start, self.bytes) };
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
    /// Maps `file`. That nobody shortens it while it is used is as with the model's own files, which
    /// ONNX Runtime maps.
    pub(super) fn new(file: &File) -> io::Result<Self> {
        let bytes = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        if bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Self { start: system::map_file(file, bytes)?, bytes })
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
        // SAFETY: what was mapped; whoever borrowed from it is gone.
        unsafe { system::unmap_file(self.start, self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_memory_takes_values_and_can_be_given_back() {
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
        assert_eq!(values[3 * page], 3 * page as i64 + 1);
    }

    #[test]
    fn bytes_are_exchanged_and_copied() {
        let mapping = Mapping::reserve(64).unwrap();
        // SAFETY: no reference is held and nothing runs.
        unsafe { mapping.write([1_i64, 2, 3, 4].into_iter()) };
        // SAFETY: no reference is held and nothing runs.
        unsafe { mapping.exchange_bytes(0, 16, 8) };
        // SAFETY: no reference is held and nothing runs.
        unsafe { mapping.copy(8, 24, 8) };
        // SAFETY: nobody writes while the slice lives.
        assert_eq!(unsafe { mapping.read::<i64>(4) }, [3, 2, 1, 2]);
    }

    #[test]
    fn a_file_is_mapped_whole() {
        let mut file = tempfile::tempfile().unwrap();
        assert!(FileMapping::new(&file).is_err(), "nothing to map");
        io::Write::write_all(&mut file, &[1, 0, 2, 0, 3]).unwrap();
        let mapping = FileMapping::new(&file).unwrap();
        assert_eq!(mapping.bytes(), [1, 0, 2, 0, 3]);
        assert_eq!(mapping.slice::<u8>(2, 3), [2, 0, 3]);
    }

    #[test]
    #[should_panic(expected = "of 4096")]
    fn an_address_outside_is_refused() {
        let _ = Mapping::reserve(4096).unwrap().address(4000, 97);
    }
}
