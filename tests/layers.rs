//! Imports point down only: reads every file under `src/` and fails on an import of a layer above,
//! or of a crate that is another layer's business.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod source;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use source::SourceFile;

/// What a layer may import: ours, and from outside (`crate` or `crate::module`).
struct Rule {
    layer: &'static str,
    ours: &'static [&'static str],
    crates: &'static [&'static str],
}

/// Crates that any layer may use: they carry no duty of their own.
const EVERYWHERE: &[&str] = &["thiserror", "log"];

const RULES: &[Rule] = &[
    Rule {
        layer: "cli",
        ours: &["server", "generate", "engine", "model", "settings", "os", "telemetry", "fetch"],
        crates: &[
            "clap",
            "clap_complete",
            "clap_mangen",
            "tokio",
            "hyper",
            "hyper_util",
            "http_body_util",
            "bytes",
            "serde",
            "serde_json",
            "rustyline",
            "rand",
            "rand_chacha",
            // The subcommand's module, not the crate.
            "config::run",
        ],
    },
    Rule {
        layer: "server",
        ours: &["generate", "engine", "settings", "os", "telemetry"],
        crates: &[
            "hyper",
            "hyper_util",
            "http_body_util",
            "blake3",
            "bytes",
            "serde",
            "serde_json",
            "serde_path_to_error",
            "tokio",
            "tokio_rustls",
        ],
    },
    Rule {
        layer: "generate",
        ours: &["engine", "telemetry"],
        crates: &[
            "tokenizers",
            "minijinja",
            "minijinja_contrib",
            "aho_corasick",
            "blake3",
            "llguidance",
            "regex",
            "serde",
            "serde_json",
            "tokio::sync",
            "tokio::task",
            "tokio::time",
        ],
    },
    Rule {
        layer: "engine",
        ours: &["model", "os", "telemetry"],
        crates: &["rand", "rand_chacha", "tokio::sync", "blake3"],
    },
    Rule {
        layer: "model",
        ours: &["os", "telemetry"],
        crates: &[
            "ort",
            "ndarray",
            "half",
            "nix",
            "windows_sys",
            "serde",
            "serde_json",
            "blake3",
            "phi4d_int4",
        ],
    },
    Rule { layer: "settings", ours: &[], crates: &["config", "serde", "strsim", "toml"] },
    Rule {
        layer: "fetch",
        ours: &[],
        crates: &[
            "hyper",
            "hyper_util",
            "http_body_util",
            "bytes",
            "tokio",
            "tokio_rustls",
            "rustls_native_certs",
            "ring",
            "serde",
            "serde_json",
            "nix",
            "fs4",
        ],
    },
    Rule { layer: "os", ours: &[], crates: &["nix", "seccompiler", "tokio", "windows_sys"] },
    Rule {
        layer: "telemetry",
        ours: &[],
        crates: &["systemd_journal_logger", "serde_json", "prometheus_client"],
    },
];

#[test]
fn imports_point_down_only() {
    let dependencies = dependencies();
    let violations: Vec<String> = source::program()
        .iter()
        .filter(|file| !matches!(file.path.as_str(), "main.rs" | "lib.rs"))
        .flat_map(|file| violations(file, &dependencies))
        .collect();
    assert!(
        violations.is_empty(),
        "{}\n(what each layer may import is in tests/layers.rs)",
        violations.join("\n")
    );
}

#[test]
fn every_layer_is_there_and_has_a_rule() {
    let found: BTreeSet<String> = source::program()
        .iter()
        .map(|file| file.layer().to_owned())
        .filter(|layer| layer != "main" && layer != "lib")
        .collect();
    let ruled: BTreeSet<String> = RULES.iter().map(|rule| rule.layer.to_owned()).collect();
    assert_eq!(found, ruled);
}

