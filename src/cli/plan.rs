//! How much memory a model takes, by its folder and the settings.

use serde::Serialize;

use super::check::size;
use phi4d_model::Export;
use phi4d_settings::Settings;

/// The memory that a model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Plan {
    /// Of the weights.
    pub(super) weight_bytes: u64,
    /// Of the cache, for each token.
    pub(super) kv_bytes_per_token: u64,
    /// Longest prompt and answer together.
    pub(super) context_tokens: usize,
    /// Requests that are answered at once.
    pub(super) slots: usize,
    /// Of the cache, with one context full.
    pub(super) kv_bytes_per_context: u64,
    /// Of the cache, with the context of each request full.
    pub(super) kv_bytes_full: u64,
    /// The most that the cache takes: as set, else half of what is left beside the weights.
    pub(super) kv_budget_bytes: u64,
    /// Tokens that this is worth.
    pub(super) kv_budget_tokens: u64,
}

impl Plan {
    /// The plan where `spare` bytes can be had before the model is loaded.
    pub(super) fn new(export: &Export, settings: &Settings, spare: u64) -> Self {
        let context_tokens = match settings.context_tokens {
            0 => export.model.context,
            tokens => tokens.min(export.model.context),
        };
        let weight_bytes = export.weight_bytes();
        let per_token = export.kv_bytes_per_token;
        let per_context = per_token.saturating_mul(context_tokens as u64);
        let budget = match settings.kv_cache_bytes {
            0 => spare.saturating_sub(weight_bytes) / 2,
            bytes => bytes as u64,
        };
        Self {
            weight_bytes,
            kv_bytes_per_token: per_token,
            context_tokens,
            slots: settings.slots,
            kv_bytes_per_context: per_context,
            kv_bytes_full: per_context.saturating_mul(settings.slots as u64),
            kv_budget_bytes: budget,
            kv_budget_tokens: budget.checked_div(per_token).unwrap_or(0),
        }
    }

    /// The plan as lines of a name and what is told of it.
    pub(super) fn lines(&self) -> Vec<(&'static str, String)> {
        vec![
            ("weights", bytes(self.weight_bytes)),
            (
                "KV cache",
                format!(
                    "{} a token, {} for a context of {} tokens, {} for {} of them",
                    bytes(self.kv_bytes_per_token),
                    bytes(self.kv_bytes_per_context),
                    self.context_tokens,
                    bytes(self.kv_bytes_full),
                    self.slots,
                ),
            ),
            (
                "KV limit",
                format!(
                    "{}, which is {} tokens over all requests",
                    bytes(self.kv_budget_bytes),
                    self.kv_budget_tokens
                ),
            ),
        ]
    }
}

/// A number of bytes for people.
pub(super) fn bytes(count: u64) -> String {
    size(usize::try_from(count).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use phi4d_settings::{Inputs, resolve};

    fn plan(flags: &[(&str, &str)], spare: u64) -> Plan {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo");
        let export = phi4d_model::inspect(&folder).unwrap();
        let flags = flags.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        let settings = resolve(&Inputs { flags, ..Inputs::default() }).unwrap().settings;
        Plan::new(&export, &settings, spare)
    }

    #[test]
    fn the_cache_is_planned_for_the_context_that_is_set() {
        let set =
            plan(&[("context_tokens", "1000"), ("slots", "3"), ("kv_cache_bytes", "20480")], 0);
        assert_eq!(set.kv_bytes_per_token, 2048);
        assert_eq!((set.kv_bytes_per_context, set.kv_bytes_full), (2_048_000, 6_144_000));
        assert_eq!((set.kv_budget_bytes, set.kv_budget_tokens), (20_480, 10));
    }

    #[test]
    fn without_settings_it_is_the_models_context_and_half_of_what_is_left() {
        let plain = plan(&[], 1 << 30);
        assert_eq!(plain.context_tokens, 4096);
        assert_eq!(plain.kv_budget_bytes, ((1 << 30) - plain.weight_bytes) / 2);
        assert_eq!(plan(&[], 0).kv_budget_bytes, 0);
    }
}
