//! What the generating endpoints share: start, then a whole answer or a stream.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::StatusCode;

use crate::engine::{CallerId, JobError};
use crate::generate::{
    Answer, Delta, Finished, GenerateError, Generation, Parameters, Prompt, Request, TextDelta,
};
use crate::server::access::{Exchange, random_hex};
use crate::server::app::{App, Phase};
use crate::server::error::ApiError;
use crate::server::reply::{Reply, events, json};
use crate::server::sse::{EventStream, Events};
use crate::server::wire::common::{Delivery, Envelope, SYSTEM_FINGERPRINT};
use crate::server::wire::error::error_json;
use crate::server::wire::sampling::GivenNames;

/// The end of a stream that ended well.
const DONE: &str = "[DONE]";

/// How one endpoint spells an answer, as JSON texts.
pub(super) trait Shape: Send + 'static {
    /// The whole answer.
    fn whole(&self, answer: Answer) -> String;
    /// The stream's first event, before there is any text.
    fn start(&self) -> Option<String>;
    /// An event for more text; `None` where there is nothing to tell.
    fn text(&mut self, delta: TextDelta) -> Option<String>;
    /// The events that end the stream.
    fn end(&self, finished: Finished) -> Vec<String>;
}

/// A request to `generate` and what is needed to speak about it.
pub(super) struct Asked {
    pub(super) prompt: Prompt,
    pub(super) parameters: Parameters,
    pub(super) names: GivenNames,
    pub(super) delivery: Delivery,
}

/// Refuses a model that isn't served. No name means the one there is.
pub(super) fn check_model(app: &App, asked: Option<&str>) -> Result<(), ApiError> {
    let served = &app.options().model_name;
    match asked {
        Some(name) if name != served => Err(ApiError::model_not_found(name, served)),
        _ => Ok(()),
    }
}

/// The head of all that is said about one request.
pub(super) fn envelope(app: &App, prefix: &str, object: &'static str) -> Envelope {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Envelope {
        id: format!("{prefix}-{}", random_hex()),
        object,
        created: now.map_or(0, |since| since.as_secs()),
        model: app.options().model_name.clone(),
        system_fingerprint: SYSTEM_FINGERPRINT,
    }
}

/// Runs a request and answers it in `shape`.
pub(super) async fn answer<S: Shape>(
    app: &App,
    asked: Asked,
    exchange: &Arc<Exchange>,
    mut shape: S,
) -> Result<Reply, ApiError> {
    let request =
        Request { prompt: asked.prompt, parameters: asked.parameters, caller: CallerId::default() };
    let generation =
        app.generator().start(request).await.map_err(|error| asked.names.rename(error))?;
    exchange.read_prompt(generation.prompt_tokens());
    let running = Running { app: app.clone(), generation };
    if asked.delivery == Delivery::Whole {
        let answer = running.collect().await?;
        exchange.made_tokens_in_all(answer.finished.usage.completion_tokens);
        return Ok(json(StatusCode::OK, shape.whole(answer)));
    }
    let exchange = Arc::clone(exchange);
    let on_panic = || error_json(&ApiError::internal());
    let interval = app.options().stream_keep_alive;
    let stream = EventStream::new(interval, on_panic, |out| async move {
        stream(running, &mut shape, &out, &exchange).await;
    });
    Ok(events(stream))
}

async fn stream<S: Shape>(mut running: Running, shape: &mut S, out: &Events, exchange: &Exchange) {
    if let Some(event) = shape.start() {
        out.send(&event).await;
    }
    loop {
        match running.next().await {
            Ok(Delta::Text(delta)) => {
                exchange.made_tokens(delta.tokens.len());
                if let Some(event) = shape.text(delta) {
                    out.send(&event).await;
                }
            }
            Ok(Delta::Finished(finished)) => {
                exchange.made_tokens_in_all(finished.usage.completion_tokens);
                for event in shape.end(finished) {
                    out.send(&event).await;
                }
                out.send(DONE).await;
                return exchange.ended("complete");
            }
            Err(error) => {
                let error = ApiError::from(error);
                out.send(&error_json(&error)).await;
                return exchange.ended(error.code);
            }
        }
    }
}

/// A generation that fails when the daemon's drain limit has passed.
struct Running {
    app: App,
    generation: Generation,
}

impl Running {
    async fn next(&mut self) -> Result<Delta, GenerateError> {
        tokio::select! {
            biased;
            next = self.generation.next() => next.unwrap_or(Err(GenerateError::EngineGone)),
            () = self.app.reached(Phase::Cutting) => Err(JobError::ShuttingDown.into()),
        }
    }

    async fn collect(self) -> Result<Answer, GenerateError> {
        tokio::select! {
            biased;
            answer = self.generation.collect() => answer,
            () = self.app.reached(Phase::Cutting) => Err(JobError::ShuttingDown.into()),
        }
    }
}
