//! The mask of one output, which follows its form in another process.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::tokenizer::{Markup, Tokenizer};
use super::host::{FormEnd, FormLink};
use super::ledger::Share;
use super::protocol::{Answer, Ask, Following};
use phi4d_engine::{MaskError, Progress, TokenMask};

/// The longest wait for an answer: far above its limit of CPU time, for systems under heavy load.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is known about the state of the output.
#[derive(Debug)]
enum State {
    /// What may follow.
    Known(Arc<Following>),
    /// A token was chosen at this time; not known yet whether anything may follow.
    Asked(Instant),
    /// As above, but something may follow.
    Open(Instant),
    /// Nothing may follow.
    Complete,
    /// The grammar can't be followed.
    Over(MaskError),
}

/// The mask of one output.
pub(super) struct GrammarMask {
    link: Box<dyn FormLink>,
    state: State,
    /// The forced bytes as tokens.
    forced: Vec<u32>,
    share: Share,
    tokenizer: Arc<Tokenizer>,
}

impl fmt::Debug for GrammarMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarMask").field("share", &self.share).finish_non_exhaustive()
    }
}

impl GrammarMask {
    /// A mask for the beginning of an output that the process of `link` follows.
    pub(super) fn new(
        link: Box<dyn FormLink>,
        first: Arc<Following>,
        share: Share,
        tokenizer: Arc<Tokenizer>,
    ) -> Self {
        Self { link, state: State::Known(first), forced: Vec::new(), share, tokenizer }
    }

    /// Reads answers for up to `limit`, until `enough` is known.
    fn read(&mut self, limit: Duration, enough: fn(&State) -> bool) {
        if self.share.is_overdrawn() {
            self.state = State::Over(failed(
                "all forms in use take more memory than they may together, and your forms take most",
            ));
        }
        let until = Instant::now() + limit;
        while !enough(&self.state) {
            let (State::Asked(since) | State::Open(since)) = self.state else { return };
            let left = until.saturating_duration_since(Instant::now());
            self.state = match self.link.receive_within(left) {
                Ok(Some(frame)) => self.received(&frame, since),
                Ok(None) if since.elapsed() > PATIENCE => State::Over(failed(&FormEnd::Time)),
                Ok(None) => return,
                Err(end) => State::Over(failed(&end)),
            };
        }
    }

    fn received(&mut self, frame: &[u8], since: Instant) -> State {
        match Answer::decode(frame) {
            Some(Answer::Progress { complete: true }) => State::Complete,
            Some(Answer::Progress { complete: false }) => State::Open(since),
            Some(Answer::Following(following)) => {
                self.share.grown(following.weight);
                State::Known(Arc::new(following))
            }
            Some(Answer::Failed(reason)) => State::Over(MaskError(reason)),
            _ => State::Over(failed(&FormEnd::Lost)),
        }
    }

    /// The forced bytes as tokens. A character of which only a part is forced is left for later.
    fn forced_tokens(&self, bytes: &[u8]) -> Vec<u32> {
        let whole = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
        };
        self.tokenizer.encode(whole, Markup::Plain, usize::MAX).unwrap_or_default()
    }
}

fn failed(reason: &(impl fmt::Display + ?Sized)) -> MaskError {
    MaskError(reason.to_string())
}

impl TokenMask for GrammarMask {
    fn allowed(&mut self) -> Result<&[u32], MaskError> {
        self.ready(PATIENCE);
        match &self.state {
            State::Known(following) => Ok(&following.allowed),
            State::Complete => Err(failed("the output is complete")),
            State::Over(error) => Err(error.clone()),
            State::Asked(_) | State::Open(_) => Err(failed(&FormEnd::Time)),
        }
    }

    fn accept(&mut self, token: u32) -> Result<Progress, MaskError> {
        self.allowed()?;
        self.forced.clear();
        self.state = match self.link.send_now(&Ask::Token(token).encode()) {
            Ok(()) => State::Asked(Instant::now()),
            Err(end) => State::Over(failed(&end)),
        };
        match &self.state {
            State::Over(error) => Err(error.clone()),
            _ => Ok(Progress::Open),
        }
    }

    fn progress(&mut self, limit: Duration) -> Option<Progress> {
        self.read(limit, |state| !matches!(state, State::Asked(_)));
        match self.state {
            State::Asked(_) => None,
            State::Complete => Some(Progress::Complete),
            // An error is reported when the next token is needed.
            _ => Some(Progress::Open),
        }
    }

    fn ready(&mut self, limit: Duration) -> bool {
        self.read(limit, |state| !matches!(state, State::Asked(_) | State::Open(_)));
        !matches!(self.state, State::Asked(_) | State::Open(_))
    }

    fn forced(&mut self) -> &[u32] {
        if self.forced.is_empty()
            && let State::Known(following) = &self.state
            && !following.forced.is_empty()
        {
            self.forced = self.forced_tokens(&following.forced);
        }
        &self.forced
    }
}
