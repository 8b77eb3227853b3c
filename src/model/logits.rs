//! The logits of a step, in single precision.
#![expect(unsafe_code, reason = "reads memory that is bound to the session")]

use half::{bf16, f16};
use ort::value::TensorElementType;

use super::error::RunError;
use super::memory::Mapping;
use super::runner::Logits;

/// Rows `skip..skip + rows` of the logits in `memory`, `vocab` values of type `element` each.
/// `converted` holds them if they are not in single precision already.
///
/// # Safety
/// Nobody may write to the memory while the result lives.
pub(super) unsafe fn rows<'a>(
    memory: &'a Mapping,
    element: TensorElementType,
    [skip, rows, vocab]: [usize; 3],
    converted: &'a mut Vec<f32>,
) -> Result<Logits<'a>, RunError> {
    let count = (skip + rows) * vocab;
    match element {
        TensorElementType::Float16 => {
            // SAFETY: by the caller's word nobody writes while this copies.
            let values = unsafe { memory.read::<f16>(count) };
            convert(&values[skip * vocab..], converted);
            Logits::from_rows(converted, vocab)
        }
        TensorElementType::Bfloat16 => {
            // SAFETY: as above.
            let values = unsafe { memory.read::<bf16>(count) };
            convert(&values[skip * vocab..], converted);
            Logits::from_rows(converted, vocab)
        }
        _ => {
            // SAFETY: by the caller's word nobody writes while the result lives.
            let values = unsafe { memory.read::<f32>(count) };
            Logits::from_rows(&values[skip * vocab..], vocab)
        }
    }
}

/// Fills `converted` with `values` in single precision.
fn convert<T: Copy + Into<f32>>(values: &[T], converted: &mut Vec<f32>) {
    converted.clear();
    converted.extend(values.iter().map(|&value| value.into()));
}
