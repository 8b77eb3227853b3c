//! `/v1/models`, `/health` and `/ready`.

use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;

use super::loading::Loading;
use crate::models::ModelView;
use phi4d_engine::Stats;
use phi4d_telemetry::timestamp;

/// One model.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Model<'a> {
    pub(crate) id: &'a str,
    pub(crate) object: &'static str,
    /// Seconds since 1970.
    pub(crate) created: u64,
    pub(crate) owned_by: &'static str,
    /// Anthropic's `object`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// What it does, in llama.cpp's and Ollama's words: `completion` or `embedding`.
    capabilities: [&'static str; 1],
    /// Anthropic's name for people.
    display_name: &'a str,
    /// Anthropic's `created`, in RFC 3339.
    created_at: String,
    /// vLLM's name for the tokens that prompt and answer may have together; of an embedding model, for
    /// those of a text.
    max_model_len: usize,
    meta: Meta,
    /// Where models come and go: `unloaded`, `loading`, `loaded` or `unloading`.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    /// While it is loading.
    #[serde(skip_serializing_if = "Option::is_none")]
    load_progress: Option<Loading>,
}

/// llama.cpp's facts about a model.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Meta {
    n_vocab: usize,
    n_ctx: usize,
    n_ctx_train: usize,
    /// Numbers of a vector.
    #[serde(skip_serializing_if = "Option::is_none")]
    n_embd: Option<usize>,
}

impl<'a> Model<'a> {
    pub(crate) fn new(id: &'a str, created: u64, context: usize, vocabulary: usize) -> Self {
        Self {
            id,
            object: "model",
            created,
            owned_by: "phi4d",
            kind: "model",
            capabilities: ["completion"],
            display_name: id,
            created_at: timestamp(UNIX_EPOCH + Duration::from_secs(created)),
            max_model_len: context,
            meta: Meta { n_vocab: vocabulary, n_ctx: context, n_ctx_train: context, n_embd: None },
            state: None,
            load_progress: None,
        }
    }

    /// The same, of a model that comes and goes.
    pub(crate) fn seen(self, view: &ModelView) -> Self {
        Self { state: Some(view.phase.as_str()), load_progress: Loading::of(view), ..self }
    }

    /// An embedding model, whose vectors have `dimensions` numbers.
    pub(crate) fn embedding(
        id: &'a str,
        created: u64,
        context: usize,
        vocabulary: usize,
        dimensions: usize,
    ) -> Self {
        let model = Self::new(id, created, context, vocabulary);
        let meta = Meta { n_embd: Some(dimensions), ..model.meta };
        Self { capabilities: ["embedding"], meta, ..model }
    }
}

/// All models.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ModelList<'a> {
    object: &'static str,
    data: Vec<Model<'a>>,
    // Anthropic's pages, of which there is one.
    first_id: Option<&'a str>,
    last_id: Option<&'a str>,
    has_more: bool,
}

impl<'a> ModelList<'a> {
    pub(crate) fn new(data: Vec<Model<'a>>) -> Self {
        let (first_id, last_id) = (data.first().map(|m| m.id), data.last().map(|m| m.id));
        Self { object: "list", data, first_id, last_id, has_more: false }
    }
}

/// The program's version.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Version {
    pub(crate) version: &'static str,
}

/// Whether requests are taken.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Readiness {
    /// `ready`, `not ready` or `draining`.
    pub(crate) status: &'static str,
}

/// The daemon's state and the engine's counters.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Health<'a> {
    /// `ok` or `draining`.
    pub(crate) status: &'static str,
    pub(crate) model: &'a str,
    pub(crate) version: &'static str,
    slots: usize,
    running: usize,
    waiting: usize,
    accepted: u64,
    finished: u64,
    cancelled: u64,
    failed: u64,
    prompt_tokens: u64,
    generated_tokens: u64,
    steps: u64,
    preempted: u64,
    cached_prompt_tokens: u64,
    draft_tokens: u64,
    accepted_draft_tokens: u64,
    kv_tokens: usize,
    kv_cached_tokens: usize,
    kv_budget_tokens: usize,
    /// Whether the daemon ends when it is idle (`idle_exit`), so that the next question starts it again.
    sleeps_when_idle: bool,
    /// Where models come and go, each of them; the numbers above are of all together.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) models: Vec<HealthModel<'a>>,
}

/// A model that comes and goes.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct HealthModel<'a> {
    pub(crate) model: &'a str,
    /// `unloaded`, `loading`, `loaded` or `unloading`.
    pub(crate) state: &'static str,
    /// While it is loading.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) load_progress: Option<Loading>,
    pub(crate) running: usize,
    /// Requests that wait for the model or for a slot.
    pub(crate) waiting: usize,
}

impl<'a> Health<'a> {
    pub(crate) fn new(
        status: &'static str,
        model: &'a str,
        sleeps_when_idle: bool,
        stats: &Stats,
    ) -> Self {
        Self {
            status,
            model,
            version: env!("CARGO_PKG_VERSION"),
            slots: stats.slots,
            running: stats.running,
            waiting: stats.waiting,
            accepted: stats.accepted,
            finished: stats.finished,
            cancelled: stats.cancelled,
            failed: stats.failed,
            prompt_tokens: stats.prompt_tokens,
            generated_tokens: stats.generated_tokens,
            steps: stats.steps,
            preempted: stats.preempted,
            cached_prompt_tokens: stats.cached_prompt_tokens,
            draft_tokens: stats.draft_tokens,
            accepted_draft_tokens: stats.accepted_draft_tokens,
            kv_tokens: stats.kv_tokens,
            kv_cached_tokens: stats.kv_cached_tokens,
            kv_budget_tokens: stats.kv_budget_tokens,
            sleeps_when_idle,
            models: Vec::new(),
        }
    }
}
