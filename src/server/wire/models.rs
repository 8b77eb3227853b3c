//! `/v1/models`, `/health` and `/ready`.

use serde::Serialize;

use phi4d_engine::Stats;

/// One model.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Model<'a> {
    pub(crate) id: &'a str,
    pub(crate) object: &'static str,
    /// Seconds since 1970.
    pub(crate) created: u64,
    pub(crate) owned_by: &'static str,
}

/// All models.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ModelList<'a> {
    pub(crate) object: &'static str,
    pub(crate) data: [Model<'a>; 1],
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
}

impl<'a> Health<'a> {
    pub(crate) fn new(status: &'static str, model: &'a str, stats: &Stats) -> Self {
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
        }
    }
}
