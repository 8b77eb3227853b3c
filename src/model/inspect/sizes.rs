//! Sizes of an export's files and of its cache.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::graph::TensorInfo;

/// A file of weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WeightFile {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes that the graph reads of it, up to the last.
    pub needed: u64,
    /// Its size; `None` if it is not there.
    pub bytes: Option<u64>,
}

impl WeightFile {
    pub(super) fn damage(&self) -> Option<String> {
        let path = self.path.display();
        match self.bytes {
            None => Some(format!("{path} is missing")),
            Some(bytes) if bytes < self.needed => Some(format!(
                "{path} is truncated: it has {bytes} bytes, and the graph reads up to {}",
                self.needed
            )),
            Some(_) => None,
        }
    }
}

/// The files that the graph names, each with where the last of its tensors ends.
pub(super) fn weight_files(folder: &Path, ends: BTreeMap<String, u64>) -> Vec<WeightFile> {
    ends.into_iter()
        .map(|(name, needed)| {
            let path = folder.join(name);
            let bytes = std::fs::metadata(&path).ok().map(|metadata| metadata.len());
            WeightFile { path, needed, bytes }
        })
        .collect()
}

/// Bytes that one token takes in a tensor of the cache: its heads' last dimension, by the graph where
/// that fixes it (quantised caches pack two values into a byte), else by the configuration.
pub(super) fn bytes_per_token(cache: &TensorInfo, heads: usize, head_size: usize) -> u64 {
    let last = cache.shape.last().and_then(|size| size.parse().ok());
    let last = last.unwrap_or(head_size as u64);
    heads as u64 * last * cache.element_bytes()
}
