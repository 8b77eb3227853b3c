//! What a model takes, said before it is downloaded: disk, memory and how fast it will answer here.

use serde_json::Value;

use crate::report::bytes;
use crate::report::machine::{READ_BYTES, SHARE_OF_BANDWIDTH, read_rate};
use phi4d_fetch::{Plan, Variant};
use phi4d_os as os;

/// The model's shape, as far as memory and speed follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    kv_bytes_per_token: u64,
    context: u64,
    /// Bytes of the table of embeddings, of which a step reads single rows.
    table_bytes: u64,
}

impl Shape {
    /// Reads a `genai_config.json`, whose numbers may be anything.
    fn read(config: &[u8], variant: Variant) -> Option<Self> {
        let config: Value = serde_json::from_slice(config).ok()?;
        let (model, decoder) = (&config["model"], &config["model"]["decoder"]);
        let number = |value: &Value| value.as_u64();
        let (layers, heads, head) = (
            number(&decoder["num_hidden_layers"])?,
            number(&decoder["num_key_value_heads"])?,
            number(&decoder["head_size"])?,
        );
        // Exports for CPUs are of single precision but for their int4 weights.
        let element = if variant == Variant::Cpu { 4 } else { 2 };
        let product = |factors: &[u64]| factors.iter().fold(1, |a, b| u64::saturating_mul(a, *b));
        let table = number(&model["vocab_size"]).zip(number(&decoder["hidden_size"]));
        Some(Self {
            kv_bytes_per_token: product(&[2, layers, heads, head, element]),
            context: number(&model["context_length"])?,
            table_bytes: table.map_or(0, |(rows, width)| product(&[rows, width, element])),
        })
    }
}

/// Lines about what `plan` is going to fetch. `context` is the setting `context_tokens`.
pub(super) fn lines(
    plan: &Plan<'_>,
    config: &[u8],
    variant: Variant,
    context: usize,
) -> Vec<String> {
    let mut lines = vec![format!(
        "{}: {} to download, {} are free there",
        plan.from,
        bytes(plan.missing),
        bytes(plan.free)
    )];
    let Some(shape) = Shape::read(config, variant) else { return lines };
    let is_weights = |name: &str| name.ends_with(".data") || name.ends_with(".onnx");
    let weights = plan.files().filter(|(name, _)| is_weights(name)).map(|(_, size)| size).sum();
    if variant == Variant::Cpu {
        lines.push(memory(shape, weights, context as u64, os::spare_memory() as u64));
        lines.extend(speed(shape, weights));
    }
    lines
}

fn memory(shape: Shape, weights: u64, context: u64, spare: u64) -> String {
    let tokens = if context == 0 { shape.context } else { context.min(shape.context) };
    let cache = shape.kv_bytes_per_token.saturating_mul(tokens);
    let wanted = weights.saturating_add(cache);
    let text = format!(
        "it takes {} of memory: {} of weights, and {} for a context of {tokens} tokens",
        bytes(wanted),
        bytes(weights),
        bytes(cache)
    );
    let spared = bytes(spare);
    if weights > spare {
        format!("{text}; only {spared} are free, so it will NOT run here")
    } else if wanted > spare {
        format!("{text}; {spared} are free, so set context_tokens or share fewer tokens")
    } else {
        format!("{text}; {spared} are free")
    }
}

/// Decode steps read all weights but the table, as fast as the memory is.
#[expect(clippy::cast_precision_loss, reason = "sizes far below where that shows")]
fn speed(shape: Shape, weights: u64) -> Option<String> {
    let threads = os::cores().used;
    if os::spare_memory() / 4 < threads.saturating_mul(2 * READ_BYTES) {
        return None;
    }
    let rate = read_rate(threads);
    let step = weights.saturating_sub(shape.table_bytes).max(1);
    let tokens = SHARE_OF_BANDWIDTH * rate / step as f64;
    // A model that small is bounded by other things.
    (tokens < 100.0).then(|| {
        format!("expect about {tokens:.1} tokens/s (this memory reads {:.0} GB/s)", rate / 1e9)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phi_4_takes_what_is_known_of_it() {
        let config = br#"{"model": {"context_length": 16384, "vocab_size": 100352, "decoder":
            {"num_hidden_layers": 40, "num_key_value_heads": 10, "head_size": 128,
             "hidden_size": 5120}}}"#;
        let shape = Shape::read(config, Variant::Cpu).unwrap();
        assert_eq!(shape.kv_bytes_per_token, 400 << 10);
        assert_eq!(shape.table_bytes, 100_352 * 5120 * 4);
        let of = |context, spare: u64| memory(shape, 10 << 30, context, spare << 30);
        assert!(of(0, 20).starts_with("it takes 16.2 GiB of memory: 10.0 GiB of weights"));
        assert!(of(4096, 20).contains("1.5 GiB for a context of 4096 tokens; 20.0 GiB are free"));
        assert!(of(0, 12).contains("set context_tokens"));
        assert!(of(0, 8).contains("will NOT run here"));
        assert_eq!(Shape::read(b"{}", Variant::Cpu), None);
        assert_eq!(Shape::read(b"<html>", Variant::Cpu), None);
    }

    #[test]
    fn numbers_beyond_all_models_are_no_panic() {
        let config = format!(
            r#"{{"model": {{"context_length": {0}, "vocab_size": {0}, "decoder": {{
            "num_hidden_layers": {0}, "num_key_value_heads": {0}, "head_size": {0},
            "hidden_size": {0}}}}}}}"#,
            u64::MAX
        );
        let shape = Shape::read(config.as_bytes(), Variant::Gpu).unwrap();
        assert!(memory(shape, u64::MAX, 0, 1).contains("NOT"));
    }
}
