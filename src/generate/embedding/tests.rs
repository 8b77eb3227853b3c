//! The demo embedding model, from texts to vectors, against NumPy's for the same weights.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::*;
use phi4d_model::{EmbeddingOptions, LoadCancel};

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
}

fn started() -> Embedder {
    let options = EmbeddingOptions {
        folder: models().join("demo-embedding"),
        threads: 1,
        max_tokens: 0,
        runtime_library: None,
    };
    let model = EmbeddingModel::load(&options, &LoadCancel::default()).unwrap();
    let pool = Arc::new(Pool::start().unwrap());
    let options = EmbedderOptions { queue: 8, queue_per_caller: 4, request_timeout: None };
    Embedder::start(model, &pool, options).unwrap()
}

fn request(inputs: Vec<EmbeddingInput>) -> EmbeddingRequest {
    EmbeddingRequest {
        inputs,
        field: "input",
        is_list: true,
        truncate: false,
        dimensions: None,
        caller: CallerId(1),
        weight: 0,
    }
}

fn texts(texts: &[&str]) -> Vec<EmbeddingInput> {
    texts.iter().map(|text| EmbeddingInput::Text((*text).to_owned())).collect()
}

async fn embed(
    embedder: &Embedder,
    request: EmbeddingRequest,
) -> Result<Vec<Vec<f32>>, GenerateError> {
    embedder.embed(embedder.prepare(request).await?).await
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Each text with its tokens, uncut and cut, and its vector.
fn golden() -> Vec<(String, usize, Vec<u32>, Vec<f32>)> {
    let text = std::fs::read_to_string(models().join("golden/embedding.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let case = |case: &Value| {
        (
            case["text"].as_str().unwrap().to_owned(),
            usize::try_from(case["full_tokens"].as_u64().unwrap()).unwrap(),
            serde_json::from_value(case["tokens"].clone()).unwrap(),
            serde_json::from_value(case["mean"].clone()).unwrap(),
        )
    };
    golden["cases"].as_array().unwrap().iter().map(case).collect()
}

#[tokio::test]
async fn texts_and_their_tokens_give_numpys_vectors() {
    let embedder = started();
    let golden = golden();
    let all: Vec<&str> = golden.iter().map(|case| case.0.as_str()).collect();
    let whole = EmbeddingRequest { truncate: true, ..request(texts(&all)) };
    let embedding = embedder.prepare(whole).await.unwrap();
    let read: usize = golden.iter().map(|case| case.2.len()).sum();
    assert_eq!((embedding.count(), embedding.tokens()), (golden.len(), read));
    for ((_, _, ids, _), found) in golden.iter().zip(&embedding.texts) {
        assert_eq!(found, ids);
    }
    let together = embedder.embed(embedding).await.unwrap();
    for ((text, _, ids, expected), batched) in golden.into_iter().zip(together) {
        let by_ids = request(vec![EmbeddingInput::Tokens(ids)]);
        let alone = embed(&embedder, by_ids).await.unwrap().remove(0);
        assert!(cosine(&batched, &expected) > 0.999_99, "{text}");
        assert!(cosine(&batched, &alone) > 0.999_999, "{text}");
    }
    assert!(embedder.stats().texts >= 40);
    embedder.stop();
}

#[tokio::test]
async fn what_is_too_long_is_named_or_cut() {
    let embedder = started();
    let golden = golden();
    let (long, tokens, ..) = golden.last().unwrap();
    let two = || texts(&["short", long]);
    let error = embed(&embedder, request(two())).await.unwrap_err().to_string();
    let expected =
        format!("input[1]: a text of {tokens} tokens is not accepted; expected at most 48");
    assert!(error.starts_with(&expected), "{error}");
    let alone = EmbeddingRequest { is_list: false, field: "prompt", ..request(texts(&[long])) };
    let error = embed(&embedder, alone).await.unwrap_err().to_string();
    assert!(error.starts_with("prompt: a text of"), "{error}");
    let cut = EmbeddingRequest { truncate: true, ..request(two()) };
    assert_eq!(embed(&embedder, cut).await.unwrap().len(), 2);
    // So long that its tokens are not even counted.
    let huge = "a cat ".repeat(100_000);
    let error = embed(&embedder, request(texts(&[&huge]))).await.unwrap_err().to_string();
    assert!(error.starts_with("input[0]: a text of 600000 bytes"), "{error}");
    let cut = EmbeddingRequest { truncate: true, ..request(texts(&[&huge])) };
    assert_eq!(embedder.prepare(cut).await.unwrap().tokens(), 48);
    let ids = vec![EmbeddingInput::Tokens(vec![2; 49])];
    let error = embed(&embedder, request(ids)).await.unwrap_err().to_string();
    assert!(error.contains("input[0]: a text of 49 tokens"), "{error}");
    embedder.stop();
}

#[tokio::test]
async fn bounds_name_what_is_beyond_them() {
    let embedder = started();
    let most = EmbeddingRequest {
        weight: 1 << 20,
        ..request(vec![EmbeddingInput::Tokens(vec![2; 48]); 6251])
    };
    let error = embedder.prepare(most).await.unwrap_err().to_string();
    assert!(error.contains("300048 tokens in the first 6251 texts"), "{error}");
    for (ids, expected) in
        [(vec![], "input[0]: a text without tokens"), (vec![2, 9999], "input[0][1]: 9999")]
    {
        let error = embed(&embedder, request(vec![EmbeddingInput::Tokens(ids)])).await.unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
    }
    assert_eq!(embed(&embedder, request(Vec::new())).await, Ok(Vec::new()));
    embedder.stop();
}

#[tokio::test]
async fn vectors_are_cut_only_where_the_model_allows_it() {
    let embedder = started();
    let with = |dimensions| EmbeddingRequest { dimensions, ..request(texts(&["a cat"])) };
    let full = embed(&embedder, with(None)).await.unwrap().remove(0);
    assert_eq!(embed(&embedder, with(Some(24))).await.unwrap()[0], full);
    let short = embed(&embedder, with(Some(8))).await.unwrap().remove(0);
    assert_eq!(short.len(), 8);
    assert!(cosine(&short, &full[..8]) > 0.999_999);
    assert!((short.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
    for refused in [0, 9, 25, 1000] {
        let error = embed(&embedder, with(Some(refused))).await.unwrap_err().to_string();
        assert_eq!(error, format!("dimensions: {refused} is not accepted; expected 8, 16 or 24"));
    }
    embedder.stop();
}

#[tokio::test]
async fn after_the_end_requests_are_refused() {
    let embedder = started();
    embedder.stop();
    let error = embed(&embedder, request(texts(&["a"]))).await.unwrap_err();
    assert_eq!(error, GenerateError::Submit(phi4d_engine::SubmitError::ShuttingDown));
    embedder.stop();
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let folder = models().join("demo-embedding");
    let load = |most, size| EmbeddingTokenizer::load(&folder, String::new(), most, size);
    let error = load(48, Some(10)).unwrap_err().to_string();
    assert!(error.contains("expected the tokenizer of the same model"), "{error}");
    let error = load(2, None).unwrap_err().to_string();
    assert!(error.contains("adds 2 tokens to each text"), "{error}");
    let missing = EmbeddingTokenizer::load(Path::new("/nowhere"), String::new(), 48, None);
    assert!(matches!(missing, Err(TextLoadError::Read { .. })));
}