#[test]
fn violations_are_found() {
    let dependencies = dependencies();
    let check = |path: &str, text: &str| violations(&SourceFile::new(path, text), &dependencies);
    let bad = [
        ("engine/run.rs", "use crate::server::Chunk;", "server"),
        ("engine/run.rs", "use crate::{model::Runner, generate as g};", "generate"),
        ("engine/run.rs", "fn f() { let x = crate::cli::run(); }", "cli"),
        ("engine/mod.rs", "use super::server::Chunk;", "server"),
        ("engine/kv/slots.rs", "use super::super::super::settings;", "settings"),
        ("model/a.rs", "use crate::engine;", "engine"),
        ("os/a.rs", "use crate::telemetry;", "telemetry"),
        ("engine/run.rs", "use ort::Session;", "ort"),
        ("engine/run.rs", "use serde_json as j;", "serde_json"),
        ("generate/a.rs", "fn f(_: hyper::Body) {}", "hyper"),
        ("generate/a.rs", "use tokio::net::TcpStream;", "tokio::net"),
        ("generate/a.rs", "use tokio::{net::TcpStream, sync::mpsc};", "tokio::net"),
        ("server/a.rs", "use ::tokenizers::Tokenizer;", "tokenizers"),
        ("settings/a.rs", "pub use crate\n    ::\n    os::Listener;", "os"),
    ];
    for (path, text, names) in bad {
        let found = check(path, text);
        assert_eq!(found.len(), 1, "{path}: {text}: {found:?}");
        assert!(found[0].contains(names), "{path}: {text}: {found:?}");
    }
    let good = [
        ("engine/run.rs", "use crate::model::Runner; use super::message::Job;"),
        ("engine/kv/slots.rs", "use super::super::server_like; use crate::engine::Job;"),
        ("engine/run.rs", "// use crate::server;\n/* ort::x */ const A: &str = \"crate::server\";"),
        ("engine/run.rs", "const A: &str = r#\"use \"hyper::x\" \"#; const B: char = '\"';"),
        ("engine/run.rs", "#[cfg(test)]\nmod tests { use tokio::runtime::Runtime; use hyper::X; }"),
        ("generate/a.rs", "use tokio::sync::mpsc; use tokio::sync::{oneshot, mpsc as m};"),
        ("generate/a.rs", "mod hyper_like { pub fn ort() {} }"),
        ("cli/serve.rs", "use crate::{server, engine::Job}; use clap::Parser;"),
    ];
    for (path, text) in good {
        assert_eq!(check(path, text), Vec::<String>::new(), "{path}: {text}");
    }
}

/// The crates that the program is built of, as they are spelt in code.
fn dependencies() -> BTreeSet<String> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let text = fs::read_to_string(manifest).expect("Cargo.toml is readable");
    let mut names = BTreeSet::new();
    let mut within = false;
    for line in text.lines() {
        if let Some(section) = line.strip_prefix('[') {
            // Those of a system, too: [target.'cfg(unix)'.dependencies].
            within = section == "dependencies]" || section.ends_with(".dependencies]");
        } else if let Some((name, _)) = line.split_once('=').filter(|_| within) {
            names.insert(name.trim().replace('-', "_"));
        }
    }
    assert!(
        names.contains("ort") && names.contains("nix"),
        "[dependencies] not understood: {names:?}"
    );
    names
}

fn violations(file: &SourceFile, dependencies: &BTreeSet<String>) -> Vec<String> {
    let layer = file.layer();
    let Some(rule) = RULES.iter().find(|rule| rule.layer == layer) else {
        return vec![format!("src/{}: {layer} is no layer", file.path)];
    };
    let mut found = Vec::new();
    for (at, path) in paths(&file.code) {
        let what = match reach(file, &path) {
            Reach::Ours(module) => {
                (module != layer && !rule.ours.contains(&module)).then(|| format!("layer {module}"))
            }
            Reach::Outside => outside(rule, &path, dependencies),
            Reach::Local => None,
        };
        if let Some(what) = what {
            let line = file.line(at);
            found.push(format!("src/{}:{line}: {layer} must not import {what}", file.path));
        }
    }
    found
}

enum Reach<'a> {
    /// A root module of this crate.
    Ours(&'a str),
    /// Perhaps another crate.
    Outside,
    /// Below the file's own module or its parents, short of the root.
    Local,
}

