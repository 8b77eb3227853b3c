//! What a folder of sentence-transformers says of its model: the files of the graph, how vectors are
//! pooled, and the longest input.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::pooling::Pooling;
use crate::error::LoadError;

/// Where exporters put the graph, in the order in which it is looked for.
const GRAPHS: [&str; 2] = ["model.onnx", "onnx/model.onnx"];

/// The longest input that is taken unless the settings ask for more: the memory of a run grows with its
/// square.
const USUAL_MOST: usize = 2048;

/// Padded tokens of a run, unless one input alone has more. Few, since a request whose client has left is
/// dropped between runs, and a matmul of this many rows is efficient already.
const RUN_TOKENS: usize = 512;

/// The lengths that vectors can be cut to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shorter {
    /// None: the model was not trained for it.
    None,
    /// Any, from 1.
    Any,
    /// These.
    These(Vec<usize>),
}

/// A folder of an embedding model, read without its weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddingFolder {
    /// The folder.
    pub folder: PathBuf,
    /// The graph's file.
    pub graph: PathBuf,
    /// Bytes of the graph's file and of the weights beside it.
    pub weight_bytes: u64,
    /// How the vectors of a text's tokens become one.
    pub pooling: Pooling,
    /// Whether vectors are scaled to length 1.
    pub normalised: bool,
    /// Tokens of the longest input, special tokens included.
    pub max_tokens: usize,
    /// Padded tokens of a run.
    pub run_tokens: usize,
    /// Memory that a run takes, roughly.
    pub run_bytes: u64,
    /// The lengths that vectors can be cut to.
    pub shorter: Shorter,
    /// What each text begins with, by the folder's default prompt.
    pub prompt: String,
    /// Modules that only a graph with the output `sentence_embedding` has in it.
    pub(super) unsupported: Option<String>,
    pub(super) pad_token: i64,
    pub(super) vocab_size: Option<usize>,
}

impl EmbeddingFolder {
    /// Reads `folder`. Inputs may have up to `most` tokens; 0 is the model's own limit, at most 2,048.
    ///
    /// # Errors
    /// If a file is missing or invalid, or asks for what this program does not do.
    pub fn read(folder: &Path, most: usize) -> Result<Self, LoadError> {
        let graph = graph_of(folder)?;
        let config_file = folder.join("config.json");
        let config = json(&config_file)?.unwrap_or(Value::Null);
        let modules = Modules::read(folder)?;
        let max_tokens = max_tokens(folder, &config, most)?;
        let run_tokens = RUN_TOKENS.max(max_tokens);
        let number = |name: &str, default: u64| config[name].as_u64().unwrap_or(default);
        // Where the file does not say: those of a large BERT, so that the plan is too high rather
        // than too low.
        let (heads, hidden) = (number("num_attention_heads", 16), number("hidden_size", 1024));
        let tokens = run_tokens as u64;
        // Scores and their softmax, and some intermediate results of each token, in single precision.
        let scores = heads.saturating_mul(2).saturating_mul(max_tokens as u64);
        let run_bytes = scores
            .saturating_add(hidden.saturating_mul(16))
            .saturating_mul(4)
            .saturating_mul(tokens);
        let vocab_size = config["vocab_size"].as_u64().and_then(|size| usize::try_from(size).ok());
        Ok(Self {
            weight_bytes: bytes_beside(&graph),
            pooling: modules.pooling,
            normalised: modules.normalised,
            unsupported: modules.unsupported,
            prompt: prompt(folder)?,
            shorter: shorter(&config),
            pad_token: config["pad_token_id"].as_i64().unwrap_or(0),
            folder: folder.into(),
            graph,
            max_tokens,
            run_tokens,
            run_bytes,
            vocab_size,
        })
    }

    /// Whether `folder` looks like one of an embedding model and not of a generating one.
    #[must_use]
    pub fn is_one(folder: &Path) -> bool {
        let is_there = |name: &str| folder.join(name).is_file();
        !is_there("genai_config.json")
            && (is_there("modules.json") || is_there("1_Pooling/config.json"))
    }
}

fn graph_of(folder: &Path) -> Result<PathBuf, LoadError> {
    let found = GRAPHS.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| {
        let path = folder.join(GRAPHS[0]);
        match std::fs::metadata(folder) {
            Err(source) => LoadError::Read { path: folder.into(), source },
            Ok(_) => LoadError::Read {
                path,
                source: std::io::Error::new(
                    ErrorKind::NotFound,
                    format!("neither this file nor {} is there", GRAPHS[1]),
                ),
            },
        }
    })
}

/// Bytes of `graph` and of files of weights that begin with its name or end like one.
fn bytes_beside(graph: &Path) -> u64 {
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
    let name = graph.file_name().unwrap_or_default().to_string_lossy();
    let data = [format!("{name}.data"), format!("{name}_data")];
    size(graph) + data.iter().map(|name| size(&graph.with_file_name(name))).sum::<u64>()
}

