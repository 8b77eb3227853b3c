//! Rotary position embeddings.

/// Writes `values`, one head's, rotated by a position's `cos` and `sin` and times `factor`, to `out`.
/// Dimension `i` is rotated together with `i + cos.len()`; dimensions past these pairs stay.
///
/// Products are rounded before they are added, as on processors without fused multiply-add, so that the
/// result is the same everywhere.
///
/// # Panics
/// If the slices do not fit each other.
pub fn rotate(values: &[f32], cos: &[f32], sin: &[f32], factor: f32, out: &mut [f32]) {
    let pairs = cos.len();
    assert!(out.len() == values.len() && 2 * pairs <= values.len() && sin.len() == pairs);
    let (first, rest) = values.split_at(pairs);
    let (second, rest) = rest.split_at(pairs);
    let (out_first, out_rest) = out.split_at_mut(pairs);
    let (out_second, out_rest) = out_rest.split_at_mut(pairs);
    for index in 0..pairs {
        let (a, b) = (first[index], second[index]);
        out_first[index] = (a * cos[index] - b * sin[index]) * factor;
        out_second[index] = (a * sin[index] + b * cos[index]) * factor;
    }
    for (out, value) in out_rest.iter_mut().zip(rest) {
        *out = value * factor;
    }
}
