//! Reads large files into memory.

use std::fs::File;
use std::io;
use std::num::NonZero;
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::system::read_at;

/// Bytes that a thread reads at a time: whole huge pages, so that each is cleared by the thread that fills it.
const PIECE: usize = 16 << 20;

/// The most threads that read: a few keep a fast disk and the memory busy.
const THREADS: usize = 8;

/// Fills `bytes` with the beginning of `file`, by several threads: one alone copies all that it reads, and the
/// system clears the pages that it first writes to, so that it can't keep up with a fast disk.
///
/// `done` learns of each piece's bytes.
///
/// # Errors
/// If the file can't be read, or is shorter.
pub(crate) fn read_file(
    file: &File,
    bytes: &mut [u8],
    done: impl Fn(usize) + Sync,
) -> io::Result<()> {
    let pieces = Mutex::new(bytes.chunks_mut(PIECE).zip((0..).step_by(PIECE)));
    let read = || {
        loop {
            let next = pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((piece, offset)) = next else { return Ok(()) };
            read_at(file, piece, offset)?;
            done(piece.len());
        }
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(THREADS);
    thread::scope(|scope| {
        // If the system has no thread to give, the others read more.
        let spawn = |_| thread::Builder::new().spawn_scoped(scope, read).ok();
        let others: Vec<_> = (1..threads).filter_map(spawn).collect();
        // This thread reads too, so that the file is read even if no other can be made.
        let first = read();
        others.into_iter().fold(first, |result, other| {
            result.and(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_file_is_read_whole_or_not_at_all() {
        let file = tempfile::tempfile().unwrap();
        let bytes = 2 * PIECE + 12_345;
        file.set_len(bytes as u64).unwrap();
        // A mark at both ends of each piece.
        for at in [0, PIECE - 1, PIECE, 2 * PIECE - 1, 2 * PIECE, bytes - 1] {
            let mut file = &file;
            io::Seek::seek(&mut file, io::SeekFrom::Start(at as u64)).unwrap();
            io::Write::write_all(&mut file, &[u8::try_from(at % 251 + 1).unwrap()]).unwrap();
        }
        let mut read = vec![0; bytes];
        let counted = AtomicUsize::new(0);
        let count = |more| {
            counted.fetch_add(more, Ordering::Relaxed);
        };
        read_file(&file, &mut read, count).unwrap();
        assert_eq!(counted.into_inner(), bytes);
        for (at, byte) in read.iter().enumerate().filter(|(_, byte)| **byte != 0) {
            assert_eq!(usize::from(*byte), at % 251 + 1);
        }
        assert_eq!(read.iter().filter(|byte| **byte != 0).count(), 6);
        read.push(0);
        let error = read_file(&file, &mut read, |_| ()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
