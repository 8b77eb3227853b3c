//! `GET /metrics`.

use crate::app::App;
use crate::models::{ModelPhase, ModelView, Turnover};
use crate::reply::{Reply, text};
use phi4d_engine::Stats;
use phi4d_generate::EmbeddingStats;
use phi4d_telemetry::{self as telemetry, Sample, Value};

/// Prometheus's text format.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics; those of the engine are its counters at this moment.
pub(crate) fn get(app: &App) -> Reply {
    let views: Vec<ModelView> = app.models().views();
    let mut samples = Vec::new();
    for (index, view) in views.iter().enumerate() {
        let of_model = |sample| Sample { model: Some(index), ..sample };
        samples.extend(own(&view.stats()).into_iter().map(of_model));
        if app.models().change() {
            samples.extend(turnover(view).into_iter().map(of_model));
        }
    }
    samples.push(Sample {
        labels: vec![("version", env!("CARGO_PKG_VERSION").to_owned())],
        ..number("phi4d_build_info", "The program's version", 1)
    });
    let memory = app.request_memory();
    samples.push(number(
        "phi4d_request_memory_bytes",
        "Upper bound of the memory that requests take",
        memory.held(),
    ));
    samples.push(number(
        "phi4d_request_memory_capacity_bytes",
        "Memory that requests may take",
        memory.total(),
    ));
    let (exported, dropped) = app.metrics().tracer().counts();
    samples.push(count("phi4d_trace_spans_exported", "Spans exported to a collector", exported));
    samples.push(count("phi4d_trace_spans_dropped", "Spans that could not be exported", dropped));
    let lost = telemetry::lost_lines();
    samples.push(count("phi4d_log_lines_lost", "Log lines that could not be written", lost));
    samples.extend(app.embeddings().into_iter().flat_map(|e| embedded(&e.embedder.stats())));
    for (index, view) in views.iter().enumerate() {
        let block = view.resident.as_ref().map(|there| there.generator().limits().kv_block_tokens);
        let aliases = aliases(&view.stats(), block.unwrap_or(1)).into_iter();
        samples.extend(aliases.map(|sample| Sample { model: Some(index), ..sample }));
    }
    text(CONTENT_TYPE, app.metrics().page(samples))
}

fn sample(name: &'static str, help: &'static str, value: Value) -> Sample {
    Sample { name, help, value, model: None, labels: Vec::new() }
}

fn count(name: &'static str, help: &'static str, count: u64) -> Sample {
    sample(name, help, Value::Count(count))
}

fn number(name: &'static str, help: &'static str, number: usize) -> Sample {
    sample(name, help, Value::Number(number as u64))
}

/// The part of the KV cache that live sequences hold. Cached prefixes can be evicted, so they count
/// as free.
fn kv_share(stats: &Stats) -> Value {
    let live = stats.kv_tokens.saturating_sub(stats.kv_cached_tokens);
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more digits")]
    let share = live as f64 / stats.kv_budget_tokens.max(1) as f64;
    Value::Share(share)
}

/// Tokens of all prompts whose prefill has begun, cached ones included.
fn prompt_tokens(stats: &Stats) -> u64 {
    stats.prompt_tokens + stats.cached_prompt_tokens
}

fn own(stats: &Stats) -> Vec<Sample> {
    vec![
        number("phi4d_slots", "Requests that can be answered at once", stats.slots),
        number("phi4d_requests_running", "Requests being answered", stats.running),
        number("phi4d_requests_waiting", "Requests waiting for a slot", stats.waiting),
        count("phi4d_requests_accepted", "Requests queued", stats.accepted),
        count("phi4d_requests_finished", "Requests finished", stats.finished),
        count("phi4d_requests_cancelled", "Requests whose client left", stats.cancelled),
        count("phi4d_requests_failed", "Requests that ended in an error", stats.failed),
        count(
            "phi4d_preemptions",
            "Times a running request went back to wait for memory",
            stats.preempted,
        ),
        count(
            "phi4d_prompt_tokens",
            "Tokens of prompts, cached ones included",
            prompt_tokens(stats),
        ),
        count(
            "phi4d_prompt_tokens_cached",
            "Tokens of prompts that were cached already",
            stats.cached_prompt_tokens,
        ),
        count("phi4d_generation_tokens", "Tokens generated", stats.generated_tokens),
        count("phi4d_draft_tokens", "Draft tokens that the model checked", stats.draft_tokens),
        count("phi4d_draft_tokens_accepted", "Draft tokens accepted", stats.accepted_draft_tokens),
        count("phi4d_model_steps", "Steps that the model ran", stats.steps),
        number("phi4d_kv_cache_tokens", "Tokens in the KV cache", stats.kv_tokens),
        number(
            "phi4d_kv_cache_kept_tokens",
            "Tokens in the KV cache that are kept for later requests",
            stats.kv_cached_tokens,
        ),
        number(
            "phi4d_kv_cache_capacity_tokens",
            "Tokens that the KV cache may hold",
            stats.kv_budget_tokens,
        ),
        sample(
            "phi4d_kv_cache_usage_ratio",
            "Share of the KV cache that live requests hold",
            kv_share(stats),
        ),
    ]
}

