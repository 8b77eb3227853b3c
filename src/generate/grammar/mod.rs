//! Holds an output to a form: JSON Schema, regular expression, Lark grammar or a choice of texts
//! become a [`TokenMask`] by the llguidance library.
//!
//! Grammars are compiled on a blocking thread, few at once, and the last ones are kept. While the
//! model runs a step, a thread of this module works out what may follow ([`worker`]).

mod compile;
mod keep;
mod mask;
mod schema;
mod spelling;
#[cfg(test)]
mod tests;
mod turn;
mod worker;

use std::sync::{Arc, OnceLock};

use tokio::time::Instant;

use self::compile::Compiler;
use self::keep::Kept;
pub(super) use self::turn::Turn;
use super::error::GenerateError;
use super::request::{Constraint, Parameters};
use super::tokenizer::Tokenizer;
use super::validate::invalid;
use super::workers::{Undone, Workers};
use crate::engine::TokenMask;

/// All that turns forms into masks, for one tokenizer.
#[derive(Debug)]
pub(super) struct Grammars {
    tokenizer: Arc<Tokenizer>,
    /// Tokens that end an output; at least one.
    eos_token_ids: Vec<u32>,
    workers: Workers,
    /// Made when the first form is asked for: it takes some tenths of a second at Phi-4's
    /// vocabulary.
    compiler: OnceLock<Result<Compiler, String>>,
    kept: Kept,
}

impl Grammars {
    pub(super) fn new(tokenizer: Arc<Tokenizer>, eos_token_ids: Vec<u32>) -> Self {
        Self {
            tokenizer,
            eos_token_ids,
            workers: Workers::default(),
            compiler: OnceLock::new(),
            kept: Kept::default(),
        }
    }

    /// The mask of `constraint`, at the output's beginning.
    ///
    /// # Errors
    /// [`GenerateError::InvalidField`] naming the place at fault, if it can't be used.
    pub(super) async fn mask(
        self: &Arc<Self>,
        constraint: &Constraint,
        deadline: Option<Instant>,
    ) -> Result<Box<dyn TokenMask>, GenerateError> {
        if let Some(mask) = self.kept.get(&constraint.form) {
            return Ok(Box::new(mask));
        }
        let grammars = Arc::clone(self);
        let constraint = constraint.clone();
        let work = move || {
            let mask = grammars.compiler()?.compile(&constraint)?;
            grammars.kept.put(constraint.form, mask.fresh_copy());
            Ok::<_, GenerateError>(mask)
        };
        let mask = self.workers.run(deadline, work).await.map_err(|undone| match undone {
            Undone::Busy => GenerateError::GrammarsBusy,
            Undone::Failed(reason) => GenerateError::Grammar(reason),
        })??;
        Ok(Box::new(mask))
    }

    /// The mask of a model's turn; `None` leaves it free.
    ///
    /// # Errors
    /// As [`Self::mask`], naming the schema at fault.
    pub(super) async fn mask_of_turn(
        self: &Arc<Self>,
        turn: &Turn,
        deadline: Option<Instant>,
    ) -> Result<Option<Box<dyn TokenMask>>, GenerateError> {
        let Some(constraint) = &turn.constraint else { return Ok(None) };
        let made = self.mask(constraint, deadline).await;
        if let Err(GenerateError::InvalidField { .. }) = made {
            for part in &turn.parts {
                self.mask(part, deadline).await?;
            }
        }
        made.map(Some)
    }

    fn compiler(&self) -> Result<&Compiler, GenerateError> {
        let made =
            self.compiler.get_or_init(|| Compiler::new(&self.tokenizer, &self.eos_token_ids));
        made.as_ref().map_err(|reason| GenerateError::Grammar(reason.clone()))
    }
}

/// Refuses parameters that may leave a form no token to go on with.
pub(super) fn check_company(
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
