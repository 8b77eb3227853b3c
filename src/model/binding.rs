//! Tensors over our own memory and their binding to a session, by ONNX Runtime's C API.
//!
//! The `ort` crate's own `IoBinding` copies borrowed tensors (and deadlocks doing so in this
//! release) and asks for the bound outputs after each run. This module binds memory once, in
//! place, and runs.
#![expect(unsafe_code, reason = "calls the C API on raw pointers")]

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use ort::AsPointer;
use ort::memory::MemoryInfo;
use ort::session::{NoSelectedOutputs, RunOptions, Session};
use ort::value::TensorElementType;

use super::device::{DeviceBlock, check, made};
use super::memory::Mapping;
use super::runtime;

/// What a tensor lies in.
#[derive(Debug)]
enum Memory {
    Host { _mapping: Arc<Mapping> },
    Device { _block: Arc<DeviceBlock> },
}

/// A tensor that lies in memory of ours, which it keeps alive.
#[derive(Debug)]
pub(super) struct Tensor {
    value: NonNull<ort::sys::OrtValue>,
    _memory: Memory,
}

// SAFETY: an OrtValue over foreign memory is bound to no thread.
unsafe impl Send for Tensor {}

impl Tensor {
    /// A tensor of `shape` whose data begin `offset` bytes into `memory`.
    ///
    /// # Panics
    /// If the data would not lie within `memory`.
    pub(super) fn new(
        info: &MemoryInfo<'_>,
        memory: &Arc<Mapping>,
        offset: usize,
        shape: &[usize],
        element: TensorElementType,
    ) -> ort::Result<Self> {
        let bytes = byte_size(shape, element)?;
        let data = memory.address(offset, bytes);
        // SAFETY: `data` are `bytes` bytes of `memory`, which the tensor keeps alive.
        let value = unsafe { over(info.ptr(), data, bytes, shape, element) }?;
        Ok(Self { value, _memory: Memory::Host { _mapping: Arc::clone(memory) } })
    }

    /// A tensor of `shape` at the beginning of a device's memory.
    ///
    /// # Panics
    /// If the data would not lie within the block.
    pub(super) fn on_device(
        block: &Arc<DeviceBlock>,
        shape: &[usize],
        element: TensorElementType,
    ) -> ort::Result<Self> {
        let bytes = byte_size(shape, element)?;
        assert!(bytes <= block.bytes(), "{bytes} of {}", block.bytes());
        // SAFETY: the block has at least `bytes` bytes, and the tensor keeps it alive.
        let value = unsafe { over(block.info(), block.handle(), bytes, shape, element) }?;
        Ok(Self { value, _memory: Memory::Device { _block: Arc::clone(block) } })
    }

    /// The value, for calls that read it.
    pub(super) fn value(&self) -> *const ort::sys::OrtValue {
        self.value.as_ptr()
    }
}

fn byte_size(shape: &[usize], element: TensorElementType) -> ort::Result<usize> {
    let unsized_element = || ort::Error::new(format!("{element} has no size"));
    element.byte_size(shape.iter().product()).ok_or_else(unsized_element)
}

/// A tensor over foreign memory.
///
/// # Safety
/// `data` must be `bytes` bytes of the memory that `info` describes, for as long as the value lives.
unsafe fn over(
    info: *const ort::sys::OrtMemoryInfo,
    data: NonNull<c_void>,
    bytes: usize,
    shape: &[usize],
    element: TensorElementType,
) -> ort::Result<NonNull<ort::sys::OrtValue>> {
    // The C API counts in i64; a shape's sizes are those of buffers that exist, so they fit.
    let shape: Vec<i64> = shape.iter().map(|&size| size as i64).collect();
    // This makes no copy: the value points to `data`, which is what lets past and present be one memory.
    let mut value = null_mut();
    // SAFETY: the caller answers for `data`; `shape` and `value` live through the call.
    check(unsafe {
        (ort::api().CreateTensorWithDataAsOrtValue)(
            info,
            data.as_ptr(),
            bytes,
            shape.as_ptr(),
            shape.len(),
            element.into(),
            &raw mut value,
        )
    })?;
    made(value)
}

impl Drop for Tensor {
    fn drop(&mut self) {
        // SAFETY: made by `new`, released once. A binding has a share of its own in the tensor, but
        // not in the memory: it keeps this `Tensor` till it is bound no more.
        unsafe { (ort::api().ReleaseValue)(self.value.as_ptr()) };
    }
}

