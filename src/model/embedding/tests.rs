//! The demo embedding model against NumPy's vectors for the same weights.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::*;

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
}

fn load(folder: &Path) -> Result<EmbeddingModel, LoadError> {
    let options = EmbeddingOptions {
        folder: folder.into(),
        threads: 1,
        max_tokens: 0,
        runtime_library: None,
    };
    EmbeddingModel::load(&options, &LoadCancel::default())
}

/// The demo's folder with other files.
fn changed(files: &[(&str, Value)]) -> tempfile::TempDir {
    let (to, from) = (tempfile::tempdir().unwrap(), models().join("demo-embedding"));
    std::fs::create_dir(to.path().join("1_Pooling")).unwrap();
    for name in ["model.onnx", "config.json", "modules.json", "1_Pooling/config.json"] {
        std::fs::copy(from.join(name), to.path().join(name)).unwrap();
    }
    for (name, value) in files {
        std::fs::write(to.path().join(name), value.to_string()).unwrap();
    }
    to
}

struct Case {
    tokens: Vec<u32>,
    vectors: Value,
}

fn cases() -> Vec<Case> {
    let text = std::fs::read_to_string(models().join("golden/embedding.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let case = |case: &Value| Case {
        tokens: serde_json::from_value(case["tokens"].clone()).unwrap(),
        vectors: case.clone(),
    };
    golden["cases"].as_array().unwrap().iter().map(case).collect()
}

fn expected(case: &Case, mode: &str) -> Vec<f32> {
    serde_json::from_value(case.vectors[mode].clone()).unwrap()
}

/// Both have length 1.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn vectors_are_numpys_alone_and_in_a_batch() {
    let mut model = load(&models().join("demo-embedding")).unwrap();
    assert_eq!((model.dimensions(), model.folder().max_tokens), (24, 48));
    assert!(model.batches() && model.folder().normalised);
    let cases = cases();
    let texts: Vec<&[u32]> = cases.iter().map(|case| case.tokens.as_slice()).collect();
    let together = model.run(&texts).unwrap();
    for (case, batched) in cases.iter().zip(&together) {
        let alone = model.run(&[&case.tokens]).unwrap().remove(0);
        let expected = expected(case, "mean");
        assert!(cosine(&alone, &expected) > 0.999_99, "{}", case.vectors["text"]);
        assert!(cosine(batched, &alone) > 0.999_999, "{}", case.vectors["text"]);
    }
}

#[test]
fn pooling_is_the_folders() {
    for (mode, key) in [
        ("cls", "pooling_mode_cls_token"),
        ("lasttoken", "pooling_mode_lasttoken"),
        ("max", "pooling_mode_max_tokens"),
    ] {
        let folder = changed(&[("1_Pooling/config.json", json!({ key: true }))]);
        let mut model = load(folder.path()).unwrap();
        let cases = cases();
        // In a batch, so that a padded text has another last token.
        let texts: Vec<&[u32]> = cases.iter().map(|case| case.tokens.as_slice()).collect();
        for (case, vector) in cases.iter().zip(model.run(&texts).unwrap()) {
            let cosine = cosine(&vector, &expected(case, mode));
            assert!(cosine > 0.999_99, "{mode}: {cosine}: {}", case.vectors["text"]);
        }
    }
}

#[test]
fn vectors_keep_their_length_where_the_folder_does_not_normalise() {
    let bare = json!([{ "type": "a.Transformer" }, { "type": "a.Pooling", "path": "1_Pooling" }]);
    let folder = changed(&[("modules.json", bare)]);
    let vector = load(folder.path()).unwrap().run(&[&[2, 3]]).unwrap().remove(0);
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    assert!((length - 1.0).abs() > 0.01, "{length}");
}

#[test]
fn what_is_no_embedding_model_is_refused() {
    let dense = json!([{ "type": "a.Transformer" }, { "type": "a.Dense" }]);
    let error = load(changed(&[("modules.json", dense)]).path()).unwrap_err();
    assert!(error.to_string().contains("Dense is not supported"), "{error}");
    let error = load(&models().join("demo")).unwrap_err();
    assert!(matches!(error, LoadError::Invalid { .. }), "{error}");
    let damaged = changed(&[]);
    std::fs::write(damaged.path().join("model.onnx"), "no graph").unwrap();
    let error = load(damaged.path()).unwrap_err();
    assert!(matches!(error, LoadError::Invalid { .. }), "{error}");
    let error = load(Path::new("/nowhere")).unwrap_err();
    assert!(matches!(error, LoadError::Read { .. }), "{error}");
}

#[test]
fn an_interrupt_ends_this_run_and_all_later_ones() {
    let mut model = load(&models().join("demo-embedding")).unwrap();
    model.interrupt().interrupt();
    assert_eq!(model.run(&[&[2, 3]]), Err(RunError::Interrupted));
    assert_eq!(model.run(&[&[2, 3]]), Err(RunError::Interrupted));
}

#[test]
fn folders_of_embedding_models_are_told_from_others() {
    assert!(EmbeddingFolder::is_one(&models().join("demo-embedding")));
    assert!(!EmbeddingFolder::is_one(&models().join("demo")));
    assert!(!EmbeddingFolder::is_one(Path::new("/nowhere")));
    let bytes = embedding_bytes(&models().join("demo-embedding"), 0).unwrap();
    assert!((100_000..10_000_000).contains(&bytes), "{bytes}");
}
