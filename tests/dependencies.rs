//! Holds the dependencies to `deny.toml` where cargo-deny is not installed: licences and sources.

#![allow(clippy::unwrap_used, reason = "tests may stop where something is wrong")]

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The strings of a list in `deny.toml`.
fn policy(key: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deny.toml");
    let text = std::fs::read_to_string(path).unwrap();
    let list = text.split(&format!("\n{key} = [")).nth(1).unwrap().split("\n]").next().unwrap();
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// What this machine's build takes in, development included.
fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--offline", "--format-version", "1"])
        .args(["--filter-platform", &format!("{}-unknown-linux-gnu", std::env::consts::ARCH)])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// Whether an SPDX expression can be met by the licences of `allowed`. `/` is an old spelling of OR.
fn met(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = either(&words, &mut at, allowed);
    met && at == words.len()
}

fn either(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut met = both(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= both(words, at, allowed);
    }
    met
}

fn both(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut met = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at, allowed);
    }
    met
}

fn one(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let Some(&first) = words.get(*at) else { return false };
    *at += 1;
    if first == "(" {
        let met = either(words, at, allowed);
        let closed = words.get(*at) == Some(&")");
        *at += 1;
        return met && closed;
    }
    let mut name = first.to_owned();
    if let [with @ "WITH", exception, ..] = &words[*at..] {
        name = format!("{name} {with} {exception}");
        *at += 2;
    }
    allowed.contains(&name)
}

#[test]
fn licences_are_those_that_the_policy_allows() {
    let allowed = policy("allow");
    assert!(allowed.contains(&"MIT".to_owned()), "{allowed:?}");
    let refused: Vec<String> = packages()
        .iter()
        .filter(|package| !met(package["license"].as_str().unwrap_or(""), &allowed))
        .map(|package| {
            format!("{} {}: {}", package["name"], package["version"], package["license"])
        })
        .collect();
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn dependencies_come_from_the_registry_and_banned_ones_not_at_all() {
    let packages = packages();
    assert!(packages.len() > 50);
    for package in &packages {
        let (name, source) = (package["name"].as_str().unwrap(), &package["source"]);
        let registry = source
            .as_str()
            .is_some_and(|s| s.starts_with("registry+") && s.ends_with("/crates.io-index"));
        let own = source.is_null() && (name == "phi4d" || name.starts_with("phi4d-"));
        assert!(registry || own, "{name} comes from {source}");
        assert!(!policy("deny").contains(&name.to_owned()), "{name} is banned by deny.toml");
    }
}

#[test]
fn licence_expressions_are_understood() {
    let allowed = ["MIT", "Apache-2.0 WITH LLVM-exception", "ISC"].map(str::to_owned);
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0-only", false),
        ("", false),
        ("GPL-3.0-only OR MIT", true),
        ("GPL-3.0-only/MIT", true),
        ("MIT AND GPL-3.0-only", false),
        ("(GPL-3.0-only OR MIT) AND ISC", true),
        ("GPL-3.0-only OR (MIT AND Zlib)", false),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("Apache-2.0", false),
        ("MIT MIT", false),
        ("(MIT", false),
    ] {
        assert_eq!(met(expression, &allowed), expected, "{expression}");
    }
}
