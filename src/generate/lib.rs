//! Text to tokens and back: checks requests, renders chat templates, tokenises, and turns the
//! engine's tokens into text.

#![forbid(unsafe_code)]

mod added;
mod answer;
mod budget;
mod choices;
mod detokenize;
mod encoding;
mod error;
mod files;
#[cfg(test)]
mod fixtures;
#[cfg(all(unix, any(test, feature = "testing")))]
pub mod fuzzing;
mod generation;
mod grammar;
mod inspect;
mod jinja;
mod pool;
mod preparation;
mod prompt;
mod reading;
mod request;
mod service;
mod shapes;
mod stack;
mod stop;
mod stream;
mod template;
mod thought;
mod tokenizer;
mod tools;
mod turns;
mod validate;
mod vocabulary;
mod words;

pub use answer::Answer;
pub use choices::{Choices, Copies, Gathered};
pub use error::{GenerateError, TextLoadError};
pub use generation::Generation;
pub use grammar::{
    FormCompiler, FormEnd, FormFork, FormHost, FormLink, FormPort, FormWait, NoForms, ThreadForms,
};
pub use inspect::{TextFacts, inspect_text};
pub use pool::{Elsewhere, Pool, Undone};
pub use preparation::{MOST_TOKENS, is_large};
pub use request::{
    Chat, Constraint, Delta, DryParameters, Ending, Finish, Finished, Form, Logprobs, Message,
    ParameterNames, Parameters, Prompt, PromptToken, Reasoning, Request, Role, Side, TextDelta,
    TokenDelta, Usage,
};
pub use service::{Generator, GeneratorOptions};
pub use tools::{CallDelta, CallStart, Tool, ToolCall, ToolChoice, Tools};
