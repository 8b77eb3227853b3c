//! `phi4d check`: everything that `serve` does before it listens, and what it found.

use std::fmt::Write as _;

use super::args::SettingsArgs;
use super::exit::Fatal;
use super::output::print;
use super::start;
use phi4d_server::{self as server, Environment};
use phi4d_settings::Settings;

pub(super) fn run(arguments: &SettingsArgs) -> Result<(), Fatal> {
    let resolved = arguments.resolve(&["model"])?;
    start::start_log(&resolved)?;
    let settings = &resolved.settings;
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(Into::into);
    server::rules_of(settings, &Environment { credentials, ..Environment::default() })?;
    let started = start::start(settings)?;
    let report = report(settings, &started)?;
    started.engine.stop()?;
    print(&report)
}

fn report(settings: &Settings, started: &start::Started) -> Result<String, Fatal> {
    let folder = start::model_folder(settings)?;
    let handle = started.engine.handle();
    let limits = handle.limits();
    let model = &started.config.model;
    let decoder = &model.decoder;
    let budget_tokens = handle.stats().kv_budget_tokens;
    let weights = folder_bytes(folder);
    let slot_bytes = limits.context_tokens * limits.kv_bytes_per_token;
    let mut text = String::new();
    // Writing to a String can't fail.
    let _ = writeln!(text, "model      {} ({})", settings.served_model_name(), folder.display());
    let _ = writeln!(
        text,
        "shape      {} layers, {} KV heads of {}, vocabulary of {}",
        decoder.num_hidden_layers,
        decoder.num_key_value_heads,
        decoder.head_size,
        limits.vocab_size
    );
    let _ = writeln!(
        text,
        "context    {} tokens of the model's {}, prompts read {} at a time",
        limits.context_tokens, model.context_length, limits.max_prefill_tokens
    );
    let _ = writeln!(
        text,
        "KV cache   {} a token, {} a full slot; {} slots and {} for kept prompts",
        size(limits.kv_bytes_per_token),
        size(slot_bytes),
        settings.slots,
        settings.prefix_slots
    );
    let _ = writeln!(
        text,
        "memory     {} of files in the folder; at most {} of KV cache, which is {} tokens",
        size(weights),
        size(budget_tokens * limits.kv_bytes_per_token),
        budget_tokens
    );
    text.push_str("the settings and the model are good\n");
    Ok(text)
}

/// Bytes of the files in the model's folder, most of which are weights; unreadable ones count 0.
fn folder_bytes(folder: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes: u64 = entries
        .filter_map(|entry| std::fs::metadata(entry.path()).ok())
        .filter(std::fs::Metadata::is_file)
        .map(|metadata| metadata.len())
        .sum();
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Three digits or so and a binary unit.
pub(super) fn size(bytes: usize) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let mut tenths = bytes.saturating_mul(10) / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_in_units_that_people_read() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1.0 KiB"),
            (409_600, "400.0 KiB"),
            (6_710_886_400, "6.2 GiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