/// Tensors bound to a session's inputs and outputs. Bound once, run many times.
#[derive(Debug)]
pub(super) struct Binding {
    binding: NonNull<ort::sys::OrtIoBinding>,
    session: Arc<Session>,
    /// What is bound, by name: the binding reads and writes their memory at every run.
    bound: HashMap<CString, Tensor>,
    /// Host memory that goes to a bound device tensor of the same name before each run.
    uploads: HashMap<CString, Tensor>,
    /// Host memory that a bound device tensor of the same name goes to after each run.
    downloads: HashMap<CString, Tensor>,
    /// Set once the provider has refused to copy between memories: inputs are then bound from the
    /// host's memory before each run.
    rebinds: bool,
}

// SAFETY: a binding is used by one thread at a time, since running takes it by `&mut`.
unsafe impl Send for Binding {}

impl Binding {
    /// An empty binding to `session`.
    pub(super) fn new(session: &Arc<Session>) -> ort::Result<Self> {
        let mut binding = null_mut();
        // SAFETY: the session lives through the call, which only reads it.
        check(unsafe { (ort::api().CreateIoBinding)(session.ptr().cast_mut(), &raw mut binding) })?;
        let binding = made(binding)?;
        Ok(Self {
            binding,
            session: Arc::clone(session),
            bound: HashMap::new(),
            uploads: HashMap::new(),
            downloads: HashMap::new(),
            rebinds: false,
        })
    }

    /// Binds `tensor` to the input `name`, in place of what was bound to it.
    pub(super) fn input(&mut self, name: &str, tensor: Tensor) -> ort::Result<()> {
        let name = c_string(name)?;
        // SAFETY: all three pointers are live, and the tensor is kept for as long as it is bound.
        check(unsafe {
            (ort::api().BindInput)(self.binding.as_ptr(), name.as_ptr(), tensor.value.as_ptr())
        })?;
        // What was uploaded to this name before belongs to the tensor that is replaced.
        self.uploads.remove(&name);
        // Only now is the tensor dropped that was bound before: the binding used its memory so far.
        self.bound.insert(name, tensor);
        Ok(())
    }

    /// Binds `device` to the input `name`, and copies what is in `host` into it before each run.
    pub(super) fn upload(&mut self, name: &str, host: Tensor, device: Tensor) -> ort::Result<()> {
        self.input(name, device)?;
        self.uploads.insert(c_string(name)?, host);
        Ok(())
    }

    /// Binds `tensor` to the output `name`, in place of what was bound to it.
    pub(super) fn output(&mut self, name: &str, tensor: Tensor) -> ort::Result<()> {
        let name = c_string(name)?;
        // SAFETY: all three pointers are live, and the tensor is kept for as long as it is bound.
        check(unsafe {
            (ort::api().BindOutput)(self.binding.as_ptr(), name.as_ptr(), tensor.value.as_ptr())
        })?;
        // Else the next run would copy into memory that the caller may have given up.
        self.downloads.remove(&name);
        self.bound.insert(name, tensor);
        Ok(())
    }

    /// Binds `device` to the output `name`, and copies what is in it to `host` after each run.
    pub(super) fn download(&mut self, name: &str, device: Tensor, host: Tensor) -> ort::Result<()> {
        self.output(name, device)?;
        self.downloads.insert(c_string(name)?, host);
        Ok(())
    }

    /// Runs the model over what is bound.
    ///
    /// # Safety
    /// Nobody may hold a reference into the memory of bound tensors, and no other run may write to
    /// it at the same time.
    pub(super) unsafe fn run(
        &mut self,
        options: &RunOptions<NoSelectedOutputs>,
    ) -> ort::Result<()> {
        // SAFETY: as the caller says.
        unsafe { self.upload_all() }?;
        // SAFETY: all three pointers are live; the caller answers for the tensors' memory. Running
        // does not change the session.
        check(unsafe {
            (ort::api().RunWithBinding)(
                self.session.ptr().cast_mut(),
                options.ptr(),
                self.binding.as_ptr(),
            )
        })?;
        // Empty unless steps are recorded: otherwise ONNX Runtime writes outputs to the host itself.
        let downloads = self.downloads.iter();
        let pairs = downloads.filter_map(|(name, host)| Some((self.bound.get(name)?, host)));
        // SAFETY: as above; the run is over.
        unsafe { copy_all(pairs) }
    }
}

