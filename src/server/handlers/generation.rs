//! What the generating endpoints share: start, then a whole answer or a stream.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::StatusCode;

use crate::engine::JobError;
use crate::generate::{
    Answer, Choices, Copies, Delta, Finish, GenerateError, Parameters, Prompt, Request, TextDelta,
    Usage,
};
use crate::server::access::{Exchange, random_hex};
use crate::server::app::{App, Phase};
use crate::server::error::ApiError;
use crate::server::reply::{Reply, events, json, telling_ignored};
use crate::server::sse::{EventStream, Events};
use crate::server::wire::common::{Delivery, Envelope, SYSTEM_FINGERPRINT};
use crate::server::wire::error::error_json;
use crate::server::wire::sampling::GivenNames;

/// The end of a stream that ended well.
const DONE: &str = "[DONE]";

/// How one endpoint spells answers, as JSON texts. Answers go by their index.
pub(super) trait Shape: Send + 'static {
    /// Looks at the work before there is any text.
    fn begin(&mut self, app: &App, choices: &Choices);
    /// The whole answers.
    fn whole(&mut self, answers: Vec<Answer>, usage: Usage) -> String;
    /// An answer's first event, before there is any text.
    fn start(&mut self, index: usize, usage: Usage) -> Option<String>;
    /// An event for more text; `None` where there is nothing to tell.
    fn text(&mut self, index: usize, delta: TextDelta, usage: Usage) -> Option<String>;
    /// The event that ends an answer.
    fn end(&mut self, index: usize, reason: Finish, usage: Usage) -> String;
    /// The event behind all answers, if it is wanted.
    fn usage(&self, usage: Usage) -> Option<String>;
}

/// A request to `generate` and what is needed to speak about it.
pub(super) struct Asked {
    pub(super) prompts: Vec<Prompt>,
    pub(super) copies: Copies,
    pub(super) parameters: Parameters,
    pub(super) names: GivenNames,
    pub(super) delivery: Delivery,
    /// Names of fields that nobody read, for a header.
    pub(super) ignored: Vec<String>,
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
    let request = Request {
        prompt: Prompt::Tokens(Vec::new()),
        parameters: asked.parameters,
        caller: exchange.caller().id(),
    };
    exchange.asks(&app.options().model_name);
    let generator = app.generator().within(exchange.trace());
    let started = generator.start_all(asked.prompts, &request, asked.copies).await;
    let choices = started.map_err(|error| asked.names.rename(error))?;
    exchange.read_prompt(choices.prompt_tokens());
    shape.begin(app, &choices);
    let running = Running { app: app.clone(), choices };
    if asked.delivery == Delivery::Whole {
        let (answers, usage) = running.collect().await?;
        exchange.made_tokens_in_all(usage.completion_tokens);
        let reply = json(StatusCode::OK, shape.whole(answers, usage));
        return Ok(telling_ignored(reply, &asked.ignored));
    }
    let exchange = Arc::clone(exchange);
    let on_panic = || error_json(&ApiError::internal());
    let interval = app.options().stream_keep_alive;
    let stream = EventStream::new(interval, on_panic, |out| async move {
        stream(running, &mut shape, &out, &exchange).await;
    });
    Ok(telling_ignored(events(stream), &asked.ignored))
}

async fn stream<S: Shape>(mut running: Running, shape: &mut S, out: &Events, exchange: &Exchange) {
    for index in 0..running.choices.count() {
        if let Some(event) = shape.start(index, running.choices.usage()) {
            out.send(&event).await;
        }
    }
    while let Some((index, delta)) = running.next().await {
        let usage = running.choices.usage();
        match delta {
            Ok(Delta::Text(delta)) => {
                exchange.made_tokens(delta.tokens.len());
                if let Some(event) = shape.text(index, delta, usage) {
                    out.send(&event).await;
                }
            }
            Ok(Delta::Finished(finished)) => {
                out.send(&shape.end(index, finished.reason, usage)).await;
            }
            Err(error) => {
                let error = ApiError::from(error);
                out.send(&error_json(&error)).await;
                return exchange.ended(error.code);
            }
        }
    }
    let usage = running.choices.usage();
    exchange.made_tokens_in_all(usage.completion_tokens);
    if let Some(event) = shape.usage(usage) {
        out.send(&event).await;
    }
    out.send(DONE).await;
    exchange.ended("complete");
}

/// Answers in the making that fail when the daemon's drain limit has passed.
struct Running {
    app: App,
    choices: Choices,
}

impl Running {
    async fn next(&mut self) -> Option<(usize, Result<Delta, GenerateError>)> {
        tokio::select! {
            biased;
            next = self.choices.next() => next,
            () = self.app.reached(Phase::Cutting) => Some((0, Err(JobError::ShuttingDown.into()))),
        }
    }

    async fn collect(self) -> Result<(Vec<Answer>, Usage), GenerateError> {
        tokio::select! {
            biased;
            answers = self.choices.collect() => answers,
            () = self.app.reached(Phase::Cutting) => Err(JobError::ShuttingDown.into()),
        }
    }
}
