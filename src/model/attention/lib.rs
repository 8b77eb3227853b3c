//! Grouped-query attention over a KV cache in blocks of 64 positions, for the CPU.
//!
//! The result of a query row depends on its own query, its cached keys and values and its position, and on
//! nothing else: not on the rows beside it, the step's width, the number of threads or the processor's
//! instructions. That holds because every way to compute a row does the same float operations in the same
//! order:
//!
//! - Keys are stored transposed, so that the lanes of a vector are keys, and a score is a chain of fused
//!   multiply-adds over the head's dimensions in ascending order, whether one row or a thousand share the keys.
//! - Sums over keys are kept in sixteen lanes, whatever the vector's real width, and are added up by one
//!   fixed tree.
//! - Values are added key by key in ascending order, by fused multiply-adds.
//! - The context is cut at fixed positions (every [`SPLIT`]). Each split has a maximum, a sum and an output of
//!   its own, and splits are merged in ascending order, whether one thread computed them or many.
//! - There is one exponential function, a polynomial.
//!
//! [`isa`] has the code for each instruction set. The scalar one defines the results, and tests compare the others with it
//! bit by bit.

mod band;
mod isa;
mod layout;
mod rotary;
mod tile;
mod view;

#[cfg(test)]
mod tests;

pub use band::{Band, NARROW};
pub use isa::chosen;
pub use layout::{KvType, LONGEST, Layout};
pub use rotary::rotate;

/// Positions in a block.
pub const BLOCK: usize = 64;

/// Positions of the context that one pass covers. A long context is shared by threads in splits, and a split
/// is long enough that merging costs little: at 128 values a head, 1 in 1,000 operations.
pub const SPLIT: usize = 1024;
