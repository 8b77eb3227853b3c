//! `POST /tokenize`, `/detokenize` and `/v1/chat/completions/render`.

use std::sync::Arc;

use hyper::StatusCode;
use serde_json::Value;

use super::generation::{parsed, taken};
use crate::access::{Call, Exchange};
use crate::app::App;
use crate::body::{built, done};
use crate::error::ApiError;
use crate::reply::{Reply, json, telling_ignored};
use crate::served::{Asks, Served};
use crate::wire::Parsed;
use crate::wire::chat::ChatRequest;
use crate::wire::common::to_json;
use crate::wire::tokens::{
    DetokenizeRequest, Detokenized, Piece, Rendered, TokenizeRequest, Tokenized, TokenizerInfo,
    WireToken,
};
use phi4d_generate::{Prompt, is_large};

/// Copies of a text that exist while an answer with it is built, escapes included.
const TEXT_COPIES: usize = 6;

/// The tokens that `prompt` is read as. The tokenizer's work counts against the key's limits: what
/// it reads before it begins, and the tokens before they are given out.
pub(crate) async fn tokens_of(
    app: &Served,
    prompt: Prompt,
    exchange: &Arc<Exchange>,
) -> Result<Vec<u32>, ApiError> {
    // Adding up many texts takes time itself.
    let count = move |_: &App| (prompt.least_cost(), prompt);
    let (least, prompt) = done(app, exchange, is_large(exchange.weight()), count).await?;
    exchange.admission().pay(least)?;
    let ids = match prompt {
        // Where nothing is generated, none need be there.
        Prompt::Tokens(ids) => ids,
        prompt => {
            let (caller, weight) = (exchange.caller().id(), exchange.weight());
            app.generator().tokenize(prompt, caller, weight).await?
        }
    };
    exchange.admission().reserve(ids.len())?;
    exchange.read_prompt(ids.len());
    Ok(ids)
}

/// The tokens of a text or of a conversation.
pub(crate) async fn tokenize(call: Call<'_>) -> Result<Reply, ApiError> {
    let Call { app, request, exchange, .. } = call;
    let parse = TokenizeRequest::parse;
    let (served, asked) = taken(app, request, exchange, parse, TokenizeRequest::asks).await?;
    let TokenizeRequest { prompt, strings, pieces, ignored, .. } = asked;
    let ids = tokens_of(&served, prompt, exchange).await?;
    // Each as a number and in the answer, and its text where that is wanted.
    let each = if strings || pieces { 200 } else { 24 };
    let build = move |_: &App| {
        let generator = served.generator();
        let token_strs = strings.then(|| ids.iter().map(|&id| generator.spell(&[id])).collect());
        let token = |&id: &u32| match pieces {
            true => WireToken::Piece { id, piece: Piece::new(generator.piece(id)) },
            false => WireToken::Id(id),
        };
        let body = Tokenized {
            count: ids.len(),
            max_model_len: generator.limits().context_tokens,
            tokens: ids.iter().map(token).collect(),
            token_strs,
        };
        to_json(&body)
    };
    let body = built(app, exchange, exchange.prompt_tokens() * each, build).await?;
    Ok(telling_ignored(json(StatusCode::OK, body), &ignored))
}

/// The text of tokens.
pub(crate) async fn detokenize(call: Call<'_>) -> Result<Reply, ApiError> {
    let Call { app, request, exchange, .. } = call;
    let (parse, asks) = (DetokenizeRequest::parse, DetokenizeRequest::asks);
    let (served, asked) = parsed(app, request, exchange, parse, asks).await?;
    let DetokenizeRequest { tokens, ignored, .. } = asked;
    let (known, large) = (served.clone(), is_large(exchange.weight()));
    let spell = move |_: &App| known.generator().spelt_bytes(&tokens).map(|bytes| (bytes, tokens));
    let (bytes, tokens) = done(app, exchange, large, spell).await??;
    exchange.admission().pay(tokens.len())?;
    exchange.read_prompt(tokens.len());
    let build = move |_: &App| {
        let text = served.generator().spell(&tokens);
        to_json(&Detokenized { prompt: text.clone(), content: text })
    };
    let body = built(app, exchange, TEXT_COPIES * bytes, build).await?;
    Ok(telling_ignored(json(StatusCode::OK, body), &ignored))
}

/// What the first model's tokenizer is, as vLLM has it.
pub(crate) async fn tokenizer_info(app: &App, exchange: &Exchange) -> Result<Reply, ApiError> {
    let served = Served::with(app, exchange, 0, &Asks::default()).await?;
    let generator = served.generator();
    let spelled = |id: u32| generator.spell(&[id]);
    let ends = generator.end_tokens();
    let info = TokenizerInfo {
        tokenizer_class: "PreTrainedTokenizerFast",
        bos_token: spelled(generator.begin_token()),
        eos_token: ends.last().copied().map(spelled),
        eos_token_ids: ends,
        model_max_length: generator.limits().context_tokens,
        vocab_size: generator.limits().vocab_size,
        chat_template: generator.template(),
    };
    Ok(json(StatusCode::OK, to_json(&info)))
}

/// What a chat request would make the model read.
pub(crate) async fn render(call: Call<'_>) -> Result<Reply, ApiError> {
    let Call { app, request, exchange, .. } = call;
    let parse = |body: &Value| ChatRequest::parse(body).map(|chat| chat.parsed);
    let (served, mut chat) = parsed(app, request, exchange, parse, Parsed::asks).await?;
    let ignored = std::mem::take(&mut chat.ignored);
    let token_ids = tokens_of(&served, chat.into_prompt(), exchange).await?;
    let bytes = TEXT_COPIES * exchange.weight() + 24 * token_ids.len();
    let build = move |_: &App| {
        let generator = served.generator();
        let body = Rendered {
            prompt: generator.spell(&token_ids),
            count: token_ids.len(),
            max_model_len: generator.limits().context_tokens,
            token_ids,
        };
        to_json(&body)
    };
    let body = built(app, exchange, bytes, build).await?;
    Ok(telling_ignored(json(StatusCode::OK, body), &ignored))
}
