//! Cached prefixes on disk, so that they outlive a restart.
//!
//! Each prefix is a file: a header (magic, the model's fingerprint, scope, counts), the tokens, their keys
//! and values as the runner exports them, and a BLAKE3 hash of everything before. A file is written under
//! another name and renamed, so a crash leaves a complete file or none. Files that are damaged, or of
//! another model, are left alone; one warning names the first.

use std::fs;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use phi4d_model::{ModelLimits, Runner};
use phi4d_os as os;

use super::kv::{Action, Cache};

const MAGIC: &[u8; 8] = b"phi4dKV1";
const EXTENSION: &str = "kv";

/// The extension of a file that is being written.
const UNFINISHED: &str = "new";

/// Bytes of a file without tokens, keys and values: magic, fingerprint, three numbers, hash.
const FRAME_BYTES: u64 = 8 + 32 + 3 * 8 + 32;

/// Where cached prefixes are stored, how much of them, and for which model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// The folder. It is created if it is missing.
    pub folder: PathBuf,
    /// The most bytes of all files together; prefixes that do not fit are not stored.
    pub bytes: u64,
    /// Identifies the model that computed the keys and values.
    pub fingerprint: [u8; 32],
}

/// The fingerprint of prefixes that were read in chunks of a fixed grid. Chunks of other sizes give keys
/// and values with other low-order digits, which reproducible answers must not reuse.
pub(super) fn on_grid(model: [u8; 32], limits: &ModelLimits) -> [u8; 32] {
    let grid = (limits.max_prefill_tokens as u64).to_le_bytes();
    *blake3::hash(&[model.as_slice(), &grid].concat()).as_bytes()
}

/// Why a file was not restored.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is not a prefix file of this version")]
    Format,
    #[error("it is of another model")]
    Foreign,
    #[error("it is damaged")]
    Damaged,
}

/// Stores the cached prefixes of `cache`, the most recently used first, and removes older files. Returns
/// how many were stored.
///
/// # Errors
/// If the folder or a file can't be written. Files written before that stay.
pub(super) fn save<S>(
    store: &Store,
    cache: &Cache<S>,
    runner: &mut dyn Runner,
) -> io::Result<usize> {
    // Prefixes are prompts, which no other user may read.
    os::private_folder(&store.folder)?;
    let old = files(&store.folder, EXTENSION)?;
    // Left by a process that was killed while it wrote.
    for path in files(&store.folder, UNFINISHED)? {
        fs::remove_file(path)?;
    }
    let mut written = Vec::new();
    let mut left = store.bytes;
    for (slot, scope, tokens) in cache.cached_prefixes() {
        let payload = tokens.len() * runner.limits().kv_bytes_per_token;
        let size = FRAME_BYTES + (4 * tokens.len() + payload) as u64;
        // A shorter prefix may still fit.
        if size > left {
            continue;
        }
        left -= size;
        // The number is the order of use, which `load` goes by.
        let path = store.folder.join(format!("prefix-{:04}.{EXTENSION}", written.len()));
        let beside = path.with_extension(UNFINISHED);
        let header = Header { scope, tokens: tokens.len() as u64, payload: payload as u64 };
        let result = write_file(&beside, store, &header, |sink| {
            for token in tokens {
                sink.write_all(&token.to_le_bytes())?;
            }
            runner.export(slot, tokens.len(), sink)
        });
        if let Err(error) = result.and_then(|()| fs::rename(&beside, &path)) {
            let _ = fs::remove_file(&beside);
            return Err(error);
        }
        written.push(path);
    }
    // Only now: a failure above leaves the files of the last run.
    for path in old.into_iter().filter(|path| !written.contains(path)) {
        fs::remove_file(path)?;
    }
    Ok(written.len())
}

/// Restores the prefixes of `store` to `cache` and the runner's memory, as far as they fit. Returns how
/// many were restored. Faults are logged: without its prefixes the engine is slower, not wrong.
pub(super) fn load<S>(store: &Store, cache: &mut Cache<S>, runner: &mut dyn Runner) -> usize {
    // In a folder that others may write to, a file could be anybody's.
    let found = os::check_folder(&store.folder).and_then(|()| files(&store.folder, EXTENSION));
    let paths = match found {
        Ok(paths) => paths,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return 0,
        Err(error) => {
            log::warn!("cached prefixes: cannot use {}: {error}", store.folder.display());
            return 0;
        }
    };
    let mut taken = 0;
    let mut refused = Vec::new();
    // The most recently used prefix is the first file. Restored last, it is the most recent again.
    for path in paths.iter().rev() {
        match read_file(path, store, cache, runner) {
            Ok(true) => taken += 1,
            Ok(false) => {}
            Err(error) => refused.push(format!("{}: {error}", path.display())),
        }
    }
    if let Some(first) = refused.first() {
        log::warn!("cached prefixes: {} not restored, such as {first}", refused.len());
    }
    taken
}

