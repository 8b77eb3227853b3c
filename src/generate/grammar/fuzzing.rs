//! What must hold of forms, whatever they are: each is compiled and followed, or refused with its
//! field; nothing else happens, and nothing waits for ever.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::request::{Chat, Constraint, Form, Message, Prompt, Role};
use super::super::tools::{Dialect, Tool, ToolChoice, Tools};
use super::{Closing, FormHost, Grammars, MessageGrammar};
use crate::GenerateError;
use crate::tokenizer::Tokenizer;
use phi4d_engine::{CallerId, Progress, TokenMask};

/// Tokens that are drawn from what a form allows.
const DRAWN: usize = 6;

/// Far above what the limits of a form's process allow, on a system that is busy.
const HANGS: Duration = Duration::from_secs(20);

/// Forms over the demo model's vocabulary.
#[derive(Debug)]
pub struct Forms(Grammars);

impl Forms {
    /// With forms compiled by `host`.
    pub fn over(host: Arc<dyn FormHost>) -> Option<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo/tokenizer.json");
        let tokenizer = Tokenizer::load(&path).ok()?;
        let ends = ["<|im_end|>", "<|endoftext|>"].map(|name| {
            tokenizer.added().iter().find(|token| token.content == name).map(|token| token.id)
        });
        let ends = ends.into_iter().flatten().collect();
        Some(Self(Grammars::new(Arc::new(tokenizer), ends, host)))
    }

    /// Over the vocabulary of the `tokenizer.json` at `path`; a text ends with one of `ends`.
    pub fn over_vocabulary(path: &Path, ends: Vec<u32>, host: Arc<dyn FormHost>) -> Option<Self> {
        let tokenizer = Tokenizer::load(path).ok()?;
        Some(Self(Grammars::new(Arc::new(tokenizer), ends, host)))
    }

    /// Checks one form; whether it could be used.
    pub async fn check(&self, form: &Form) -> bool {
        let given = Constraint { form: form.clone(), field: "form".to_owned() };
        let grammar = MessageGrammar::of_text(Some(&given), Closing::Listed);
        let used = self.follow(grammar).await;
        if let Form::JsonSchema(schema) = form {
            self.follow(MessageGrammar::of_chat(
                &call_with(schema),
                Dialect::default(),
                None,
                Closing::Listed,
            ))
            .await;
        }
        used
    }

    /// Checks what an answer to `prompt` is held to where the request wants `given` of it: a fault
    /// names some field.
    pub async fn check_request(&self, prompt: &Prompt, given: Option<&Constraint>) {
        let grammar = match prompt {
            Prompt::Chat(chat) => {
                MessageGrammar::of_chat(chat, Dialect::default(), given, Closing::Listed)
            }
            _ => MessageGrammar::of_text(given, Closing::Listed),
        };
        self.follow_named(grammar, |field| !field.is_empty()).await;
    }

    async fn follow(&self, grammar: Result<MessageGrammar, GenerateError>) -> bool {
        let ours = |field: &str| ["form", "tool"].iter().any(|name| field.starts_with(name));
        self.follow_named(grammar, ours).await
    }

    async fn follow_named(
        &self,
        grammar: Result<MessageGrammar, GenerateError>,
        names: impl Fn(&str) -> bool,
    ) -> bool {
        let began = Instant::now();
        let mask = match grammar {
            Ok(grammar) => self.0.mask_of(&grammar, CallerId::default(), None).await,
            Err(error) => Err(error),
        };
        let used = mask.is_ok();
        match mask {
            Ok(Some(mut mask)) => draw(mask.as_mut()),
            Ok(None) => {}
            Err(GenerateError::InvalidField { field, .. }) => {
                assert!(names(&field), "{field}");
            }
            Err(error) => assert!(matches!(error, GenerateError::GrammarsBusy), "{error}"),
        }
        assert!(began.elapsed() < HANGS, "it took {:?}", began.elapsed());
        used
    }
}

/// A conversation that is answered by a call with arguments by `schema`.
fn call_with(schema: &serde_json::Value) -> Chat {
    let tool = Tool {
        name: "f".to_owned(),
        description: None,
        parameters: schema.as_object().cloned().unwrap_or_default(),
        strict: Some(true),
        place: "tools[0]".to_owned(),
    };
    let definitions = vec![tool];
    Chat {
        messages: vec![Message::text(Role::User, "x")],
        tools: Tools { definitions, choice: ToolChoice::Required, single: false },
        ..Chat::default()
    }
}

/// Follows the first token that is allowed, and the last, in turns.
fn draw(mask: &mut dyn TokenMask) {
    for number in 0..DRAWN {
        let Ok(allowed) = mask.allowed() else { return };
        let first = allowed.iter().position(|word| *word != 0);
        let last = allowed.iter().rposition(|word| *word != 0);
        let (Some(first), Some(last)) = (first, last) else { return };
        let bit = |index: usize, bit: u32| u32::try_from(index).unwrap_or(0) * 32 + bit;
        let token = match number % 2 {
            0 => bit(first, allowed[first].trailing_zeros()),
            _ => bit(last, 31 - allowed[last].leading_zeros()),
        };
        if mask.accept(token).is_err() || mask.progress(HANGS) != Some(Progress::Open) {
            return;
        }
    }
}

#[cfg(test)]
#[test]
fn a_call_is_held_to_the_schema_that_is_given() {
    let chat = call_with(&serde_json::json!({"properties": {"a": {"type": "null"}}}));
    let grammar = MessageGrammar::of_chat(&chat, Dialect::default(), None, Closing::Listed);
    let text = match grammar.map(|grammar| grammar.constraint) {
        Ok(Some(Constraint { form: Form::Lark(text), .. })) => text,
        other => panic!("{other:?}"),
    };
    assert!(text.contains("\"properties\":{\"a\""), "{text}");
}
