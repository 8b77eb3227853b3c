//! A form's process: compiles one form and follows its output.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use llguidance::Matcher;

use super::super::error::GenerateError;
use super::compile::{FormCompiler, first_line, follow};
use super::host::{FormFork, FormPort};
use super::protocol::{Answer, Ask, Order};

/// CPU time for compiling a form and its first mask.
pub(super) const COMPILING: Duration = Duration::from_secs(2);

/// CPU time for the mask after a token.
pub(super) const FOLLOWING: Duration = Duration::from_secs(1);

impl FormCompiler {
    /// Compiles one form and follows its output until the link is closed.
    pub fn serve(self: &Arc<Self>, port: &mut dyn FormPort) {
        self.serve_from(None, port);
    }

    /// As [`Self::serve`], from a form that is compiled already if there is one.
    fn serve_from(self: &Arc<Self>, mut matcher: Option<Matcher>, port: &mut dyn FormPort) {
        port.send(&Answer::Ready.encode());
        let mut scales = Scales::default();
        while let Some(frame) = port.receive() {
            match (Ask::decode(&frame), &mut matcher) {
                (Some(Ask::Compile(order)), None) => {
                    let Some(compiled) = self.compile_for(&order, port) else { return };
                    matcher = Some(compiled);
                }
                (Some(Ask::Token(token)), Some(matcher)) => {
                    if !take(matcher, token, port, &mut scales) {
                        return;
                    }
                }
                (Some(Ask::Fork), Some(matcher)) => match port.fork() {
                    FormFork::Original => {}
                    FormFork::Copy => port.send(&Answer::Ready.encode()),
                    FormFork::Thread(mut port) => {
                        let (compiler, copy) = (Arc::clone(self), Some(matcher.deep_clone()));
                        super::threads::spawn(move || compiler.serve_from(copy, port.as_mut()));
                    }
                },
                _ => return,
            }
        }
    }

    /// Compiles the form and answers; `None` if it can't be followed.
    fn compile_for(&self, order: &Order, port: &mut dyn FormPort) -> Option<Matcher> {
        port.begin(COMPILING);
        let compiled = catch_unwind(AssertUnwindSafe(|| self.compile(order, || port.spent())));
        port.end();
        let (answer, matcher) = match compiled {
            Ok(Ok((matcher, mut following))) => {
                following.weight = port.weight();
                (Answer::Following(following), Some(matcher))
            }
            Ok(Err(GenerateError::InvalidField { field, value, accepted })) => {
                (Answer::Refused { field, value, accepted }, None)
            }
            Ok(Err(error)) => (Answer::Failed(error.to_string()), None),
            Err(_) => (Answer::Failed("the grammar library failed".to_owned()), None),
        };
        port.send(&answer.encode());
        matcher
    }
}

/// The process's memory. A query takes a good part of the time of a usual token, so it is made now
/// and then, and after tokens that took long.
#[derive(Debug, Default)]
struct Scales {
    tokens: u32,
    weight: usize,
}

impl Scales {
    const EVERY: u32 = 16;
    const LONG: Duration = Duration::from_millis(2);

    fn weigh(&mut self, port: &mut dyn FormPort) -> usize {
        if self.tokens.is_multiple_of(Self::EVERY) || port.spent() > Self::LONG {
            self.weight = port.weight();
        }
        self.tokens += 1;
        self.weight
    }
}

/// Follows a token and answers; returns whether the output can continue.
fn take(matcher: &mut Matcher, token: u32, port: &mut dyn FormPort, scales: &mut Scales) -> bool {
    port.begin(FOLLOWING);
    // The library catches its own panics; this is for those in our code around it.
    let complete = matcher.consume_token(token).map(|()| matcher.is_stopped());
    let complete = match complete {
        Ok(complete) => complete,
        Err(error) => {
            port.send(&Answer::Failed(first_line(&error)).encode());
            return false;
        }
    };
    port.send(&Answer::Progress { complete }.encode());
    if complete {
        return false;
    }
    let following = follow(matcher);
    port.end();
    match following {
        Ok(mut following) => {
            following.weight = scales.weigh(port);
            port.send(&Answer::Following(following).encode());
            true
        }
        Err(reason) => {
            port.send(&Answer::Failed(reason).encode());
            false
        }
    }
}
