//! Forms to masks.

use std::fmt;
use std::sync::Arc;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value as Json, json};

use super::super::error::GenerateError;
use super::super::request::{Constraint, Form};
use super::super::tokenizer::Tokenizer;
use super::super::validate::invalid;
use super::mask::{GrammarMask, Means};
use super::schema;
use super::spelling::Spelling;
use super::worker::Worker;

/// Texts that one choice may hold.
const MOST_CHOICES: usize = 1024;

/// The grammar library's own limits with its states kept to some tens of megabytes for an output,
/// and its errors to what they are about.
fn limits() -> ParserLimits {
    ParserLimits {
        max_lexer_states: 30_000,
        max_grammar_size: 250_000,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

/// The grammar library, with one tokenizer.
pub(super) struct Compiler {
    factory: ParserFactory,
    means: Means,
}

impl fmt::Debug for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiler").finish_non_exhaustive()
    }
}

impl Compiler {
    pub(super) fn new(tokenizer: &Arc<Tokenizer>, ends: &[u32]) -> Result<Self, String> {
        let spelling = Spelling::shared(tokenizer, ends)?;
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&spelling, InferenceCapabilities::default(), &slices)
            .map_err(|error| first_line(&error))?;
        factory.quiet();
        *factory.limits_mut() = limits();
        let worker = Worker::start().map_err(|error| error.to_string())?;
        let means = Means { worker, tokenizer: Arc::clone(tokenizer) };
        Ok(Self { factory, means })
    }

    /// The mask of `constraint`, at the output's beginning.
    pub(super) fn compile(&self, constraint: &Constraint) -> Result<GrammarMask, GenerateError> {
        let field = &constraint.field;
        let refused = |shown: &str, reason: &str, what: &str| {
            invalid(field.clone(), shown, format!("{what}: {reason}"))
        };
        match &constraint.form {
            Form::JsonObject => self
                .mask(TopLevelGrammar::from_json_schema(schema::prepared(&json!({
                    "type": "object"
                }))))
                .map_err(GenerateError::Grammar),
            Form::JsonSchema(given) => self.of_schema(given, field),
            Form::Regex(pattern) => {
                self.mask(TopLevelGrammar::from_regex(pattern)).map_err(|reason| {
                    refused(pattern, &reason, "a regular expression that can be used")
                })
            }
            Form::Lark(grammar) => self
                .mask(TopLevelGrammar::from_lark(grammar.clone()))
                .map_err(|reason| refused(grammar, &reason, "a Lark grammar that can be used")),
            Form::Choice(texts) => {
                check_choice(texts, field)?;
                self.mask(TopLevelGrammar::from_lark(choice(texts)))
                    .map_err(|reason| refused("a list", &reason, "texts that can be told apart"))
            }
        }
    }

    fn of_schema(&self, given: &Json, field: &str) -> Result<GrammarMask, GenerateError> {
        schema::check(given, field)?;
        let grammar = |schema: &Json| TopLevelGrammar::from_json_schema(schema::prepared(schema));
        self.mask(grammar(given)).map_err(|reason| {
            let fault = schema::fault(given, reason, |part| self.mask(grammar(part)).err());
            invalid(
                format!("{field}{}", fault.place),
                fault.part.to_string(),
                format!("a schema that can be used: {}", fault.reason),
            )
        })
    }

    fn mask(&self, grammar: TopLevelGrammar) -> Result<GrammarMask, String> {
        let matcher = Matcher::new(self.factory.create_parser(grammar));
        if let Some(error) = matcher.get_error() {
            return Err(first_line(&error));
        }
        GrammarMask::new(matcher, self.means.clone()).map_err(|error| error.0)
    }
}

/// The library's errors go on with the parser's state, and a caught panic with its trace.
pub(super) fn first_line(error: &impl fmt::Display) -> String {
    const MOST: usize = 300;
    let text = format!("{error:#}");
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("no reason was given");
    line.chars().take(MOST).collect()
}

fn check_choice(texts: &[String], field: &str) -> Result<(), GenerateError> {
    if texts.is_empty() || texts.len() > MOST_CHOICES {
        let count = format!("{} texts", texts.len());
        return Err(invalid(field, count, format!("1 to {MOST_CHOICES} texts")));
    }
    match texts.iter().position(String::is_empty) {
        Some(index) => Err(invalid(format!("{field}[{index}]"), "\"\"", "a text")),
        None => Ok(()),
    }
}

/// A Lark grammar that allows one of `texts`. Its strings are written as JSON's.
fn choice(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| json!(text).to_string()).collect();
    format!("start: {}", texts.join(" | "))
}