/// Those of a model that comes and goes.
fn turnover(view: &ModelView) -> [Sample; 8] {
    let Turnover { loads, failures, unloads, load_time } = view.turnover;
    let is_loaded = usize::from(view.phase == ModelPhase::Loaded);
    [
        number("phi4d_model_loaded", "Whether the model is in memory", is_loaded),
        sample(
            "phi4d_model_memory_bytes",
            "Memory that the model's weights and KV cache may take now",
            Value::Number(view.bytes),
        ),
        sample(
            "phi4d_model_load_progress_ratio",
            "Part of the weights that the model's load in progress has laid out, 0 to 1",
            Value::Share(view.load().and_then(|(_, weights)| weights).unwrap_or(0.0)),
        ),
        number("phi4d_model_requests_waiting", "Requests waiting for the model", view.waiting),
        count("phi4d_model_loads", "Times the model was loaded", loads),
        count("phi4d_model_load_failures", "Times the model could not be loaded", failures),
        count("phi4d_model_unloads", "Times the model was unloaded", unloads),
        sample(
            "phi4d_model_load_seconds",
            "Time that the model's last load took",
            Value::Share(load_time.as_secs_f64()),
        ),
    ]
}

/// Those of the embedding model.
fn embedded(stats: &EmbeddingStats) -> [Sample; 5] {
    [
        number(
            "phi4d_embedding_requests_waiting",
            "Requests that wait for the embedding model",
            stats.waiting,
        ),
        count("phi4d_embedding_requests", "Requests for embeddings finished", stats.finished),
        count("phi4d_embedding_texts", "Texts that were embedded", stats.texts),
        count("phi4d_embedding_tokens", "Tokens of texts that were embedded", stats.tokens),
        count("phi4d_embedding_runs", "Runs of the embedding model", stats.runs),
    ]
}

/// The names that vLLM gives them, which gateways look for.
fn aliases(stats: &Stats, block: usize) -> Vec<Sample> {
    let block = block.max(1);
    vec![
        number("vllm:num_requests_running", "Requests being answered", stats.running),
        number("vllm:num_requests_waiting", "Requests waiting for a slot", stats.waiting),
        sample(
            "vllm:kv_cache_usage_perc",
            "Share of the KV cache that live requests hold, 0 to 1",
            kv_share(stats),
        ),
        Sample {
            labels: vec![
                ("block_size", block.to_string()),
                ("num_gpu_blocks", (stats.kv_budget_tokens / block).to_string()),
            ],
            ..number("vllm:cache_config_info", "The KV cache's blocks, in labels", 1)
        },
        count(
            "vllm:num_preemptions",
            "Times a running request went back to wait for memory",
            stats.preempted,
        ),
        count(
            "vllm:prefix_cache_queries",
            "Tokens looked for in the prefix cache",
            prompt_tokens(stats),
        ),
        count(
            "vllm:prefix_cache_hits",
            "Tokens found in the prefix cache",
            stats.cached_prompt_tokens,
        ),
        count("vllm:prompt_tokens", "Tokens of prompts", prompt_tokens(stats)),
        count("vllm:generation_tokens", "Tokens generated", stats.generated_tokens),
        count(
            "vllm:spec_decode_num_draft_tokens",
            "Draft tokens that the model checked",
            stats.draft_tokens,
        ),
        count(
            "vllm:spec_decode_num_accepted_tokens",
            "Draft tokens accepted",
            stats.accepted_draft_tokens,
        ),
    ]
}