/// The JSON in a file; `None` if the file is not there.
fn json(path: &Path) -> Result<Option<Value>, LoadError> {
    match std::fs::read(path) {
        // Folders differ in which of these files they have.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(LoadError::Read { path: path.into(), source }),
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| LoadError::Invalid { path: path.into(), reason: error.to_string() }),
    }
}

/// What comes after the transformer.
struct Modules {
    pooling: Pooling,
    normalised: bool,
    unsupported: Option<String>,
}

impl Modules {
    /// As sentence-transformers reads a folder: without modules.json, the mean of all tokens.
    fn read(folder: &Path) -> Result<Self, LoadError> {
        let path = folder.join("modules.json");
        let Some(list) = json(&path)? else {
            let pooling = Pooling::read(&folder.join("1_Pooling/config.json"))?;
            if pooling.is_none() {
                log::warn!(
                    "{} has neither modules.json nor 1_Pooling/config.json; embeddings are the mean of \
                     all tokens, not normalised",
                    folder.display()
                );
            }
            let pooling = pooling.unwrap_or(Pooling::Mean);
            return Ok(Self { pooling, normalised: false, unsupported: None });
        };
        let invalid =
            |reason: &str| LoadError::Invalid { path: path.clone(), reason: reason.into() };
        let list = list.as_array().ok_or_else(|| invalid("expected a list of modules"))?;
        let mut modules = Self { pooling: Pooling::Mean, normalised: false, unsupported: None };
        for module in list {
            let kind = module["type"].as_str().ok_or_else(|| invalid("a module has no type"))?;
            match kind.rsplit('.').next().unwrap_or_default() {
                "Transformer" => {}
                "Pooling" => {
                    let part = module["path"].as_str().unwrap_or("1_Pooling");
                    let path = folder.join(part).join("config.json");
                    let missing = || LoadError::Read {
                        path: path.clone(),
                        source: ErrorKind::NotFound.into(),
                    };
                    modules.pooling = Pooling::read(&path)?.ok_or_else(missing)?;
                }
                "Normalize" => modules.normalised = true,
                // Not refused yet: a graph with the output `sentence_embedding` has all modules in
                // it.
                other => modules.unsupported = Some(other.to_owned()),
            }
        }
        Ok(modules)
    }
}

/// The longest input: sentence_bert_config.json's, else the least of the tokenizer's and the model's.
fn max_tokens(folder: &Path, config: &Value, most: usize) -> Result<usize, LoadError> {
    let read = |name: &str| Ok::<_, LoadError>(json(&folder.join(name))?.unwrap_or(Value::Null));
    // Some tokenizers have 10^30 in the place of no limit.
    let number = |value: &Value| value.as_u64().and_then(|number| usize::try_from(number).ok());
    let sentence = number(&read("sentence_bert_config.json")?["max_seq_length"]);
    let tokenizer = number(&read("tokenizer_config.json")?["model_max_length"]);
    // RoBERTa counts positions from behind the padding token's id.
    let kind = config["model_type"].as_str().unwrap_or_default();
    let offset = if ["roberta", "camembert", "mpnet"].iter().any(|name| kind.contains(name)) {
        2
    } else {
        0
    };
    let positions = number(&config["max_position_embeddings"]).map(|n| n.saturating_sub(offset));
    // Sentence-transformers takes its own file's length before the tokenizer's; positions that the
    // model has no vector for end both.
    let own =
        [sentence.or(tokenizer), positions].into_iter().flatten().min().filter(|own| *own > 0);
    match (own, most) {
        // Models of long contexts exist, and a run of one full text would take gigabytes.
        (Some(own), 0) => Ok(own.min(USUAL_MOST)),
        (Some(own), most) => Ok(own.min(most)),
        (None, 0) => Err(LoadError::Invalid {
            path: folder.into(),
            reason: "no file says how long an input may be; expected max_seq_length in \
                     sentence_bert_config.json, model_max_length in tokenizer_config.json or \
                     max_position_embeddings in config.json, or the setting embedding_max_tokens"
                .into(),
        }),
        (None, most) => Ok(most),
    }
}

/// The lengths by which config.json says that the model is a Matryoshka one, in vLLM's words.
fn shorter(config: &Value) -> Shorter {
    let list = config["matryoshka_dimensions"].as_array();
    let numbers = |list: &Vec<Value>| {
        list.iter().filter_map(Value::as_u64).filter_map(|n| usize::try_from(n).ok()).collect()
    };
    match (list, config["is_matryoshka"].as_bool()) {
        (Some(list), _) if !list.is_empty() => Shorter::These(numbers(list)),
        (_, Some(true)) => Shorter::Any,
        _ => Shorter::None,
    }
}

