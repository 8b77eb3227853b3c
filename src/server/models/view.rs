//! What others see of the models: a copy of the manager's state, replaced after each change.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::entry::ModelFacts;
use super::resident::Resident;
use phi4d_engine::{LoadProgress, LoadStage, Stats};

/// Where a model is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum ModelPhase {
    /// Not in memory.
    #[default]
    Unloaded,
    /// On its way into memory.
    Loading,
    /// In memory.
    Loaded,
    /// On its way out.
    Unloading,
}

impl ModelPhase {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Unloaded => "unloaded",
            Self::Loading => "loading",
            Self::Loaded => "loaded",
            Self::Unloading => "unloading",
        }
    }
}

/// Counts of what happened to a model.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Turnover {
    pub(crate) loads: u64,
    pub(crate) failures: u64,
    pub(crate) unloads: u64,
    /// How long the last load took.
    pub(crate) load_time: Duration,
}

/// One model at a moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct ModelView {
    pub(crate) phase: ModelPhase,
    /// Set while it is loaded.
    pub(crate) resident: Option<Arc<Resident>>,
    /// Set while it is loading.
    pub(crate) loading: Option<LoadProgress>,
    /// What its folder said when it was read last, if it could be read.
    pub(crate) facts: Option<Arc<ModelFacts>>,
    /// Memory that it takes now.
    pub(crate) bytes: u64,
    /// Requests that wait for it.
    pub(crate) waiting: usize,
    pub(crate) turnover: Turnover,
    /// Counts of the times when it was loaded before.
    pub(super) past: Stats,
    /// How long it stays without a request; `None`: for ever.
    pub(super) keep: Option<Duration>,
    /// Since when it has had no request; `None` while it has one.
    pub(super) idle_since: Option<Instant>,
}

impl ModelView {
    /// Tokens that prompt and answer may have together, and token ids; 0 where its folder can't be read.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        match (&self.resident, &self.facts) {
            (Some(resident), _) => {
                let limits = resident.generator().limits();
                (limits.context_tokens, limits.vocab_size)
            }
            (None, Some(facts)) => (facts.context_tokens, facts.vocab_size),
            (None, None) => (0, 0),
        }
    }

    /// How far it is while it is loading: the stage, and the part of the weights that is there, if that is known.
    pub(crate) fn load(&self) -> Option<(LoadStage, Option<f64>)> {
        let progress = self.loading.as_ref()?;
        Some((progress.stage(), progress.weights()))
    }

    /// Its engine's counters, with those of the times when it was loaded before.
    pub(crate) fn stats(&self) -> Stats {
        let now = self.resident.as_ref().map(|resident| resident.generator().stats());
        now.map_or(self.past, |now| self.past + now)
    }

    /// When it is unloaded if no request comes; `None`: never.
    pub(crate) fn expires(&self) -> Option<SystemTime> {
        let idle = self.idle_since.map_or(Duration::ZERO, |since| since.elapsed());
        SystemTime::now().checked_add(self.keep?.saturating_sub(idle))
    }
}
