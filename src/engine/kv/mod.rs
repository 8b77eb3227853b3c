//! Book-keeping of the KV cache: which row holds which tokens, for whom. The memory is the
//! model's, and what is to be done with it comes out as [`Action`]s.

mod cache;
mod prefix;
#[cfg(test)]
mod tests;

pub use cache::{Action, Cache, Sizes};
