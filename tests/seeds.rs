//! Runs every seed of every fuzz target, and every input that once failed, through its check.
//!
//! A check stands in the layer that it is about (its `fuzzing` module); `fuzz/` has a target for each.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test")]

use std::path::Path;

/// Checks one input; panics where it does not hold.
type Check = fn(&[u8]);

/// Every target by its name.
const TARGETS: [(&str, Check); 20] = [
    ("answer", phi4d_generate::fuzzing::answer),
    ("attention", phi4d_model::fuzzing::attention),
    ("bodies", phi4d_server::fuzzing::bodies),
    ("call_json", phi4d_generate::fuzzing::call_json),
    ("events", phi4d_cli::fuzzing::events),
    ("expression", phi4d_cli::fuzzing::expression),
    ("gbnf", phi4d_cli::fuzzing::gbnf),
    ("genai_config", phi4d_model::fuzzing::genai_config),
    ("grammar", phi4d_cli::fuzzing::grammar),
    ("graph", phi4d_model::fuzzing::graph),
    ("http", phi4d_server::fuzzing::http),
    ("prefix_file", phi4d_engine::fuzzing::prefix_file),
    ("prompt", phi4d_generate::fuzzing::prompt),
    ("pull", phi4d_fetch::fuzzing::pull),
    ("requests", phi4d_cli::fuzzing::requests),
    ("schema", phi4d_cli::fuzzing::schema),
    ("settings", phi4d_settings::fuzzing::settings),
    ("stop", phi4d_generate::fuzzing::stop),
    ("template", phi4d_generate::fuzzing::template),
    ("terminal", phi4d_cli::fuzzing::terminal),
];

#[test]
fn every_seed_and_every_input_that_failed_once_holds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    for (name, check) in TARGETS {
        let main = root.join("fuzz_targets").join(format!("{name}.rs"));
        let main = std::fs::read_to_string(&main).unwrap_or_else(|e| panic!("{main:?}: {e}"));
        assert!(main.contains(&format!("::fuzzing::{name}(data)")), "{name}: {main}");
        let seeds = root.join("seeds").join(name);
        let mut inputs: Vec<_> = std::fs::read_dir(&seeds)
            .unwrap_or_else(|error| panic!("{seeds:?}: {error}"))
            .map(|entry| entry.unwrap().path())
            .collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "{seeds:?} is empty");
        for input in inputs {
            eprintln!("{}", input.display());
            check(&std::fs::read(input).unwrap());
        }
    }
    let mains = std::fs::read_dir(root.join("fuzz_targets")).unwrap().count();
    assert_eq!(mains, TARGETS.len(), "a target without an entry in TARGETS");
}