fn reach<'a>(file: &SourceFile, path: &'a [String]) -> Reach<'a> {
    match path[0].as_str() {
        "crate" => path.get(1).map_or(Reach::Local, |module| Reach::Ours(module)),
        "super" => {
            let supers = path.iter().take_while(|part| *part == "super").count();
            // Inline modules would make the file's depth too small; then nothing is missed, as
            // the path resolves below the root.
            match path.get(supers) {
                Some(module) if supers >= file.depth() => Reach::Ours(module),
                _ => Reach::Local,
            }
        }
        "self" => Reach::Local,
        _ => Reach::Outside,
    }
}

fn outside(rule: &Rule, path: &[String], dependencies: &BTreeSet<String>) -> Option<String> {
    let name = path[0].as_str();
    if !dependencies.contains(name) || EVERYWHERE.contains(&name) {
        return None;
    }
    let full = path.get(1).map(|module| format!("{name}::{module}"));
    let allowed = rule.crates.iter().any(|entry| *entry == name || full.as_deref() == Some(*entry));
    (!allowed).then(|| format!("crate {}", full.unwrap_or_else(|| name.to_owned())))
}

/// Every path of the code (`a::b::c`), with groups (`a::{b, c::d}`) multiplied out, and every
/// single name that follows `use`.
fn paths(code: &str) -> Vec<(usize, Vec<String>)> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        // `use ::name` starts a path; `prefix::name` goes on with one.
        let before = |back: usize| at.checked_sub(back).map_or("", |index| tokens[index].1);
        let after_path = before(1) == "::" && is_name(before(2)) && !is_keyword(before(2));
        if is_name(tokens[at].1) && !is_keyword(tokens[at].1) && !after_path {
            let start = tokens[at].0;
            let after_use = before(1) == "use" || (before(1) == "::" && before(2) == "use");
            let mut expanded = Vec::new();
            let end = expand(&tokens, at, &[], &mut expanded);
            found.extend(
                expanded
                    .into_iter()
                    .filter(|path| path.len() > 1 || after_use)
                    .map(|path| (start, path)),
            );
            at = end.max(at + 1);
        } else {
            at += 1;
        }
    }
    found
}

/// Reads one path at `at`, with `prefix` before it; returns the index after it.
fn expand(
    tokens: &[(usize, &str)],
    at: usize,
    prefix: &[String],
    into: &mut Vec<Vec<String>>,
) -> usize {
    let text = |index: usize| tokens.get(index).map_or("", |token| token.1);
    let mut path = prefix.to_vec();
    let mut at = at;
    loop {
        if text(at) == "{" {
            at += 1;
            while !matches!(text(at), "}" | "") {
                let next = expand(tokens, at, &path, into);
                at = next.max(at + 1);
                // `as NAME` and commas.
                while !matches!(text(at), "," | "}" | "") {
                    at += 1;
                }
                if text(at) == "," {
                    at += 1;
                }
            }
            return at + 1;
        }
        if !is_name(text(at)) {
            break;
        }
        path.push(text(at).to_owned());
        at += 1;
        if text(at) != "::" {
            break;
        }
        at += 1;
        // A group can only follow `::` in a use; a turbofish or a glob ends the path.
        if !is_name(text(at)) && text(at) != "{" {
            break;
        }
    }
    into.push(path);
    at
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

/// Keywords that may stand before a path, `::` included.
fn is_keyword(token: &str) -> bool {
    let keywords =
        "use pub as dyn impl return in mut const static ref move for if else match where";
    keywords.split(' ').any(|keyword| keyword == token)
}

fn tokens(code: &str) -> Vec<(usize, &str)> {
    let bytes = code.as_bytes();
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        if is_word(bytes[at]) {
            while at < bytes.len() && is_word(bytes[at]) {
                at += 1;
            }
        } else if bytes[at] == b':' && bytes.get(at + 1) == Some(&b':') {
            at += 2;
        } else {
            at += 1;
            if !bytes[start].is_ascii_graphic() {
                continue;
            }
        }
        found.push((start, &code[start..at]));
    }
    found
}
