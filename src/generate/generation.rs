//! One running answer: the engine's events become pieces of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use super::error::GenerateError;
use super::preparation::{Plan, Ready};
use super::reading::AnswerReader;
use super::request::{Delta, Finish, Finished, PromptProgress, PromptToken, TextDelta, Usage};
use super::service::Generator;
use super::stream::{TextStream, describe};
use super::tokenizer::Tokenizer;
use phi4d_engine::{Event, FinishReason, Job, PromptLogprobs};
use phi4d_telemetry::{Ending, Metrics, RequestTimer};

/// Events of one request that wait for its reader. When full, the engine does not step the
/// sequence until there is room again, and gives it up if that takes too long.
const EVENTS: usize = 64;

/// A running answer. Dropping it cancels the work within one step.
#[derive(Debug)]
pub(super) struct Generation {
    /// `None` once the answer has ended.
    events: Option<mpsc::Receiver<Event>>,
    prompt_ids: Arc<[u32]>,
    /// Log-probabilities of the prompt's tokens from the second on, if they are asked for.
    prompt_logprobs: Option<Vec<PromptLogprobs>>,
    text: TextStream,
    answer: AnswerReader,
    usage: Usage,
    /// When prefill began, and when the first token came.
    begun: Option<Instant>,
    first: Option<Instant>,
    /// What the last events became: pieces of the answer, and the end.
    ready: VecDeque<Result<Delta, GenerateError>>,
    timer: Option<RequestTimer>,
}

/// A prompt after prefill, for reporting its log-probabilities.
#[derive(Debug)]
pub(super) struct ReadPrompt {
    ids: Arc<[u32]>,
    /// Log-probabilities of the tokens from the second on.
    logprobs: Option<Vec<PromptLogprobs>>,
    tokenizer: Arc<Tokenizer>,
}

impl ReadPrompt {
    /// The prompt's tokens with their log-probabilities; empty if they were not asked for.
    pub(super) fn described(&self) -> Vec<PromptToken> {
        let Some(known) = &self.logprobs else { return Vec::new() };
        let known = std::iter::once(None).chain(known.iter().map(Some));
        let token = |(&id, known): (&u32, Option<&PromptLogprobs>)| PromptToken {
            token: describe(&self.tokenizer, id, known.map(|known| &known.logprobs)),
            rank: known.map_or(0, |known| known.rank),
        };
        self.ids.iter().zip(known).map(token).collect()
    }
}

impl Generator {
    /// Queues copy number `index` of a request.
    pub(super) async fn launch(
        &self,
        plan: &Plan,
        ready: &Ready,
        index: usize,
    ) -> Result<Generation, GenerateError> {
        let (Plan { parameters, checked, .. }, Ready { prompt, reading, .. }) = (plan, ready);
        let limits = self.engine.limits();
        let tokenizer = self.tokenizer();
        let mask = self.grammars.mask_of(&ready.grammar, plan.caller, plan.deadline).await?;
        let mask = reading.budgeted(mask, tokenizer, prompt, limits.vocab_size);
        let mut sampling = checked.sampling.clone();
        sampling.seed = sampling.seed.map(|seed| seed.wrapping_add(index as u64));
        // Copies of a prompt do not report it again.
        let prompt_logprobs = checked.prompt_logprobs.filter(|_| index == 0);
        let (sender, events) = mpsc::channel(EVENTS);
        self.engine.submit(Job {
            caller: plan.caller,
            priority: parameters.priority.saturating_neg(),
            has_waited: plan.has_waited && index == 0,
            cache_scope: parameters.cache_salt.as_deref().map_or(0, cache_scope),
            prompt: prompt.to_vec(),
            sampling,
            mask,
            prompt_logprobs,
            progress: parameters.progress,
            max_tokens: ready.max_tokens,
            stop_tokens: checked.stop_tokens.clone(),
            deadline: plan.deadline.map(tokio::time::Instant::into_std),
            events: sender,
        })?;
        let text = plan.text.clone().spelling(reading.spelt(tokenizer)).stopping(reading.stops());
        let arrived = if index == 0 { plan.arrived } else { Instant::now() };
        let timer = |metrics: &Metrics| metrics.request(arrived, prompt.len()).traced(self.trace);
        let timer = self.metrics.as_ref().map(timer);
        let answer = reading.reader(tokenizer, prompt);
        let generation = Generation::new(events, Arc::clone(prompt), text, answer, timer);
        Ok(generation.reporting_prompt(prompt_logprobs.is_some()))
    }
}

impl Generation {
    /// The answer to `prompt_ids`, which the engine sends as `events`.
    pub(super) fn new(
        events: mpsc::Receiver<Event>,
        prompt_ids: Arc<[u32]>,
        text: TextStream,
        answer: AnswerReader,
        timer: Option<RequestTimer>,
    ) -> Self {
        let usage = Usage { prompt_tokens: prompt_ids.len(), ..Usage::default() };
        let ready = VecDeque::new();
        Self {
            events: Some(events),
            prompt_ids,
            prompt_logprobs: None,
            text,
            answer,
            usage,
            begun: None,
            first: None,
            ready,
            timer,
        }
    }

    /// The same, with the log-probabilities of the prompt's tokens if `wanted`.
    #[must_use]
    pub(super) fn reporting_prompt(self, wanted: bool) -> Self {
        Self { prompt_logprobs: wanted.then(Vec::new), ..self }
    }

