//! One output's place in its grammar.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use llguidance::Matcher;
use llguidance::toktrie::SimpleVob;

use super::super::tokenizer::{Markup, Tokenizer};
use super::compile::first_line;
use super::worker::Worker;
use crate::engine::{MaskError, Progress, TokenMask};

/// What may follow a state.
#[derive(Debug, Clone)]
pub(super) struct Following {
    allowed: Result<SimpleVob, MaskError>,
    /// Bytes that must follow.
    forced: Vec<u8>,
}

/// Works out what may follow.
pub(super) fn follow(matcher: &mut Matcher) -> Following {
    let allowed = matcher.compute_mask_or_eos().map_err(|error| failed(&error));
    let forced = if allowed.is_ok() { matcher.compute_ff_bytes() } else { Vec::new() };
    Following { allowed, forced }
}

fn failed(error: &impl fmt::Display) -> MaskError {
    MaskError(first_line(error))
}

/// What grammars of one tokenizer share.
#[derive(Clone)]
pub(super) struct Means {
    pub(super) worker: Worker,
    pub(super) tokenizer: Arc<Tokenizer>,
}

enum State {
    /// What may follow is known.
    Known(Box<Matcher>, Following),
    /// It is being worked out.
    Asked(Receiver<(Box<Matcher>, Following)>),
    /// Nothing may follow, or the grammar could not be followed.
    Over(MaskError),
}

/// The mask of one output.
pub(super) struct GrammarMask {
    state: State,
    /// The forced bytes as tokens.
    forced: Vec<u32>,
    means: Means,
}

impl fmt::Debug for GrammarMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarMask").finish_non_exhaustive()
    }
}

impl GrammarMask {
    /// At the beginning of an output. May take some milliseconds.
    ///
    /// # Errors
    /// If nothing can be said, not even at the beginning.
    pub(super) fn new(mut matcher: Matcher, means: Means) -> Result<Self, MaskError> {
        let following = follow(&mut matcher);
        following.allowed.as_ref().map_err(Clone::clone)?;
        let state = State::Known(Box::new(matcher), following);
        Ok(Self { state, forced: Vec::new(), means })
    }

    /// An independent mask in the same state, which has not been used yet.
    pub(super) fn fresh_copy(&self) -> Self {
        let state = match &self.state {
            State::Known(matcher, following) => {
                State::Known(Box::new(matcher.deep_clone()), following.clone())
            }
            State::Asked(_) => State::Over(MaskError("a mask in use was copied".into())),
            State::Over(error) => State::Over(error.clone()),
        };
        Self { state, forced: Vec::new(), means: self.means.clone() }
    }

    /// Waits for what may follow.
    fn known(&mut self) -> Result<(&mut Matcher, &Following), MaskError> {
        if let State::Asked(answer) = &self.state {
            self.state = match answer.recv() {
                Ok((matcher, following)) => State::Known(matcher, following),
                Err(error) => State::Over(failed(&error)),
            };
        }
        match &mut self.state {
            State::Known(matcher, following) => Ok((matcher, following)),
            State::Over(error) => Err(error.clone()),
            State::Asked(_) => Err(MaskError("the answer did not come".into())),
        }
    }

    /// The forced bytes as the tokenizer cuts them; a character that they cut is left for later.
    fn forced_tokens(&self, bytes: &[u8]) -> Vec<u32> {
        let whole = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
        };
        self.means.tokenizer.encode(whole, Markup::Plain, usize::MAX).unwrap_or_default()
    }
}

impl TokenMask for GrammarMask {
    fn allowed(&mut self) -> Result<&[u32], MaskError> {
        let (_, following) = self.known()?;
        following.allowed.as_ref().map(SimpleVob::as_slice).map_err(Clone::clone)
    }

    fn accept(&mut self, token: u32) -> Result<Progress, MaskError> {
        let (matcher, _) = self.known()?;
        matcher.consume_token(token).map_err(|error| failed(&error))?;
        let complete = matcher.is_stopped();
        let over = State::Over(MaskError("the output is complete".into()));
        let State::Known(matcher, _) = std::mem::replace(&mut self.state, over) else {
            return Err(MaskError("the answer did not come".into()));
        };
        self.forced.clear();
        if complete {
            return Ok(Progress::Complete);
        }
        self.state = match self.means.worker.ask(matcher) {
            Ok(answer) => State::Asked(answer),
            Err(mut matcher) => {
                let following = follow(&mut matcher);
                State::Known(matcher, following)
            }
        };
        Ok(Progress::Open)
    }

    fn forced(&mut self) -> &[u32] {
        if self.forced.is_empty()
            && let Ok((_, following)) = self.known()
            && !following.forced.is_empty()
        {
            let bytes = following.forced.clone();
            self.forced = self.forced_tokens(&bytes);
        }
        &self.forced
    }
}
