//! Unwinding where memory is short.

#![expect(unsafe_code, reason = "a call of the C library's that fills a list of addresses")]

/// Has the C library load what it unwinds stacks by. It does that at the first use, and aborts the
/// process if there is no memory for it then: ONNX Runtime asks for a backtrace with each error that
/// it throws, that of a failed allocation too.
pub fn prepare_unwinding() {
    #[cfg(target_env = "gnu")]
    {
        let mut frames = [std::ptr::null_mut(); 1];
        // SAFETY: the list is a local with room for the one address that is asked for.
        unsafe { nix::libc::backtrace(frames.as_mut_ptr(), 1) };
    }
}
