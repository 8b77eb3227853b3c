//! What the settings and the model folder decide for all requests.

use std::sync::Arc;
use std::time::Duration;

use super::grammar::FormHost;

/// Fixed choices of a [`Generator`](super::Generator).
#[derive(Debug, Clone)]
pub struct GeneratorOptions {
    /// Tokens that end the model's turn (genai_config.json's `eos_token_id`).
    pub eos_token_ids: Vec<u32>,
    /// Token that stands for an empty prompt (genai_config.json's `bos_token_id`).
    pub bos_token_id: u32,
    /// Temperature of requests that give none.
    pub default_temperature: f32,
    /// `top_p` of requests that give none.
    pub default_top_p: f32,
    /// The longest a request may take, and the time of requests that give none; `None` is no limit.
    pub request_timeout: Option<Duration>,
    /// Whether objects of a schema that lists `properties` have no others, unless the schema or the
    /// request says so.
    pub close_objects: bool,
    /// Where forms are compiled and followed.
    pub forms: Arc<dyn FormHost>,
}
