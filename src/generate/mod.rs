//! Text to tokens and back: checks requests, renders chat templates, tokenises, and turns the
//! engine's tokens into text.

mod error;
mod request;
mod service;

pub use error::{GenerateError, TextLoadError};
pub use request::{
    Delta, Finish, Finished, Logprobs, Message, Parameters, Prompt, Request, Role, TextDelta,
    TokenDelta, Usage,
};
pub use service::{Answer, Generation, Generator, GeneratorOptions};
