//! Reads `genai_config.json`, which the model builder writes beside every export.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::error::LoadError;

/// The file's name in a model folder.
pub const FILE_NAME: &str = "genai_config.json";

/// What this program needs of `genai_config.json`. Fields it does not know are ignored.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct GenaiConfig {
    /// The model's shape, tokens and tensor names.
    pub model: ModelSection,
    /// What the export fixes of how it is run.
    #[serde(default)]
    pub engine: EngineSection,
    /// How its publisher has answers sampled.
    #[serde(default)]
    pub search: SearchSection,
}

/// The file's `search` object, as far as it is about sampling.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
pub struct SearchSection {
    /// False: the most likely token is taken, whatever the others say.
    #[serde(default)]
    pub do_sample: Option<bool>,
    /// 0 to 2.
    #[serde(default)]
    pub temperature: Option<f64>,
    /// Most tokens to choose among.
    #[serde(default)]
    pub top_k: Option<usize>,
    /// Above 0, up to 1.
    #[serde(default)]
    pub top_p: Option<f64>,
    /// 0 to 1.
    #[serde(default)]
    pub min_p: Option<f64>,
}

/// The file's `model` object.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ModelSection {
    /// Architecture, such as `phi3`.
    #[serde(rename = "type")]
    pub architecture: String,
    /// Begin-of-sequence token; `None` where the model has none.
    #[serde(default)]
    pub bos_token_id: Option<u32>,
    /// Tokens that end an answer.
    pub eos_token_id: OneOrMany,
    /// Tokens that prompt and answer may have together.
    pub context_length: usize,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// The decoder's graph.
    pub decoder: DecoderSection,
}

/// The file's `model.decoder` object.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct DecoderSection {
    /// Graph file in the model folder.
    pub filename: String,
    /// Values in a head's key or value.
    pub head_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Key-value heads of a layer.
    pub num_key_value_heads: usize,
    /// Names of the graph's inputs.
    pub inputs: InputNames,
    /// Names of the graph's outputs.
    pub outputs: OutputNames,
    /// What the model builder would have a session be.
    #[serde(default)]
    pub session_options: SessionOptions,
}

impl DecoderSection {
    /// The providers that it was exported for, as the model builder calls them (`cuda`, `dml`,
    /// `webgpu`); none for the CPU.
    #[must_use]
    pub fn made_for(&self) -> Vec<String> {
        let names = self.session_options.provider_options.iter().flat_map(BTreeMap::keys);
        // Compared with lower-case names only.
        names.map(|name| name.to_ascii_lowercase()).collect()
    }

    /// Past and present name of each cache tensor: keys, then values, of one layer after another.
    pub(super) fn cache_names(&self) -> Vec<(String, String)> {
        let (inputs, outputs) = (&self.inputs, &self.outputs);
        // The order of the cache's tensors everywhere, and of what is written to the prefix store.
        let keys = (&inputs.past_key_names, &outputs.present_key_names);
        let values = (&inputs.past_value_names, &outputs.present_value_names);
        (0..self.num_hidden_layers)
            .flat_map(|layer| {
                [keys, values]
                    .map(|(past, present)| (layer_name(past, layer), layer_name(present, layer)))
            })
            .collect()
    }
}

/// The file's `session_options` of a graph.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct SessionOptions {
    /// Providers by name, each with its options.
    #[serde(default)]
    pub provider_options: Vec<BTreeMap<String, serde::de::IgnoredAny>>,
}

/// Names of the graph's inputs; `%d` stands for a layer's number.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct InputNames {
    /// Token ids, `[batch, sequence]`.
    pub input_ids: String,
    /// 1 for each token to attend to, `[batch, total]`; exports with a paged cache have none.
    #[serde(default = "InputNames::attention_mask")]
    pub attention_mask: String,
    /// Positions, `[batch, sequence]`, where the export has them.
    #[serde(default)]
    pub position_ids: Option<String>,
    /// Cached keys.
    pub past_key_names: String,
    /// Cached values.
    pub past_value_names: String,
    /// Of exports with a paged cache.
    #[serde(flatten)]
    pub paged: PagedNames,
}

impl InputNames {
    fn attention_mask() -> String {
        "attention_mask".into()
    }
}

/// Names of the inputs that exports with a paged cache have beside the others.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PagedNames {
    /// The blocks of each sequence, `[batch, most]`.
    pub block_table: String,
    /// Where each sequence's tokens begin, and where the last one's end, `[batch + 1]`.
    pub cumulative_sequence_lengths: String,
    /// Cached positions of each sequence, `[batch]`.
    pub past_sequence_lengths: String,
    /// Bounds of the lengths, `[2]` or `[3]`, where the export takes them.
    pub attention_metadata: String,
    /// Tokens that logits are wanted for, `[rows]`, where the export takes them.
    pub logits_indices: String,
}

impl Default for PagedNames {
    fn default() -> Self {
        Self {
            block_table: "block_table".into(),
            cumulative_sequence_lengths: "cumulative_sequence_lengths".into(),
            past_sequence_lengths: "past_sequence_lengths".into(),
            attention_metadata: "attention_metadata".into(),
            logits_indices: "logits_indices".into(),
        }
    }
}

/// The file's `engine` object.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct EngineSection {
    /// How sequences share a paged cache.
    #[serde(default)]
    pub dynamic_batching: DynamicBatching,
}

