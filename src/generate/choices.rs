//! Several answers to one request: copies of one prompt, several prompts, or both.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use super::error::GenerateError;
use super::generation::{Generation, ReadPrompt};
use super::pool::Elsewhere;
use super::preparation::{Plan, Ready};
use super::request::{Copies, Delta, Finished, PromptToken, Request, TextDelta, TokenDelta, Usage};
use super::service::Generator;
use super::tools::ToolCall;
use super::validate;

/// The answers to one request: prepared, then running. Dropping them cancels the work within one
/// step.
#[derive(Debug)]
pub struct Choices {
    generator: Generator,
    /// Until all have begun.
    plan: Option<Arc<Plan>>,
    prompts: Vec<Elsewhere<Ready>>,
    /// First answers to prompts whose copies have not begun.
    firsts: VecDeque<Generation>,
    generations: Vec<Generation>,
    ended: Vec<bool>,
    copies: Copies,
    /// The answer that is polled first, in rotation, so that none starves.
    first: usize,
}

impl Generator {
    /// Checks a request and tokenises each of its prompts, once for all copies. Nothing is queued
    /// before [`Choices::begin`].
    ///
    /// # Errors
    /// Every fault of the request; or no turn in time for what takes long.
    pub async fn prepare_all(&self, mut request: Request) -> Result<Choices, GenerateError> {
        let (prompts, copies) = (std::mem::take(&mut request.prompts), request.copies);
        let count = copies.answers(prompts.len())?;
        if copies.made > copies.wanted {
            request.parameters.top_logprobs.get_or_insert(0);
        }
        // Copies begin when their prompt has been read, and nothing is streamed before.
        request.parameters.progress &= copies.made == 1;
        if let Some(prompt) = prompts.first() {
            validate::not_empty(prompt)?;
        }
        let plan = self.preparer.plan(request).await?;
        let mut read = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            read.push(self.preparer.prepare(&plan, prompt).await?);
        }
        Ok(Choices {
            generator: self.clone(),
            plan: Some(plan),
            prompts: read,
            firsts: VecDeque::new(),
            generations: Vec::with_capacity(count),
            ended: vec![false; count],
            copies,
            first: 0,
        })
    }

    /// [`Self::prepare_all`] and [`Choices::begin`].
    #[cfg(test)]
    pub(super) async fn start_all(&self, request: Request) -> Result<Choices, GenerateError> {
        let mut choices = self.prepare_all(request).await?;
        choices.begin().await?;
        Ok(choices)
    }
}

impl Choices {
    /// Queues all answers. Copies of a prompt begin once it has been read for the first time, so
    /// that they find it in the KV cache; their seeds are the request's and the ones after it.
    ///
    /// # Errors
    /// A form that can't be kept to, or a full queue.
    pub async fn begin(&mut self) -> Result<(), GenerateError> {
        let Self { generator, plan, prompts, firsts, generations, copies, .. } = self;
        let Some(shared) = plan else { return Ok(()) };
        for prompt in prompts.iter() {
            firsts.push_back(generator.launch(shared, prompt, 0).await?);
        }
        for prompt in prompts.iter() {
            if copies.made > 1
                && let Some(first) = firsts.front_mut()
            {
                first.prompt_read().await;
            }
            generations.extend(firsts.pop_front());
            for index in 1..copies.made {
                generations.push(generator.launch(shared, prompt, index).await?);
            }
        }
        // Schemas may be large, so the pool drops them.
        let grammars: Vec<_> =
            prompts.iter_mut().map(|prompt| std::mem::take(&mut prompt.grammar)).collect();
        let (caller, large) = (shared.caller, shared.large);
        drop(Elsewhere::new(generator.pool(), caller, large, (plan.take(), grammars)));
        Ok(())
    }

    /// Ends what still runs, and returns what all answers took, with the tokens that were made and
    /// that nobody waited for.
    pub fn stop(&mut self) -> Usage {
        self.firsts.iter_mut().chain(&mut self.generations).for_each(Generation::stop);
        let unplaced: usize = self.firsts.iter().map(|first| first.usage().completion_tokens).sum();
        let mut usage = self.usage();
        usage.completion_tokens += unplaced;
        usage
    }

