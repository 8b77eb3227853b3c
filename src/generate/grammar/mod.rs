//! Structured output. A *form* is what constrains an output: a JSON Schema, a regular expression, a
//! Lark grammar or a choice of texts. The llguidance library turns it into a [`TokenMask`].
//!
//! The library recurses and loops as the form demands, so every form is compiled and followed in a
//! process of its own ([`host`]), which limits of time, memory and stack can end without harm to
//! the daemon. A compiled form is cached as the process that compiled it; each output is followed
//! by a fork of that process. The checks in [`schema`] and [`mod@check`] exist for errors that name
//! what is too large; safety does not depend on them.

mod apart;
mod bounds;
mod check;
mod closing;
mod compile;
mod formats;
#[cfg(all(unix, any(test, feature = "testing")))]
pub mod fuzzing;
mod host;
#[cfg(test)]
mod judged_tests;
mod keep;
mod keywords;
mod ledger;
mod lower;
mod mask;
mod message;
mod patterns;
mod pointer;
mod properties;
mod protocol;
mod schema;
mod serve;
mod spelling;
mod steps;
#[cfg(test)]
mod tests;
mod threads;
mod turns;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};

pub use self::check::MOST_GRAMMAR_BYTES;
pub use self::compile::FormCompiler;
pub use self::host::{FormEnd, FormFork, FormHost, FormLink, FormPort, FormWait, NoForms};
use self::keep::{Form, Kept, Key};
use self::ledger::Ledger;
pub(super) use self::lower::Closing;
use self::mask::GrammarMask;
pub(super) use self::message::MessageGrammar;
use self::protocol::{Answer, Ask, Order};
pub use self::threads::ThreadForms;
use self::turns::{TurnLimits, Turns};
use super::error::{GenerateError, invalid};
use super::request::{Constraint, Parameters};
use super::tokenizer::Tokenizer;
use phi4d_engine::{CallerId, JobError, TokenMask};

/// The longest time for a form to wait for its turn and be compiled.
const PATIENCE: Duration = Duration::from_secs(10);

/// Forms compiled at once, in all and for one caller, and requests that wait.
const TURNS: TurnLimits = TurnLimits { total: 4, per_caller: 2, waiting: 256 };

/// Turns forms into masks, for one tokenizer.
#[derive(Debug)]
pub(super) struct Grammars {
    tokenizer: Arc<Tokenizer>,
    /// Tokens that end an output; at least one.
    eos_token_ids: Vec<u32>,
    host: Arc<dyn FormHost>,
    /// Set once the host has the vocabulary, which it gets before the first form.
    prepared: OnceCell<()>,
    turns: Arc<Turns>,
    kept: Kept,
    ledger: Arc<Ledger>,
    /// Whether it was logged that the host is gone.
    logged: AtomicBool,
}

impl Grammars {
    pub(super) fn new(
        tokenizer: Arc<Tokenizer>,
        eos_token_ids: Vec<u32>,
        host: Arc<dyn FormHost>,
    ) -> Self {
        Self {
            tokenizer,
            eos_token_ids,
            host,
            prepared: OnceCell::new(),
            turns: Turns::new(TURNS),
            kept: Kept::default(),
            ledger: Arc::default(),
            logged: AtomicBool::new(false),
        }
    }

    /// The mask for a model's message, before its first token; `None` is free text. Dropping the
    /// future cancels the compilation.
    ///
    /// # Errors
    /// [`GenerateError::InvalidField`] naming the place at fault, if the form can't be used or
    /// takes too much; [`GenerateError::GrammarsBusy`] if its turn did not come in time.
    pub(super) async fn mask_of(
        &self,
        grammar: &MessageGrammar,
        caller: CallerId,
        deadline: Option<Instant>,
    ) -> Result<Option<Box<dyn TokenMask>>, GenerateError> {
        let Some(constraint) = &grammar.constraint else { return Ok(None) };
        let order = Order {
            field: constraint.field.clone(),
            form: constraint.form.clone(),
            parts: grammar.parts.clone(),
        };
        let patience = Instant::now() + PATIENCE;
        let until = deadline.map_or(patience, |deadline| deadline.min(patience));
        let mask = timeout_at(until, self.mask(order, caller, until)).await;
        match mask {
            Ok(mask) => mask.map(|mask| Some(Box::new(mask) as _)),
            Err(_) if until < patience => Err(JobError::DeadlineExceeded.into()),
            Err(_) => Err(GenerateError::GrammarsBusy),
        }
    }

