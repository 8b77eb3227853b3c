//! The embedding model of the settings: loaded for the daemon, and looked at for people.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::exit::Fatal;
use super::sizes::bytes;
use phi4d_generate::{Embedder, EmbedderOptions, Generator};
use phi4d_model::{
    EmbeddingFolder, EmbeddingModel, EmbeddingOptions, LoadCancel, LoadError, Shorter,
};
use phi4d_os as os;
use phi4d_server::Embeddings;
use phi4d_settings::Settings;

/// Loads the embedding model, if the settings name one.
pub(super) fn load(
    settings: &Settings,
    cancel: &LoadCancel,
) -> Result<Option<EmbeddingModel>, LoadError> {
    let Some(folder) = &settings.embedding_model else { return Ok(None) };
    let options = EmbeddingOptions {
        folder: folder.clone(),
        threads: threads(settings),
        max_tokens: settings.embedding_max_tokens,
        runtime_library: settings.runtime_library.clone(),
    };
    let model = EmbeddingModel::load(&options, cancel)?;
    log::info!(
        dimensions = model.dimensions(), max_tokens = model.folder().max_tokens, threads = options.threads;
        "loaded the embedding model {}: vectors of {} numbers, texts of up to {} tokens",
        settings.served_embedding_name(),
        model.dimensions(),
        model.folder().max_tokens
    );
    if !model.batches() {
        log::info!("texts are embedded one at a time: the graph quantises a batch as a whole");
    }
    Ok(Some(model))
}

/// A quarter of the model's threads where the settings leave it open: a step of answers beside a run then
/// has the others to itself.
fn threads(settings: &Settings) -> usize {
    match (settings.embedding_threads, settings.threads) {
        (0, 0) => (os::cores().used / 4).max(1),
        (0, threads) => (threads / 4).max(1),
        (threads, _) => threads,
    }
}

/// Starts the thread that owns `model`. Texts are tokenised by `generator`'s threads.
pub(super) fn start(
    settings: &Settings,
    model: EmbeddingModel,
    generator: &Generator,
) -> Result<Embedder, Fatal> {
    let options = EmbedderOptions {
        queue: settings.queue,
        queue_per_caller: settings.queue_per_caller,
        request_timeout: settings.request_timeout_s,
    };
    Ok(Embedder::start(model, generator.pool(), options)?)
}

/// The embedding model as the server has it.
pub(super) fn served(settings: &Settings, embedder: Embedder) -> Embeddings {
    let folder = settings.embedding_model.as_deref().unwrap_or(Path::new(""));
    let made = std::fs::metadata(folder.join("tokenizer.json"))
        .and_then(|metadata| metadata.modified())
        .unwrap_or_else(|_| SystemTime::now());
    let created = made.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Embeddings { embedder, name: settings.served_embedding_name(), created }
}

/// Bytes that the embedding model takes; 0 without one, or where its folder can't be read, which loading
/// it reports.
pub(super) fn memory(settings: &Settings) -> u64 {
    let folder = settings.embedding_model.as_deref();
    let bytes =
        folder.map(|folder| phi4d_model::embedding_bytes(folder, settings.embedding_max_tokens));
    bytes.and_then(Result::ok).unwrap_or(0)
}

/// What a folder's files say, for `inspect`.
pub(super) fn inspected(
    folder: &Path,
    settings: &Settings,
    as_json: bool,
) -> Result<String, Fatal> {
    let found = EmbeddingFolder::read(folder, settings.embedding_max_tokens)?;
    if as_json {
        let shorter = match &found.shorter {
            Shorter::None => Value::Bool(false),
            Shorter::Any => Value::Bool(true),
            Shorter::These(lengths) => json!(lengths),
        };
        let value = json!({
            "folder": found.folder,
            "kind": "embedding",
            "graph": found.graph,
            "weight_bytes": found.weight_bytes,
            "run_bytes": found.run_bytes,
            "max_tokens": found.max_tokens,
            "pooling": found.pooling.to_string(),
            "normalised": found.normalised,
            "shorter_dimensions": shorter,
        });
        return Ok(format!("{value:#}\n"));
    }
    let mut lines = vec![("folder", found.folder.display().to_string())];
    lines.push(("embedding", summary(&found)));
    lines.push(("graph", format!("{}, {}", found.graph.display(), bytes(found.weight_bytes))));
    lines.push(("memory", format!("up to {} for a run", bytes(found.run_bytes))));
    Ok(lines.iter().map(|(name, value)| format!("{name:<11}{value}\n")).collect())
}

/// An embedding model in a line.
pub(super) fn summary(found: &EmbeddingFolder) -> String {
    let shorter = match &found.shorter {
        Shorter::None => "",
        Shorter::Any | Shorter::These(_) => ", which can be shortened",
    };
    format!(
        "texts of up to {} tokens; the vector is the tokens' {}, {}normalised{shorter}",
        found.max_tokens,
        found.pooling,
        if found.normalised { "" } else { "not " }
    )
}