    /// Answers whose length the request leaves open may take at most `tokens` each, at least one.
    pub fn limit_open_answers(&mut self, tokens: usize) {
        if self.plan.as_ref().is_some_and(|plan| plan.checked.max_tokens.is_none()) {
            for prompt in &mut self.prompts {
                prompt.max_tokens = prompt.max_tokens.min(tokens.max(1));
            }
        }
    }

    /// The most that prompts and answers can take together. Copies share their prompt.
    #[must_use]
    pub fn most_tokens(&self) -> usize {
        let most = |prompt: &Elsewhere<Ready>| {
            prompt.max_tokens.saturating_mul(self.copies.made).saturating_add(prompt.prompt.len())
        };
        self.prompts.iter().map(most).fold(0, usize::saturating_add)
    }

    /// Tokens of all prompts, each counted once.
    #[must_use]
    pub fn prompt_tokens(&self) -> usize {
        self.prompts.iter().map(|prompt| prompt.prompt.len()).sum()
    }

    /// How many answers there are to be.
    #[must_use]
    pub fn count(&self) -> usize {
        self.ended.len()
    }

    /// The prompts' token ids, in the order of the prompts.
    pub fn prompts(&self) -> impl Iterator<Item = &[u32]> {
        self.prompts.iter().map(|prompt| &*prompt.prompt)
    }

    /// Waits until the first prompt has been read.
    pub async fn first_read(&mut self) {
        if let Some(first) = self.generations.first_mut() {
            first.prompt_read().await;
        }
    }

    /// Waits for the next piece of any answer; `None` after the last. The index is the answer's:
    /// all of the first prompt, then all of the second, and so on. Only for requests that make no
    /// more answers than they want.
    pub async fn next(&mut self) -> Option<(usize, Result<Delta, GenerateError>)> {
        let count = self.generations.len();
        let Self { generations, ended, first, .. } = self;
        let (index, next) = poll_fn(|cx| {
            let mut open = false;
            for step in 0..count {
                let index = (*first + step) % count;
                if ended[index] {
                    continue;
                }
                open = true;
                // `next` is cancel-safe, so a pending future can be dropped.
                if let Poll::Ready(next) = pin!(generations[index].next()).poll(cx) {
                    *first = index + 1;
                    return Poll::Ready(Some((index, next)));
                }
            }
            if open { Poll::Pending } else { Poll::Ready(None) }
        })
        .await?;
        let next = next.unwrap_or(Err(GenerateError::EngineGone));
        ended[index] = !matches!(next, Ok(Delta::Progress(_) | Delta::Text(_)));
        Some((index, next))
    }

    /// Waits for all answers. `grown` gets the most bytes that each piece takes, its JSON included,
    /// and returns whether there is memory for them.
    ///
    /// # Errors
    /// If the engine failed before the end of one, or `grown` says no.
    pub async fn gather(
        &mut self,
        mut grown: impl FnMut(usize) -> bool,
    ) -> Result<Gathered, GenerateError> {
        let mut texts: Vec<Parts> = self.generations.iter().map(|_| Parts::default()).collect();
        let mut ended: Vec<Option<Finished>> = vec![None; texts.len()];
        // All at once: the engine pauses a sequence whose events nobody reads.
        while let Some((index, delta)) = self.next().await {
            match delta? {
                Delta::Progress(_) => {}
                Delta::Text(part) => {
                    if !grown(memory_of(&part)) {
                        return Err(GenerateError::OutOfMemory);
                    }
                    texts[index].add(part);
                }
                Delta::Finished(finished) => ended[index] = Some(finished),
            }
        }
        // Only the first copy reports the prompt that all of them have.
        let firsts = self.generations.iter_mut().step_by(self.copies.made);
        let prompts = firsts.map(Generation::take_prompt).collect();
        let usage = self.usage();
        Ok(Gathered { texts, ended, prompts, copies: self.copies, usage })
    }

    /// As [`Self::gather`] and [`Gathered::into_answers`].
    ///
    /// # Errors
    /// If the engine failed before the end of one.
    #[cfg(test)]
    pub async fn collect(&mut self) -> Result<(Vec<Answer>, Usage), GenerateError> {
        Ok(self.gather(|_| true).await?.into_answers())
    }

