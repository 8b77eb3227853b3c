//! `POST /tokenize`, `/detokenize` and `/v1/chat/completions/render`.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Request, StatusCode};

use super::generation::check_model;
use crate::generate::{GenerateError, Generator, Prompt};
use crate::server::access::Exchange;
use crate::server::app::App;
use crate::server::body::read_json;
use crate::server::error::ApiError;
use crate::server::reply::{Reply, json, telling_ignored};
use crate::server::wire::chat::ChatRequest;
use crate::server::wire::common::to_json;
use crate::server::wire::tokens::{
    DetokenizeRequest, Detokenized, Piece, Rendered, TokenizeRequest, Tokenized, WireToken,
};

/// The tokens that `prompt` is read as. The tokenizer's work counts against the key's limits: what
/// it reads before it begins, and the tokens before they are given out.
pub(super) async fn tokens_of(
    app: &App,
    prompt: Prompt,
    exchange: &Exchange,
) -> Result<Vec<u32>, ApiError> {
    exchange.pay(prompt.least_cost())?;
    let ids = match prompt {
        // Where nothing is generated, none need be there.
        Prompt::Tokens(ids) => ids,
        prompt => app.generator().tokenize(prompt).await?,
    };
    exchange.reserve(ids.len())?;
    exchange.read_prompt(ids.len());
    Ok(ids)
}

/// The tokens of a text or of a conversation.
pub(crate) async fn tokenize(
    app: &App,
    request: Request<Incoming>,
    exchange: &Arc<Exchange>,
) -> Result<Reply, ApiError> {
    let asked = TokenizeRequest::parse(read_json(request, app).await?)?;
    check_model(app, asked.model.as_deref())?;
    let ids = tokens_of(app, asked.prompt, exchange).await?;
    let (strings, pieces, count) = (asked.strings, asked.pieces, ids.len());
    let spelled = move |generator: &Generator| {
        let token_strs = strings.then(|| ids.iter().map(|&id| generator.spell(&[id])).collect());
        let token = |&id: &u32| match pieces {
            true => WireToken::Piece { id, piece: Piece::new(generator.piece(id)) },
            false => WireToken::Id(id),
        };
        to_json(&Tokenized {
            count: ids.len(),
            max_model_len: generator.limits().context_tokens,
            tokens: ids.iter().map(token).collect(),
            token_strs,
        })
    };
    let body = app.generator().aside(count, spelled).await?;
    Ok(telling_ignored(json(StatusCode::OK, body), &asked.ignored))
}

/// The text of tokens.
pub(crate) async fn detokenize(
    app: &App,
    request: Request<Incoming>,
    exchange: &Arc<Exchange>,
) -> Result<Reply, ApiError> {
    let asked = DetokenizeRequest::parse(&read_json(request, app).await?)?;
    check_model(app, asked.model.as_deref())?;
    let count = asked.tokens.len();
    exchange.pay(count)?;
    exchange.read_prompt(count);
    let DetokenizeRequest { tokens, ignored, .. } = asked;
    let spelled = move |generator: &Generator| {
        let text = generator.detokenize(&tokens)?;
        Ok(to_json(&Detokenized { prompt: text.clone(), content: text }))
    };
    let body: Result<String, GenerateError> = app.generator().aside(count, spelled).await?;
    Ok(telling_ignored(json(StatusCode::OK, body?), &ignored))
}

/// What a chat request would make the model read.
pub(crate) async fn render(
    app: &App,
    request: Request<Incoming>,
    exchange: &Arc<Exchange>,
) -> Result<Reply, ApiError> {
    let chat = ChatRequest::parse(&read_json(request, app).await?)?;
    check_model(app, chat.model.as_deref())?;
    let token_ids = tokens_of(app, chat.prompt, exchange).await?;
    let count = token_ids.len();
    let rendered = move |generator: &Generator| {
        to_json(&Rendered {
            prompt: generator.spell(&token_ids),
            count,
            max_model_len: generator.limits().context_tokens,
            token_ids,
        })
    };
    let body = app.generator().aside(count, rendered).await?;
    Ok(telling_ignored(json(StatusCode::OK, body), &chat.ignored))
}
