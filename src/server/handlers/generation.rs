//! What the generating endpoints share: start, then a whole answer or a stream.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::StatusCode;

use super::built::{done, keep};
use crate::access::{Exchange, random_hex};
use crate::app::{App, Phase};
use crate::error::ApiError;
use crate::memory::NoRoom;
use crate::reply::{Reply, events, json, telling_ignored};
use crate::sse::{EventStream, Events, Format, event, named_event};
use crate::wire::chat::ChatRequest;
use crate::wire::common::{Delivery, Envelope, SYSTEM_FINGERPRINT};
use crate::wire::completions::CompletionRequest;
use crate::wire::error::Dialect;
use crate::wire::names::Renaming;
use crate::wire::sampling::GivenNames;
use phi4d_engine::JobError;
use phi4d_generate::{
    Answer, Choices, Copies, Delta, Elsewhere, Finish, Finished, Gathered, GenerateError,
    Parameters, Prompt, Request, TextDelta, Usage, is_large,
};

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

/// How a surface speaks, in whole answers and in events of its streams' format; no event is an
/// empty text. Answers go by their index.
pub(super) trait Voice: Send + 'static {
    /// How its streams are framed.
    const FORMAT: Format;
    /// Whose error objects it has.
    const DIALECT: Dialect;
    /// Looks at the work before there is any text.
    fn begin(&mut self, app: &App, choices: &Choices);
    /// The prompt has been read, where there is one answer.
    fn prompt_read(&mut self) {}
    /// The whole answers.
    fn whole(&mut self, answers: Vec<Answer>, usage: Usage) -> String;
    /// An answer begins, before there is any text.
    fn start(&mut self, index: usize, usage: Usage) -> String;
    /// Some more of an answer.
    fn text(&mut self, index: usize, delta: TextDelta, usage: Usage) -> String;
    /// An answer ends.
    fn end(&mut self, index: usize, finished: Finished, usage: Usage) -> String;
    /// All answers have ended.
    fn close(&mut self, usage: Usage) -> String;
    /// The stream ends with a fault.
    fn fault(&mut self, error: &ApiError) -> String {
        framed_fault(Self::FORMAT, Self::DIALECT, error)
    }
}

/// A fault as a stream's last event.
fn framed_fault(format: Format, dialect: Dialect, error: &ApiError) -> String {
    let data = dialect.fault(error);
    match format {
        Format::Events => event(&data),
        Format::PingedEvents => named_event("error", &data),
        Format::Lines => format!("{data}\n"),
    }
}

/// The voice of OpenAI's first two endpoints.
struct Chunks<S>(S);

impl<S: Shape> Voice for Chunks<S> {
    const FORMAT: Format = Format::Events;
    const DIALECT: Dialect = Dialect::OpenAi;

    fn begin(&mut self, app: &App, choices: &Choices) {
        self.0.begin(app, choices);
    }

    fn whole(&mut self, answers: Vec<Answer>, usage: Usage) -> String {
        self.0.whole(answers, usage)
    }

    fn start(&mut self, index: usize, usage: Usage) -> String {
        self.0.start(index, usage).as_deref().map_or_else(String::new, event)
    }

    fn text(&mut self, index: usize, delta: TextDelta, usage: Usage) -> String {
        self.0.text(index, delta, usage).as_deref().map_or_else(String::new, event)
    }

    fn end(&mut self, index: usize, finished: Finished, usage: Usage) -> String {
        event(&self.0.end(index, finished.reason, usage))
    }

