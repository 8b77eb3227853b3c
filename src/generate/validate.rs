//! Checks a request's fields, each error naming field, value and what is accepted.

use std::sync::Arc;
use std::time::Duration;

use super::error::{GenerateError, invalid};
use super::numbers::{Range, narrow, narrow_positive, number};
use super::options::GeneratorOptions;
use super::request::{Parameters, Prompt};
use super::shapes;
use phi4d_engine::{Sampling, TokenSet};

/// Most stop strings of a request.
const MAX_STOPS: usize = 16;
const MAX_STOP_BYTES: usize = 4096;
const MAX_TOP_LOGPROBS: u64 = 20;

/// Below this, temperature means greedy: logits divided by it would leave the range of `f32`.
const LEAST_TEMPERATURE: f64 = 1e-5;

/// Template variables that are the server's own.
const RESERVED: [&str; 4] = ["messages", "bos_token", "eos_token", "add_generation_prompt"];

/// Parameters in the engine's terms.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Checked {
    pub(super) sampling: Sampling,
    pub(super) stop_tokens: TokenSet,
    /// As asked for, at least 1; not yet cut to what fits.
    pub(super) max_tokens: Option<usize>,
    pub(super) timeout: Option<Duration>,
    /// Alternatives to report with the prompt's tokens.
    pub(super) prompt_logprobs: Option<usize>,
}

/// Refuses a prompt without anything in it.
pub(super) fn not_empty(prompt: &Prompt) -> Result<(), GenerateError> {
    match prompt {
        Prompt::Chat(chat) if chat.messages.is_empty() => {
            Err(invalid("messages", "an empty list", "at least one message"))
        }
        Prompt::Tokens(ids) if ids.is_empty() => {
            Err(invalid("prompt", "an empty list", "at least one token id"))
        }
        _ => Ok(()),
    }
}

/// Checks everything about the prompt that needs no tokenizer.
pub(super) fn prompt(prompt: &Prompt, vocab_size: usize) -> Result<(), GenerateError> {
    not_empty(prompt)?;
    match prompt {
        Prompt::Chat(chat) => {
            match RESERVED.iter().find(|name| chat.variables.contains_key(**name)) {
                Some(name) => Err(invalid(
                    format!("chat_template_kwargs.{name}"),
                    "a value",
                    "names other than messages, bos_token, eos_token and add_generation_prompt",
                )),
                None => Ok(()),
            }
        }
        Prompt::Tokens(ids) => token_ids("prompt", ids.iter().copied(), vocab_size),
        Prompt::Text { .. } | Prompt::Fill { .. } => Ok(()),
    }
}

/// Checks the parameters and fills in defaults.
pub(super) fn parameters(
    given: &Parameters,
    options: &GeneratorOptions,
    vocab_size: usize,
) -> Result<Checked, GenerateError> {
    let max_tokens = match given.max_tokens {
        Some(0) => return Err(invalid(given.names.max_tokens, 0, "an integer of at least 1")),
        given => given.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
    };
    stops(given.names.stop, &given.stop)?;
    token_ids("stop_token_ids", given.stop_token_ids.iter().copied(), vocab_size)?;
    let own: &[u32] = if given.ignore_eos { &[] } else { &options.eos_token_ids };
    let stop_tokens: TokenSet = given.stop_token_ids.iter().chain(own).copied().collect();
    let mut sampling = sampling(given, options, vocab_size)?;
    sampling.min_tokens = min_tokens(given.min_tokens, max_tokens)?;
    if sampling.min_tokens > 0 {
        sampling.late_tokens.clone_from(&stop_tokens);
    }
    if let Some(side) = given.truncate_prompt_tokens
        && side == 0
    {
        return Err(invalid("truncate_prompt_tokens", 0, "an integer of at least 1, or -1"));
    }
    Ok(Checked {
        sampling,
        stop_tokens,
        max_tokens,
        timeout: timeout(given.timeout, options.request_timeout)?,
        prompt_logprobs: alternatives("prompt_logprobs", given.prompt_logprobs)?,
    })
}

