//! Book-keeping of the KV cache: who holds which slot. The memory itself is the model's.

mod slots;

pub use slots::Slots;
