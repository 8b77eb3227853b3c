//! Compiles forms to the grammar library's matchers. Runs in the form's own process, whose limits
//! are the only bounds.

use std::fmt;
use std::time::Duration;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value as Json, json};

use super::super::error::{GenerateError, invalid};
use super::super::request::Form;
use super::bounds;
use super::lower::Closing;
use super::protocol::{Following, Order};
use super::schema;
use super::spelling;

/// The longest search for the part at fault.
const SEARCH: Duration = Duration::from_millis(800);

/// The grammar library's limits: its states take at most some tens of megabytes for an output, and
/// its errors are short.
fn limits() -> ParserLimits {
    ParserLimits {
        max_lexer_states: 30_000,
        max_grammar_size: 250_000,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

/// The grammar library, with one vocabulary.
pub struct FormCompiler {
    factory: ParserFactory,
}

impl fmt::Debug for FormCompiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FormCompiler").finish_non_exhaustive()
    }
}

/// A compiled form, and its first mask.
pub(super) type Compiled = (Matcher, Following);

impl FormCompiler {
    /// Builds the library's tables for the vocabulary that [`super::FormHost::prepare`] was given.
    /// Takes some tenths of a second for Phi-4's.
    ///
    /// # Errors
    /// If the library can't use it.
    pub fn new(vocabulary: &[u8]) -> Result<Self, String> {
        let spelling = spelling::spelling(vocabulary).ok_or("this is no vocabulary")?;
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&spelling, InferenceCapabilities::default(), &slices)
            .map_err(|error| first_line(&error))?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Ok(Self { factory })
    }

    /// Compiles a form. `spent` is the time that this has taken so far.
    ///
    /// # Errors
    /// [`GenerateError::InvalidField`] naming the place at fault.
    pub(super) fn compile(
        &self,
        order: &Order,
        spent: impl Fn() -> Duration,
    ) -> Result<Compiled, GenerateError> {
        let made = self.of_form(&order.form, &order.field, &spent);
        if matches!(made, Err(GenerateError::InvalidField { .. })) {
            for part in &order.parts {
                if spent() > SEARCH {
                    break;
                }
                self.of_form(&part.form, &part.field, &spent)?;
            }
        }
        made
    }

    fn of_form(
        &self,
        form: &Form,
        field: &str,
        spent: &impl Fn() -> Duration,
    ) -> Result<Compiled, GenerateError> {
        let refused = |shown: &str, reason: &str, what: &str| {
            invalid(field, shown, format!("{what}: {reason}"))
        };
        match form {
            Form::JsonObject => self
                .matcher(grammar(&json!({"type": "object"}), Closing::Literal))
                .map_err(GenerateError::Grammar),
            Form::JsonSchema(given) => self.of_schema(given, Closing::Listed, field, spent),
            Form::LiteralSchema(given) => self.of_schema(given, Closing::Literal, field, spent),
            Form::Regex(pattern) => {
                self.matcher(TopLevelGrammar::from_regex(pattern)).map_err(|reason| {
                    refused(pattern, &reason, "a regular expression that can be used")
                })
            }
            Form::Lark(grammar) => self
                .matcher(TopLevelGrammar::from_lark(grammar.clone()))
                .map_err(|reason| refused(grammar, &reason, "a Lark grammar that can be used")),
            Form::Choice(texts) => self
                .matcher(TopLevelGrammar::from_lark(choice(texts)))
                .map_err(|reason| refused("a list", &reason, "texts that differ")),
        }
    }

    fn of_schema(
        &self,
        given: &Json,
        closing: Closing,
        field: &str,
        spent: &impl Fn() -> Duration,
    ) -> Result<Compiled, GenerateError> {
        self.matcher(grammar(given, closing)).map_err(|reason| {
            let fails = |part: &Json| {
                (spent() < SEARCH).then(|| self.matcher(grammar(part, closing)).err()).flatten()
            };
            let fault = schema::fault(given, reason, fails);
            invalid(
                format!("{field}{}", fault.place),
                fault.part.to_string(),
                format!("a schema that can be used: {}", explained(&fault)),
            )
        })
    }

    fn matcher(&self, grammar: TopLevelGrammar) -> Result<Compiled, String> {
        let mut matcher = Matcher::new(self.factory.create_parser(grammar));
        if let Some(error) = matcher.get_error() {
            return Err(first_line(&error));
        }
        let following = follow(&mut matcher)?;
        Ok((matcher, following))
    }
}

fn grammar(schema: &Json, closing: Closing) -> TopLevelGrammar {
    TopLevelGrammar::from_json_schema(schema::prepared(schema, closing))
}

/// The library's reason in terms of the request, where it speaks of the library's options or of bounds that
/// the request does not have.
fn explained<'f>(fault: &'f schema::Fault<'_>) -> &'f str {
    if fault.reason.starts_with("oneOf constraints are not supported") {
        "a value may fit two schemas of its oneOf, which must differ in type, const, enum or a \
         required property"
    } else if fault.reason.contains("imum") && bounds::are_far(fault.part) {
        "no number within its bounds can be generated: beyond 9007199254740992 (2^53) they are moved \
         inwards to numbers that a 64-bit float holds, and none lies beyond 63 bits"
    } else if fault.reason.contains("imum") && fault.part.get("multipleOf").is_some() {
        "no number within its bounds is a multiple of its multipleOf"
    } else {
        &fault.reason
    }
}

/// Computes what may follow; its weight is not known here.
pub(super) fn follow(matcher: &mut Matcher) -> Result<Following, String> {
    let allowed = matcher.compute_mask_or_eos().map_err(|error| first_line(&error))?;
    let forced = matcher.compute_ff_bytes();
    Ok(Following { allowed: allowed.as_slice().to_vec(), forced, weight: 0 })
}

/// The first part of an error: the library appends the parser's state, or a caught panic's trace.
pub(super) fn first_line(error: &impl fmt::Display) -> String {
    const MOST: usize = 300;
    let text = format!("{error:#}");
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or("no reason was given");
    // An expression's error shows the expression, and its reason below.
    let reason = first.ends_with(':').then(|| lines.find(|line| line.starts_with("error: ")));
    let reason = reason.flatten().map_or(String::new(), |line| line.replacen("error", "", 1));
    let line = first.trim_end_matches(':').to_owned() + &reason;
    line.chars().take(MOST).collect()
}

/// A Lark grammar that allows one of `texts`. Lark's strings are written as JSON's.
fn choice(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| json!(text).to_string()).collect();
    format!("start: {}", texts.join(" | "))
}