/// The folder's files with this extension, by name.
fn files(folder: &Path, extension: &str) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|its| its == extension) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// The numbers that follow magic and fingerprint.
struct Header {
    scope: u64,
    tokens: u64,
    payload: u64,
}

/// Writes a file: frame, `content` and hash, and syncs it, so that the rename after it can't reach the
/// disk first.
fn write_file(
    path: &Path,
    store: &Store,
    header: &Header,
    content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut sink = Hashed::new(BufWriter::new(os::create_private(path)?));
    sink.write_all(MAGIC)?;
    sink.write_all(&store.fingerprint)?;
    for number in [header.scope, header.tokens, header.payload] {
        sink.write_all(&number.to_le_bytes())?;
    }
    content(&mut sink)?;
    let hash = sink.hash();
    let mut file = sink.inner;
    file.write_all(&hash)?;
    file.flush()?;
    file.get_ref().sync_all()
}

/// Restores one file. Returns whether there was room for it.
fn read_file<S>(
    path: &Path,
    store: &Store,
    cache: &mut Cache<S>,
    runner: &mut dyn Runner,
) -> Result<bool, Refused> {
    let file = os::open_private(path)?;
    let size = file.metadata()?.len();
    restore(BufReader::new(file), size, store, cache, runner)
}

/// Restores the `size` bytes of a file. Returns whether there was room for it.
pub(super) fn restore<S>(
    source: impl Read,
    size: u64,
    store: &Store,
    cache: &mut Cache<S>,
    runner: &mut dyn Runner,
) -> Result<bool, Refused> {
    let mut source = Hashed::new(source);
    let header = read_header(&mut source, store)?;
    let limits = runner.limits();
    // Checked by the size before anything is allocated: a damaged count may be any number.
    let expected = header
        .tokens
        .checked_mul(4 + limits.kv_bytes_per_token as u64)
        .and_then(|bytes| bytes.checked_add(FRAME_BYTES));
    if expected != Some(size) || header.tokens == 0 {
        return Err(Refused::Damaged);
    }
    let count = usize::try_from(header.tokens).map_err(|_| Refused::Damaged)?;
    let mut tokens = Vec::with_capacity(count);
    for _ in 0..count {
        let token = u32::from_le_bytes(source.array()?);
        // The hash is checked last, so until then a token may be any number.
        if token as usize >= limits.vocab_size {
            return Err(Refused::Damaged);
        }
        tokens.push(token);
    }
    // Keys and values go straight into the slot, as they may be gigabytes; the hash behind them decides
    // whether they stay.
    let Some(slot) = cache.adopt(&tokens, header.scope) else { return Ok(false) };
    let filled = runner.import(slot, count, &mut source).and_then(|()| {
        let hash = source.hash();
        let mut written = [0; 32];
        source.inner.read_exact(&mut written)?;
        Ok(hash == written)
    });
    if matches!(filled, Ok(true)) {
        return Ok(true);
    }
    // The slot may hold half of the file, or bytes with a wrong hash: neither may be reused.
    cache.abandon(slot);
    for action in cache.take_actions() {
        if let Action::Release { slot, keep } = action {
            runner.release(slot, keep);
        }
    }
    filled?;
    Err(Refused::Damaged)
}

fn read_header(source: &mut Hashed<impl Read>, store: &Store) -> Result<Header, Refused> {
    let short = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Refused::Format,
        _ => Refused::Io(error),
    };
    if source.array::<8>().map_err(short)? != *MAGIC {
        return Err(Refused::Format);
    }
    if source.array::<32>().map_err(short)? != store.fingerprint {
        return Err(Refused::Foreign);
    }
    let mut number = || source.array().map(u64::from_le_bytes).map_err(short);
    Ok(Header { scope: number()?, tokens: number()?, payload: number()? })
}

/// Hashes the bytes read or written through it.
struct Hashed<T> {
    inner: T,
    hasher: blake3::Hasher,
}

impl<T> Hashed<T> {
    fn new(inner: T) -> Self {
        Self { inner, hasher: blake3::Hasher::new() }
    }

    fn hash(&self) -> [u8; 32] {
        *self.hasher.finalize().as_bytes()
    }
}

impl<T: Read> Hashed<T> {
    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

impl<T: Read> Read for Hashed<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

impl<T: Write> Write for Hashed<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kv::{Growth, Sizes};
    use phi4d_model::fake::FakeRunner;

    fn store(folder: &Path) -> Store {
        Store { folder: folder.join("prefixes"), bytes: u64::MAX, fingerprint: [7; 32] }
    }

