//! CUDA graphs: a decode step is recorded when it first runs and then played again, which saves the
//! launch of each of its kernels.
//!
//! ONNX Runtime keeps one recording for each number that a run names. What is recorded holds the
//! addresses and the sizes of its tensors, so each binding has a number of its own and loses it with
//! its tensors; a step whose sizes change is not recorded at all.
#![expect(
    unsafe_code,
    reason = "a run's entries are set by the C API while others may end the run"
)]

use std::collections::HashMap;
use std::ffi::CString;
use std::hash::Hash;

use ort::AsPointer as _;
use ort::session::{NoSelectedOutputs, RunOptions};

/// The run's entry (`kOrtRunOptionsConfigCudaGraphAnnotation`).
const ENTRY: &str = "gpu_graph_id";

/// The number that ONNX Runtime takes for "do not record".
const UNRECORDED: i32 = -1;

/// Recordings kept by ONNX Runtime until the session ends; steps beyond these run as they are.
const MOST: i32 = 64;

/// The numbers of recordings, by what is bound.
#[derive(Debug)]
pub(in crate::model) struct Graphs<K> {
    numbers: HashMap<K, i32>,
    next: i32,
}

impl<K: Eq + Hash> Graphs<K> {
    pub(in crate::model) fn new() -> Self {
        // 0 is what runs without an entry have.
        Self { numbers: HashMap::new(), next: 1 }
    }

    /// The number for a step over what `key` names. `fixed` says that its sizes stay.
    pub(in crate::model) fn number(&mut self, key: K, fixed: bool) -> i32 {
        if !fixed {
            return UNRECORDED;
        }
        if let Some(number) = self.numbers.get(&key) {
            return *number;
        }
        if self.next > MOST {
            return UNRECORDED;
        }
        let number = self.next;
        self.next += 1;
        self.numbers.insert(key, number);
        number
    }

    /// To be called when bindings are dropped: their recordings must not be played again.
    pub(in crate::model) fn forget(&mut self) {
        self.numbers.clear();
    }
}

/// Makes the runs with `options` record, or play, the graph of this number.
///
/// # Errors
/// What ONNX Runtime says.
pub(in crate::model) fn name(
    options: &RunOptions<NoSelectedOutputs>,
    number: i32,
) -> ort::Result<()> {
    let entry = |text: &str| CString::new(text).map_err(|error| ort::Error::new(error.to_string()));
    let (key, value) = (entry(ENTRY)?, entry(&number.to_string())?);
    // SAFETY: the options live, no run with them is under way on this thread, and another thread does
    // nothing with them but set the flag that ends a run.
    unsafe {
        let status =
            (ort::api().AddRunConfigEntry)(options.ptr().cast_mut(), key.as_ptr(), value.as_ptr());
        ort::Error::result_from_status(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_binding_has_a_number_of_its_own_and_never_one_that_was_used() {
        let mut graphs = Graphs::new();
        let first = graphs.number((0, 1), true);
        assert_ne!(first, 0, "that is what runs without an entry have");
        let second = graphs.number((0, 2), true);
        assert_ne!(first, second);
        assert_eq!(graphs.number((0, 1), true), first);
        graphs.forget();
        assert!(![first, second].contains(&graphs.number((0, 1), true)));
    }

    #[test]
    fn steps_of_other_sizes_and_those_beyond_the_most_are_not_recorded() {
        let mut graphs = Graphs::new();
        assert_eq!(graphs.number(0, false), UNRECORDED);
        for key in 0..MOST {
            assert!(graphs.number(key, true) > 0);
        }
        assert_eq!(graphs.number(MOST, true), UNRECORDED);
        assert!(graphs.number(0, true) > 0);
    }

    #[test]
    fn a_runs_entry_can_be_set_again_and_again() {
        crate::model::runtime::load(None).unwrap();
        let mut options = RunOptions::new().unwrap();
        for number in [1, 2, UNRECORDED] {
            name(&options, number).unwrap();
            assert_eq!(options.get(ENTRY), Some(number.to_string()));
        }
    }
}
