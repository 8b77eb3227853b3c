//! Book-keeping of the KV cache: which slot holds which tokens, and for whom. The memory is the model's;
//! [`Action`]s say what to do with it. So all of this is tested without a model.

mod cache;
mod ledger;
mod prefix;
#[cfg(test)]
mod tests;

pub use cache::{Action, Cache};
pub use ledger::{Growth, Sizes};
