//! Where the laid-out weights of a session are, and the file that keeps them for the next start.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::memory::FileMapping;
use phi4d_int4::{self as int4, Packed, Rounded, Unit};

/// Alignment of the weights in the file.
const ALIGNMENT: usize = 4096;

/// The laid-out weights of a session, by the names of the model's tensors.
#[derive(Debug, Default)]
pub(crate) struct Store {
    /// Laid out ahead, in a file.
    file: Option<Laid>,
    /// Laid out by this process.
    made: Mutex<HashMap<String, Arc<Packed>>>,
    /// Rounded activations of the matmul that runs: matmuls run one after another.
    pub(crate) rounded: Mutex<Vec<Rounded>>,
}

/// Weights of one matmul.
#[derive(Debug, Clone)]
pub(crate) enum Weights {
    Made(Arc<Packed>),
    Laid { file: Arc<FileMapping>, entry: Entry },
}

/// A file of laid-out weights: the length of the index, the index, then the weights.
#[derive(Debug)]
struct Laid {
    file: Arc<FileMapping>,
    entries: HashMap<String, Entry>,
}

/// Where a matmul's weights are in the file.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Entry {
    offset: usize,
    units: usize,
    factor: f32,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is one insertion, so a panic leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Weights {
    pub(crate) fn units(&self) -> &[Unit] {
        match self {
            Self::Made(packed) => &packed.units,
            Self::Laid { file, entry } => file.slice(entry.offset, entry.units),
        }
    }

    pub(crate) fn factor(&self) -> f32 {
        match self {
            Self::Made(packed) => packed.factor,
            Self::Laid { entry, .. } => entry.factor,
        }
    }
}

impl Store {
    /// With the weights that [`Store::write`] wrote.
    ///
    /// # Errors
    /// If the file can't be read, or is not one of these.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the index is damaged");
        let mapping = FileMapping::new(&File::open(path)?)?;
        let length: [u8; 8] = mapping.bytes().first_chunk().copied().ok_or_else(damaged)?;
        let length = usize::try_from(u64::from_le_bytes(length)).map_err(|_| damaged())?;
        let index = mapping.bytes()[8..].get(..length).ok_or_else(damaged)?;
        let entries: HashMap<String, Entry> = serde_json::from_slice(index)?;
        for entry in entries.values() {
            let bytes = entry.units.checked_mul(size_of::<Unit>());
            let end = bytes.and_then(|bytes| entry.offset.checked_add(bytes));
            if end.is_none_or(|end| end > mapping.bytes().len()) || entry.offset % ALIGNMENT != 0 {
                return Err(damaged());
            }
        }
        let file = Some(Laid { file: Arc::new(mapping), entries });
        Ok(Self { file, ..Self::default() })
    }

    /// Writes what this process has laid out.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        // Sorted, so that the same model gives the same file.
        let made = lock(&self.made);
        let mut names: Vec<&String> = made.keys().collect();
        names.sort();
        let entries = |first: usize| {
            let mut offset = first;
            let entry = |name: &&String| {
                let packed = &made[*name];
                let units = packed.units.len();
                let entry = Entry { offset, units, factor: packed.factor };
                offset = (offset + units * size_of::<Unit>()).next_multiple_of(ALIGNMENT);
                ((*name).clone(), entry)
            };
            names.iter().map(entry).collect::<HashMap<_, _>>()
        };
        // Offsets depend on the index's length, and that on the digits of the offsets. So the room is
        // taken for the longest offsets there can be.
        let room = serde_json::to_vec(&entries(usize::MAX / 2))?.len() + 8;
        let first = (room + names.len() * 20).next_multiple_of(ALIGNMENT);
        let entries = entries(first);
        let index = serde_json::to_vec(&entries)?;
        let mut file = io::BufWriter::new(File::create(path)?);
        file.write_all(&(index.len() as u64).to_le_bytes())?;
        file.write_all(&index)?;
        let mut written = 8 + index.len();
        for name in names {
            file.write_all(&vec![0; entries[name].offset - written])?;
            let bytes = int4::bytes(&made[name].units);
            file.write_all(bytes)?;
            written = entries[name].offset + bytes.len();
        }
        file.into_inner()?.sync_all()
    }

    /// The weights of the tensor `name`: laid out ahead or before, or made by `make` now.
    pub(crate) fn weights(
        &self,
        name: &str,
        units: usize,
        make: impl FnOnce() -> ort::Result<Packed>,
    ) -> ort::Result<Weights> {
        if let Some(laid) = &self.file
            && let Some(&entry) = laid.entries.get(name)
            && entry.units == units
        {
            return Ok(Weights::Laid { file: Arc::clone(&laid.file), entry });
        }
        // Nodes that share a weight tensor share its packed copy.
        if let Some(made) = lock(&self.made).get(name) {
            return Ok(Weights::Made(Arc::clone(made)));
        }
        let made = Arc::new(make()?);
        lock(&self.made).insert(name.to_owned(), Arc::clone(&made));
        Ok(Weights::Made(made))
    }
}
