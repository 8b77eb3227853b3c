//! Everything that happens to a request before it is queued: checks, rendering, tokenising. Small
//! requests are prepared in place, large ones by the [`Pool`], in short steps.

use std::sync::Arc;

use tokio::time::Instant;

use super::error::{GenerateError, invalid};
use super::grammar::{Closing, MessageGrammar, NoForms};
use super::options::{GeneratorOptions, SamplingDefaults};
use super::pool::{Elsewhere, Pool, Undone};
use super::prompt::{PromptReader, Tokenizing};
use super::reading::Reading;
use super::request::{Constraint, Parameters, Prompt, Request, Side};
use super::stream::TextStream;
use super::validate::{self, Checked};
use super::{grammar, words};
use phi4d_engine::{CallerId, JobError, ModelLimits};

/// Requests of up to this many bytes are handled by the thread of their connection: about 2 ms.
const SMALL_BYTES: usize = 16 * 1024;

/// Tokens that a text may have if it is only tokenised.
pub const MOST_TOKENS: usize = 1 << 20;

/// Checks, renders and tokenises requests: a [`Generator`](super::Generator) without its engine.
#[derive(Debug)]
pub(super) struct Preparer {
    pub(super) reader: Arc<PromptReader>,
    pub(super) options: GeneratorOptions,
    pub(super) limits: ModelLimits,
    pub(super) pool: Arc<Pool>,
}

/// What all answers to a request share, checked.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) arrived: std::time::Instant,
    /// Whether it waited for its model.
    pub(super) has_waited: bool,
    pub(super) deadline: Option<Instant>,
    pub(super) caller: CallerId,
    /// Without the constraint, which is in [`Ready::grammar`].
    pub(super) parameters: Parameters,
    pub(super) checked: Checked,
    /// The stream of text that each answer begins with.
    pub(super) text: TextStream,
    constraint: Option<Constraint>,
    pub(super) large: bool,
}

/// A prompt that is ready for the engine.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) prompt: Arc<[u32]>,
    pub(super) grammar: MessageGrammar,
    pub(super) reading: Reading,
    pub(super) max_tokens: usize,
}

/// A prompt that is being prepared.
struct Preparation {
    preparer: Arc<Preparer>,
    plan: Arc<Plan>,
    prompt: Option<Prompt>,
    tokenizing: Option<(Tokenizing, MessageGrammar, Reading)>,
}

/// Whether a request of `bytes` bytes is handled by the pool.
#[must_use]
pub fn is_large(bytes: usize) -> bool {
    bytes > SMALL_BYTES
}

/// Where work is done, and for whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'p> {
    pub(super) pool: &'p Pool,
    pub(super) caller: CallerId,
    pub(super) deadline: Option<Instant>,
    /// Whether the pool does it, or the calling thread.
    pub(super) large: bool,
}

impl Place<'_> {
    /// Does work in steps, each of them short.
    pub(super) async fn run_steps<T: Send + 'static>(
        self,
        mut step: impl FnMut() -> Option<Result<T, GenerateError>> + Send + 'static,
    ) -> Result<T, GenerateError> {
        if !self.large {
            loop {
                if let Some(done) = step() {
                    return done;
                }
            }
        }
        self.pool.run_steps(self.caller, self.deadline, step).await?
    }
}

impl From<Undone> for GenerateError {
    fn from(undone: Undone) -> Self {
        match undone {
            Undone::Busy => Self::TokenizerBusy,
            Undone::Late => Self::Job(JobError::DeadlineExceeded),
            Undone::Failed(reason) => Self::Tokenizer(reason),
        }
    }
}

impl Request {
    /// Checks what can be checked without the model, which has `vocab_size` token ids.
    ///
    /// # Errors
    /// The first fault, as [`Generator::prepare_all`](super::Generator::prepare_all) reports it.
    pub fn check(&self, vocab_size: usize) -> Result<(), GenerateError> {
        self.copies.answers(self.prompts.len())?;
        // What a model adds has no faults, so that of any model will do.
        let options = GeneratorOptions {
            eos_token_ids: Vec::new(),
            bos_token_id: 0,
            defaults: SamplingDefaults::default(),
            request_timeout: None,
            close_objects: false,
            forms: Arc::new(NoForms),
        };
        validate::parameters(&self.parameters, &options, vocab_size)?;
        self.prompts.iter().try_for_each(|prompt| {
            validate::prompt(prompt, vocab_size)?;
            Reading::of(prompt).check_compatible(&self.parameters)
        })
    }
}

