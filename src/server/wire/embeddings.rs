//! `POST /v1/embeddings`, and Ollama's `/api/embed` and `/api/embeddings`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bounds;
use super::common::{Entries, Integer, TextOr, read_fields, unknown_word};
use super::known::{names_of, unread};
use super::texts::texts;
use crate::error::ApiError;
use phi4d_engine::CallerId;
use phi4d_generate::{EmbeddingInput, EmbeddingRequest};

/// A checked request for embeddings.
#[derive(Debug)]
pub(crate) struct EmbedRequest {
    pub(crate) model: Option<String>,
    /// Without its caller and weight.
    pub(crate) request: EmbeddingRequest,
    pub(crate) shape: Shape,
    /// Names of fields that nobody read.
    pub(crate) ignored: Vec<String>,
}

/// How the answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// OpenAI's, with vectors as lists of numbers or as base64.
    OpenAi { base64: bool },
    /// Ollama's.
    Ollama,
    /// Ollama's older one, for one text.
    OllamaOne,
}

impl Shape {
    /// Bytes that the answer has for each number of a vector, at most.
    pub(crate) fn bytes_of_number(self) -> usize {
        match self {
            Self::OpenAi { base64: true } => 6,
            // A sign, nine digits, a point, an exponent and a comma.
            _ => 16,
        }
    }
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct EmbeddingsFields {
    model: Option<String>,
    #[cfg_attr(test, schemars(with = "Option<InputShape>"))]
    input: Option<Value>,
    encoding_format: Option<String>,
    dimensions: Option<Integer>,
    #[serde(rename = "user")]
    _user: Option<String>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct OllamaEmbedFields {
    model: Option<String>,
    input: Option<TextOr<String, { bounds::EMBEDDED }>>,
    truncate: Option<bool>,
    dimensions: Option<Integer>,
    // The model stays loaded, and how it runs is decided by the settings.
    #[serde(rename = "options")]
    _options: Option<Entries<Value, { bounds::VARIABLES }>>,
    #[serde(rename = "keep_alive")]
    _keep_alive: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct OllamaEmbeddingsFields {
    model: Option<String>,
    prompt: Option<String>,
    #[serde(rename = "options")]
    _options: Option<Entries<Value, { bounds::VARIABLES }>>,
    #[serde(rename = "keep_alive")]
    _keep_alive: Option<Value>,
}

/// The shape of `input`, which [`texts`] reads.
#[cfg(test)]
pub(super) struct InputShape;

impl EmbedRequest {
    /// Reads the JSON of a request to `/v1/embeddings`.
    ///
    /// # Errors
    /// A 400 that names the first field at fault.
    pub(crate) fn openai(body: &Value) -> Result<Self, ApiError> {
        let fields: EmbeddingsFields = read_fields(body)?;
        let base64 = match fields.encoding_format.as_deref() {
            None | Some("float") => false,
            Some("base64") => true,
            other => {
                let accepted = "\"float\" or \"base64\"";
                return Err(unknown_word("encoding_format", other, accepted));
            }
        };
        let (is_list, inputs) = texts("input", fields.input, bounds::EMBEDDED)?;
        let inputs = inputs.into_iter().map(|given| match given {
            TextOr::Text(text) => EmbeddingInput::Text(text),
            TextOr::List(ids) => EmbeddingInput::Tokens(ids),
        });
        let request = EmbeddingRequest {
            is_list,
            dimensions: dimensions(fields.dimensions)?,
            ..request("input", inputs.collect())
        };
        let ignored = unread(body, names_of::<EmbeddingsFields>())?.names;
        Ok(Self { model: fields.model, request, shape: Shape::OpenAi { base64 }, ignored })
    }

    /// Reads the JSON of a request to `/api/embed`. Without `input` it only loads the model.
    ///
    /// # Errors
    /// As [`Self::openai`].
    pub(crate) fn ollama(body: &Value) -> Result<Self, ApiError> {
        let fields: OllamaEmbedFields = read_fields(body)?;
        let is_list = matches!(fields.input, Some(TextOr::List(_)));
        let texts = fields.input.map_or_else(Vec::new, TextOr::into_list);
        let request = EmbeddingRequest {
            is_list,
            truncate: fields.truncate.unwrap_or(true),
            dimensions: dimensions(fields.dimensions)?,
            ..request("input", texts.into_iter().map(EmbeddingInput::Text).collect())
        };
        let ignored = unread(body, names_of::<OllamaEmbedFields>())?.names;
        Ok(Self { model: fields.model, request, shape: Shape::Ollama, ignored })
    }

    /// Reads the JSON of a request to `/api/embeddings`. Without `prompt` it only loads the model.
    ///
    /// # Errors
    /// As [`Self::openai`].
    pub(crate) fn ollama_one(body: &Value) -> Result<Self, ApiError> {
        let fields: OllamaEmbeddingsFields = read_fields(body)?;
        let text = fields.prompt.filter(|text| !text.is_empty()).map(EmbeddingInput::Text);
        let inputs = text.into_iter().collect();
        let request = EmbeddingRequest { truncate: true, ..request("prompt", inputs) };
        let ignored = unread(body, names_of::<OllamaEmbeddingsFields>())?.names;
        Ok(Self { model: fields.model, request, shape: Shape::OllamaOne, ignored })
    }
}

fn request(field: &'static str, inputs: Vec<EmbeddingInput>) -> EmbeddingRequest {
    EmbeddingRequest {
        inputs,
        field,
        is_list: false,
        truncate: false,
        dimensions: None,
        caller: CallerId(0),
        weight: 0,
    }
}

fn dimensions(given: Option<Integer>) -> Result<Option<usize>, ApiError> {
    given.map(|number| number.fit("dimensions", "a positive integer")).transpose()
}

/// The answer of `/v1/embeddings`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct EmbeddingList<'a> {
    object: &'static str,
    data: Vec<EmbeddingObject>,
    model: &'a str,
    usage: EmbeddingUsage,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct EmbeddingObject {
    object: &'static str,
    index: usize,
    embedding: WireVector,
}

/// A vector as numbers, or as the base64 of its little-endian numbers in single precision.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
enum WireVector {
    Numbers(Vec<f32>),
    Base64(String),
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct EmbeddingUsage {
    prompt_tokens: usize,
    total_tokens: usize,
}

impl<'a> EmbeddingList<'a> {
    pub(crate) fn new(model: &'a str, vectors: Vec<Vec<f32>>, base64: bool, tokens: usize) -> Self {
        let object = |(index, vector): (usize, Vec<f32>)| EmbeddingObject {
            object: "embedding",
            index,
            embedding: if base64 { encoded(&vector) } else { WireVector::Numbers(vector) },
        };
        Self {
            object: "list",
            data: vectors.into_iter().enumerate().map(object).collect(),
            model,
            usage: EmbeddingUsage { prompt_tokens: tokens, total_tokens: tokens },
        }
    }
}

fn encoded(vector: &[f32]) -> WireVector {
    let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
    WireVector::Base64(STANDARD.encode(bytes))
}

/// The answer of `/api/embed`. Times are nanoseconds.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct OllamaEmbeddings<'a> {
    pub(crate) model: &'a str,
    pub(crate) embeddings: Vec<Vec<f32>>,
    pub(crate) total_duration: u64,
    pub(crate) load_duration: u64,
    pub(crate) prompt_eval_count: usize,
}

/// The answer of `/api/embeddings`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct OllamaEmbedding {
    pub(crate) embedding: Vec<f32>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::common::to_json;
    use serde_json::json;

    fn text(text: &str) -> EmbeddingInput {
        EmbeddingInput::Text(text.to_owned())
    }

    #[test]
    fn every_form_of_input_is_read() {
        let ids = |ids: &[u32]| EmbeddingInput::Tokens(ids.to_vec());
        for (input, is_list, expected) in [
            (json!("a"), false, vec![text("a")]),
            (json!(""), false, vec![text("")]),
            (json!(["a", "b"]), true, vec![text("a"), text("b")]),
            (json!([1, 2]), false, vec![ids(&[1, 2])]),
            (json!([[1, 2], [3]]), true, vec![ids(&[1, 2]), ids(&[3])]),
        ] {
            let read = EmbedRequest::openai(&json!({ "input": input })).unwrap().request;
            assert_eq!((read.is_list, read.inputs, read.truncate), (is_list, expected, false));
        }
        let ollama = |body| EmbedRequest::ollama(&body).unwrap().request;
        assert_eq!(ollama(json!({ "input": "a" })).inputs, [text("a")]);
        assert!(ollama(json!({ "input": ["a"] })).is_list);
        assert_eq!(ollama(json!({ "model": "m" })).inputs, []);
        assert!(ollama(json!({ "input": "a" })).truncate);
        assert!(!ollama(json!({ "input": "a", "truncate": false })).truncate);
        let one = |body| EmbedRequest::ollama_one(&body).unwrap().request;
        assert_eq!(one(json!({ "prompt": "a" })).inputs, [text("a")]);
        assert_eq!(one(json!({ "prompt": "" })).inputs, []);
    }

    #[test]
    fn faults_name_the_field() {
        for (body, param) in [
            (json!({}), "input"),
            (json!({ "input": [] }), "input"),
            (json!({ "input": 1 }), "input"),
            (json!({ "input": ["a", 1] }), "input[1]"),
            (json!({ "input": [[]] }), "input[0]"),
            (json!({ "input": [1, "a"] }), "input[1]"),
            (json!({ "input": [1, -1] }), "input[1]"),
            (json!({ "input": [[1], [1, 2.5]] }), "input[1][1]"),
            (json!({ "input": "a", "encoding_format": "int8" }), "encoding_format"),
            (json!({ "input": "a", "dimensions": -1 }), "dimensions"),
            (json!({ "input": "a", "dimensions": "x" }), "dimensions"),
            (json!({ "input": "a", "zz": 1, "strict": true }), "zz"),
        ] {
            let error = EmbedRequest::openai(&body).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
        }
        let error = EmbedRequest::ollama(&json!({ "input": 1 })).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("input"));
        let error = EmbedRequest::ollama_one(&json!({ "prompt": ["a"] })).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("prompt"));
        let read = EmbedRequest::openai(&json!({ "input": "a", "user": "u", "zz": 1 })).unwrap();
        assert_eq!(read.ignored, ["zz"]);
    }

    #[test]
    fn vectors_are_written_as_numbers_or_base64() {
        let written = |base64| -> Value {
            let list = EmbeddingList::new("m", vec![vec![1.0, -0.5]], base64, 3);
            serde_json::from_str(&to_json(&list)).unwrap()
        };
        let expected = json!({
            "object": "list", "model": "m", "usage": { "prompt_tokens": 3, "total_tokens": 3 },
            "data": [{ "object": "embedding", "index": 0, "embedding": [1.0, -0.5] }],
        });
        assert_eq!(written(false), expected);
        assert_eq!(written(true)["data"][0]["embedding"], "AACAPwAAAL8=");
    }
}
