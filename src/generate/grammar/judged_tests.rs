//! Answers to the schemas of a file, drawn evenly from what the masks allow, for validators that
//! are not ours: `tests/schemas/run` judges them.

use std::io::Write as _;

use serde_json::{Value as Json, json};

use super::super::request::Form;
use super::tests::{allowed, compile, demo};
use super::*;
use phi4d_engine::Progress;

/// Most tokens of an answer. From half of them on, what can end is ended.
const MOST_TOKENS: usize = 240;

/// The end of an answer and its text.
fn answer(grammars: &Grammars, mask: &mut dyn TokenMask, seed: u64) -> (String, Vec<u8>) {
    let vocabulary = grammars.tokenizer.vocabulary();
    let closes = |id: &&u32| {
        let ends = grammars.eos_token_ids.contains(id);
        ends || matches!(vocabulary.bytes(**id), b"\"" | b"}" | b"]" | b"\"}")
    };
    let mut bytes = Vec::new();
    let mut state = seed;
    for number in 0..MOST_TOKENS {
        if let Err(error) = mask.allowed() {
            return (format!("{error:?}"), bytes);
        }
        let choices = allowed(mask);
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let any = choices.get(usize::try_from(state >> 33).unwrap() % choices.len().max(1));
        let hurries = number > MOST_TOKENS / 2 || (state >> 20).is_multiple_of(3);
        let closing = choices.iter().find(closes).filter(|_| hurries);
        let Some(&token) = closing.or(any) else { return ("dead end".into(), bytes) };
        if grammars.eos_token_ids.contains(&token) {
            return ("stop".into(), bytes);
        }
        bytes.extend_from_slice(vocabulary.bytes(token));
        if let Err(error) = mask.accept(token) {
            return (format!("{error:?}"), bytes);
        }
        match mask.progress(Duration::from_secs(30)) {
            Some(Progress::Complete) => return ("stop".into(), bytes),
            Some(_) => {}
            None => return ("no progress".into(), bytes),
        }
    }
    ("length".into(), bytes)
}

/// Reads `PHI4D_SCHEMAS`, a schema in each line; writes `PHI4D_ANSWERS`, `PHI4D_DRAWS` lines for
/// each schema, or one if it is refused.
#[test]
#[ignore = "run by tests/schemas/run, which judges what it writes"]
fn answers_for_the_judges() {
    let setting = |name: &str| std::env::var(name).unwrap();
    let grammars = demo();
    let schemas = std::fs::read_to_string(setting("PHI4D_SCHEMAS")).unwrap();
    let mut out = std::io::BufWriter::new(std::fs::File::create(setting("PHI4D_ANSWERS")).unwrap());
    let draws: u64 = setting("PHI4D_DRAWS").parse().unwrap();
    for (number, line) in (0..).zip(schemas.lines()) {
        let schema: Json = serde_json::from_str(line).unwrap();
        for draw in 0..draws {
            let form = Form::JsonSchema(schema.clone());
            let line = match compile(&grammars, form) {
                Ok(mut mask) => {
                    let seed = draw + 1000 * number;
                    let (end, bytes) = answer(&grammars, mask.as_mut(), seed);
                    json!({"schema": number, "end": end, "text": String::from_utf8_lossy(&bytes)})
                }
                Err(error @ GenerateError::InvalidField { .. }) => {
                    json!({"schema": number, "end": "refused", "error": error.to_string()})
                }
                Err(error) => panic!("{schema}: {error}"),
            };
            writeln!(out, "{line}").unwrap();
            if line["end"] == "refused" {
                break;
            }
        }
    }
}