    fn close(&mut self, usage: Usage) -> String {
        let usage = self.0.usage(usage).as_deref().map_or_else(String::new, event);
        usage + &event(DONE)
    }
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

impl From<ChatRequest> for Asked {
    fn from(chat: ChatRequest) -> Self {
        Self {
            prompts: vec![chat.prompt],
            copies: chat.copies,
            parameters: chat.parameters,
            names: chat.names,
            delivery: chat.delivery,
            ignored: chat.ignored,
        }
    }
}

impl From<CompletionRequest> for Asked {
    fn from(completion: CompletionRequest) -> Self {
        Self {
            prompts: completion.prompts,
            copies: completion.copies,
            parameters: completion.parameters,
            names: completion.names,
            delivery: completion.delivery,
            ignored: completion.ignored,
        }
    }
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

/// As [`answer_in`], with faults under the client's names.
pub(super) async fn answer_renamed<V: Voice>(
    app: &App,
    asked: Asked,
    exchange: &Arc<Exchange>,
    voice: V,
    renaming: Renaming,
) -> Result<Reply, ApiError> {
    let (pool, caller) = (app.generator().pool(), exchange.caller().id());
    // It knows the place of each message.
    let renaming = Elsewhere::new(pool, caller, is_large(exchange.weight()), renaming);
    answer_in(app, asked, exchange, voice).await.map_err(|error| renaming.tell(error))
}

/// Runs a request and answers it in `shape`.
pub(super) async fn answer<S: Shape>(
    app: &App,
    asked: Asked,
    exchange: &Arc<Exchange>,
    shape: S,
) -> Result<Reply, ApiError> {
    answer_in(app, asked, exchange, Chunks(shape)).await
}

/// Runs a request and answers it in `voice`.
async fn answer_in<V: Voice>(
    app: &App,
    asked: Asked,
    exchange: &Arc<Exchange>,
    voice: V,
) -> Result<Reply, ApiError> {
    let weight = exchange.weight();
    let caller = exchange.caller().id();
    // It may repeat much of the request.
    let mut voice = Elsewhere::new(app.generator().pool(), caller, is_large(weight), voice);
    let known = asked.parameters.prompt_logprobs.map(|top| usize::try_from(top).unwrap_or(0) + 1);
    let (names, delivery, ignored) = (asked.names, asked.delivery, asked.ignored);
    let copies = asked.copies;
    let request = Request {
        prompt: Prompt::Tokens(Vec::new()),
        parameters: asked.parameters,
        caller,
        weight,
    };
    exchange.asks(&app.options().model_name);
    // A prompt has no more tokens than bytes, or than fit.
    let prompts = asked.prompts.len().saturating_mul(app.generator().limits().context_tokens);
    let expected = Took { prompt_tokens: weight.min(prompts), answers: copies.made, known: None };
    exchange.takes(expected.bytes()).map_err(|NoRoom| ApiError::no_memory_for_answer())?;
    let choices = admitted(app, asked.prompts, request, copies, exchange).await;
    let choices = choices.map_err(|error| names.tell(error))?;
    let mut running = Running { app: app.clone(), exchange: Arc::clone(exchange), choices };
    running.begin().await?;
    let prompt_tokens = running.choices.prompt_tokens();
    keep(app, exchange, Took { prompt_tokens, answers: copies.made, known }.bytes())?;
    let large = is_large(weight.max(prompt_tokens * size_of::<u32>()));
    let begin = move |app: &App| {
        voice.begin(app, &running.choices);
        (voice, running)
    };
    let (mut voice, running) = done(app, exchange, large, begin).await?;
    if delivery == Delivery::Whole {
        let (gathered, bytes) = running.collect(|| voice.prompt_read()).await?;
        let whole = move |_: &App| {
            let (answers, usage) = gathered.into_answers();
            voice.whole(answers, usage)
        };
        let reply =
            json(StatusCode::OK, done(app, exchange, large || is_large(bytes), whole).await?);
        return Ok(telling_ignored(reply, &ignored));
    }
    let exchange = Arc::clone(exchange);
    let on_panic = || framed_fault(V::FORMAT, V::DIALECT, &ApiError::internal());
    let interval = app.options().stream_keep_alive;
    let stream = EventStream::new(V::FORMAT, interval, on_panic, |out| async move {
        if let Err(error) = stream(running, voice, large, &out, &exchange).await {
            exchange.ended(error.code);
            out.send(framed_fault(V::FORMAT, V::DIALECT, &error)).await;
        }
    });
    Ok(telling_ignored(events(stream), &ignored))
}

/// The answers that are asked for, ready to begin: checked, read, and granted by the key's limits.
async fn admitted(
    app: &App,
    prompts: Vec<Prompt>,
    request: Request,
    copies: Copies,
    exchange: &Arc<Exchange>,
) -> Result<Choices, ApiError> {
    let answers = copies.answers(prompts.len())?;
    exchange.hold(answers)?;
    let generator = app.generator().within(exchange.trace());
    // What is known before the tokenizer's work: a request that does not fit costs nothing. Adding up
    // many texts takes time itself.
    let count = move |_: &App| (request.parameters.least_cost(&prompts), prompts, request);
    let large = is_large(exchange.weight());
    let (least, prompts, request) = done(app, exchange, large, count).await?;
    let given = request.parameters.max_tokens.unwrap_or(0);
    let asked = usize::try_from(given).unwrap_or(usize::MAX).saturating_mul(answers);
    exchange.reserve(asked.min(generator.limits().context_tokens).max(least))?;
    exchange.pay(least)?;
    let mut choices = generator.prepare_all(prompts, request, copies).await?;
    if let Some(tokens) = exchange.open_answer_tokens(answers) {
        choices.limit_open_answers(tokens);
    }
    exchange.reserve(choices.most_tokens())?;
    Ok(choices)
}

/// What a request takes while it runs.
struct Took {
    prompt_tokens: usize,
    /// Answers to each prompt.
    answers: usize,
    /// How many log-probabilities are reported for each of the prompt's tokens.
    known: Option<usize>,
}

impl Took {
    /// From above, what answers will be made of not included.
    fn bytes(&self) -> usize {
        /// Events and text on their way.
        const ANSWER: usize = 8 * 1024;
        /// A log-probability with its token's text, in memory and in the answer.
        const LOGPROB: usize = 200;
        let of_token = size_of::<u32>() + self.known.unwrap_or(0) * LOGPROB;
        let prompts = self.prompt_tokens.saturating_mul(of_token);
        prompts.saturating_add(ANSWER).saturating_mul(self.answers)
    }
}

/// Says what follows from `say`, which is long where the request is `large`.
async fn said<V: Voice>(
    app: &App,
    exchange: &Arc<Exchange>,
    large: bool,
    mut voice: Elsewhere<V>,
    say: impl FnOnce(&mut V) -> String + Send + 'static,
) -> Result<(Elsewhere<V>, String), ApiError> {
    let work = move |_: &App| {
        let text = say(&mut voice);
        (voice, text)
    };
    done(app, exchange, large, work).await
}

async fn stream<V: Voice>(
    mut running: Running,
    mut voice: Elsewhere<V>,
    large: bool,
    out: &Events,
    exchange: &Arc<Exchange>,
) -> Result<(), ApiError> {
    let app = running.app.clone();
    let mut text;
    for index in 0..running.choices.count() {
        let usage = running.choices.usage();
        let start = move |voice: &mut V| voice.start(index, usage);
        (voice, text) = said(&app, exchange, large, voice, start).await?;
        out.send(text).await;
    }
    let mut read = false;
    while let Some((index, delta)) = running.next().await {
        if !read {
            read = true;
            voice.prompt_read();
        }
        let usage = running.choices.usage();
        match delta {
            Ok(Delta::Text(delta)) => {
                out.send(voice.text(index, delta, usage)).await;
            }
            Ok(Delta::Finished(finished)) => {
                out.send(voice.end(index, finished, usage)).await;
            }
            Err(error) => {
                let error = ApiError::from(error);
                let code = error.code;
                let fault = move |voice: &mut V| voice.fault(&error);
                let (_, text) = said(&app, exchange, large, voice, fault).await?;
                out.send(text).await;
                exchange.ended(code);
                return Ok(());
            }
        }
    }
    let usage = running.choices.usage();
    let close = move |voice: &mut V| voice.close(usage);
    let (_, text) = said(&app, exchange, large, voice, close).await?;
    out.send(text).await;
    exchange.ended("complete");
    Ok(())
}

/// Answers in the making that fail when the daemon's drain limit has passed.
struct Running {
    app: App,
    exchange: Arc<Exchange>,
    choices: Choices,
}

impl Drop for Running {
    /// Runs at any end, that of a client which leaves included: what was made counts.
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