    /// What all answers took so far. Prompts are counted once for all their copies.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let mut sum = Usage { prompt_tokens: self.prompt_tokens(), ..Usage::default() };
        for (index, generation) in self.generations.iter().enumerate() {
            let usage = generation.usage();
            sum.completion_tokens += usage.completion_tokens;
            sum.reading = sum.reading.max(usage.reading);
            sum.answering = sum.answering.max(usage.answering);
            sum.reasoning_tokens += usage.reasoning_tokens;
            if index % self.copies.made == 0 {
                sum.cached_tokens += usage.cached_tokens;
            }
        }
        sum
    }
}

/// Answers that have ended.
#[derive(Debug)]
pub struct Gathered {
    texts: Vec<Parts>,
    ended: Vec<Option<Finished>>,
    prompts: Vec<ReadPrompt>,
    copies: Copies,
    usage: Usage,
}

impl Gathered {
    /// The wanted answers, in order, with what all of them took. This takes time where answers or
    /// prompts are long.
    #[must_use]
    pub fn into_answers(self) -> (Vec<Answer>, Usage) {
        let Copies { wanted, made } = self.copies;
        let mut all = self.texts.into_iter().zip(self.ended);
        let mut given = Vec::new();
        for prompt in &self.prompts {
            let whole = |(text, ended): (Parts, Option<Finished>)| {
                Some(text.into_answer(Vec::new(), ended?))
            };
            let mut of_prompt: Vec<Answer> = all.by_ref().take(made).filter_map(whole).collect();
            if made > wanted {
                of_prompt.sort_by(|a, b| likelihood(b).total_cmp(&likelihood(a)));
                of_prompt.truncate(wanted);
            }
            for answer in &mut of_prompt {
                answer.prompt = prompt.described();
            }
            given.append(&mut of_prompt);
        }
        (given, self.usage)
    }
}

/// A complete answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// The model's reasoning, if it was separated; else empty.
    pub reasoning: String,
    /// Its tool calls.
    pub calls: Vec<ToolCall>,
    /// The tokens it was made from.
    pub tokens: Vec<TokenDelta>,
    /// The prompt's tokens, if their log-probabilities were asked for; else empty.
    pub prompt: Vec<PromptToken>,
    /// How it ended.
    pub finished: Finished,
}

/// The pieces of an answer so far.
#[derive(Debug, Default)]
pub(super) struct Parts {
    text: String,
    reasoning: String,
    calls: Vec<ToolCall>,
    tokens: Vec<TokenDelta>,
}

impl Parts {
    /// Adds the next piece.
    pub(super) fn add(&mut self, delta: TextDelta) {
        self.text.push_str(&delta.text);
        self.reasoning.push_str(&delta.reasoning);
        self.tokens.extend(delta.tokens);
        let Some(piece) = delta.call else { return };
        if let Some(begun) = piece.begun {
            let call = ToolCall { id: begun.id, name: begun.name, arguments: String::new() };
            self.calls.push(call);
        }
        if let Some(call) = self.calls.get_mut(piece.index) {
            call.arguments.push_str(&piece.arguments);
        }
    }

    /// The answer to `prompt`, which ended so.
    pub(super) fn into_answer(self, prompt: Vec<PromptToken>, finished: Finished) -> Answer {
        let Self { text, reasoning, calls, tokens } = self;
        Answer { text, reasoning, calls, tokens, prompt, finished }
    }
}

/// What a piece of an answer takes, at most: itself, and twice as much again as JSON.
fn memory_of(delta: &TextDelta) -> usize {
    const TOKEN: usize = 160;
    let call = delta.call.as_ref().map_or(0, |call| call.arguments.len() + TOKEN);
    let top = |token: &TokenDelta| token.logprobs.as_ref().map_or(0, |known| known.top.len() + 1);
    let tokens: usize = delta.tokens.iter().map(|token| (1 + top(token)) * TOKEN).sum();
    3 * (delta.text.len() + delta.reasoning.len() + call) + tokens
}

/// Mean log-probability of an answer's tokens.
#[expect(clippy::cast_precision_loss, reason = "answers stay far below 2^52 tokens")]
fn likelihood(answer: &Answer) -> f64 {
    let known = answer.tokens.iter().filter_map(|token| token.logprobs.as_ref());
    let sum: f64 = known.clone().map(|logprobs| f64::from(logprobs.chosen)).sum();
    sum / (known.count().max(1) as f64)
}

#[cfg(test)]
#[path = "choices_tests.rs"]
mod tests;
