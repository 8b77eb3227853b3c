//! What the generating endpoints share: start the work, then send one answer or a stream.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::StatusCode;
use hyper::body::Incoming;
use serde_json::Value;

use crate::access::{Exchange, random_hex};
use crate::app::{App, Phase};
use crate::body::{done, keep, read};
use crate::error::{ApiError, Fault};
use crate::memory::NoRoom;
use crate::reply::{
    EventStream, Events, Format, Reply, event, events, json, named_event, telling_ignored,
};
use crate::served::{Asks, Served, Wait, Waiting};
use crate::wire::Parsed;
use crate::wire::common::{Delivery, Envelope, SYSTEM_FINGERPRINT};
use crate::wire::error::Dialect;
use phi4d_engine::JobError;
use phi4d_generate::{
    Answer, Choices, Delta, Elsewhere, Finished, Gathered, GenerateError, PromptProgress, Request,
    TextDelta, Usage, is_large,
};

/// Renders the answers to one request in the JSON of its API. Answers are named by their index.
/// What is returned for a stream is in the stream's format, and empty if there is nothing to send.
pub(crate) trait Renderer: Send + 'static {
    /// How its streams are framed.
    const FORMAT: Format;
    /// Whose error objects its streams end with.
    const DIALECT: Dialect;
    /// The model is not there yet; only for requests that ask for progress. `time` has passed.
    fn waiting(&mut self, _wait: Wait, _time: Duration) -> String {
        String::new()
    }
    /// Called once, before there is any text.
    fn begin(&mut self, _served: &Served, _choices: &Choices) {}
    /// Called when the prompt is in the KV cache, for requests with one answer.
    fn prompt_read(&mut self) {}
    /// The response's body for a request without a stream.
    fn complete(&mut self, answers: Vec<Answer>, usage: Usage) -> String;
    /// The beginning of an answer, before there is any text.
    fn start(&mut self, _index: usize, _usage: Usage) -> String {
        String::new()
    }
    /// More of the prompt has been read; only for requests that ask for it.
    fn progress(&mut self, _index: usize, _progress: PromptProgress, _usage: Usage) -> String {
        String::new()
    }
    /// A piece of an answer.
    fn piece(&mut self, index: usize, delta: TextDelta, usage: Usage) -> String;
    /// The end of an answer.
    fn end(&mut self, index: usize, finished: Finished, usage: Usage) -> String;
    /// The end of the stream.
    fn close(&mut self, _usage: Usage) -> String {
        String::new()
    }
    /// The end of a stream that failed.
    fn fault(&mut self, error: &ApiError) -> String {
        framed_fault(Self::FORMAT, Self::DIALECT, error)
    }
}

/// An error as a stream's last event.
fn framed_fault(format: Format, dialect: Dialect, error: &ApiError) -> String {
    let data = dialect.fault(error);
    match format {
        Format::Events => event(&data),
        Format::PingedEvents => named_event(&data),
        Format::Lines => format!("{data}\n"),
    }
}

/// The end of a stream of OpenAI's first two endpoints, with `usage` in a last chunk.
pub(crate) fn end_of_events(usage: Option<&str>) -> String {
    usage.map_or_else(String::new, event) + &event("[DONE]")
}

/// A request's body, read by `parse`, and the place of the model that it names.
pub(crate) async fn asked<T: Send + 'static>(
    app: &App,
    request: hyper::Request<Incoming>,
    exchange: &Exchange,
    parse: impl FnOnce(Value) -> Result<T, ApiError> + Send + 'static,
    asks: fn(&T) -> Asks<'_>,
) -> Result<(usize, T), ApiError> {
    let parse = move |app: &App, body: Value| {
        let parsed = parse(body)?;
        let index = app.model_of(asks(&parsed).model)?;
        Ok((index, parsed))
    };
    read(request, app, exchange, parse).await
}

/// A request's body, read by `parse`, and the model that it names, which is loaded then.
pub(crate) async fn parsed<T: Send + 'static>(
    app: &App,
    request: hyper::Request<Incoming>,
    exchange: &Exchange,
    parse: fn(&Value) -> Result<T, ApiError>,
    asks: fn(&T) -> Asks<'_>,
) -> Result<(Served, T), ApiError> {
    taken(app, request, exchange, move |body| parse(&body), asks).await
}