impl Preparer {
    /// Checks the parameters, once for all prompts.
    pub(super) async fn plan(
        self: &Arc<Self>,
        mut request: Request,
    ) -> Result<Arc<Plan>, GenerateError> {
        let now = std::time::Instant::now();
        let arrived = now.checked_sub(request.waited).unwrap_or(now);
        // Finding sequence breakers is a pass over the whole vocabulary, however short they are.
        let large = is_large(request.weight) || request.parameters.dry.multiplier.is_some();
        let given = request.parameters.timeout.filter(|timeout| !timeout.is_zero());
        let given = given.or(self.options.request_timeout);
        let until = given.and_then(|timeout| Instant::from_std(arrived).checked_add(timeout));
        let place = Place { pool: &self.pool, caller: request.caller, deadline: until, large };
        let preparer = Arc::clone(self);
        let mut parameters = Some(std::mem::take(&mut request.parameters));
        let step = move || {
            let mut parameters = parameters.take()?;
            let checked = preparer.checked(&parameters);
            Some(checked.map(|checked| (parameters.constraint.take(), parameters, checked)))
        };
        let (constraint, parameters, checked) = place.run_steps(step).await?;
        let since = Instant::from_std(arrived);
        let deadline = checked.timeout.and_then(|timeout| since.checked_add(timeout));
        let caller = request.caller;
        let tokenizer = Arc::clone(self.reader.tokenizer());
        let text = TextStream::new(tokenizer, &parameters, checked.sampling.min_tokens);
        let has_waited = !request.waited.is_zero();
        Ok(Arc::new(Plan {
            arrived,
            has_waited,
            deadline,
            caller,
            parameters,
            checked,
            text,
            constraint,
            large,
        }))
    }

    fn checked(&self, parameters: &Parameters) -> Result<Checked, GenerateError> {
        let mut checked = validate::parameters(parameters, &self.options, self.limits.vocab_size)?;
        let usual = self.reader.usual_breakers();
        words::resolve(parameters, self.reader.tokenizer(), usual, &mut checked.sampling)?;
        if checked.prompt_logprobs.is_some() && !self.limits.many_rows {
            let value = "a number, but the model's graph gives logits for one position only";
            return Err(invalid("prompt_logprobs", value, "null with this model"));
        }
        Ok(checked)
    }

    /// Checks, renders and tokenises a prompt.
    pub(super) async fn prepare(
        self: &Arc<Self>,
        plan: &Arc<Plan>,
        prompt: Prompt,
    ) -> Result<Elsewhere<Ready>, GenerateError> {
        let Plan { caller, deadline, large, .. } = **plan;
        let mut preparation = Preparation {
            preparer: Arc::clone(self),
            plan: Arc::clone(plan),
            prompt: Some(prompt),
            tokenizing: None,
        };
        let place = Place { pool: &self.pool, caller, deadline, large };
        let ready = place.run_steps(move || preparation.step().transpose()).await?;
        Ok(Elsewhere::new(&self.pool, caller, large, ready))
    }
}

impl Preparation {
    fn step(&mut self) -> Result<Option<Ready>, GenerateError> {
        if let Some(prompt) = self.prompt.take() {
            self.tokenizing = Some(self.begin(prompt)?);
            return Ok(None);
        }
        let Some((mut tokenizing, grammar, reading)) = self.tokenizing.take() else {
            return Ok(None);
        };
        match self.preparer.reader.advance(&mut tokenizing) {
            None => {
                self.tokenizing = Some((tokenizing, grammar, reading));
                Ok(None)
            }
            Some(prompt) => Ok(Some(self.finish(prompt?, grammar, reading)?)),
        }
    }

    fn begin(
        &self,
        prompt: Prompt,
    ) -> Result<(Tokenizing, MessageGrammar, Reading), GenerateError> {
        let (preparer, parameters) = (&self.preparer, &self.plan.parameters);
        let limits = &preparer.limits;
        validate::prompt(&prompt, limits.vocab_size)?;
        let reading = Reading::of(&prompt);
        let given = self.plan.constraint.as_ref();
        let closing =
            if preparer.options.close_objects { Closing::Listed } else { Closing::Literal };
        let grammar = match &prompt {
            Prompt::Chat(chat) => {
                MessageGrammar::of_chat(chat, preparer.reader.dialect(), given, closing)?
            }
            _ => MessageGrammar::of_text(given, closing)?,
        };
        grammar::check_compatible(parameters, grammar.constraint.as_ref())?;
        reading.check_compatible(parameters)?;
        let longest = match parameters.truncate_prompt_tokens {
            None => limits.context_tokens,
            Some(_) => MOST_TOKENS.max(limits.context_tokens),
        };
        Ok((preparer.reader.begin(prompt, longest)?, grammar, reading))
    }

    fn finish(
        &self,
        mut prompt: Vec<u32>,
        grammar: MessageGrammar,
        reading: Reading,
    ) -> Result<Ready, GenerateError> {
        let context_tokens = self.preparer.limits.context_tokens;
        let (parameters, checked) = (&self.plan.parameters, &self.plan.checked);
        if let Some(most) = parameters.truncate_prompt_tokens {
            let fits = context_tokens.saturating_sub(1);
            let most = usize::try_from(most).unwrap_or(fits).min(fits);
            truncate(&mut prompt, most, parameters.truncation_side);
        }
        let max_tokens = validate::room(prompt.len(), context_tokens, checked.max_tokens)?;
        Ok(Ready { prompt: prompt.into(), grammar, reading, max_tokens })
    }
}

/// Cuts a prompt to its last or first `most` tokens.
fn truncate(prompt: &mut Vec<u32>, most: usize, side: Side) {
    match side {
        Side::Right => prompt.truncate(most),
        Side::Left => drop(prompt.drain(..prompt.len().saturating_sub(most))),
    }
}
