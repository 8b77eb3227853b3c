//! The most entries of each list and map in a request. [`super::common::List`] and similar types have
//! the bound as a parameter, so that the OpenAPI document states it, too; a test compares both with
//! `docs/api.md`.

/// Fields of a request's object, unknown ones included.
pub(super) const FIELDS: usize = 1_024;

/// Messages of a chat request.
pub(super) const MESSAGES: usize = 8_192;

/// Messages and items of the other surfaces' requests, which may become several messages each.
pub(super) const ITEMS: usize = 4_096;

/// Parts or blocks of one message's content.
pub(super) const PARTS: usize = 1_024;

/// Calls in one message.
pub(super) const CALLS: usize = 128;

/// Tools, and entries of a choice among them.
pub(super) const TOOLS: usize = 128;

/// Prompts of one request: as many as it may have answers.
pub(super) const PROMPTS: usize = 128;

/// Texts of one request for embeddings, as with OpenAI.
pub(super) const EMBEDDED: usize = 2_048;

/// Token ids of one prompt, of `allowed_token_ids` and of `logit_bias`: more than any vocabulary or
/// context has.
pub(super) const TOKEN_IDS: usize = 262_144;

/// Token ids to detokenize, which may be longer than a context.
pub(super) const DETOKENIZED: usize = 1_048_576;

/// Tokens that end an answer.
pub(super) const STOP_TOKEN_IDS: usize = 1_024;

/// Stop strings.
pub(super) const STOPS: usize = 16;

/// Bad words, and breakers of repetitions.
pub(super) const WORDS: usize = 128;

/// Texts that an answer may be one of.
pub(super) const CHOICES: usize = 1_024;

/// Names of what a response is to include.
pub(super) const INCLUDED: usize = 32;

/// Variables of a chat template, and Ollama's options.
pub(super) const VARIABLES: usize = 128;

/// Keywords at the root of a tool's schema.
pub(super) const KEYWORDS: usize = 128;

/// Arguments of a call in an earlier message.
pub(super) const ARGUMENTS: usize = 1_024;

/// Edits of a conversation that Anthropic's clients ask for.
pub(super) const EDITS: usize = 32;

/// Texts from elsewhere beside a gap that is to be filled.
pub(super) const EXTRAS: usize = 128;

/// Pairs of metadata.
pub(super) const METADATA: usize = 64;
