//! What the settings and the model folder decide for all requests.

use std::sync::Arc;
use std::time::Duration;

use super::grammar::FormHost;

/// The sampling parameters of requests that give none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplingDefaults {
    /// 0 to 2; 0 is greedy.
    pub temperature: f32,
    /// Above 0, up to 1.
    pub top_p: f32,
    /// 0 keeps all.
    pub top_k: usize,
    /// 0 to 1.
    pub min_p: f32,
}

impl Default for SamplingDefaults {
    /// The model's own distribution.
    fn default() -> Self {
        Self { temperature: 1.0, top_p: 1.0, top_k: 0, min_p: 0.0 }
    }
}

/// Fixed choices of a [`Generator`](super::Generator).
#[derive(Debug, Clone)]
pub struct GeneratorOptions {
    /// Tokens that end the model's turn (genai_config.json's `eos_token_id`).
    pub eos_token_ids: Vec<u32>,
    /// Token that stands for an empty prompt (genai_config.json's `bos_token_id`).
    pub bos_token_id: u32,
    /// How requests are sampled that do not say so.
    pub defaults: SamplingDefaults,
    /// The longest a request may take, and the time of requests that give none; `None` is no limit.
    pub request_timeout: Option<Duration>,
    /// Whether objects of a schema that lists `properties` have no others, unless the schema or the
    /// request says so.
    pub close_objects: bool,
    /// Where forms are compiled and followed.
    pub forms: Arc<dyn FormHost>,
}
