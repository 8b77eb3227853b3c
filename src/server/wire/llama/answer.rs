//! Answers of llama.cpp's own endpoints.

use serde::Serialize;

use phi4d_generate::{Finished, Usage};

/// A whole answer, a piece of one, or the end of one; with `response_fields` only those fields of it.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(transform = require_nothing))]
pub(crate) struct Text<'a> {
    pub(crate) content: String,
    pub(crate) tokens: Vec<u32>,
    /// Whether this is the end.
    pub(crate) stop: bool,
    pub(crate) id_slot: i8,
    #[serde(flatten)]
    pub(crate) ended: Option<Ended<'a>>,
}

/// A request's `response_fields` may leave out any field.
#[cfg(test)]
fn require_nothing(schema: &mut schemars::Schema) {
    schema.remove("required");
}

/// What the end of an answer says.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Ended<'a> {
    model: &'a str,
    tokens_predicted: usize,
    tokens_evaluated: usize,
    tokens_cached: usize,
    has_new_line: bool,
    /// The prompt was cut: never, one that does not fit is an error.
    truncated: bool,
    stop_type: &'static str,
    stopping_word: &'a str,
    generation_settings: Settings,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Settings {
    n_ctx: usize,
}

impl<'a> Text<'a> {
    /// Some more of an answer.
    pub(crate) fn more(content: String, tokens: Vec<u32>) -> Self {
        Self { content, tokens, stop: false, id_slot: -1, ended: None }
    }

    /// The same as the end of the answer of `model`, which has a context of so many tokens. `word`
    /// is the stop string that came up.
    pub(crate) fn ended(
        self,
        (model, context): (&'a str, usize),
        finished: Finished,
        word: Option<&'a str>,
        usage: Usage,
    ) -> Self {
        use phi4d_generate::Finish;
        let ended = Ended {
            model,
            tokens_predicted: usage.completion_tokens,
            tokens_evaluated: usage.prompt_tokens,
            tokens_cached: usage.prompt_tokens + usage.completion_tokens,
            has_new_line: self.content.contains('\n'),
            truncated: false,
            stop_type: match (finished.reason, word) {
                (Finish::Length, _) => "limit",
                (_, Some(_)) => "word",
                (_, None) => "eos",
            },
            stopping_word: word.unwrap_or_default(),
            generation_settings: Settings { n_ctx: context },
        };
        Self { stop: true, ended: Some(ended), ..self }
    }
}

/// What `/props` says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PropsFacts<'a> {
    pub(crate) model: &'a str,
    pub(crate) template: &'a str,
    pub(crate) context: usize,
    pub(crate) slots: usize,
}

/// `GET /props`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Props<'a> {
    default_generation_settings: Settings,
    total_slots: usize,
    model_alias: &'a str,
    model_path: &'static str,
    chat_template: &'a str,
    modalities: Modalities,
    build_info: &'static str,
    is_sleeping: bool,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Modalities {
    vision: bool,
    audio: bool,
}

impl<'a> Props<'a> {
    pub(crate) fn new(facts: PropsFacts<'a>) -> Self {
        Self {
            default_generation_settings: Settings { n_ctx: facts.context },
            total_slots: facts.slots,
            model_alias: facts.model,
            // Where it lies on the server is no caller's business.
            model_path: "",
            chat_template: facts.template,
            modalities: Modalities { vision: false, audio: false },
            build_info: concat!("phi4d ", env!("CARGO_PKG_VERSION")),
            is_sleeping: false,
        }
    }
}
