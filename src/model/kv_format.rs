//! How keys and values are stored.
//!
//! Quantised caches are the model builder's `kv_cache_quant_scheme`: the attention's operator
//! quantises what it stores and reads it back by scales in the graph, so that here only their sizes
//! differ.

use ort::value::TensorElementType;

/// Element types of keys and values: whole, and of 8 bits; two values of 4 bits share a `u8`.
pub(super) const STORED: [TensorElementType; 6] = [
    TensorElementType::Float32,
    TensorElementType::Float16,
    TensorElementType::Bfloat16,
    TensorElementType::Int8,
    TensorElementType::Uint8,
    TensorElementType::Float8E4M3FN,
];

/// Elements that one head's key (or value) takes at one position, where it has `head_size` values.
pub(super) fn elements(stored: TensorElementType, head_size: usize) -> usize {
    if stored == TensorElementType::Uint8 { head_size.div_ceil(2) } else { head_size }
}

/// Bytes of an element of a cache or of logits.
pub(super) fn bytes(element: TensorElementType) -> usize {
    match element {
        TensorElementType::Float32 => 4,
        TensorElementType::Int8 | TensorElementType::Uint8 | TensorElementType::Float8E4M3FN => 1,
        _ => 2,
    }
}
