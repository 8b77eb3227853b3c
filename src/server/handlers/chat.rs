//! `POST /v1/chat/completions`.

use std::sync::Arc;

use hyper::Request;
use hyper::body::Incoming;

use super::generation::{Asked, Shape, answer, check_model, envelope};
use crate::generate::{Answer, Finished, TextDelta};
use crate::server::access::Exchange;
use crate::server::app::App;
use crate::server::body::read_json;
use crate::server::error::ApiError;
use crate::server::reply::Reply;
use crate::server::wire::chat::{ChatChunk, ChatCompletion, ChatRequest};
use crate::server::wire::common::{ChunkUsage, Delivery, Envelope, to_json};

/// Answers a conversation.
pub(crate) async fn create(
    app: &App,
    request: Request<Incoming>,
    exchange: &Arc<Exchange>,
) -> Result<Reply, ApiError> {
    let body = read_json(request, app.options()).await?;
    let chat = ChatRequest::parse(&body)?;
    drop(body);
    check_model(app, chat.model.as_deref())?;
    let object = match chat.delivery {
        Delivery::Whole => ChatCompletion::OBJECT,
        Delivery::Stream { .. } => ChatChunk::OBJECT,
    };
    let shape = ChatShape {
        envelope: envelope(app, "chatcmpl", object),
        logprobs: chat.parameters.top_logprobs.is_some(),
        include_usage: chat.delivery.includes_usage(),
    };
    let asked = Asked {
        prompt: chat.prompt,
        parameters: chat.parameters,
        names: chat.names,
        delivery: chat.delivery,
    };
    answer(app, asked, exchange, shape).await
}

struct ChatShape {
    envelope: Envelope,
    logprobs: bool,
    include_usage: bool,
}

impl ChatShape {
    fn usage(&self) -> ChunkUsage {
        ChunkUsage::before_end(self.include_usage)
    }
}

impl Shape for ChatShape {
    fn whole(&self, answer: Answer) -> String {
        to_json(&ChatCompletion::new(&self.envelope, answer, self.logprobs))
    }

    fn start(&self) -> Option<String> {
        Some(to_json(&ChatChunk::start(&self.envelope, self.usage())))
    }

    fn text(&mut self, delta: TextDelta) -> Option<String> {
        if delta.text.is_empty() && (delta.tokens.is_empty() || !self.logprobs) {
            return None;
        }
        let chunk = ChatChunk::text(&self.envelope, self.usage(), delta, self.logprobs);
        Some(to_json(&chunk))
    }

    fn end(&self, finished: Finished) -> Vec<String> {
        let end = ChatChunk::end(&self.envelope, self.usage(), finished);
        let mut events = vec![to_json(&end)];
        if self.include_usage {
            events.push(to_json(&ChatChunk::usage(&self.envelope, finished)));
        }
        events
    }
}
