//! How far the load of a model is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// A part of a load, in the order in which they come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LoadStage {
    /// The folder's configuration and graph are read.
    #[default]
    Graph,
    /// The weights are read and laid out, while ONNX Runtime makes the session.
    Weights,
    /// The model runs a token.
    Trial,
    /// The tokenizer and the chat template are read.
    Tokenizer,
}

/// How far a load is: written by the threads that load, read by any. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct LoadProgress(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    stage: AtomicU8,
    /// Bytes of weights that were read and laid out, of `total`.
    done: AtomicU64,
    /// 0 where only ONNX Runtime knows, which does not say.
    total: AtomicU64,
}

impl LoadProgress {
    /// A stage has begun.
    pub fn enter(&self, stage: LoadStage) {
        self.0.stage.store(stage as u8, Ordering::Relaxed);
    }

    /// The stage that has begun last.
    #[must_use]
    pub fn stage(&self) -> LoadStage {
        let all = [LoadStage::Weights, LoadStage::Trial, LoadStage::Tokenizer];
        let stage = self.0.stage.load(Ordering::Relaxed);
        all.into_iter().find(|known| *known as u8 == stage).unwrap_or_default()
    }

    /// The part of the weights that was read and laid out, 0 to 1; `None` where that is not known.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more digits")]
    pub fn weights(&self) -> Option<f64> {
        let total = self.0.total.load(Ordering::Relaxed);
        let done = self.0.done.load(Ordering::Relaxed);
        (total > 0).then(|| (done as f64 / total as f64).min(1.0))
    }

    /// So many bytes of weights are to be read and laid out.
    pub(super) fn expect(&self, bytes: u64) {
        self.0.total.store(bytes, Ordering::Relaxed);
    }

    /// More of them are.
    pub(super) fn add(&self, bytes: u64) {
        self.0.done.fetch_add(bytes, Ordering::Relaxed);
    }
}
