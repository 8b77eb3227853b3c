//! The matmul of activations with int4 or int8 weights, for many instruction sets.
//!
//! Weights come in blocks along K, each with one scale and perhaps a zero point, as `MatMulNBits` has
//! them. They are packed into another layout ([`Form`]) with scales in half precision, so that int4 in
//! blocks of 32 reads 4.5 bits a weight where ONNX Runtime's kernel reads 6. Activations are rounded to
//! int8 in blocks of the same size, as there at accuracy level 4.
//!
//! Sums within a block are exact integers, and blocks are added in order in single precision. So a row's
//! result depends neither on the rows beside it, nor on the number of threads, nor on the instruction
//! set: a sequence's tokens are the same alone and in a batch, on every processor.
#![expect(unsafe_code, reason = "vector loads and stores, and calls that need processor features")]

mod activations;
mod check;
mod form;
mod isa;
mod multiply;
mod pack;
mod tile;

#[cfg(test)]
mod tests;

pub use activations::{Activations, TileRows, round};
pub use form::{COLUMNS, Form, Line, bytes};
pub use isa::Kernel;
pub use multiply::{Operands, Results, multiply};
pub use pack::{Weights, pack};
