//! The daemon's models as the settings have them: how much memory each may take, and how it is loaded
//! while the daemon serves.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::task::AbortHandle;

use super::exit::Fatal;
use super::report::ModelReport;
use super::sizes::size;
use super::start::{self, Started, variable};
use phi4d_generate::{FormHost, Pool};
use phi4d_model::{LoadCancel, LoadProgress, MemoryPlan, MemorySettings, PROGRAM_BYTES, Provider};
use phi4d_os as os;
use phi4d_server::{LoadedModel, ModelEntry, ModelFacts, ModelSource, Models, ModelsOptions};
use phi4d_settings::{Resolved, Settings};

/// All models of the settings.
#[derive(Debug)]
pub(super) struct Fleet {
    entries: Vec<ModelEntry>,
    /// The settings of each; the first model's are the daemon's.
    settings: Vec<Settings>,
    /// What compiles structured output for each.
    forms: Vec<Arc<dyn FormHost>>,
    memory: Memory,
    /// What was known of each before the first was loaded; `None` where the folder can't be read.
    reports: Vec<Option<Known>>,
    cancel: LoadCancel,
}

/// What a model's folder says.
#[derive(Debug, Clone)]
struct Known {
    facts: ModelFacts,
    provider: Option<Provider>,
}

/// The memory that models share.
#[derive(Debug, Clone)]
struct Memory {
    /// For the weights and KV caches of all that are loaded.
    budget: u64,
    /// What the machine had to spare at the start.
    spare: usize,
    /// Bytes of the weights of each, as far as they are known.
    weights: Vec<u64>,
}

impl Memory {
    fn of(settings: &Settings, all: &[Settings]) -> Self {
        let spare = os::spare_memory();
        let weights = |settings: &Settings| {
            let export = phi4d_model::inspect(settings.model.as_deref()?).ok();
            export.map(|export| export.weight_bytes())
        };
        let free = (spare as u64).saturating_sub(super::embedding::memory(settings));
        let budget = match settings.models_memory_bytes {
            // Requests and the program itself need some of it.
            0 => free - free / 8,
            bytes => bytes,
        };
        let weights = match all.len() {
            1 => vec![0],
            _ => all.iter().map(|settings| weights(settings).unwrap_or(0)).collect(),
        };
        Self { budget, spare, weights }
    }

    /// What a model's memory plan may count on. With one model that is all there is. Of several, each
    /// gets its weights and an equal part of what all weights leave; or, where these do not fit together,
    /// of what its own leave. So a plan does not depend on which others are loaded.
    fn spare_for(&self, index: usize) -> usize {
        let models = self.weights.len() as u64;
        if models == 1 {
            return self.spare;
        }
        let own = self.weights[index];
        let all = self.weights.iter().fold(0, |sum: u64, bytes| sum.saturating_add(*bytes));
        let left = match self.budget.checked_sub(all) {
            Some(left) => left,
            None => self.budget.saturating_sub(own),
        };
        let bytes = own.saturating_add(left / models);
        usize::try_from(bytes).unwrap_or(usize::MAX).saturating_add(PROGRAM_BYTES)
    }
}

impl Fleet {
    /// The models of `resolved`, whose structured output `forms` compile.
    pub(super) fn of(resolved: &Resolved, forms: Vec<Arc<dyn FormHost>>) -> Self {
        let settings: Vec<Settings> = settings_of_all(resolved);
        let memory = Memory::of(&resolved.settings, &settings);
        let entry = |(index, settings): (usize, &Settings)| ModelEntry {
            name: settings.served_model_name(),
            aliases: settings.model_aliases.clone(),
            created: created(settings),
            at_start: index == 0 || resolved.models[index - 1].at_start,
        };
        let mut fleet = Self {
            entries: settings.iter().enumerate().map(entry).collect(),
            reports: Vec::new(),
            settings,
            forms,
            memory,
            cancel: LoadCancel::default(),
        };
        if fleet.entries.len() > 1 {
            fleet.reports = (0..fleet.entries.len()).map(|index| fleet.looked_at(index)).collect();
            log::info!(
                "{} for {} models: {}",
                size(usize::try_from(fleet.memory.budget).unwrap_or(usize::MAX)),
                fleet.entries.len(),
                fleet.names()
            );
        }
        fleet
    }

    fn names(&self) -> String {
        let names: Vec<&str> = self.entries.iter().map(|entry| entry.name.as_str()).collect();
        names.join(", ")
    }

    fn looked_at(&self, index: usize) -> Option<Known> {
        let known = self.known(index);
        if let Err(error) = &known {
            log::warn!("{} can't be loaded as it is: {error}", self.entries[index].name);
        }
        known.ok()
    }

    /// The memory settings of a model's plan.
    pub(super) fn memory_settings(&self, index: usize) -> MemorySettings {
        start::memory_settings(&self.settings[index], self.memory.spare_for(index))
    }

    fn known(&self, index: usize) -> Result<Known, Fatal> {
        let settings = &self.settings[index];
        let folder = start::model_folder(settings)?;
        let report = ModelReport::gather(settings, folder, &self.memory_settings(index))?;
        let text = report.text?;
        let facts = ModelFacts {
            context_tokens: report.plan.slot_tokens,
            vocab_size: report.export.model.vocabulary,
            template: text.template.unwrap_or_default(),
            inserts: text.fills_gaps,
            bytes: bytes(&report.plan),
        };
        Ok(Known { facts, provider: report.runs.provider.ok().map(|(provider, _)| provider) })
    }

