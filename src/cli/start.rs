//! From settings to a model that is ready to be asked.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::embedding;
use super::exit::Fatal;
use super::sizes::{bytes, size};
use phi4d_engine::{self as engine, Engine, StartError};
use phi4d_generate::{
    Embedder, FormHost, Generator, GeneratorOptions, Pool, SamplingDefaults, ThreadForms,
};
use phi4d_model::{
    self as model, GenaiConfig, LoadCancel, LoadStage, MemoryPlan, MemorySettings, SearchSection,
};
use phi4d_os as os;
use phi4d_settings::{self as settings, LogFormat, Resolved, Settings};
use phi4d_telemetry as telemetry;

/// The engine and what asks it.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) engine: Engine,
    pub(super) generator: Generator,
    /// The embedding model, if the settings name one.
    pub(super) embedder: Option<Embedder>,
    pub(super) config: GenaiConfig,
    /// Where the model runs.
    pub(super) provider: model::Provider,
    pub(super) plan: MemoryPlan,
}

/// Sets the log up as the settings say, and logs the warnings of the settings' reader.
pub(super) fn start_log(resolved: &Resolved) -> Result<(), Fatal> {
    let format = match resolved.settings.log_format {
        LogFormat::Auto => telemetry::Format::Auto,
        LogFormat::Text => telemetry::Format::Text,
        LogFormat::Json => telemetry::Format::Json,
        LogFormat::Journal => telemetry::Format::Journal,
    };
    os::prepare_unwinding();
    let stderr = os::take_stderr()
        .map_err(|source| Fatal::System { action: "open standard error again", source })?;
    telemetry::init(format, resolved.settings.log_level, stderr)
        .map_err(|source| Fatal::System { action: "set the log up", source })?;
    for warning in &resolved.warnings {
        log::warn!("{warning}");
    }
    Ok(())
}

/// The model's folder. Callers have resolved the settings with `model` required.
pub(super) fn model_folder(settings: &Settings) -> Result<&Path, Fatal> {
    let missing = || Fatal::Internal("model is required and not set".to_owned());
    settings.model.as_deref().ok_or_else(missing)
}

/// Loads the model, starts the engine, and loads the tokenizer and template; until `cancel` is used while
/// the model is loading. Takes as long as reading the weights does. Forms are compiled by `forms`, the memory
/// plan follows from `memory`, and work that grows with requests is done by another model's `pool` if there
/// is one.
pub(super) fn start(
    settings: &Settings,
    forms: Arc<dyn FormHost>,
    cancel: &LoadCancel,
    memory: &MemorySettings,
    pool: Option<Arc<Pool>>,
) -> Result<Started, Fatal> {
    let folder = model_folder(settings)?;
    // The smaller model first: its faults show soon.
    let embeds = embedding::load(settings, cancel)?;
    let loaded = model::load_cancellable(&load_options(settings, folder), cancel)?;
    let plan = MemoryPlan::new(loaded.runner.limits(), loaded.weight_bytes, memory);
    log_plan(&plan);
    let options = engine_options(settings, &plan, &loaded)?;
    let engine = engine::start(loaded.runner, loaded.interrupt, options)?;
    cancel.progress().enter(LoadStage::Tokenizer);
    let text_options = generator_options(settings, &loaded.config, folder);
    let generator = text_options.and_then(|options| {
        let (engine, options) = (engine.handle(), GeneratorOptions { forms, ..options });
        let generator = match pool {
            Some(pool) => Generator::load_sharing(folder, engine, options, pool),
            None => Generator::load(folder, engine, options),
        };
        Ok(generator?)
    });
    let embedder = |generator: &Generator| {
        embeds.map(|model| embedding::start(settings, model, generator)).transpose()
    };
    match generator.and_then(|generator| embedder(&generator).map(|embedder| (generator, embedder)))
    {
        Ok((generator, embedder)) => {
            let (config, provider) = (loaded.config, loaded.provider);
            Ok(Started { engine, generator, embedder, config, provider, plan })
        }
        Err(error) => {
            // The first failure is the one to report.
            let _ = engine.stop();
            Err(error)
        }
    }
}

pub(super) fn load_options(settings: &Settings, folder: &Path) -> model::LoadOptions {
    model::LoadOptions {
        folder: PathBuf::from(folder),
        provider: provider_settings(settings),
        threads: match settings.threads {
            0 => os::cores().used,
            threads => threads,
        },
        slots: settings.slots + settings.prefix_slots,
        context_tokens: settings.context_tokens,
        max_prefill_tokens: settings.prefill_chunk_tokens,
        kv_cache_bytes: settings.kv_cache_bytes,
        own_kernels: settings.own_kernels,
        int8_activations: settings.int8_activations,
        kv_cache_type: match settings.kv_cache_type {
            settings::KvCacheType::F16 => model::KvType::F16,
            settings::KvCacheType::Int8 => model::KvType::Int8,
            settings::KvCacheType::F32 => model::KvType::F32,
        },
        weights_memory: settings.weights_memory,
        runtime_library: settings.runtime_library.clone(),
    }
}

pub(super) fn provider_settings(settings: &Settings) -> model::ProviderSettings {
    model::ProviderSettings {
        provider: settings.provider,
        library: settings.provider_library.clone(),
        options: settings.provider_options.clone(),
    }
}

/// What the memory plan follows from; `spare_bytes` are free before the model is loaded.
pub(super) fn memory_settings(settings: &Settings, spare_bytes: usize) -> MemorySettings {
    memory_settings_of(settings, spare_bytes, variable)
}