impl Binding {
    /// Copies the uploads to their device tensors.
    ///
    /// # Safety
    /// As with [`Binding::run`].
    unsafe fn upload_all(&mut self) -> ort::Result<()> {
        let uploads = self.uploads.iter();
        let pairs = uploads.filter_map(|(name, host)| Some((host, self.bound.get(name)?)));
        if !self.rebinds {
            // SAFETY: by the caller's word nobody else uses the tensors.
            let copied = unsafe { copy_all(pairs) };
            // A recorded graph (the only user of downloads) reads from the recorded addresses, so
            // binding other memory would not be seen.
            if copied.is_ok() || !self.downloads.is_empty() {
                return copied;
            }
        }
        // Built-in providers do not offer copies outside a session. Binding host memory to an input that
        // is wanted on the device makes ONNX Runtime copy it there, into memory of its own.
        self.rebinds = true;
        // In each run again: the copy is made when the binding is, from what the memory held then.
        for (name, host) in &self.uploads {
            let (binding, host) = (self.binding.as_ptr(), host.value());
            // SAFETY: all three pointers are live.
            check(unsafe { (ort::api().BindInput)(binding, name.as_ptr(), host) })?;
        }
        Ok(())
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        // SAFETY: made by `new`, released once, before the session that it holds a share of.
        unsafe { (ort::api().ReleaseIoBinding)(self.binding.as_ptr()) };
    }
}

fn c_string(name: &str) -> ort::Result<CString> {
    CString::new(name).map_err(ort::Error::wrap)
}

/// Copies each pair's first tensor to its second, of the same size, wherever they are.
///
/// # Errors
/// If ONNX Runtime has no way between the two memories.
///
/// # Safety
/// Nobody else may use the tensors' memory.
unsafe fn copy_all<'a>(pairs: impl Iterator<Item = (&'a Tensor, &'a Tensor)>) -> ort::Result<()> {
    let (from, mut to): (Vec<_>, Vec<_>) =
        pairs.map(|(from, to)| (from.value(), to.value())).unzip();
    if from.is_empty() {
        return Ok(());
    }
    // Copies between memories belong to the environment, as a provider's library registers them
    // there.
    let environment = runtime::loaded().ok_or_else(|| ort::Error::new("nothing is loaded"))?;
    // SAFETY: all values are live, and both arrays of the same length; by the caller's word nobody
    // else uses the memory.
    check(unsafe {
        (ort::api().CopyTensors)(
            environment.ptr().cast_mut(),
            from.as_ptr(),
            to.as_mut_ptr(),
            null_mut(),
            from.len(),
        )
    })
}

/// Bindings kept for reuse. There is one for each range of slots that a step has covered. With more ranges (only
/// with very many slots) all are dropped, since a binding is cheap against a step.
const MOST: usize = 128;

/// Which tensors a step runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Set {
    /// Those of several rows.
    Rows,
    /// Those of one row.
    Bench,
}

/// Which part of the cache a binding is to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Range {
    pub(super) set: Set,
    pub(super) first: usize,
    pub(super) rows: usize,
    /// Whether its steps are recorded. Others over the same rows have other sizes.
    pub(super) recorded: bool,
}

/// A binding to a range of slots, and the sizes it is bound for.
#[derive(Debug)]
pub(super) struct BoundRange {
    pub(super) binding: Binding,
    /// Tokens of each row.
    pub(super) sequence: usize,
    /// Positions of each row that logits are given for.
    pub(super) positions: usize,
    /// Width of the mask.
    pub(super) total: usize,
    /// The number of its recorded graph, until anything else is bound.
    pub(super) recording: Option<i32>,
}

impl BoundRange {
    /// `binding` has the cache bound and nothing whose size is a step's.
    pub(super) fn new(binding: Binding) -> Self {
        Self { binding, sequence: 0, positions: 0, total: 0, recording: None }
    }
}

/// All bindings. They hold shares of the memory that is bound.
#[derive(Debug, Default)]
pub(super) struct Bindings {
    kept: HashMap<Range, BoundRange>,
    made: u64,
}

impl Bindings {
    /// Takes the binding to `range` out, or makes one. A binding that fails half-way is not put back,
    /// and so not used again.
    pub(super) fn take(
        &mut self,
        range: Range,
        make: impl FnOnce() -> ort::Result<BoundRange>,
    ) -> ort::Result<BoundRange> {
        // Removed until it is put back, so that an error in between drops it.
        if let Some(bound) = self.kept.remove(&range) {
            return Ok(bound);
        }
        if self.kept.len() >= MOST {
            self.kept.clear();
        }
        self.made += 1;
        make()
    }

    /// Keeps `bound` for the next step over `range`.
    pub(super) fn keep(&mut self, range: Range, bound: BoundRange) -> &mut BoundRange {
        self.kept.entry(range).insert_entry(bound).into_mut()
    }

    /// Drops all, as the memory that is bound moves.
    pub(super) fn clear(&mut self) {
        self.kept.clear();
    }

    /// Bindings made so far.
    #[cfg(test)]
    pub(super) fn made(&self) -> u64 {
        self.made
    }
}
