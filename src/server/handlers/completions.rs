//! `POST /v1/completions`.

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
use crate::server::wire::common::{ChunkUsage, Envelope, to_json};
use crate::server::wire::completions::{Completion, CompletionRequest};

/// Continues a text.
pub(crate) async fn create(
    app: &App,
    request: Request<Incoming>,
    exchange: &Arc<Exchange>,
) -> Result<Reply, ApiError> {
    let body = read_json(request, app.options()).await?;
    let completion = CompletionRequest::parse(&body)?;
    drop(body);
    check_model(app, completion.model.as_deref())?;
    let shape = CompletionShape {
        envelope: envelope(app, "cmpl", Completion::OBJECT),
        logprobs: completion.parameters.top_logprobs.is_some(),
        include_usage: completion.delivery.includes_usage(),
        characters: 0,
    };
    let asked = Asked {
        prompt: completion.prompt,
        parameters: completion.parameters,
        names: completion.names,
        delivery: completion.delivery,
    };
    answer(app, asked, exchange, shape).await
}

struct CompletionShape {
    envelope: Envelope,
    logprobs: bool,
    include_usage: bool,
    /// Characters in the tokens so far, for `text_offset`.
    characters: usize,
}

impl CompletionShape {
    fn usage(&self) -> ChunkUsage {
        ChunkUsage::before_end(self.include_usage)
    }
}

impl Shape for CompletionShape {
    fn whole(&self, answer: Answer) -> String {
        to_json(&Completion::whole(&self.envelope, answer, self.logprobs))
    }

    fn start(&self) -> Option<String> {
        None
    }

    fn text(&mut self, delta: TextDelta) -> Option<String> {
        if delta.text.is_empty() && (delta.tokens.is_empty() || !self.logprobs) {
            return None;
        }
        let usage = self.usage();
        let offset = self.logprobs.then_some(&mut self.characters);
        Some(to_json(&Completion::text(&self.envelope, usage, delta, offset)))
    }

    fn end(&self, finished: Finished) -> Vec<String> {
        let end = Completion::end(&self.envelope, self.usage(), finished);
        let mut events = vec![to_json(&end)];
        if self.include_usage {
            events.push(to_json(&Completion::usage(&self.envelope, finished)));
        }
        events
    }
}