    fn runner() -> FakeRunner {
        FakeRunner::new(FakeRunner::small_limits(4)).0
    }

    fn cache() -> Cache<()> {
        Cache::new(Sizes {
            rows: 4,
            max_live: 1,
            row_tokens: 64,
            block_tokens: 4,
            budget_tokens: 256,
            grid: None,
            growth: Growth::Own,
        })
    }

    fn apply(cache: &mut Cache<()>, runner: &mut FakeRunner) {
        for action in cache.take_actions() {
            match action {
                Action::Swap { slots, tokens } => runner.swap(slots, tokens),
                Action::Copy { from, to, tokens } => runner.copy(from, to, tokens),
                Action::Release { slot, keep } => runner.release(slot, keep),
            }
        }
    }

    /// A cache and a runner that hold `prompts`, the last of most recent use.
    fn filled(prompts: &[Vec<u32>]) -> (Cache<()>, FakeRunner) {
        let (mut cache, mut runner) = (cache(), runner());
        for prompt in prompts {
            let admission = cache.admit(prompt, usize::MAX, 5).unwrap();
            cache.place(admission, ());
            apply(&mut cache, &mut runner);
            for (index, part) in prompt.chunks(4).enumerate() {
                runner.prefill(0, index * 4, part, 1).unwrap();
            }
            cache.extend(0, prompt);
            cache.retire(0, true).unwrap();
            apply(&mut cache, &mut runner);
        }
        (cache, runner)
    }

    fn held(cache: &Cache<()>) -> Vec<Vec<u32>> {
        cache.cached_prefixes().map(|(_, _, tokens)| tokens.to_vec()).collect()
    }

    #[test]
    fn prefixes_come_back_with_their_memory_and_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let prompts = [(0..9).collect(), (20..33).collect(), (40..45).collect::<Vec<u32>>()];
        let (mut old, mut old_runner) = filled(&prompts);
        assert_eq!(save(&store(folder.path()), &old, &mut old_runner).unwrap(), 3);
        let (mut new, mut new_runner) = (cache(), runner());
        assert_eq!(load(&store(folder.path()), &mut new, &mut new_runner), 3);
        assert_eq!(held(&new), held(&old));
        let mut logits = Vec::new();
        for (cache, mut runner) in [(&mut old, old_runner), (&mut new, new_runner)] {
            // A prompt of the same scope goes on from the memory that came back.
            let prompt: Vec<u32> = (20..35).collect();
            let admission = cache.admit(&prompt, usize::MAX, 5).unwrap();
            cache.place(admission, ());
            apply(cache, &mut runner);
            assert_eq!(admission.cached, 13);
            let row = runner.prefill(0, 13, &prompt[13..], 1).unwrap().row(0).to_vec();
            logits.push(row);
        }
        assert_eq!(logits[0], logits[1]);
        // What is no longer cached is removed, and so is what was half written.
        let (fewer, mut runner) = filled(&prompts[..1]);
        save(&store(folder.path()), &fewer, &mut runner).unwrap();
        assert_eq!(files(&store(folder.path()).folder, EXTENSION).unwrap().len(), 1);
    }

    #[test]
    fn only_what_fits_on_disk_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, mut runner) = filled(&[(0..20).collect(), (30..40).collect()]);
        let bytes = FRAME_BYTES + 10 * (4 + 8);
        let small = Store { bytes, ..store(folder.path()) };
        assert_eq!(save(&small, &cache, &mut runner).unwrap(), 1);
    }

    #[test]
    fn a_foreign_file_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (old, mut old_runner) = filled(&[(0..9).collect()]);
        save(&store(folder.path()), &old, &mut old_runner).unwrap();
        let other = Store { fingerprint: [8; 32], ..store(folder.path()) };
        assert_eq!(load(&other, &mut cache(), &mut runner()), 0);
        assert_eq!(files(&other.folder, EXTENSION).unwrap().len(), 1);
    }

    proptest! {
        #[test]
        fn a_damaged_file_is_refused_wherever_it_is_damaged(
            place in any::<prop::sample::Index>(),
            flip in 1u8..,
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let store = store(folder.path());
            let (old, mut old_runner) = filled(&[(0..9).collect()]);
            save(&store, &old, &mut old_runner).unwrap();
            let path = files(&store.folder, EXTENSION).unwrap().remove(0);
            let mut bytes = std::fs::read(&path).unwrap();
            let place = place.index(bytes.len());
            bytes[place] ^= flip;
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            std::fs::write(&path, bytes).unwrap();
            let (mut new, mut new_runner) = (cache(), runner());
            prop_assert_eq!(load(&store, &mut new, &mut new_runner), 0);
            prop_assert_eq!(held(&new).len(), 0);
        }
    }
}