/// As [`parsed`], with a `parse` that takes the body apart.
pub(crate) async fn taken<T: Send + 'static>(
    app: &App,
    request: hyper::Request<Incoming>,
    exchange: &Exchange,
    parse: impl FnOnce(Value) -> Result<T, ApiError> + Send + 'static,
    asks: fn(&T) -> Asks<'_>,
) -> Result<(Served, T), ApiError> {
    let (index, parsed) = self::asked(app, request, exchange, parse, asks).await?;
    let served = Served::with(app, exchange, index, &asks(&parsed)).await?;
    Ok((served, parsed))
}

/// What all answers and chunks to one request for the model `asked` begin with.
pub(crate) fn envelope(
    app: &App,
    asked: Option<String>,
    prefix: &str,
    object: &'static str,
) -> Envelope {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Envelope {
        id: format!("{prefix}-{}", random_hex()),
        object,
        created: now.map_or(0, |since| since.as_secs()),
        model: app.name_for(asked),
        system_fingerprint: SYSTEM_FINGERPRINT,
    }
}

/// Generates what was asked of the model at `index` and answers in `renderer`'s JSON. If the request has to wait for
/// the model and asks for progress, the stream begins at once and says what it waits for.
pub(crate) async fn answer_by<R: Renderer>(
    app: &App,
    index: usize,
    parsed: Parsed,
    exchange: &Arc<Exchange>,
    renderer: R,
) -> Result<Reply, ApiError> {
    let mut waiting = Waiting::begin(app, exchange, index, &parsed.asks());
    let there = match parsed.delivery {
        // What is refused at once gets its status.
        Delivery::Stream { .. } if parsed.request.parameters.progress => waiting.placed().await?,
        _ => Some(waiting.served().await?),
    };
    if let Some(served) = there {
        return answer(&served, parsed, exchange, renderer).await;
    }
    let Parsed { request, ignored, .. } = checked(app, index, parsed, exchange).await?;
    let mut renderer = elsewhere(app, exchange, renderer);
    let work = Arc::clone(exchange);
    let stream = event_stream::<R, _>(app, exchange, |out| async move {
        let served = loop {
            match waiting.next().await? {
                ControlFlow::Break(served) => break served,
                ControlFlow::Continue(wait) => out.offer(renderer.waiting(wait, waiting.time())),
            }
        };
        begun(&served, request, &work, renderer).await?.stream(&out, &work).await
    });
    Ok(telling_ignored(stream, &ignored))
}

/// The request, whose faults are found as far as they can be without its model.
async fn checked(
    app: &App,
    index: usize,
    parsed: Parsed,
    exchange: &Exchange,
) -> Result<Parsed, ApiError> {
    let request = &parsed.request;
    exchange.admission().hold(request.copies.answers(request.prompts.len())?)?;
    // The folder says how many tokens there are; where it can't be read, that is the load's fault to report.
    let tokens = app.models().view(index).facts.map_or(usize::MAX, |facts| facts.vocab_size);
    let check = move |_: &App| parsed.request.check(tokens).map(|()| parsed);
    Ok(done(app, exchange, is_large(exchange.weight()), check).await??)
}

/// Generates what was asked for and answers in `renderer`'s JSON.
pub(crate) async fn answer<R: Renderer>(
    app: &Served,
    parsed: Parsed,
    exchange: &Arc<Exchange>,
    renderer: R,
) -> Result<Reply, ApiError> {
    let Parsed { mut request, delivery, ignored, .. } = parsed;
    request.parameters.progress &= delivery != Delivery::Whole;
    let renderer = elsewhere(app, exchange, renderer);
    let begun = begun(app, request, exchange, renderer).await?;
    let reply = match delivery {
        Delivery::Whole => begun.whole(exchange).await?,
        Delivery::Stream { .. } => begun.streamed(exchange),
    };
    Ok(telling_ignored(reply, &ignored))
}

/// A renderer may repeat much of the request; then the pool drops it.
fn elsewhere<R: Renderer>(app: &App, exchange: &Exchange, renderer: R) -> Elsewhere<R> {
    let (large, caller) = (is_large(exchange.weight()), exchange.caller().id());
    Elsewhere::new(app.pool(), caller, large, renderer)
}

/// A stream in `R`'s format of what `produce` sends, ended by its error.
fn event_stream<R: Renderer, F>(
    app: &App,
    exchange: &Arc<Exchange>,
    produce: impl FnOnce(Events) -> F + Send + 'static,
) -> Reply
where
    F: Future<Output = Result<(), ApiError>> + Send + 'static,
{
    let exchange = Arc::clone(exchange);
    let on_panic = || framed_fault(R::FORMAT, R::DIALECT, &Fault::Internal.into());
    let interval = app.options().stream_keep_alive;
    events(EventStream::new(R::FORMAT, interval, on_panic, |out| async move {
        if let Err(error) = produce(out.clone()).await {
            exchange.ended(error.code);
            out.send(framed_fault(R::FORMAT, R::DIALECT, &error)).await;
        }
    }))
}

