//! The handler of `POST /v1/chat/completions`.

use std::sync::Arc;

use hyper::Request;
use hyper::body::Incoming;

use super::{ChatChunk, ChatCompletion, ChatRequest};
use crate::access::Exchange;
use crate::app::App;
use crate::error::ApiError;
use crate::handlers::generation::{Renderer, answer, end_of_events, envelope, parsed};
use crate::reply::{Format, Reply, event};
use crate::wire::common::{Delivery, Envelope, Extras, to_json};
use crate::wire::error::Dialect;
use crate::wire::logprobs::name_by_ids;
use crate::wire::timings::{progressed, timed};
use phi4d_generate::{Answer, Choices, Finished, PromptProgress, TextDelta, Usage};

/// Answers a conversation.
pub(crate) async fn create(
    app: &App,
    request: Request<Incoming>,
    exchange: &Arc<Exchange>,
) -> Result<Reply, ApiError> {
    let chat =
        parsed(app, request, exchange, ChatRequest::parse, |chat| chat.parsed.model()).await?;
    let object = match chat.parsed.delivery {
        Delivery::Whole => ChatCompletion::OBJECT,
        Delivery::Stream { .. } => ChatChunk::OBJECT,
    };
    let renderer = ChatRenderer {
        envelope: envelope(app, chat.parsed.model.clone(), "chatcmpl", object),
        extras: chat.extras,
        reasoning: chat.include_reasoning,
        prompt: None,
    };
    answer(app, chat.parsed, exchange, renderer).await
}

struct ChatRenderer {
    envelope: Envelope,
    extras: Extras,
    /// Whether the answer shows reasoning that is separate from its text.
    reasoning: bool,
    /// The prompt's token ids, if they are wanted.
    prompt: Option<Vec<u32>>,
}

impl Renderer for ChatRenderer {
    const FORMAT: Format = Format::Events;
    const DIALECT: Dialect = Dialect::OpenAi;

    fn begin(&mut self, _app: &App, choices: &Choices) {
        if self.extras.token_ids {
            self.prompt = choices.prompts().next().map(<[u32]>::to_vec);
        }
    }

    fn complete(&mut self, mut answers: Vec<Answer>, usage: Usage) -> String {
        if !self.reasoning {
            answers.iter_mut().for_each(|answer| answer.reasoning.clear());
        }
        if self.extras.names_by_id {
            answers.iter_mut().for_each(|answer| name_by_ids(&mut answer.tokens));
        }
        let prompt = self.prompt.as_deref();
        let body =
            ChatCompletion::new(&self.envelope, answers, usage, self.extras.logprobs, prompt);
        timed(&body, usage, self.extras.timings)
    }

    fn start(&mut self, index: usize, usage: Usage) -> String {
        let usage = self.extras.delivery.chunk_usage(usage);
        event(&to_json(&ChatChunk::start(&self.envelope, usage, index, self.prompt.as_deref())))
    }

    fn progress(&mut self, index: usize, progress: PromptProgress, usage: Usage) -> String {
        let so_far = self.extras.delivery.chunk_usage(usage);
        event(&progressed(&ChatChunk::empty(&self.envelope, so_far, index), progress))
    }

    fn piece(&mut self, index: usize, mut delta: TextDelta, usage: Usage) -> String {
        if !self.reasoning {
            delta.reasoning.clear();
        }
        if self.extras.names_by_id {
            name_by_ids(&mut delta.tokens);
        }
        let shows_tokens = self.extras.logprobs || self.extras.token_ids;
        let says_nothing =
            delta.text.is_empty() && delta.reasoning.is_empty() && delta.call.is_none();
        if says_nothing && (delta.tokens.is_empty() || !shows_tokens) {
            return String::new();
        }
        let so_far = self.extras.delivery.chunk_usage(usage);
        let with = [self.extras.logprobs, self.extras.token_ids];
        let body = ChatChunk::text(&self.envelope, so_far, index, delta, with);
        event(&timed(&body, usage, self.extras.timings))
    }

    fn end(&mut self, index: usize, finished: Finished, usage: Usage) -> String {
        let so_far = self.extras.delivery.chunk_usage(usage);
        let body = ChatChunk::end(&self.envelope, so_far, index, finished.reason);
        event(&timed(&body, usage, self.extras.timings))
    }

    fn close(&mut self, usage: Usage) -> String {
        let wanted = self.extras.delivery.includes_usage();
        let usage = wanted.then(|| to_json(&ChatChunk::usage(&self.envelope, usage)));
        end_of_events(usage.as_deref())
    }
}