/// The prompt that config_sentence_transformers.json puts before every text; empty if there is none.
fn prompt(folder: &Path) -> Result<String, LoadError> {
    let config = json(&folder.join("config_sentence_transformers.json"))?.unwrap_or(Value::Null);
    let name = config["default_prompt_name"].as_str();
    let prompt = name.and_then(|name| config["prompts"][name].as_str());
    Ok(prompt.unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        folder
    }

    fn read(files: &[(&str, &str)]) -> Result<EmbeddingFolder, LoadError> {
        let mut all =
            vec![("onnx/model.onnx", ""), ("config.json", r#"{"max_position_embeddings": 512}"#)];
        all.extend(files);
        EmbeddingFolder::read(folder(&all).path(), 0)
    }

    const POOLING: &str = "1_Pooling/config.json";

    fn modules(kinds: &[&str]) -> String {
        let module = |kind: &&str| format!(r#"{{"path": "1_{kind}", "type": "a.models.{kind}"}}"#);
        format!("[{}]", kinds.iter().map(module).collect::<Vec<_>>().join(","))
    }

    #[test]
    fn pooling_and_normalisation_are_the_folders() {
        let bare = read(&[]).unwrap();
        assert_eq!((bare.pooling, bare.normalised), (Pooling::Mean, false));
        assert!(bare.graph.ends_with("onnx/model.onnx"));
        let all = modules(&["Transformer", "Pooling", "Normalize"]);
        let cls = r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#;
        let full = read(&[("modules.json", &all), (POOLING, cls)]).unwrap();
        assert_eq!((full.pooling, full.normalised, full.unsupported), (Pooling::Cls, true, None));
        let dense = modules(&["Transformer", "Pooling", "Dense"]);
        let last = r#"{"pooling_mode": "lasttoken"}"#;
        let dense = read(&[("modules.json", &dense), (POOLING, last)]).unwrap();
        assert_eq!(
            (dense.pooling, dense.unsupported.as_deref()),
            (Pooling::LastToken, Some("Dense"))
        );
    }

    #[test]
    fn the_longest_input_is_the_least_that_any_file_says() {
        let sentence = |n: u64| format!(r#"{{"max_seq_length": {n}}}"#);
        let longest = |files: &[(&str, &str)]| read(files).unwrap().max_tokens;
        assert_eq!(longest(&[]), 512);
        assert_eq!(longest(&[("sentence_bert_config.json", &sentence(256))]), 256);
        assert_eq!(longest(&[("sentence_bert_config.json", &sentence(8192))]), 512);
        let huge = r#"{"model_max_length": 1000000000000000019884624838656}"#;
        assert_eq!(longest(&[("tokenizer_config.json", huge)]), 512);
        assert_eq!(longest(&[("tokenizer_config.json", r#"{"model_max_length": 100}"#)]), 100);
        let roberta = r#"{"model_type": "xlm-roberta", "max_position_embeddings": 514}"#;
        assert_eq!(longest(&[("config.json", roberta)]), 512);
        let long = ("config.json", r#"{"max_position_embeddings": 32768}"#);
        assert_eq!(longest(&[long]), USUAL_MOST);
        let folder = folder(&[("model.onnx", ""), long]);
        let read = |most| EmbeddingFolder::read(folder.path(), most).unwrap().max_tokens;
        assert_eq!((read(4096), read(100), read(1 << 20)), (4096, 100, 32768));
    }

    #[test]
    fn shorter_vectors_are_the_models() {
        let shorter = |config: &str| {
            let config = format!(r#"{{"max_position_embeddings": 8 {config}}}"#);
            read(&[("config.json", &config)]).unwrap().shorter
        };
        assert_eq!(shorter(""), Shorter::None);
        assert_eq!(shorter(r#", "is_matryoshka": true"#), Shorter::Any);
        assert_eq!(shorter(r#", "matryoshka_dimensions": [8, 16]"#), Shorter::These(vec![8, 16]));
    }

    #[test]
    fn faults_name_the_file() {
        let table: [(&[(&str, &str)], &str); 5] = [
            (&[("modules.json", "{}")], "modules.json: expected a list"),
            (&[("modules.json", "[{}]")], "modules.json: a module has no type"),
            (&[("modules.json", "[")], "modules.json: EOF"),
            (&[("modules.json", r#"[{"type": "a.Pooling"}]"#)], "1_Pooling/config.json"),
            (&[("config.json", "{}")], "no file says how long"),
        ];
        for (files, expected) in table {
            let error = read(files).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let empty = folder(&[]);
        let error = EmbeddingFolder::read(empty.path(), 0).unwrap_err();
        assert!(matches!(&error, LoadError::Read { .. }), "{error}");
        assert!(error.to_string().contains("onnx/model.onnx"), "{error}");
    }

    #[test]
    fn the_default_prompt_is_put_before_texts() {
        let config = r#"{"prompts": {"query": "query: "}, "default_prompt_name": "query"}"#;
        let file = "config_sentence_transformers.json";
        assert_eq!(read(&[(file, config)]).unwrap().prompt, "query: ");
        let none = r#"{"prompts": {"query": "query: "}, "default_prompt_name": null}"#;
        assert_eq!(read(&[(file, none)]).unwrap().prompt, "");
    }
}