/// Answers that were begun, and what renders them.
struct Begun<R: Renderer> {
    running: Running,
    renderer: Elsewhere<R>,
    /// Whether parts that may grow with the request are the pool's work.
    large: bool,
}

/// Checks and queues the answers to a request.
async fn begun<R: Renderer>(
    app: &Served,
    mut request: Request,
    exchange: &Arc<Exchange>,
    mut renderer: Elsewhere<R>,
) -> Result<Begun<R>, ApiError> {
    let (weight, caller) = (exchange.weight(), exchange.caller().id());
    (request.weight, request.caller, request.waited) = (weight, caller, app.waited());
    let known = request.parameters.prompt_logprobs.map(|top| usize::try_from(top).unwrap_or(0) + 1);
    let answers = request.copies.made;
    exchange.asks(&app.entry().name);
    // A prompt has no more tokens than bytes, or than fit.
    let prompts = request.prompts.len().saturating_mul(app.generator().limits().context_tokens);
    let expected = Took { prompt_tokens: weight.min(prompts), answers, known: None };
    exchange.takes(expected.bytes()).map_err(|NoRoom| Fault::NoMemoryForAnswer)?;
    let choices = admitted(app, request, exchange).await?;
    let mut running = Running { app: app.clone(), exchange: Arc::clone(exchange), choices };
    running.begin().await?;
    let prompt_tokens = running.choices.prompt_tokens();
    keep(app, exchange, Took { prompt_tokens, answers, known }.bytes())?;
    let large = is_large(weight.max(prompt_tokens * size_of::<u32>()));
    let begin = move |_: &App| {
        renderer.begin(&running.app, &running.choices);
        (renderer, running)
    };
    let (renderer, running) = done(app, exchange, large, begin).await?;
    Ok(Begun { running, renderer, large })
}

impl<R: Renderer> Begun<R> {
    /// All of it, once it is done.
    async fn whole(self, exchange: &Arc<Exchange>) -> Result<Reply, ApiError> {
        let Self { running, mut renderer, large } = self;
        let app = running.app.clone();
        let (gathered, bytes) = running.collect(|| renderer.prompt_read()).await?;
        let whole = move |_: &App| {
            let (answers, usage) = gathered.into_answers();
            renderer.complete(answers, usage)
        };
        let large = large || is_large(bytes);
        Ok(json(StatusCode::OK, done(&app, exchange, large, whole).await?))
    }

    /// Piece by piece.
    fn streamed(self, exchange: &Arc<Exchange>) -> Reply {
        let (app, work) = (self.running.app.clone(), Arc::clone(exchange));
        event_stream::<R, _>(&app, exchange, |out| async move { self.stream(&out, &work).await })
    }

    async fn stream(self, out: &Events, exchange: &Arc<Exchange>) -> Result<(), ApiError> {
        let Self { mut running, mut renderer, large } = self;
        let app = running.app.clone();
        let mut text;
        for index in 0..running.choices.count() {
            let usage = running.choices.usage();
            let start = move |renderer: &mut R| renderer.start(index, usage);
            (renderer, text) = rendered(&app, exchange, large, renderer, start).await?;
            out.send(text).await;
        }
        let mut read = false;
        while let Some((index, delta)) = running.next().await {
            if !read && !matches!(delta, Ok(Delta::Progress(_))) {
                read = true;
                renderer.prompt_read();
            }
            let usage = running.choices.usage();
            match delta {
                Ok(Delta::Progress(progress)) => {
                    out.send(renderer.progress(index, progress, usage)).await;
                }
                Ok(Delta::Text(delta)) => {
                    out.send(renderer.piece(index, delta, usage)).await;
                }
                Ok(Delta::Finished(finished)) => {
                    out.send(renderer.end(index, finished, usage)).await;
                }
                Err(error) => {
                    let error = ApiError::from(error);
                    let code = error.code;
                    let fault = move |renderer: &mut R| renderer.fault(&error);
                    let (_, text) = rendered(&app, exchange, large, renderer, fault).await?;
                    out.send(text).await;
                    exchange.ended(code);
                    return Ok(());
                }
            }
        }
        let usage = running.choices.usage();
        let close = move |renderer: &mut R| renderer.close(usage);
        let (_, text) = rendered(&app, exchange, large, renderer, close).await?;
        out.send(text).await;
        exchange.ended("complete");
        Ok(())
    }
}