/// The file's `engine.dynamic_batching` object.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct DynamicBatching {
    /// Positions in a block of the cache.
    #[serde(default)]
    pub block_size: Option<usize>,
}

impl DynamicBatching {
    /// Positions in a block of the cache: what the model builder takes where nothing is said.
    #[must_use]
    pub fn block_tokens(&self) -> usize {
        self.block_size.unwrap_or(256)
    }
}

/// Names of the graph's outputs; `%d` stands for a layer's number.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct OutputNames {
    /// Logits.
    pub logits: String,
    /// Keys, cached and new.
    pub present_key_names: String,
    /// Values, cached and new.
    pub present_value_names: String,
}

/// One number or a list of them, as the file has it for end-of-sequence tokens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(u32),
    /// A list.
    Many(Vec<u32>),
}

impl OneOrMany {
    /// All of them.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![*id],
            Self::Many(ids) => ids.clone(),
        }
    }
}

/// The name of a tensor of layer `layer` by a pattern of [`InputNames`] or [`OutputNames`].
#[must_use]
pub fn layer_name(pattern: &str, layer: usize) -> String {
    pattern.replace("%d", &layer.to_string())
}

impl GenaiConfig {
    /// Reads the file in `folder`.
    ///
    /// # Errors
    /// If it can't be read, lacks a field, or holds numbers that no model has.
    pub fn read(folder: &Path) -> Result<Self, LoadError> {
        let path = folder.join(FILE_NAME);
        match std::fs::read(&path) {
            Ok(json) => {
                Self::from_json(&json).map_err(|reason| LoadError::Invalid { path, reason })
            }
            Err(source) => Err(LoadError::Read { path, source }),
        }
    }

    /// Reads the file's content.
    pub(super) fn from_json(json: &[u8]) -> Result<Self, String> {
        let config: Self = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let model = &self.model;
        let decoder = &model.decoder;
        // The bounds are far above any model, and small enough that products of them cannot overflow.
        let counts = [
            ("model.context_length", model.context_length, 1 << 24),
            (
                "engine.dynamic_batching.block_size",
                self.engine.dynamic_batching.block_tokens(),
                1 << 20,
            ),
            ("model.vocab_size", model.vocab_size, 1 << 24),
            ("model.decoder.head_size", decoder.head_size, 1 << 14),
            ("model.decoder.num_hidden_layers", decoder.num_hidden_layers, 1 << 12),
            ("model.decoder.num_key_value_heads", decoder.num_key_value_heads, 1 << 12),
        ];
        for (name, value, limit) in counts {
            if value == 0 || value > limit {
                return Err(format!("{name} is {value}; expected 1 to {limit}"));
            }
        }
        // A token outside the vocabulary would index logits that are not there.
        let tokens = model.eos_token_id.to_vec().into_iter().chain(model.bos_token_id);
        for token in tokens {
            if token as usize >= model.vocab_size {
                return Err(format!(
                    "token {token} is outside the vocabulary of {}",
                    model.vocab_size
                ));
            }
        }
        let Some(name) = Path::new(&decoder.filename).file_name() else {
            return Err("model.decoder.filename is empty".into());
        };
        // A path would let a folder from elsewhere name files outside itself.
        if Path::new(name) != Path::new(&decoder.filename) {
            return Err(format!(
                "model.decoder.filename is {:?}; expected the name of a file in the folder",
                decoder.filename
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(edit: impl FnOnce(&mut serde_json::Value)) -> Result<GenaiConfig, String> {
        let mut json = serde_json::json!({
            "model": {
                "type": "phi3", "bos_token_id": 7, "eos_token_id": [7, 9],
                "context_length": 64, "vocab_size": 10,
                "decoder": {
                    "filename": "model.onnx", "head_size": 8,
                    "num_hidden_layers": 2, "num_key_value_heads": 2,
                    "inputs": {
                        "input_ids": "input_ids", "attention_mask": "attention_mask",
                        "past_key_names": "past_key_values.%d.key",
                        "past_value_names": "past_key_values.%d.value",
                    },
                    "outputs": {
                        "logits": "logits",
                        "present_key_names": "present.%d.key",
                        "present_value_names": "present.%d.value",
                    },
                },
            },
            "search": { "top_k": 1 },
        });
        edit(&mut json);
        let config: GenaiConfig = serde_json::from_value(json).map_err(|e| e.to_string())?;
        config.check()?;
        Ok(config)
    }

    #[test]
    fn reads_the_published_form_with_one_or_more_end_tokens() {
        let many = config(|_| {}).unwrap();
        assert_eq!(many.model.eos_token_id.to_vec(), [7, 9]);
        assert_eq!(
            layer_name(&many.model.decoder.inputs.past_key_names, 3),
            "past_key_values.3.key"
        );
        let one = config(|json| json["model"]["eos_token_id"] = 9.into()).unwrap();
        assert_eq!(one.model.eos_token_id.to_vec(), [9]);
    }

    #[test]
    fn refuses_what_no_model_has_and_names_it() {
        let zero = config(|json| json["model"]["decoder"]["head_size"] = 0.into()).unwrap_err();
        assert!(zero.contains("head_size is 0"), "{zero}");
        let token = config(|json| json["model"]["eos_token_id"] = 10.into()).unwrap_err();
        assert!(token.contains("token 10"), "{token}");
        let file = config(|json| json["model"]["decoder"]["filename"] = "../x".into()).unwrap_err();
        assert!(file.contains("../x"), "{file}");
    }
}