/// The tokens that may be generated after a prompt of `prompt_tokens`: as many as wanted, cut to
/// what the context holds (the answer then ends with [`super::Finish::Length`]).
pub(super) fn room(
    prompt_tokens: usize,
    context_tokens: usize,
    wanted: Option<usize>,
) -> Result<usize, GenerateError> {
    if prompt_tokens >= context_tokens {
        return Err(GenerateError::ContextExceeded { prompt_tokens, context_tokens });
    }
    let room = context_tokens - prompt_tokens;
    Ok(wanted.map_or(room, |wanted| wanted.min(room)))
}

fn sampling(
    given: &Parameters,
    options: &GeneratorOptions,
    vocab_size: usize,
) -> Result<Sampling, GenerateError> {
    let names = given.names;
    let temperature = number(names.temperature, given.temperature, Range::closed(0.0, 2.0))?;
    let top_p = number(names.top_p, given.top_p, Range::above(0.0, 1.0))?;
    let min_p = number(names.min_p, given.min_p, Range::closed(0.0, 1.0))?;
    let repetition =
        number(names.repetition_penalty, given.repetition_penalty, Range::above(0.0, 10.0))?;
    let penalty = Range::closed(-2.0, 2.0);
    let presence = number(names.presence_penalty, given.presence_penalty, penalty)?;
    let frequency = number(names.frequency_penalty, given.frequency_penalty, penalty)?;
    Ok(Sampling {
        temperature: match temperature {
            Some(given) if given < LEAST_TEMPERATURE => 0.0,
            Some(given) => narrow(given),
            None => options.defaults.temperature,
        },
        top_k: match given.top_k {
            None => options.defaults.top_k,
            given => top_k(names.top_k, given, vocab_size)?,
        },
        top_p: top_p.map_or(options.defaults.top_p, narrow_positive),
        min_p: min_p.map_or(options.defaults.min_p, narrow),
        repetition_penalty: repetition.map_or(1.0, narrow_positive),
        presence_penalty: presence.map_or(0.0, narrow),
        frequency_penalty: frequency.map_or(0.0, narrow),
        logit_bias: summed(logit_bias(&given.logit_bias, vocab_size)?.iter().copied()),
        top_n_sigma: shapes::top_n_sigma(given.top_n_sigma)?,
        typical_p: shapes::typical_p(names.typical_p, given.typical_p)?,
        xtc: shapes::xtc(given)?,
        dry: shapes::dry(&given.dry)?,
        allowed_tokens: allowed(given.allowed_token_ids.as_deref(), vocab_size)?,
        bad_words: Arc::default(),
        min_tokens: 0,
        late_tokens: TokenSet::default(),
        seed: given.seed.map(i64::cast_unsigned),
        top_logprobs: alternatives("top_logprobs", given.top_logprobs)?,
    })
}

fn top_k(field: &str, value: Option<i64>, vocab_size: usize) -> Result<usize, GenerateError> {
    match value {
        None | Some(-1) => Ok(0),
        Some(k) => match usize::try_from(k) {
            Ok(k) if k >= vocab_size => Ok(0),
            Ok(k) => Ok(k),
            Err(_) => {
                Err(invalid(field, k, "an integer of at least 1, or 0 or -1 to keep all tokens"))
            }
        },
    }
}

fn logit_bias(biases: &[(u32, f64)], vocab_size: usize) -> Result<Vec<(u32, f32)>, GenerateError> {
    if biases.len() > vocab_size {
        return Err(invalid(
            "logit_bias",
            format!("{} entries", biases.len()),
            format!("at most one for each of the {vocab_size} tokens"),
        ));
    }
    let range = Range::closed(-100.0, 100.0);
    biases
        .iter()
        .map(|&(id, bias)| {
            if id as usize >= vocab_size {
                return Err(invalid("logit_bias", id, below(vocab_size)));
            }
            if !range.holds(bias) {
                return Err(invalid(format!("logit_bias[{id}]"), bias, range.to_string()));
            }
            Ok((id, narrow(bias)))
        })
        .collect()
}

