//! Memory by Windows's calls. It is committed whole, as reading a page that is not would end the
//! process: pages are taken as they are touched, and the system must be able to provide all of
//! them, by memory or its page file.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::windows::fs::FileExt as _;
use std::os::windows::io::AsRawHandle as _;
use std::ptr::{NonNull, null};

use windows_sys::Win32::Foundation::CloseHandle;
use windows_sys::Win32::System::Memory::{
    CreateFileMappingW, FILE_MAP_READ, MEM_COMMIT, MEM_RELEASE, MEM_RESERVE, MEM_RESET,
    MEMORY_MAPPED_VIEW_ADDRESS, MapViewOfFile, PAGE_READONLY, PAGE_READWRITE, UnmapViewOfFile,
    VirtualAlloc, VirtualFree, VirtualUnlock,
};

use super::Plain;

/// Bytes of the system's memory pages, on every processor that Windows runs on.
pub(crate) fn page_bytes() -> usize {
    4096
}

/// `bytes` bytes that read as 0.
pub(super) fn reserve(bytes: usize) -> io::Result<NonNull<c_void>> {
    // SAFETY: a new allocation at an address of the system's choice.
    let start = unsafe { VirtualAlloc(null(), bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE) };
    NonNull::new(start).ok_or_else(io::Error::last_os_error)
}

/// As [`reserve`]: large pages need a privilege that services do not have.
pub(super) fn reserve_huge(bytes: usize) -> io::Result<NonNull<c_void>> {
    reserve(bytes)
}

/// Gives up what [`reserve`] made.
///
/// # Safety
/// `start` is that of one allocation, which nobody uses any more.
pub(super) unsafe fn free(start: NonNull<c_void>, _bytes: usize) {
    // SAFETY: by the caller's word.
    unsafe { VirtualFree(start.as_ptr(), 0, MEM_RELEASE) };
}

/// Fills `bytes` with what the file holds from `offset` on.
pub(super) fn read_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.seek_read(bytes, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                bytes = &mut bytes[read..];
                offset += read as u64;
            }
        }
    }
    Ok(())
}

/// Gives pages back; what they read as from then on is not known. A refusal leaves them as they
/// are, which costs memory and nothing else.
///
/// # Safety
/// Whole pages of one allocation, which nobody uses.
pub(super) unsafe fn discard(start: NonNull<c_void>, bytes: usize) {
    // SAFETY: by the caller's word.
    unsafe { VirtualAlloc(start.as_ptr(), bytes, MEM_RESET, PAGE_READWRITE) };
    // Pages that were not locked leave the working set by this.
    // SAFETY: by the caller's word.
    unsafe { VirtualUnlock(start.as_ptr(), bytes) };
}

/// Windows moves no pages.
///
/// # Errors
/// Always.
///
/// # Safety
/// Nothing is done.
pub(super) unsafe fn move_pages(
    _from: NonNull<c_void>,
    _to: NonNull<c_void>,
    _bytes: usize,
) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Maps a file's first `bytes` bytes to be read.
pub(super) fn map_file(file: &File, bytes: usize) -> io::Result<NonNull<c_void>> {
    let file = file.as_raw_handle();
    // SAFETY: the handle is open; the mapping has no name and no attributes.
    let mapping = unsafe { CreateFileMappingW(file, null(), PAGE_READONLY, 0, 0, null()) };
    if mapping.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new view at an address of the system's choice.
    let view = unsafe { MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, bytes) };
    let start = NonNull::new(view.Value).ok_or_else(io::Error::last_os_error);
    // SAFETY: opened above, and closed once; the view keeps what it needs.
    unsafe { CloseHandle(mapping) };
    start
}

/// Gives up what [`map_file`] made.
///
/// # Safety
/// `start` is that of one view, which nobody uses any more.
pub(super) unsafe fn unmap_file(start: NonNull<c_void>, _bytes: usize) {
    let view = MEMORY_MAPPED_VIEW_ADDRESS { Value: start.as_ptr() };
    // SAFETY: by the caller's word.
    unsafe { UnmapViewOfFile(view) };
}

/// Does nothing: the system takes a file's pages by itself when memory is wanted.
pub(crate) fn forget_file_pages<T: Plain>(_constant: &[T]) {}

/// Large pages need a privilege that services do not have.
#[must_use]
pub fn has_huge_pages() -> bool {
    false
}

/// Windows gives up what it keeps when memory is wanted.
pub(crate) fn forget_file(_file: &File) {}