/// The answers that are asked for, ready to begin: the request is checked, its prompts are tokenised,
/// and the key's quota is reserved.
async fn admitted(
    app: &Served,
    request: Request,
    exchange: &Arc<Exchange>,
) -> Result<Choices, ApiError> {
    let answers = request.copies.answers(request.prompts.len())?;
    exchange.admission().hold(answers)?;
    let metrics = app.metrics().of(app.index());
    let generator = app.generator().clone().timed_by(metrics).within(exchange.trace());
    // What is known before the tokenizer's work: a request that does not fit costs nothing. Adding up
    // many texts takes time itself.
    let count = move |_: &App| (request.parameters.least_cost(&request.prompts), request);
    let large = is_large(exchange.weight());
    let (least, request) = done(app, exchange, large, count).await?;
    let given = request.parameters.max_tokens.unwrap_or(0);
    let asked = usize::try_from(given).unwrap_or(usize::MAX).saturating_mul(answers);
    exchange.admission().reserve(asked.min(generator.limits().context_tokens).max(least))?;
    exchange.admission().pay(least)?;
    let mut choices = generator.prepare_all(request).await?;
    if let Some(tokens) = exchange.admission().open_answer_tokens(answers) {
        choices.limit_open_answers(tokens);
    }
    exchange.admission().reserve(choices.most_tokens())?;
    Ok(choices)
}

/// The memory that a request takes while it runs.
struct Took {
    prompt_tokens: usize,
    /// Answers to each prompt.
    answers: usize,
    /// How many log-probabilities are reported for each of the prompt's tokens.
    known: Option<usize>,
}

impl Took {
    /// An upper bound, without the text of the answers.
    fn bytes(&self) -> usize {
        /// Queued events and text.
        const ANSWER: usize = 8 * 1024;
        /// A log-probability with its token's text, in memory and in the answer.
        const LOGPROB: usize = 200;
        let of_token = size_of::<u32>() + self.known.unwrap_or(0) * LOGPROB;
        let prompts = self.prompt_tokens.saturating_mul(of_token);
        prompts.saturating_add(ANSWER).saturating_mul(self.answers)
    }
}

/// Renders a part of the stream that may grow with the request, by the pool if that is `large`.
async fn rendered<R: Renderer>(
    app: &App,
    exchange: &Arc<Exchange>,
    large: bool,
    mut renderer: Elsewhere<R>,
    render: impl FnOnce(&mut R) -> String + Send + 'static,
) -> Result<(Elsewhere<R>, String), ApiError> {
    let work = move |_: &App| {
        let text = render(&mut renderer);
        (renderer, text)
    };
    done(app, exchange, large, work).await
}

/// Running answers, which fail when the daemon's drain limit has passed.
struct Running {
    choices: Choices,
    exchange: Arc<Exchange>,
    app: Served,
}

impl Drop for Running {
    /// Runs on disconnect too, so that partial output is counted.
    fn drop(&mut self) {
        self.exchange.made_tokens(self.choices.stop().completion_tokens);
    }
}

impl Running {
    /// Queues all answers. The prompts count from here on, also for a client that leaves meanwhile;
    /// not if there is no room for them.
    async fn begin(&mut self) -> Result<(), GenerateError> {
        self.exchange.read_prompt(self.choices.prompt_tokens());
        let begun = self.choices.begin().await;
        if begun.is_err() && self.choices.stop().completion_tokens == 0 {
            self.exchange.read_prompt(0);
        }
        begun
    }

    async fn next(&mut self) -> Option<(usize, Result<Delta, GenerateError>)> {
        tokio::select! {
            biased;
            next = self.choices.next() => next,
            () = self.app.reached(Phase::Cutting) => Some((0, Err(JobError::ShuttingDown.into()))),
        }
    }

    /// The answers, and how much memory they take.
    async fn collect(
        mut self,
        prompt_read: impl FnOnce(),
    ) -> Result<(Gathered, usize), GenerateError> {
        let app = self.app.clone();
        let answers = async move {
            if self.choices.count() == 1 {
                self.choices.first_read().await;
                prompt_read();
            }
            let (exchange, mut bytes) = (Arc::clone(&self.exchange), 0);
            let grown = |more: usize| {
                bytes += more;
                exchange.takes(more).is_ok()
            };
            let gathered = self.choices.gather(grown).await?;
            Ok((gathered, bytes))
        };
        tokio::select! {
            biased;
            answers = answers => answers,
            () = app.reached(Phase::Cutting) => Err(JobError::ShuttingDown.into()),
        }
    }
}
