//! A model as the daemon's settings have it, and what loads it.

use std::fmt;
use std::time::Duration;

use phi4d_engine::{Engine, LoadProgress};
use phi4d_generate::Generator;

/// A model of the daemon, loaded or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelEntry {
    /// Its name in the API.
    pub name: String,
    /// Further names; `*` stands for any that is no other model's.
    pub aliases: Vec<String>,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// Whether it is loaded at the start.
    pub at_start: bool,
}

/// What is known of a model without loading it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelFacts {
    /// Tokens that prompt and answer may have together.
    pub context_tokens: usize,
    /// Token ids that it knows.
    pub vocab_size: usize,
    /// Its chat template; empty without one.
    pub template: String,
    /// Whether it fills gaps between two texts.
    pub inserts: bool,
    /// Bytes of memory that its weights and its KV cache take.
    pub bytes: u64,
}

/// A model that was loaded.
#[derive(Debug)]
pub struct LoadedModel {
    /// Asks it.
    pub generator: Generator,
    /// Owns it.
    pub engine: Engine,
    /// Bytes of memory that its weights and its KV cache take.
    pub bytes: u64,
    /// How long that took.
    pub took: Duration,
}

/// Loads models by their place in the daemon's list. All of it may take long and blocks.
pub trait ModelSource: fmt::Debug + Send + Sync + 'static {
    /// What is known without loading.
    ///
    /// # Errors
    /// Why its folder can't be used.
    fn facts(&self, index: usize) -> Result<ModelFacts, String>;

    /// Loads it, and reports to `progress`. One at a time.
    ///
    /// # Errors
    /// Why it can't be loaded.
    fn load(&self, index: usize, progress: &LoadProgress) -> Result<LoadedModel, String>;

    /// Learns that it is not in memory any more.
    fn unloaded(&self, index: usize);

    /// Makes a load in progress end soon, and later ones fail. Does not block.
    fn cancel(&self);
}

/// How models are loaded and unloaded.
#[derive(Debug, Clone)]
pub struct ModelsOptions {
    /// Memory for all that are loaded, as [`ModelFacts::bytes`] counts it.
    pub memory_bytes: u64,
    /// After how long without a request a model is unloaded; `None`: never.
    pub idle_unload: Option<Duration>,
    /// Requests that may wait for models.
    pub queue: usize,
    /// Of one caller.
    pub queue_per_caller: usize,
    /// The longest that a request may take, the wait included; `None`: no limit.
    pub request_timeout: Option<Duration>,
}
