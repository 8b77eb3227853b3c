//! CUDA graphs: a decode step is recorded when it first runs and then replayed, which saves the launch
//! of each of its kernels.
//!
//! ONNX Runtime keeps one recording for each number that a run names. A recording holds the addresses
//! and sizes of its tensors, so each binding has a number of its own and takes a fresh one when
//! anything else is bound. Replay runs kernels only and leaves out copies to and from the host, so
//! inputs and outputs have to be in the device's memory.
#![expect(
    unsafe_code,
    reason = "a run's entries are set by the C API while others may end the run"
)]

use std::ffi::CString;

use ort::AsPointer as _;
use ort::session::{NoSelectedOutputs, RunOptions};

use crate::device::check;

/// The run's entry (`kOrtRunOptionsConfigCudaGraphAnnotation`).
const ENTRY: &str = "gpu_graph_id";

/// The number that ONNX Runtime takes for "do not record".
pub(crate) const UNRECORDED: i32 = -1;

/// Recordings kept by ONNX Runtime until the session ends; steps beyond these run as they are.
const MOST: i32 = 64;

/// Gives numbers to recordings.
#[derive(Debug)]
pub(crate) struct Graphs {
    next: i32,
}

impl Graphs {
    pub(crate) fn new() -> Self {
        // 0 is what runs without an entry have.
        Self { next: 1 }
    }

    /// A number that no recording has, or [`UNRECORDED`] once there are as many as may be.
    pub(crate) fn fresh(&mut self) -> i32 {
        if self.next > MOST {
            return UNRECORDED;
        }
        // Never given again: ONNX Runtime would replay the old recording on memory that has moved.
        self.next += 1;
        self.next - 1
    }
}

/// Makes the runs with `options` record, or play, the graph of this number.
///
/// # Errors
/// ONNX Runtime's error.
pub(crate) fn name(options: &RunOptions<NoSelectedOutputs>, number: i32) -> ort::Result<()> {
    let entry = |text: &str| CString::new(text).map_err(|error| ort::Error::new(error.to_string()));
    let (key, value) = (entry(ENTRY)?, entry(&number.to_string())?);
    // SAFETY: the options live, no run with them is under way on this thread, and another thread does
    // nothing with them but set the flag that ends a run.
    check(unsafe {
        (ort::api().AddRunConfigEntry)(options.ptr().cast_mut(), key.as_ptr(), value.as_ptr())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_used_once_and_no_more_than_may_be() {
        let mut graphs = Graphs::new();
        let numbers: std::collections::BTreeSet<i32> = (0..MOST).map(|_| graphs.fresh()).collect();
        assert_eq!(numbers.len(), usize::try_from(MOST).unwrap());
        assert!(!numbers.contains(&0), "that is what runs without an entry have");
        assert!(!numbers.contains(&UNRECORDED));
        assert_eq!(graphs.fresh(), UNRECORDED);
    }

    #[test]
    fn a_runs_entry_can_be_set_again_and_again() {
        crate::runtime::load(None).unwrap();
        let mut options = RunOptions::new().unwrap();
        for number in [1, 2, UNRECORDED] {
            name(&options, number).unwrap();
            assert_eq!(options.get(ENTRY), Some(number.to_string()));
        }
    }
}
