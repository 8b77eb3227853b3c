//! Memory of a device, by the session's allocator for it.
//!
//! What the allocator gives is a handle: on some devices an address, on others (WebGPU, DirectML) an
//! object that stands for the memory. So no code does arithmetic on it: a tensor begins where a block
//! begins.
#![expect(unsafe_code, reason = "calls the C API on raw pointers")]

use std::ffi::{CStr, c_void};
use std::ptr::{NonNull, null, null_mut};
use std::sync::Arc;

use ort::AsPointer;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session;

/// Allocates memory where a session wants one of its inputs.
#[derive(Debug)]
pub(super) struct DeviceAllocator {
    allocator: NonNull<ort::sys::OrtAllocator>,
    info: NonNull<ort::sys::OrtMemoryInfo>,
    name: String,
    /// Owns the memory that the allocator gives out.
    _session: Arc<Session>,
}

// SAFETY: used by the thread that owns the runner alone; which thread that is does not matter.
unsafe impl Send for DeviceAllocator {}
// SAFETY: as above.
unsafe impl Sync for DeviceAllocator {}

impl DeviceAllocator {
    /// The allocator for the memory in which `session` wants its input `name`; `None` where that is
    /// the host's.
    pub(super) fn for_input(session: &Arc<Session>, name: &str) -> ort::Result<Option<Self>> {
        // The session owns this description, which lives as long as the allocator: that holds a
        // share of the session.
        let Some(info) = input_memory(session, name)? else { return Ok(None) };
        let mut allocator = null_mut();
        // SAFETY: both pointers are live, and the session owns the second.
        check(unsafe {
            (ort::api().CreateAllocator)(session.ptr(), info.as_ptr(), &raw mut allocator)
        })?;
        let allocator = made(allocator)?;
        let name = memory_name(info)?;
        Ok(Some(Self { allocator, info, name, _session: Arc::clone(session) }))
    }

    /// What ONNX Runtime calls the memory.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// A block of `bytes` bytes, not initialised.
    ///
    /// # Errors
    /// If the device is out of memory.
    pub(super) fn allocate(self: &Arc<Self>, bytes: usize) -> ort::Result<Arc<DeviceBlock>> {
        let mut handle = null_mut();
        // SAFETY: the allocator is live.
        check(unsafe {
            (ort::api().AllocatorAlloc)(self.allocator.as_ptr(), bytes, &raw mut handle)
        })?;
        let handle = made(handle)?;
        Ok(Arc::new(DeviceBlock { handle, bytes, allocator: Arc::clone(self) }))
    }
}

impl Drop for DeviceAllocator {
    fn drop(&mut self) {
        // SAFETY: made by `for_input`, released once, after the blocks, which hold a share of it.
        unsafe { (ort::api().ReleaseAllocator)(self.allocator.as_ptr()) };
    }
}

/// Memory of a device.
#[derive(Debug)]
pub(super) struct DeviceBlock {
    handle: NonNull<c_void>,
    bytes: usize,
    allocator: Arc<DeviceAllocator>,
}

// SAFETY: as with the allocator; the handle is never followed here.
unsafe impl Send for DeviceBlock {}
// SAFETY: as above.
unsafe impl Sync for DeviceBlock {}

impl DeviceBlock {
    /// The address, or what stands for it.
    pub(super) fn handle(&self) -> NonNull<c_void> {
        self.handle
    }

    /// Its size.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Which memory it is.
    pub(super) fn info(&self) -> *const ort::sys::OrtMemoryInfo {
        self.allocator.info.as_ptr()
    }
}

impl Drop for DeviceBlock {
    fn drop(&mut self) {
        let allocator = self.allocator.allocator.as_ptr();
        // SAFETY: made by this allocator, freed once; tensors over it hold a share of it.
        let status = unsafe { (ort::api().AllocatorFree)(allocator, self.handle.as_ptr()) };
        // Nobody can act on it where the block is dropped, and what is lost is memory only.
        if let Err(error) = check(status) {
            log::warn!("memory of the device could not be given back: {error}");
        }
    }
}

/// The host's memory, as ONNX Runtime describes it to a binding.
pub(super) fn host_memory() -> ort::Result<MemoryInfo<'static>> {
    MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)
}

/// The memory in which `session` wants its input `name`; `None` for the host's.
fn input_memory(
    session: &Session,
    name: &str,
) -> ort::Result<Option<NonNull<ort::sys::OrtMemoryInfo>>> {
    let inputs = session.inputs();
    let missing = || ort::Error::new(format!("there is no input {name}"));
    let place = inputs.iter().position(|input| input.name() == name).ok_or_else(missing)?;
    // The C API answers for all inputs at once, in the order in which it lists them.
    let mut infos = vec![null(); inputs.len()];
    // SAFETY: the array has room for each input.
    check(unsafe {
        (ort::api().SessionGetMemoryInfoForInputs)(session.ptr(), infos.as_mut_ptr(), infos.len())
    })?;
    let info = made(infos[place].cast_mut())?;
    let mut device = ort::sys::OrtMemoryInfoDeviceType::OrtMemoryInfoDeviceType_CPU;
    // SAFETY: the session owns what it has just given.
    unsafe { (ort::api().MemoryInfoGetDeviceType)(info.as_ptr(), &raw mut device) };
    // A provider for a device may want small inputs in the host's memory. Which memory it is
    // decides, not which provider.
    let host = device == ort::sys::OrtMemoryInfoDeviceType::OrtMemoryInfoDeviceType_CPU;
    Ok((!host).then_some(info))
}

fn memory_name(info: NonNull<ort::sys::OrtMemoryInfo>) -> ort::Result<String> {
    let mut name = null();
    // SAFETY: the session owns `info`, and so the text.
    check(unsafe { (ort::api().MemoryInfoGetName)(info.as_ptr(), &raw mut name) })?;
    let name = made(name.cast_mut())?;
    // SAFETY: a text that ends with a zero, owned by `info`.
    Ok(unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned())
}

/// Turns a status into a result.
pub(super) fn check(status: ort::sys::OrtStatusPtr) -> ort::Result<()> {
    // SAFETY: only called with what a call of the C API returned, once.
    unsafe { ort::Error::result_from_status(status) }
}

/// Refuses the null that a call which succeeded never gives.
pub(super) fn made<T>(pointer: *mut T) -> ort::Result<NonNull<T>> {
    NonNull::new(pointer).ok_or_else(|| ort::Error::new("ONNX Runtime made nothing"))
}
