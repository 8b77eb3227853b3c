//! `phi4d check`: everything that `serve` does before it listens, and what it found.

use std::sync::Arc;

use super::args::SettingsArgs;
use super::doctor::files_of;
use super::exit::Fatal;
use super::fleet::{self, Fleet};
use super::output::print;
use super::report::{self, bytes, memory_lines};
use super::service::sandbox::must_read;
use super::service::{SERVICE, Unit};
use super::start::{self, Started};
use phi4d_generate::ThreadForms;
use phi4d_model::LoadCancel;
use phi4d_os as os;
use phi4d_settings::Settings;

pub(super) fn run(arguments: &SettingsArgs) -> Result<(), Fatal> {
    let resolved = arguments.resolve(&["model"])?;
    start::start_log(&resolved)?;
    report::access(&resolved.settings, Vec::new())?;
    let forms = || Arc::new(ThreadForms::default()) as _;
    let fleet = Fleet::of(&resolved, (0..=resolved.models.len()).map(|_| forms()).collect());
    let (mut text, mut needed) = (String::new(), 0);
    // One after the other: all need not fit at once.
    for (index, settings) in fleet.settings().iter().enumerate() {
        seen_by_service(settings)?;
        let started = fleet.load(index, &LoadCancel::default(), None)?;
        text.push_str(&lines(settings, &started)?);
        needed += fleet::bytes(&started.plan);
        if let Some(embedder) = &started.embedder {
            embedder.stop();
        }
        started.engine.stop()?;
    }
    let end = match fleet.budget() {
        None => "the settings and the model are good\n".to_owned(),
        Some(budget) => {
            let verdict = if needed <= budget { "all fit at once" } else { "they take turns" };
            let (needed, budget) = (bytes(needed), bytes(budget));
            format!(
                "models     {needed} of {budget} for all: {verdict}\n\
                     the settings and the models are good\n"
            )
        }
    };
    print(&(text + &end))
}

/// Root checks for the service, whose sandbox sees fewer files than root does.
///
/// # Errors
/// If the service can't read what this process can.
fn seen_by_service(settings: &Settings) -> Result<(), Fatal> {
    let Some(unit) = Unit::find(SERVICE).filter(|_| os::effective_uid() == 0) else {
        return Ok(());
    };
    let folder = start::model_folder(settings)?;
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files = files.map(|entry| entry.path()).filter(|path| path.is_file());
    must_read(&unit, files_of(settings, None).into_iter().chain(files))
}

fn lines(settings: &Settings, started: &Started) -> Result<String, Fatal> {
    let folder = start::model_folder(settings)?;
    let model = &started.config.model;
    let decoder = &model.decoder;
    let mut lines = vec![
        ("model", format!("{} ({})", settings.served_model_name(), folder.display())),
        (
            "shape",
            format!(
                "{} layers, {} KV heads of {}, vocabulary of {}",
                decoder.num_hidden_layers,
                decoder.num_key_value_heads,
                decoder.head_size,
                model.vocab_size
            ),
        ),
        (
            "context",
            format!(
                "{} tokens of the model's {}, prompts read {} at a time",
                started.plan.slot_tokens,
                model.context_length,
                started.engine.handle().limits().max_prefill_tokens
            ),
        ),
        ("files", bytes(report::folder_bytes(folder))),
    ];
    lines.extend(memory_lines(&started.plan));
    if let Some(embedder) = &started.embedder {
        let name = settings.served_embedding_name();
        let (most, numbers) = (embedder.max_tokens(), embedder.dimensions());
        let memory = bytes(started.plan.embedding_bytes);
        lines.push((
            "embedding",
            format!("{name}: texts of up to {most} tokens, vectors of {numbers} numbers, {memory}"),
        ));
    }
    if !started.generator.has_template() {
        let missing = "the folder has no chat template: chats are refused, only completions work";
        lines.push(("warning", missing.to_owned()));
    }
    if model.eos_token_id.to_vec().is_empty() {
        let missing = "genai_config.json has no eos_token_id: answers end at max_tokens or a stop \
                       string, and structured output is refused";
        lines.push(("warning", missing.to_owned()));
    }
    let lines = lines.iter().map(|(name, value)| format!("{name:<11}{value}\n"));
    Ok(lines.collect())
}