/// As [`memory_settings`], for a daemon whose environment `lookup` reads.
pub(super) fn memory_settings_of(
    settings: &Settings,
    spare_bytes: usize,
    lookup: impl Fn(&str) -> Option<String>,
) -> MemorySettings {
    MemorySettings {
        kv_cache_bytes: settings.kv_cache_bytes,
        slots: settings.slots,
        prefix_slots: settings.prefix_slots,
        request_memory_bytes: settings.request_memory_bytes,
        max_body_bytes: settings.max_body_bytes,
        prefix_store_bytes: prefix_store(settings, lookup)
            .map_or(0, |_| settings.prefix_store_bytes),
        embedding_bytes: embedding::memory(settings),
        spare_bytes,
    }
}

fn log_plan(plan: &MemoryPlan) {
    log::info!(
        weight_bytes = plan.weight_bytes,
        embedding_bytes = plan.embedding_bytes,
        kv_cache_bytes = plan.kv_budget_bytes,
        kv_cache_tokens = plan.kv_budget_tokens,
        context_tokens = plan.slot_tokens,
        slots = plan.slots,
        prefix_slots = plan.prefix_slots,
        request_memory_bytes = plan.request_memory_bytes,
        prefix_store_bytes = plan.prefix_store_bytes;
        "memory plan: {} of weights, {} of KV cache for {} tokens, {} for requests",
        bytes(plan.weight_bytes),
        size(plan.kv_budget_bytes),
        plan.kv_budget_tokens,
        size(plan.request_memory_bytes)
    );
}

/// Options of the engine, for a model with this memory plan.
///
/// # Errors
/// If the plan has too little memory for the KV cache.
pub(super) fn engine_options(
    settings: &Settings,
    plan: &MemoryPlan,
    loaded: &model::Loaded,
) -> Result<engine::Options, Fatal> {
    if let Some(fault) = plan.too_small {
        return Err(StartError::Memory(fault).into());
    }
    Ok(engine::Options {
        max_running: settings.slots,
        queue: settings.queue,
        queue_per_caller: settings.queue_per_caller,
        slow_client_timeout: settings.slow_client_timeout_s,
        kv_cache_bytes: plan.kv_budget_bytes,
        prefill_share: settings.prefill_share,
        prefill_chunk: Duration::from_millis(settings.prefill_chunk_ms),
        draft_tokens: settings.draft_tokens,
        reproducible: settings.reproducible,
        batch_invariant: loaded.batch_invariant,
        fallback_seed: None,
        store: prefix_store(settings, variable).map(|folder| engine::Store {
            folder,
            bytes: settings.prefix_store_bytes,
            fingerprint: loaded.fingerprint,
        }),
    })
}

/// Where prefixes are kept, if they are, by a daemon whose environment `lookup` reads.
pub(super) fn prefix_store(
    settings: &Settings,
    lookup: impl Fn(&str) -> Option<String>,
) -> Option<PathBuf> {
    if settings.prefix_store_bytes == 0 || settings.prefix_slots == 0 {
        return None;
    }
    let state = || lookup("STATE_DIRECTORY").filter(|folder| !folder.is_empty());
    let folder = settings.prefix_store.clone();
    folder.or_else(|| state().map(|folder| Path::new(&folder).join("prefixes")))
}

/// A variable of this process's environment.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Options of the text side, with forms compiled in this process.
pub(super) fn generator_options(
    settings: &Settings,
    config: &GenaiConfig,
    folder: &Path,
) -> Result<GeneratorOptions, Fatal> {
    let eos_token_ids = config.model.eos_token_id.to_vec();
    // Exports without a begin token begin with an end token, as GPT-2 and its heirs do.
    let bos_token_id = config.model.bos_token_id.or_else(|| eos_token_ids.first().copied());
    let bos_token_id = bos_token_id.ok_or_else(|| model::LoadError::Invalid {
        path: folder.join("genai_config.json"),
        reason: "model.eos_token_id is an empty list; expected at least one token id".to_owned(),
    })?;
    Ok(GeneratorOptions {
        eos_token_ids,
        bos_token_id,
        defaults: sampling_defaults(settings, &config.search),
        close_objects: settings.close_objects,
        request_timeout: settings.request_timeout_s,
        forms: Arc::new(ThreadForms::default()),
    })
}

/// The settings' defaults, else the model folder's, else the model's own distribution. A folder that
/// does not sample at all decides the temperature alone: its other parameters are for that, and
/// would hold requests that do sample to one token.
fn sampling_defaults(settings: &Settings, search: &SearchSection) -> SamplingDefaults {
    let samples = search.do_sample != Some(false);
    let within = |value: Option<f64>, range: RangeInclusive<f64>| {
        value.filter(|value| samples && range.contains(value))
    };
    let own = SamplingDefaults::default();
    let temperature = if samples { within(search.temperature, 0.0..=2.0) } else { Some(0.0) };
    let or =
        |given: Option<f64>, folder: Option<f64>, own: f32| given.or(folder).map_or(own, single);
    SamplingDefaults {
        temperature: or(settings.default_temperature, temperature, own.temperature),
        top_p: or(settings.default_top_p, within(search.top_p, f64::MIN_POSITIVE..=1.0), own.top_p),
        top_k: settings.default_top_k.or(search.top_k.filter(|_| samples)).unwrap_or(own.top_k),
        min_p: or(settings.default_min_p, within(search.min_p, 0.0..=1.0), own.min_p),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "settings of a small range, for which single precision is plenty"
)]
fn single(number: f64) -> f32 {
    number as f32
}