    /// The next piece; `None` after the last. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Result<Delta, GenerateError>> {
        loop {
            if let Some(delta) = self.ready.pop_front() {
                return Some(delta);
            }
            match self.events.as_mut()?.recv().await {
                Some(event) => self.take_with_all_ready(event),
                None => self.end(Err(GenerateError::EngineGone)),
            }
        }
    }

    /// What it took so far.
    #[must_use]
    pub(super) fn usage(&self) -> Usage {
        self.usage
    }

    /// The prompt with the log-probabilities of its tokens, if they were asked for and prefill is
    /// done. Returns them once.
    pub(super) fn take_prompt(&mut self) -> ReadPrompt {
        ReadPrompt {
            ids: Arc::clone(&self.prompt_ids),
            logprobs: self.prompt_logprobs.take(),
            tokenizer: Arc::clone(self.text.tokenizer()),
        }
    }

    /// Waits until the prompt is in the KV cache: the first token has been generated, or none will
    /// be.
    pub(super) async fn prompt_read(&mut self) {
        while self.first.is_none() {
            let Some(events) = &mut self.events else { return };
            match events.recv().await {
                Some(event) => self.take(event),
                None => self.end(Err(GenerateError::EngineGone)),
            }
        }
    }

    /// Cancels what is left of the answer, and counts the tokens that wait to be read.
    pub(super) fn stop(&mut self) {
        let Some(mut events) = self.events.take() else { return };
        // Closed first, so that the count is final.
        events.close();
        while let Ok(event) = events.try_recv() {
            if matches!(event, Event::Token(_) | Event::Finished(FinishReason::StopToken(_))) {
                self.usage.completion_tokens += 1;
            }
        }
    }

    /// Reads an event and all that wait after it: a slow reader gets fewer, longer pieces.
    fn take_with_all_ready(&mut self, event: Event) {
        self.take(event);
        while let Some(event) = self.events.as_mut().and_then(|e| e.try_recv().ok()) {
            self.take(event);
        }
        self.ready_to_give();
    }

    fn take(&mut self, event: Event) {
        let now = Instant::now();
        self.note_time(&event, now);
        match event {
            Event::Started { cached_tokens } => self.usage.cached_tokens = cached_tokens,
            Event::Prefill { processed_tokens } => {
                self.ready.push_back(Ok(Delta::Progress(PromptProgress {
                    total_tokens: self.usage.prompt_tokens,
                    cached_tokens: self.usage.cached_tokens,
                    processed_tokens,
                    elapsed: now.duration_since(self.begun.unwrap_or(now)),
                })));
            }
            Event::Prompt(tokens) => self.prompt_logprobs.get_or_insert_default().extend(tokens),
            Event::Token(token) => {
                self.usage.completion_tokens += 1;
                let stopped = self.text.push(&token);
                let free = self.text.take();
                self.read(free);
                if stopped || self.answer.is_full() {
                    self.end(Ok(Finish::Stop));
                }
            }
            Event::Stop(token) => self.text.push_end(&token),
            Event::Finished(reason) => {
                let reason = match reason {
                    FinishReason::StopToken(_) => {
                        self.usage.completion_tokens += 1;
                        Finish::Stop
                    }
                    FinishReason::Complete => Finish::Stop,
                    FinishReason::Length => Finish::Length,
                };
                let (rest, stopped) = self.text.finish();
                self.read(rest);
                self.end(Ok(if stopped { Finish::Stop } else { reason }));
            }
            Event::Failed(error) => self.end(Err(error.into())),
        }
    }

    fn note_time(&mut self, event: &Event, now: Instant) {
        match event {
            Event::Started { cached_tokens } => {
                self.begun = Some(now);
                if let Some(timer) = &mut self.timer {
                    timer.started(*cached_tokens, now);
                }
            }
            Event::Token(_) => {
                let first = *self.first.get_or_insert(now);
                self.usage.reading = first.duration_since(self.begun.unwrap_or(first));
                self.usage.answering = now.duration_since(first);
                if let Some(timer) = &mut self.timer {
                    timer.token(now);
                }
            }
            Event::Prefill { .. }
            | Event::Prompt(_)
            | Event::Stop(_)
            | Event::Finished(_)
            | Event::Failed(_) => {}
        }
    }

    /// Separates the text that was released into reasoning, text and calls.
    fn read(&mut self, free: Option<TextDelta>) {
        if let Some(delta) = free {
            self.answer.read(delta);
            self.usage.reasoning_tokens = self.answer.reasoning_tokens();
        }
    }

    /// Moves pieces from the reader to the output queue.
    fn ready_to_give(&mut self) {
        self.ready.extend(self.answer.take_ready().map(|delta| Ok(Delta::Text(delta))));
    }

    /// Closes the channel, which cancels the sequence if the engine still runs it.
    fn end(&mut self, how: Result<Finish, GenerateError>) {
        self.events = None;
        if let Ok(finish) = &how {
            self.answer.finish(*finish == Finish::Length);
        }
        self.ready_to_give();
        let how = how.map(|finish| match finish {
            Finish::Stop if self.answer.has_calls() => Finish::ToolCalls,
            finish => finish,
        });
        if let Some(timer) = &mut self.timer {
            let ending = match &how {
                Ok(Finish::Length) => Ending::Length,
                Ok(_) => Ending::Stop,
                Err(_) => Ending::Error,
            };
            timer.ended(ending, self.usage.completion_tokens, Instant::now());
        }
        self.ready.push_back(how.map(|reason| {
            let stop = self.text.stopped_by().filter(|_| reason == Finish::Stop);
            Delta::Finished(Finished { reason, stop, usage: self.usage })
        }));
    }
}

/// The scope of a salt: equal over restarts, since cached prefixes are kept with it; never the
/// common scope.
fn cache_scope(salt: &str) -> u64 {
    let hash = blake3::hash(salt.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(first).max(1)
}

#[cfg(test)]
#[path = "generation_tests.rs"]
mod tests;
