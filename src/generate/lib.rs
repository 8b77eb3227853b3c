//! Text to tokens and back: checks requests, renders chat templates, tokenises, and turns the
//! engine's tokens into text.
//!
//! # Structured output
//!
//! llguidance compiles and evaluates constraints (JSON Schema, regular expressions, Lark grammars, choices). It
//! recurses and loops as its input demands, so each constraint has a process of its own. `phi4d serve` starts a
//! helper before anything else: a process with one thread, one socket, no environment and no other descriptor,
//! which builds the vocabulary's tables when the first constraint arrives. For each constraint it forks a child,
//! which limits itself (64 MiB of memory, 16 MiB of stack, no files, 2 s of processor time to compile and 1 s per
//! token) and serves one end of a socket pair; the daemon holds the other. The child is signalled when its peer
//! closes, so a client that leaves, a deadline and shutdown end it in the middle of its work. A compiled
//! constraint is cached as the process that compiled it, and each output gets a fork of that process. Requests
//! that wait to compile take turns, the least served caller first, and `grammar::ledger` bounds the memory of all
//! these processes. Checks before compiling exist to give errors that name what is too large; safety does not
//! depend on them. On Windows, in command-line tools and in unit tests a constraint gets a thread
//! ([`ThreadForms`]), without these limits.
//!
//! # Tools and reasoning
//!
//! `tools::dialect` probes the folder's template and tokens for how they express tools. Special tokens in request
//! text are neutralised before they stand beside the model's own. `reading` splits an answer: first reasoning, then
//! tool calls; both parsers are pure and do not depend on how the text is cut into pieces. `grammar::turn` builds
//! one grammar for everything an answer may be (forced calls, strict arguments, a constrained answer or a call in
//! its place), and `budget` is a mask around it that ends the reasoning.

#![forbid(unsafe_code)]

mod added;
mod budget;
mod choices;
mod embedding;
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
mod numbers;
mod options;
mod pool;
mod preparation;
mod prompt;
mod reading;
mod reasoning;
mod request;
mod service;
mod shapes;
mod stack;
mod stream;
mod template;
mod tokenizer;
mod tools;
mod turns;
mod validate;
mod vocabulary;
mod words;

pub use choices::{Answer, Choices, Gathered};
pub use embedding::{
    Embedder, EmbedderOptions, Embedding, EmbeddingInput, EmbeddingRequest, EmbeddingStats,
    MOST_EMBEDDING_TOKENS,
};
pub use error::{GenerateError, TextLoadError};
pub use grammar::{
    FormCompiler, FormEnd, FormFork, FormHost, FormLink, FormPort, FormWait, MOST_GRAMMAR_BYTES,
    NoForms, ThreadForms,
};
pub use inspect::{TextFacts, inspect_text};
pub use options::{GeneratorOptions, SamplingDefaults};
pub use pool::{Elsewhere, Pool, Undone};
pub use preparation::{MOST_TOKENS, is_large};
pub use request::{
    Chat, Constraint, Copies, Delta, DryParameters, Ending, Finish, Finished, Form, Logprobs,
    Message, ParameterNames, Parameters, Prompt, PromptProgress, PromptToken, Reasoning, Request,
    Role, Side, TextDelta, TokenDelta, Usage,
};
pub use service::Generator;
pub use tools::{CallDelta, CallStart, Tool, ToolCall, ToolChoice, Tools};
