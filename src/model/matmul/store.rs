//! Where the laid-out weights of a session are, and the file that keeps them for the next start.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use super::edit;
use crate::memory::{Arena, FileMapping, forget_file, has_huge_pages, read_file};
use crate::operator::lock;
use crate::progress::LoadProgress;
use phi4d_matmul::{self as kernel, Activations, Line};
use phi4d_os as os;
use phi4d_settings::WeightsMemory;

/// Alignment of the weights in the file.
const ALIGNMENT: usize = 4096;

/// The laid-out weights of a session, by the names of the model's tensors.
#[derive(Debug, Default)]
pub(crate) struct Store {
    /// Laid out ahead, in a file.
    file: Option<Laid>,
    /// Laid out by this process.
    made: Mutex<HashMap<String, Arc<Packed>>>,
    /// Learns how many bytes of weights are there.
    progress: LoadProgress,
    /// Rounded activations of the matmul that runs: matmuls run one after another.
    pub(crate) rounded: Mutex<Activations>,
}

/// Weights that this process has laid out.
#[derive(Debug)]
pub(crate) struct Packed {
    memory: Arena,
    lines: usize,
    factor: f32,
}

impl Packed {
    /// Memory for `lines`, which `pack` fills; it returns the factor of their scales.
    ///
    /// # Errors
    /// If there is no memory.
    pub(crate) fn new(lines: usize, pack: impl FnOnce(&mut [Line]) -> f32) -> io::Result<Self> {
        let mut factor = 1.0;
        let memory = Arena::filled::<Line, io::Error>(lines, |lines| {
            factor = pack(lines);
            Ok(())
        })?;
        Ok(Self { memory, lines, factor })
    }

    fn lines(&self) -> &[Line] {
        self.memory.slice(0, self.lines)
    }
}

/// Weights of one matmul.
#[derive(Debug, Clone)]
pub(crate) enum Weights {
    Made(Arc<Packed>),
    Laid { file: Arc<Contents>, entry: Entry },
}

/// The contents of a file.
#[derive(Debug)]
pub(crate) enum Contents {
    Mapped(FileMapping),
    Copied { memory: Arena, bytes: usize },
}

impl Contents {
    fn of(file: &File, memory: WeightsMemory, progress: &LoadProgress) -> io::Result<Self> {
        let bytes = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        let copy = match memory {
            WeightsMemory::Mapped => false,
            WeightsMemory::Copied => true,
            // The KV cache takes half of what the weights leave, so half as much again is left to it.
            WeightsMemory::Auto => has_huge_pages() && os::spare_memory() / 3 >= bytes / 2,
        };
        if !copy {
            return Ok(Self::Mapped(FileMapping::new(file)?));
        }
        progress.expect(bytes as u64);
        let read = |more| progress.add(more as u64);
        let memory = Arena::filled(bytes, |bytes: &mut [u8]| read_file(file, bytes, read))?;
        forget_file(file);
        Ok(Self::Copied { memory, bytes })
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(file) => file.bytes(),
            Self::Copied { memory, bytes } => memory.slice(0, *bytes),
        }
    }

    fn lines(&self, offset: usize, count: usize) -> &[Line] {
        match self {
            Self::Mapped(file) => file.slice(offset, count),
            Self::Copied { memory, .. } => memory.slice(offset, count),
        }
    }
}

/// A file of laid-out weights: the length of the index, the index, then the weights.
#[derive(Debug)]
struct Laid {
    file: Arc<Contents>,
    entries: HashMap<String, Entry>,
}

/// Where a matmul's weights are in the file.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Entry {
    offset: usize,
    lines: usize,
    factor: f32,
}

impl Weights {
    pub(crate) fn lines(&self) -> &[Line] {
        match self {
            Self::Made(packed) => packed.lines(),
            Self::Laid { file, entry } => file.lines(entry.offset, entry.lines),
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
    /// Without weights: the nodes of `graph` lay them out, as `progress` learns.
    pub(crate) fn laying_out(graph: &[u8], progress: &LoadProgress) -> Self {
        // A damaged graph is reported by whoever loads it.
        progress.expect(edit::packed_bytes(graph).unwrap_or(0));
        Self { progress: progress.clone(), ..Self::default() }
    }

    /// With the weights that [`Store::write`] wrote. If they are copied, `progress` learns how many; mapped ones
    /// are read by the steps that use them.
    ///
    /// # Errors
    /// If the file can't be read, or is not one of these.
    pub(crate) fn open(
        path: &Path,
        memory: WeightsMemory,
        progress: &LoadProgress,
    ) -> io::Result<Self> {
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the index is damaged");
        let contents = Contents::of(&File::open(path)?, memory, progress)?;
        // The file may be cut or another program's: all that it says of itself is checked.
        let length: [u8; 8] = contents.bytes().first_chunk().copied().ok_or_else(damaged)?;
        let length = usize::try_from(u64::from_le_bytes(length)).map_err(|_| damaged())?;
        let index = contents.bytes()[8..].get(..length).ok_or_else(damaged)?;
        let entries: HashMap<String, Entry> = serde_json::from_slice(index)?;
        for entry in entries.values() {
            let bytes = entry.lines.checked_mul(size_of::<Line>());
            let end = bytes.and_then(|bytes| entry.offset.checked_add(bytes));
            if end.is_none_or(|end| end > contents.bytes().len()) || entry.offset % ALIGNMENT != 0 {
                return Err(damaged());
            }
        }
        let file = Some(Laid { file: Arc::new(contents), entries });
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
                let entry = Entry { offset, lines: packed.lines, factor: packed.factor };
                offset = (offset + packed.lines * size_of::<Line>()).next_multiple_of(ALIGNMENT);
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
            // Up to the place that the index names: less than a page.
            file.write_all(&vec![0; entries[name].offset - written])?;
            let bytes = kernel::bytes(made[name].lines());
            file.write_all(bytes)?;
            written = entries[name].offset + bytes.len();
        }
        file.into_inner()?.sync_all()
    }

    /// The weights of the tensor `name`: laid out ahead or before, or made by `make` now.
    pub(crate) fn weights(
        &self,
        name: &str,
        lines: usize,
        make: impl FnOnce() -> ort::Result<Packed>,
    ) -> ort::Result<Weights> {
        if let Some(laid) = &self.file
            && let Some(&entry) = laid.entries.get(name)
            && entry.lines == lines
        {
            return Ok(Weights::Laid { file: Arc::clone(&laid.file), entry });
        }
        let done = || self.progress.add((lines * size_of::<Line>()) as u64);
        // Nodes that share a weight tensor share its packed copy.
        if let Some(made) = lock(&self.made).get(name) {
            done();
            return Ok(Weights::Made(Arc::clone(made)));
        }
        // Not under the lock: packing takes long. ONNX Runtime makes the kernels of a session one
        // after another.
        let made = Arc::new(make()?);
        done();
        lock(&self.made).insert(name.to_owned(), Arc::clone(&made));
        Ok(Weights::Made(made))
    }
}
