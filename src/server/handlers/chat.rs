//! `POST /v1/chat/completions`.

use std::sync::Arc;

use hyper::Request;
use hyper::body::Incoming;

use super::generation::{Asked, Shape, answer, check_model, envelope};
use crate::access::Exchange;
use crate::app::App;
use crate::body::read;
use crate::error::ApiError;
use crate::reply::Reply;
use crate::wire::chat::{ChatChunk, ChatCompletion, ChatRequest};
use crate::wire::common::{Delivery, Envelope, to_json};
use crate::wire::logprobs::name_by_ids;
use crate::wire::timings::timed;
use phi4d_generate::{Answer, Choices, Finish, TextDelta, Usage};

/// Answers a conversation.
pub(crate) async fn create(
    app: &App,
    request: Request<Incoming>,
    exchange: &Arc<Exchange>,
) -> Result<Reply, ApiError> {
    let parse = |app: &App, body| {
        let chat = ChatRequest::parse(&body)?;
        check_model(app, chat.model.as_deref())?;
        Ok(chat)
    };
    let chat = read(request, app, exchange, parse).await?;
    let object = match chat.delivery {
        Delivery::Whole => ChatCompletion::OBJECT,
        Delivery::Stream { .. } => ChatChunk::OBJECT,
    };
    let shape = ChatShape {
        envelope: envelope(app, "chatcmpl", object),
        logprobs: chat.parameters.top_logprobs.is_some(),
        token_ids: chat.return_token_ids,
        by_id: chat.tokens_by_id,
        timings: chat.timings,
        reasoning: chat.include_reasoning,
        delivery: chat.delivery,
        prompt: None,
    };
    answer(app, Asked::from(chat), exchange, shape).await
}

struct ChatShape {
    envelope: Envelope,
    logprobs: bool,
    token_ids: bool,
    /// Whether log-probabilities name tokens by their ids.
    by_id: bool,
    /// Whether the times are told.
    timings: bool,
    /// Whether the model's thought is shown.
    reasoning: bool,
    delivery: Delivery,
    /// The prompt's token ids, if they are wanted.
    prompt: Option<Vec<u32>>,
}

impl Shape for ChatShape {
    fn begin(&mut self, _app: &App, choices: &Choices) {
        if self.token_ids {
            self.prompt = choices.prompts().next().map(<[u32]>::to_vec);
        }
    }

    fn whole(&mut self, mut answers: Vec<Answer>, usage: Usage) -> String {
        if !self.reasoning {
            answers.iter_mut().for_each(|answer| answer.reasoning.clear());
        }
        if self.by_id {
            answers.iter_mut().for_each(|answer| name_by_ids(&mut answer.tokens));
        }
        let prompt = self.prompt.as_deref();
        let body = ChatCompletion::new(&self.envelope, answers, usage, self.logprobs, prompt);
        timed(&body, usage, self.timings)
    }

    fn start(&mut self, index: usize, usage: Usage) -> Option<String> {
        let usage = self.delivery.chunk_usage(usage);
        Some(to_json(&ChatChunk::start(&self.envelope, usage, index, self.prompt.as_deref())))
    }

    fn text(&mut self, index: usize, mut delta: TextDelta, usage: Usage) -> Option<String> {
        if !self.reasoning {
            delta.reasoning.clear();
        }
        if self.by_id {
            name_by_ids(&mut delta.tokens);
        }
        let shows_tokens = self.logprobs || self.token_ids;
        let says_nothing =
            delta.text.is_empty() && delta.reasoning.is_empty() && delta.call.is_none();
        if says_nothing && (delta.tokens.is_empty() || !shows_tokens) {
            return None;
        }
        let told = self.delivery.chunk_usage(usage);
        let with = [self.logprobs, self.token_ids];
        let body = ChatChunk::text(&self.envelope, told, index, delta, with);
        Some(timed(&body, usage, self.timings))
    }

    fn end(&mut self, index: usize, reason: Finish, usage: Usage) -> String {
        let told = self.delivery.chunk_usage(usage);
        timed(&ChatChunk::end(&self.envelope, told, index, reason), usage, self.timings)
    }

    fn usage(&self, usage: Usage) -> Option<String> {
        let wanted = self.delivery.includes_usage();
        wanted.then(|| to_json(&ChatChunk::usage(&self.envelope, usage)))
    }
}
