//! The embedding model through the whole daemon, against NumPy's vectors for the same weights
//! (`models/make_embedding.py`). `a_packages_model` takes a real one, which `tests/embeddings/setup` makes.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    reason = "an end-to-end test"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::clients::{installed, output, script};
use crate::common::{Client, Daemon, Setup, golden};

const OPENAI: &str = "/v1/embeddings";
const EMBED: &str = "/api/embed";
const EMBEDDINGS: &str = "/api/embeddings";
const NAME: &str = "demo-embedding";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo-embedding")
}

fn setup(folder: &Path) -> Setup {
    Setup::new().with(&["--embedding-model", folder.to_str().unwrap()])
}

fn vector(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// The text, its vector, and how many tokens of it are read.
type Case = (String, Vec<f64>, usize);

fn cases(golden: &Value) -> Vec<Case> {
    let case = |case: &Value| {
        let tokens = case["tokens"].as_array().unwrap().len();
        (case["text"].as_str().unwrap().to_owned(), vector(&case["mean"]), tokens)
    };
    golden["cases"].as_array().unwrap().iter().map(case).collect()
}

fn post(client: &Client, path: &str, body: &Value) -> Value {
    let response = client.post(path, body);
    assert_eq!(response.status, 200, "{path}: {}", response.text());
    response.json()
}

/// Every text alone and all in one request, by both APIs, has the expected vector and token count.
fn check_vectors(client: &Client, cases: &[Case]) {
    let texts: Vec<&str> = cases.iter().map(|case| case.0.as_str()).collect();
    let together = post(client, EMBED, &json!({ "input": texts }));
    let tokens: usize = cases.iter().map(|case| case.2).sum();
    assert_eq!(together["prompt_eval_count"], tokens);
    for ((text, expected, tokens), batched) in
        cases.iter().zip(together["embeddings"].as_array().unwrap())
    {
        let alone = post(client, EMBED, &json!({ "input": text }));
        assert_eq!(alone["prompt_eval_count"], *tokens, "{text}");
        let alone = vector(&alone["embeddings"][0]);
        let found = cosine(&alone, expected);
        assert!(found > 0.9999, "{found}: {text}");
        let found = cosine(&alone, &vector(batched));
        assert!(found > 0.999_999, "{found}: {text}");
    }
}

#[test]
fn vectors_are_numpys_alone_and_together() {
    let daemon = setup(&folder()).start();
    check_vectors(&daemon.unix(), &cases(&golden("embedding.json")));
}

#[test]
fn both_apis_answer_in_their_shapes() {
    let daemon = setup(&folder()).start();
    let client = daemon.tcp();
    let texts = ["a cat", "the dog sat"];
    let list = post(&client, OPENAI, &json!({ "model": NAME, "input": texts }));
    assert_eq!((&list["object"], &list["model"]), (&json!("list"), &json!(NAME)));
    assert_eq!(list["usage"], json!({ "prompt_tokens": 9, "total_tokens": 9 }));
    let vectors: Vec<Vec<f64>> = (0..2)
        .map(|index| {
            let item = &list["data"][index];
            assert_eq!((&item["object"], &item["index"]), (&json!("embedding"), &json!(index)));
            vector(&item["embedding"])
        })
        .collect();
    assert_eq!(vectors[0].len(), 24);
    let ollama =
        post(&client, EMBED, &json!({ "model": format!("{NAME}:latest"), "input": texts }));
    assert_eq!(ollama["model"], format!("{NAME}:latest"));
    assert!(ollama["total_duration"].as_u64() > Some(0));
    assert_eq!(vector(&ollama["embeddings"][1]), vectors[1]);
    let one = post(&client, EMBEDDINGS, &json!({ "model": NAME, "prompt": texts[0] }));
    assert!(cosine(&vector(&one["embedding"]), &vectors[0]) > 0.999_999);
    // Requests that only load the model.
    assert_eq!(post(&client, EMBED, &json!({ "model": NAME }))["embeddings"], json!([]));
    assert_eq!(post(&client, EMBEDDINGS, &json!({ "model": NAME }))["embedding"], json!([]));
    // The model's own token ids, which are taken as they are.
    let ids = [2, 5, 3];
    let by_ids = post(&client, OPENAI, &json!({ "input": [ids, ids] }));
    assert_eq!(by_ids["usage"]["prompt_tokens"], 6);
    let short = post(&client, OPENAI, &json!({ "input": ids, "dimensions": 8 }));
    let short = vector(&short["data"][0]["embedding"]);
    let full = vector(&by_ids["data"][0]["embedding"]);
    assert!(cosine(&short, &full[..8]) > 0.999_999);
}

#[test]
fn models_are_listed_with_what_they_do() {
    let daemon = setup(&folder()).start();
    let client = daemon.tcp();
    let listed = client.get("/v1/models").json();
    let kinds: Vec<_> = listed["data"].as_array().unwrap().iter().collect();
    assert_eq!(
        (&kinds[0]["id"], &kinds[0]["capabilities"]),
        (&json!("demo"), &json!(["completion"]))
    );
    assert_eq!((&kinds[1]["id"], &kinds[1]["capabilities"]), (&json!(NAME), &json!(["embedding"])));
    assert_eq!((&kinds[1]["max_model_len"], &kinds[1]["meta"]["n_embd"]), (&json!(48), &json!(24)));
    assert_eq!(client.get(&format!("/v1/models/{NAME}")).json(), *kinds[1]);
    let tags = client.get("/api/tags").json();
    assert_eq!(tags["models"][1]["name"], NAME);
    assert_eq!(client.get("/api/ps").json()["models"][1]["context_length"], 48);
    let shown = post(&client, "/api/show", &json!({ "model": NAME }));
    assert_eq!(shown["capabilities"], json!(["embedding"]));
    assert_eq!(shown["model_info"]["bert.embedding_length"], 24);
    // Neither does the other's work.
    let chat = json!({ "model": NAME, "messages": [{ "role": "user", "content": "a" }] });
    assert_eq!(client.post("/v1/chat/completions", &chat).status, 404);
    assert_eq!(client.post(OPENAI, &json!({ "model": "demo", "input": "a" })).status, 404);
    let any = setup(&folder()).with(&["--model-aliases", "*"]).start();
    let named =
        post(&any.tcp(), OPENAI, &json!({ "model": "text-embedding-3-small", "input": "a" }));
    assert_eq!(named["model"], "text-embedding-3-small");
}

#[test]
fn faults_name_the_field_and_the_bound() {
    let daemon = setup(&folder()).start();
    let client = daemon.tcp();
    let long = "cat ".repeat(60);
    for (path, body, expected) in [
        (OPENAI, json!({ "input": ["a", long] }), "input[1]: a text of 62 tokens"),
        (OPENAI, json!({ "input": long }), "input: a text of 62 tokens"),
        (EMBED, json!({ "input": [long], "truncate": false }), "input[0]: a text of 62 tokens"),
        (OPENAI, json!({ "input": [2, 99_999] }), "input[1]: 99999"),
        (
            OPENAI,
            json!({ "input": "a", "dimensions": 7 }),
            "dimensions: 7 is not accepted; expected 8, 16 or 24",
        ),
        (OPENAI, json!({ "input": vec!["a"; 2049] }), "input: a list of 2049 items"),
        (OPENAI, json!({}), "input: missing"),
    ] {
        let response = client.post(path, &body);
        let text = response.text();
        assert!(response.status == 400 && text.contains(expected), "{expected}: {text}");
    }
    let cut = post(&client, EMBED, &json!({ "input": long }));
    assert_eq!(cut["prompt_eval_count"], 48);
    let without = Daemon::start();
    for path in [OPENAI, EMBED, EMBEDDINGS] {
        let response = without.tcp().post(path, &json!({ "input": "a", "prompt": "a" }));
        let text = response.text();
        assert!(response.status == 404 && text.contains("the setting embedding_model"), "{text}");
    }
}

#[test]
fn work_is_counted_and_answers_go_on_beside_it() {
    let keys = tempfile::tempdir().unwrap();
    let file = keys.path().join("keys");
    let add = Command::new(env!("CARGO_BIN_EXE_phi4d"))
        .args(["key", "add", "small", "--tokens-per-minute", "100", "--api-keys-file"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(add.status.success(), "{}", String::from_utf8_lossy(&add.stderr));
    let key = String::from_utf8(add.stdout).unwrap().trim().to_owned();
    let daemon = setup(&folder()).with(&["--api-keys-file", file.to_str().unwrap()]).start();
    let authorization = format!("Bearer {key}");
    let ask = |input: &Value| {
        let headers =
            [("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
        let body = json!({ "input": input }).to_string();
        daemon.tcp().request("POST", OPENAI, &headers, body.as_bytes())
    };
    // Of 8 tokens each.
    let texts = |count: usize| json!(vec!["the cat sat on the mat"; count]);
    let first = ask(&texts(12));
    assert_eq!(first.status, 200, "{}", first.text());
    // More in one request than the key ever has in a minute, and more than are left.
    assert_eq!(ask(&texts(60)).status, 400);
    assert_eq!(ask(&texts(12)).status, 429);
    let unix = daemon.unix();
    assert_eq!(unix.chat("What is 12+7?", &json!({}))["choices"][0]["message"]["content"], "19");
    let metrics = unix.get("/metrics").text();
    for line in ["phi4d_embedding_texts_total 12", "phi4d_embedding_requests_total 1"] {
        assert!(metrics.contains(&format!("\n{line}\n")), "{line}: {metrics}");
    }
    daemon.log.says("loaded the embedding model");
}

#[test]
fn clients_embed() {
    let daemon = setup(&folder()).start();
    let cases = cases(&golden("embedding.json"));
    let texts: Vec<&str> = cases.iter().take(5).map(|case| case.0.as_str()).collect();
    let said = output(
        Command::new(installed("venv/bin/python"))
            .arg(script("embeddings_sdk.py"))
            .arg(format!("http://{}", daemon.address()))
            .arg(json!(texts).to_string())
            .current_dir(daemon.setup.folder.path()),
    );
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["name"], NAME);
    for (index, (text, expected, _)) in cases.iter().take(5).enumerate() {
        for form in ["encoded", "numbers", "ollama"] {
            let found = cosine(&vector(&said[form][index]), expected);
            assert!(found > 0.9999, "{form}: {found}: {text}");
        }
    }
    assert!(cosine(&vector(&said["one"]), &cases[0].1) > 0.9999);
    assert_eq!((&said["refused"][0], &said["status"]), (&json!("input[1]"), &json!(400)));
}

/// Runs a command of phi4d; returns its exit code, output and errors.
fn phi4d(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_phi4d"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_clear()
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn commands_look_at_the_folder() {
    let (code, text, said) = phi4d(&["inspect", "models/demo-embedding"]);
    assert_eq!((code, said.as_str()), (Some(0), ""), "{text}");
    assert!(
        text.contains("texts of up to 48 tokens") && text.contains("mean, normalised"),
        "{text}"
    );
    let (_, text, _) = phi4d(&["inspect", "--json", "models/demo-embedding"]);
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&value["kind"], &value["pooling"]), (&json!("embedding"), &json!("mean")));
    assert_eq!(value["shorter_dimensions"], json!([8, 16]));
    let check = [
        "check",
        "--model",
        "models/demo",
        "--threads",
        "1",
        "--listen",
        "off",
        "--log-level",
        "error",
    ];
    let with = |folder: &str| phi4d(&[&check[..], &["--embedding-model", folder]].concat());
    let (code, text, said) = with("models/demo-embedding");
    assert_eq!(code, Some(0), "{said}");
    assert!(text.contains("vectors of 24 numbers"), "{text}");
    let (code, _, said) = with("/nowhere");
    assert!(code == Some(66) && said.contains("/nowhere"), "{code:?}: {said}");
    let damaged = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json"] {
        std::fs::copy(folder().join(name), damaged.path().join(name)).unwrap();
    }
    let path = damaged.path().to_str().unwrap();
    std::fs::write(damaged.path().join("model.onnx"), "no graph").unwrap();
    let (code, _, said) = with(path);
    assert!(code == Some(65) && said.contains("model.onnx"), "{code:?}: {said}");
    // A tokenizer that is none.
    std::fs::copy(folder().join("model.onnx"), damaged.path().join("model.onnx")).unwrap();
    std::fs::write(damaged.path().join("tokenizer.json"), "{}").unwrap();
    let (code, _, said) = with(path);
    assert!(code == Some(65) && said.contains("tokenizer.json"), "{code:?}: {said}");
}

/// A real model: all-MiniLM-L6-v2 from a package, with NumPy's vectors for the package's weights.
#[test]
fn a_packages_model() {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let folder = target.join("embedding-model");
    if !folder.join(".made").exists() {
        let required = std::env::var("EMBEDDING_MODEL").is_ok_and(|value| value == "required");
        assert!(!required, "{} is missing; run tests/embeddings/setup", folder.display());
        eprintln!("skipped: there is no {}", folder.display());
        return;
    }
    let golden = std::fs::read_to_string(folder.join("golden.json")).unwrap();
    let cases = cases(&serde_json::from_str(&golden).unwrap());
    let daemon = setup(&folder).start();
    let client = daemon.unix();
    check_vectors(&client, &cases);
    // Like texts are near each other, and unlike ones are not.
    let near = |a: usize, b: usize| cosine(&cases[a].1, &cases[b].1);
    assert!(near(2, 3) > 0.8 && near(0, 2) < 0.1, "{} {}", near(2, 3), near(0, 2));
    // Its folder does not say that its vectors can be cut.
    let short = client.post(OPENAI, &json!({ "input": "a", "dimensions": 128 }));
    assert!(short.status == 400 && short.text().contains("matryoshka"), "{}", short.text());
}
