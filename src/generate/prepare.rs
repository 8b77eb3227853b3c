//! What all answers to a request share: its parameters are checked once and each prompt is read once,
//! however many copies are asked for.

use std::sync::Arc;
use std::time::Instant as Moment;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::error::GenerateError;
use super::generation::Generation;
use super::grammar::{self, Turn};
use super::reading::Reading;
use super::request::{Parameters, Prompt, Side};
use super::service::Generator;
use super::stream::TextStream;
use super::validate::{self, Checked};
use super::words;
use crate::engine::{CallerId, Job};
use crate::telemetry::Metrics;

/// Events of one answer that wait for its reader. When full, the engine does not step the sequence
/// until there is room again, and cancels it if that takes too long.
const EVENTS: usize = 64;

/// A request's parameters, checked.
#[derive(Debug)]
pub(super) struct Shared {
    arrived: Moment,
    caller: CallerId,
    priority: i32,
    cache_scope: u64,
    checked: Checked,
    /// The stream of text that each answer begins with.
    text: TextStream,
    deadline: Option<Instant>,
}

impl Shared {
    /// Whether the request says how long its answers may be.
    pub(super) fn limits_answers(&self) -> bool {
        self.checked.max_tokens.is_some()
    }

    /// What each answer's sampling begins with.
    #[cfg(test)]
    pub(super) fn sampling(&self) -> &crate::engine::Sampling {
        &self.checked.sampling
    }
}

/// A prompt's tokens, and what may answer it.
#[derive(Debug)]
pub(super) struct ReadPrompt {
    pub(super) ids: Arc<[u32]>,
    /// Most tokens of each answer.
    pub(super) max_tokens: usize,
    turn: Turn,
    reading: Reading,
}

impl Generator {
    /// Checks `parameters`, away from the async threads where that is more than a little work.
    ///
    /// # Errors
    /// Every fault of the parameters; or no turn in time.
    pub(super) async fn check(
        &self,
        parameters: &Arc<Parameters>,
        caller: CallerId,
    ) -> Result<Shared, GenerateError> {
        let arrived = Moment::now();
        let limits = self.engine.limits();
        let checked = if words::is_little(parameters) {
            self.check_now(parameters)?
        } else {
            let (generator, parameters) = (self.clone(), Arc::clone(parameters));
            self.reader.aside(None, move |_| generator.check_now(&parameters)).await?
        };
        if checked.prompt_logprobs.is_some() && !limits.many_rows {
            let value = "a number, but the model's graph gives logits for one position only";
            return Err(validate::invalid("prompt_logprobs", value, "null with this model"));
        }
        let tokenizer = Arc::clone(self.reader.tokenizer());
        let now = Instant::from_std(arrived);
        Ok(Shared {
            arrived,
            caller,
            priority: parameters.priority.saturating_neg(),
            cache_scope: parameters.cache_salt.as_deref().map_or(0, cache_scope),
            text: TextStream::new(tokenizer, parameters, checked.sampling.min_tokens),
            deadline: checked.timeout.and_then(|timeout| now.checked_add(timeout)),
            checked,
        })
    }

    fn check_now(&self, given: &Parameters) -> Result<Checked, GenerateError> {
        let reader = &self.reader;
        let vocab_size = self.engine.limits().vocab_size;
        let mut checked = validate::parameters(given, &self.options, vocab_size)?;
        let usual = reader.usual_breakers();
        words::resolve(given, reader.tokenizer(), usual, &mut checked.sampling)?;
        Ok(checked)
    }

    /// Reads `prompt`, the request's whose parameters `shared` was made from.
    ///
    /// # Errors
    /// Every fault of the prompt, and of parameters that do not go with it; or no turn in time.
    pub(super) async fn read_prompt(
        &self,
        prompt: Prompt,
        parameters: &Parameters,
        shared: &Shared,
    ) -> Result<ReadPrompt, GenerateError> {
        let limits = self.engine.limits();
        let reading = Reading::of(&prompt);
        let turn = self.turn(&prompt, parameters.constraint.as_ref())?;
        grammar::check_company(parameters, turn.constraint.as_ref())?;
        reading.check_company(parameters)?;
        let longest = match parameters.truncate_prompt_tokens {
            None => limits.context_tokens,
            Some(_) => usize::MAX,
        };
        let mut ids = self.reader.read(prompt, longest, shared.deadline).await?;
        if let Some(most) = parameters.truncate_prompt_tokens {
            let fits = limits.context_tokens.saturating_sub(1);
            let most = usize::try_from(most).unwrap_or(fits).min(fits);
            truncate(&mut ids, most, parameters.truncation_side);
        }
        let wanted = shared.checked.max_tokens;
        let max_tokens = validate::room(ids.len(), limits.context_tokens, wanted)?;
        Ok(ReadPrompt { ids: ids.into(), max_tokens, turn, reading })
    }

    /// Queues the `index`th answer to `prompt`.
    ///
    /// # Errors
    /// A form that can't be kept to, or a full queue.
    pub(super) async fn launch(
        &self,
        shared: &Shared,
        prompt: &ReadPrompt,
        index: usize,
    ) -> Result<Generation, GenerateError> {
        let arrived = if index == 0 { shared.arrived } else { Moment::now() };
        let tokenizer = self.reader.tokenizer();
        let ReadPrompt { ids, turn, reading, max_tokens } = prompt;
        let mask = self.grammars.mask_of_turn(turn, shared.caller, shared.deadline).await?;
        let mask = reading.budgeted(mask, tokenizer, ids, self.engine.limits().vocab_size);
        let mut sampling = shared.checked.sampling.clone();
        sampling.seed = sampling.seed.map(|seed| seed.wrapping_add(index as u64));
        let prompt_logprobs = shared.checked.prompt_logprobs.filter(|_| index == 0);
        let (sender, events) = mpsc::channel(EVENTS);
        self.engine.submit(Job {
            caller: shared.caller,
            priority: shared.priority,
            cache_scope: shared.cache_scope,
            prompt: ids.to_vec(),
            sampling,
            mask,
            prompt_logprobs,
            max_tokens: *max_tokens,
            stop_tokens: shared.checked.stop_tokens.clone(),
            deadline: shared.deadline.map(Instant::into_std),
            events: sender,
        })?;
        let text = shared.text.clone().spelling(reading.spelt(tokenizer));
        let answer = reading.reader(tokenizer, ids);
        let timer = |metrics: &Metrics| metrics.request(arrived, ids.len()).traced(self.trace);
        let timer = self.metrics.as_ref().map(timer);
        let generation = Generation::new(events, Arc::clone(ids), text, answer, timer);
        Ok(generation.telling_prompt(prompt_logprobs.is_some()))
    }
}

/// Cuts a prompt to its last or first `most` tokens.
fn truncate(prompt: &mut Vec<u32>, most: usize, side: Side) {
    match side {
        Side::Right => prompt.truncate(most),
        Side::Left => drop(prompt.drain(..prompt.len().saturating_sub(most))),
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