    async fn mask(
        &self,
        order: Order,
        caller: CallerId,
        until: Instant,
    ) -> Result<GrammarMask, GenerateError> {
        let field = order.field.clone();
        let frame = Ask::Compile(order).encode();
        let key: Key = blake3::hash(&frame).into();
        if let Some(mut copy) = self.kept.copy(&key) {
            if copy.link.receive().await == Ok(Answer::Ready.encode()) {
                return Ok(self.follow(caller, copy));
            }
            // The system killed the cached process, or refuses another fork.
            self.kept.forget(&key);
        }
        self.prepare().await?;
        let turn = self.turns.take(caller, until).await.map_err(|_| GenerateError::GrammarsBusy)?;
        let mut compiled = self.compile(&frame, &field).await?;
        drop(turn);
        let weight = compiled.first.weight;
        if !self.ledger.could_hold(weight) {
            return Err(too_costly(&field, "more memory than a caller's forms may take"));
        }
        if self.ledger.may_have_room(caller, &compiled.account) {
            self.kept.make_room(|| self.ledger.has_room(caller, &compiled.account));
        }
        if !self.ledger.has_room(caller, &compiled.account) {
            self.ledger.reclaim(caller, &compiled.account);
            return Err(GenerateError::GrammarsBusy);
        }
        log::debug!(weight; "compiled a form");
        if let Some(mut copy) = compiled.copy()
            && copy.link.receive().await == Ok(Answer::Ready.encode())
        {
            self.kept.put(key, compiled);
            return Ok(self.follow(caller, copy));
        }
        Ok(self.follow(caller, compiled))
    }

    fn follow(&self, caller: CallerId, form: Form) -> GrammarMask {
        let share = self.ledger.output(caller, form.account);
        GrammarMask::new(form.link, form.first, share, Arc::clone(&self.tokenizer))
    }

    /// Sends the vocabulary to the host, once.
    async fn prepare(&self) -> Result<(), GenerateError> {
        let prepare = async || {
            let vocabulary = spelling::vocabulary(&self.tokenizer, &self.eos_token_ids)
                .map_err(GenerateError::Grammar)?;
            self.host.prepare(vocabulary).await.map_err(|end| self.unavailable(end))
        };
        self.prepared.get_or_try_init(prepare).await.copied()
    }

    async fn compile(&self, frame: &[u8], field: &str) -> Result<Form, GenerateError> {
        let mut link = self.host.open().map_err(|end| self.unavailable(end))?;
        match link.receive().await {
            Ok(frame) if Answer::decode(&frame) == Some(Answer::Ready) => {}
            Ok(_) | Err(FormEnd::Refused) => return Err(GenerateError::GrammarsBusy),
            // The process could not be created, or its limits not be set.
            Err(_) => return Err(self.unavailable(FormEnd::Refused)),
        }
        let ended = |end: FormEnd| too_costly(field, end);
        link.send(frame).await.map_err(ended)?;
        match Answer::decode(&link.receive().await.map_err(ended)?) {
            Some(Answer::Following(first)) => {
                let account = self.ledger.form(first.weight);
                Ok(Form { link, first: Arc::new(first), account })
            }
            Some(Answer::Refused { field, value, accepted }) => {
                Err(GenerateError::InvalidField { field, value, accepted })
            }
            Some(Answer::Failed(reason)) => Err(GenerateError::Grammar(reason)),
            _ => Err(ended(FormEnd::Lost)),
        }
    }

    /// The error if forms can't be compiled, now or until a restart, whatever they are.
    fn unavailable(&self, end: FormEnd) -> GenerateError {
        if end == FormEnd::Gone && !self.logged.swap(true, Ordering::Relaxed) {
            log::error!(
                "the process that compiles forms has ended; requests with a form get an error \
                 until the daemon is restarted, all others are served"
            );
        }
        GenerateError::FormsUnavailable(end)
    }
}

/// The error for a form that exceeds a limit.
fn too_costly(field: &str, what: impl std::fmt::Display) -> GenerateError {
    invalid(field, format!("a form that takes {what}"), "a simpler form")
}

/// Refuses parameters that may forbid every token that a form allows.
pub(super) fn check_compatible(
    given: &Parameters,
    constraint: Option<&Constraint>,
) -> Result<(), GenerateError> {
    let Some(constraint) = constraint else { return Ok(()) };
    let others = [
        ("ignore_eos", given.ignore_eos),
        ("min_tokens", given.min_tokens.is_some_and(|least| least > 0)),
        ("bad_words", !given.bad_words.is_empty()),
        ("allowed_token_ids", given.allowed_token_ids.is_some()),
    ];
    match others.iter().find(|(_, given)| *given) {
        Some((field, _)) => Err(invalid(
            *field,
            format_args!("a value beside {}", constraint.field),
            format!("none where {} says what the output must be", constraint.field),
        )),
        None => Ok(()),
    }
}
