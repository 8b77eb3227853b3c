//! What must hold whatever bytes come in, as one function for each fuzz target of `fuzz/`.
//!
//! The checks stand in the layer that they are about (its `fuzzing` module). They are there for the
//! fuzzer (`cfg(fuzzing)`) and for tests, which run every seed and every input that once failed.

pub use crate::cli::fuzzing::{events, expression, grammar, requests, schema};
pub use crate::engine::fuzzing::prefix_file;
pub use crate::fetch::fuzzing::pull;
pub use crate::generate::fuzzing::{answer, call_json, prompt, stop, template};
pub use crate::model::fuzzing::{genai_config, graph};
pub use crate::server::fuzzing::{bodies, http};
pub use crate::settings::fuzzing::settings;

/// Checks one input; stops where it does not hold.
pub type Check = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: [(&str, Check); 17] = [
    ("answer", answer),
    ("bodies", bodies),
    ("call_json", call_json),
    ("events", events),
    ("expression", expression),
    ("genai_config", genai_config),
    ("grammar", grammar),
    ("graph", graph),
    ("http", http),
    ("prefix_file", prefix_file),
    ("prompt", prompt),
    ("pull", pull),
    ("requests", requests),
    ("schema", schema),
    ("settings", settings),
    ("stop", stop),
    ("template", template),
];

/// Stands between the parts of an input that has several.
pub(crate) const SEPARATOR: char = '\u{1e}';

/// The text up to the next [`SEPARATOR`], and the rest.
pub(crate) fn split(text: &str) -> (&str, &str) {
    text.split_once(SEPARATOR).unwrap_or((text, ""))
}

/// `text` in pieces whose lengths in characters `lengths` tells, over and over; a digit tells itself.
/// Pieces may be empty.
pub(crate) fn cut<'t>(text: &'t str, lengths: &str) -> Vec<&'t str> {
    let lengths: Vec<usize> = lengths.bytes().map(|byte| usize::from(byte & 15)).collect();
    if lengths.iter().sum::<usize>() == 0 {
        return vec![text];
    }
    let (mut pieces, mut rest) = (Vec::new(), text);
    for length in lengths.into_iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let at = rest.char_indices().nth(length).map_or(rest.len(), |(at, _)| at);
        let (piece, behind) = rest.split_at(at);
        pieces.push(piece);
        rest = behind;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_seed_and_every_input_that_failed_once_holds() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        for (name, check) in TARGETS {
            let main = root.join("fuzz_targets").join(format!("{name}.rs"));
            let main = std::fs::read_to_string(&main).unwrap_or_else(|e| panic!("{main:?}: {e}"));
            assert!(main.contains(&format!("phi4d::fuzzing::{name}(data)")), "{name}: {main}");
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

    #[test]
    fn texts_are_cut_into_pieces_that_are_the_text() {
        assert_eq!(cut("aäbcd", "12"), ["a", "äb", "c", "d"]);
        assert_eq!(cut("abc", "0"), ["abc"]);
        assert_eq!(cut("ab", "01"), ["", "a", "", "b"]);
        assert_eq!(split("a\u{1e}b\u{1e}c"), ("a", "b\u{1e}c"));
    }
}