fn min_tokens(given: Option<u64>, max_tokens: Option<usize>) -> Result<usize, GenerateError> {
    let least = usize::try_from(given.unwrap_or(0)).unwrap_or(usize::MAX);
    match max_tokens {
        Some(most) if least > most => {
            Err(invalid("min_tokens", least, format!("at most max_tokens, which is {most}")))
        }
        _ => Ok(least),
    }
}

/// Each token once, with the sum of its biases, in ascending order.
pub(super) fn summed(biases: impl IntoIterator<Item = (u32, f32)>) -> Arc<[(u32, f32)]> {
    let mut biases: Vec<(u32, f32)> = biases.into_iter().collect();
    // Stable, so that equal requests add up in the same order.
    biases.sort_by_key(|&(token, _)| token);
    biases.dedup_by(|later, first| {
        let same = later.0 == first.0;
        if same {
            first.1 += later.1;
        }
        same
    });
    biases.into()
}

fn allowed(given: Option<&[u32]>, vocab_size: usize) -> Result<Option<TokenSet>, GenerateError> {
    let Some(ids) = given else { return Ok(None) };
    if ids.is_empty() {
        return Err(invalid("allowed_token_ids", "[]", "at least one token id, or null"));
    }
    token_ids("allowed_token_ids", ids.iter().copied(), vocab_size)?;
    Ok(Some(ids.iter().copied().collect()))
}

fn alternatives(field: &str, value: Option<u64>) -> Result<Option<usize>, GenerateError> {
    match value {
        Some(n) if n > MAX_TOP_LOGPROBS => {
            Err(invalid(field, n, format!("an integer from 0 to {MAX_TOP_LOGPROBS}")))
        }
        value => Ok(value.and_then(|n| usize::try_from(n).ok())),
    }
}

fn stops(field: &str, stops: &[String]) -> Result<(), GenerateError> {
    if stops.len() > MAX_STOPS {
        return Err(invalid(
            field,
            format!("{} strings", stops.len()),
            format!("at most {MAX_STOPS} strings"),
        ));
    }
    match stops.iter().position(|stop| stop.is_empty() || stop.len() > MAX_STOP_BYTES) {
        Some(index) if stops[index].is_empty() => {
            Err(invalid(format!("{field}[{index}]"), "\"\"", "a string that is not empty"))
        }
        Some(index) => Err(invalid(
            format!("{field}[{index}]"),
            format!("a string of {} bytes", stops[index].len()),
            format!("at most {MAX_STOP_BYTES} bytes"),
        )),
        None => Ok(()),
    }
}

pub(super) fn token_ids(
    field: &str,
    mut ids: impl Iterator<Item = u32>,
    vocab_size: usize,
) -> Result<(), GenerateError> {
    let mut index = 0;
    match ids.find(|&id| {
        index += 1;
        id as usize >= vocab_size
    }) {
        Some(id) => Err(invalid(format!("{field}[{}]", index - 1), id, below(vocab_size))),
        None => Ok(()),
    }
}

fn below(vocab_size: usize) -> String {
    format!("token ids below the vocabulary's size of {vocab_size}")
}

/// What was asked for, cut to the server's own limit.
fn timeout(
    given: Option<Duration>,
    limit: Option<Duration>,
) -> Result<Option<Duration>, GenerateError> {
    if given == Some(Duration::ZERO) {
        return Err(invalid("timeout", 0, "a time above 0 seconds"));
    }
    Ok(match (given, limit) {
        (Some(given), Some(limit)) => Some(given.min(limit)),
        (given, limit) => given.or(limit),
    })
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