    /// Loads a model, until `cancel` is used, with the threads for text of one that was loaded before.
    /// Blocks.
    pub(super) fn load(
        &self,
        index: usize,
        cancel: &LoadCancel,
        pool: Option<Arc<Pool>>,
    ) -> Result<Started, Fatal> {
        let (settings, forms) = (&self.settings[index], Arc::clone(&self.forms[index]));
        start::start(settings, forms, cancel, &self.memory_settings(index), pool)
    }

    /// The settings of each model, the first one's first.
    pub(super) fn settings(&self) -> &[Settings] {
        &self.settings
    }

    /// Memory for the weights and KV caches of all that are loaded, if there are several models.
    pub(super) fn budget(&self) -> Option<u64> {
        (self.entries.len() > 1).then_some(self.memory.budget)
    }

    /// Where any of the models may run; the first runs at `first`.
    pub(super) fn provider(&self, first: Provider) -> Provider {
        let others = self.reports.iter().skip(1).flatten().filter_map(|known| known.provider);
        std::iter::once(first).chain(others).find(|found| *found != Provider::Cpu).unwrap_or(first)
    }

    /// Serves the models, of which the first is `loaded`. To be called within a runtime.
    pub(super) fn serve(self, loaded: LoadedModel) -> Models {
        let settings = &self.settings[0];
        let options = ModelsOptions {
            memory_bytes: self.budget().unwrap_or(u64::MAX),
            idle_unload: settings.idle_unload,
            queue: settings.queue,
            queue_per_caller: settings.queue_per_caller,
            request_timeout: settings.request_timeout_s,
        };
        let facts = self.reports.iter().map(|known| Some(known.as_ref()?.facts.clone())).collect();
        let source = Source {
            pool: Arc::clone(loaded.generator.pool()),
            watched: Mutex::default(),
            fleet: self,
        };
        source.watch(0);
        let entries = source.fleet.entries.clone();
        Models::start(entries, loaded, Arc::new(source), facts, options)
    }
}

/// The settings of each model, the first one's first. Further ones keep their prompts apart.
fn settings_of_all(resolved: &Resolved) -> Vec<Settings> {
    let store = start::prefix_store(&resolved.settings, variable);
    let further = resolved.models.iter().map(|model| {
        let prefix_store = store.as_ref().map(|folder| folder.join("models").join(&model.name));
        Settings { prefix_store, ..model.settings.clone() }
    });
    std::iter::once(resolved.settings.clone()).chain(further).collect()
}

/// Bytes of the host's memory that a model takes by its plan.
pub(super) fn bytes(plan: &MemoryPlan) -> u64 {
    // A cache in a device's memory takes none of the host's.
    let cache = if plan.kv_on_device { 0 } else { plan.kv_budget_bytes as u64 };
    plan.weight_bytes.saturating_add(cache)
}

/// When a model's folder was made, in seconds since 1970.
fn created(settings: &Settings) -> u64 {
    let file = settings.model.as_ref().map(|folder| folder.join("genai_config.json"));
    let made = file.and_then(|file| std::fs::metadata(file).ok()?.modified().ok());
    let made = made.unwrap_or_else(SystemTime::now);
    made.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A started model as the server has it.
pub(super) fn as_loaded(started: Started, took: Duration) -> LoadedModel {
    let bytes = bytes(&started.plan);
    LoadedModel { generator: started.generator, engine: started.engine, bytes, took }
}

/// Loads the fleet's models while the daemon serves.
#[derive(Debug)]
struct Source {
    fleet: Fleet,
    /// Threads for work that grows with requests, which all models share.
    pool: Arc<Pool>,
    /// What watches the files of each loaded model.
    watched: Mutex<HashMap<usize, AbortHandle>>,
}

impl Source {
    /// Warns from now on when the model's files are written to.
    fn watch(&self, index: usize) {
        #[cfg(not(unix))]
        let _ = index;
        #[cfg(unix)]
        if let Some(folder) = &self.fleet.settings[index].model {
            let watch = super::model_files::watch(folder);
            let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(before) = watched.insert(index, watch) {
                before.abort();
            }
        }
    }
}

impl ModelSource for Source {
    fn facts(&self, index: usize) -> Result<ModelFacts, String> {
        let known = self.fleet.known(index);
        known.map(|known| known.facts).map_err(|fatal| fatal.lines().join("; "))
    }

    fn load(&self, index: usize, progress: &LoadProgress) -> Result<LoadedModel, String> {
        let begun = Instant::now();
        let cancel = self.fleet.cancel.reporting_to(progress);
        let started = self.fleet.load(index, &cancel, Some(Arc::clone(&self.pool)));
        let started = started.map_err(|fatal| fatal.lines().join("; "))?;
        self.watch(index);
        Ok(as_loaded(started, begun.elapsed()))
    }

    fn unloaded(&self, index: usize) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watch) = watched.remove(&index) {
            watch.abort();
        }
    }

    fn cancel(&self) {
        self.fleet.cancel.cancel();
    }
}
