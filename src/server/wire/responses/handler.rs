//! Handlers of `/v1/responses`.

use std::sync::Arc;

use hyper::StatusCode;

use super::renderer::{Keeping, ResponseRenderer};
use super::request::{Asked, Earlier, ResponsesRequest};
use super::{Deleted, InputItems, InputTokens};
use crate::access::{Call, Exchange};
use crate::app::App;
use crate::body::done;
use crate::error::{ApiError, Fault};
use crate::handlers::generation::{answer, envelope, parsed};
use crate::handlers::tokens::tokens_of;
use crate::memory::NoRoom;
use crate::reply::{Reply, json, telling_ignored};
use crate::served::Served;
use crate::store::Stored;
use crate::wire::common::to_json;
use phi4d_generate::is_large;

/// Copies of earlier responses' values that exist at once: parsed, and as the messages they become.
const COPIES: usize = 2;

/// Most items of one page of [`input_items`].
const MOST_ITEMS: usize = 100;

/// `POST /v1/responses`.
pub(crate) async fn create(call: Call<'_>) -> Result<Reply, ApiError> {
    let exchange = call.exchange;
    let (app, asked) = asked(call).await?;
    let ResponsesRequest { parsed, echo, shapes, previous, input } = asked;
    let envelope = envelope(&app, parsed.model.clone(), "resp", "response");
    let id = envelope.id.replacen('-', "_", 1);
    let keeping = input.filter(|_| app.responses().is_on()).map(|input| Keeping {
        app: App::clone(&app),
        owner: exchange.caller().id(),
        input,
    });
    let renderer = ResponseRenderer::new(id, envelope.created, envelope.model)
        .answering(echo, shapes, previous)
        .keeping(keeping);
    answer(&app, parsed, exchange, renderer).await
}

/// `POST /v1/responses/input_tokens`.
pub(crate) async fn input_tokens(call: Call<'_>) -> Result<Reply, ApiError> {
    let exchange = call.exchange;
    let (app, asked) = asked(call).await?;
    let mut parsed = asked.parsed;
    let ignored = std::mem::take(&mut parsed.ignored);
    let input_tokens = tokens_of(&app, parsed.into_prompt(), exchange).await?.len();
    let body = InputTokens { object: "response.input_tokens", input_tokens };
    Ok(telling_ignored(json(StatusCode::OK, to_json(&body)), &ignored))
}

/// The request, with what it refers to, and its model.
async fn asked(call: Call<'_>) -> Result<(Served, ResponsesRequest), ApiError> {
    let Call { app, request, exchange, .. } = call;
    let (served, asked) = parsed(app, request, exchange, Asked::read, Asked::asks).await?;
    let earlier = earlier(app, &asked, exchange)?;
    let stored = || earlier.chain.iter().chain(&earlier.named);
    let text: usize = stored().map(|stored| stored.text_bytes()).sum();
    let parsed = stored().map(|stored| stored.parsed_bytes).sum::<usize>().saturating_mul(COPIES);
    // A small request may refer to much.
    if text > 0 {
        let most = app.request_memory().most();
        if parsed > most {
            return Err(Fault::AnswerTooLarge { bytes: parsed, most }.into());
        }
        exchange.takes(parsed).map_err(|NoRoom| Fault::NoMemoryForAnswer)?;
        exchange.weighs(exchange.weight().saturating_add(text));
    }
    let large = is_large(exchange.weight());
    let asked = done(app, exchange, large, move |_| asked.after(&earlier)).await??;
    Ok((served, asked))
}

/// What `asked` refers to, if the caller has it.
fn earlier(app: &App, asked: &Asked, exchange: &Exchange) -> Result<Earlier, ApiError> {
    let (store, owner) = (app.responses(), exchange.caller().id());
    let mut earlier = Earlier::default();
    if let Some(id) = asked.previous() {
        earlier.chain = store.chain(owner, id).map_err(|id| {
            ApiError::not_stored("previous_response_id", &id, "the id of a stored response")
        })?;
    }
    for (index, id) in asked.references() {
        if earlier.named.iter().any(|stored| stored.items.iter().any(|item| item == id)) {
            continue;
        }
        let found = store.with_item(owner, id).ok_or_else(|| {
            ApiError::not_stored(&format!("input[{index}].id"), id, "the id of a stored item")
        })?;
        earlier.named.push(found);
    }
    Ok(earlier)
}

fn stored(app: &App, exchange: &Exchange, id: &str) -> Result<Arc<Stored>, ApiError> {
    let found = app.responses().get(exchange.caller().id(), id);
    found.ok_or_else(|| Fault::ResponseNotFound(id).into())
}

/// `GET /v1/responses/{id}`.
pub(crate) fn retrieve(app: &App, exchange: &Exchange, id: &str) -> Result<Reply, ApiError> {
    Ok(json(StatusCode::OK, stored(app, exchange, id)?.response.clone()))
}

/// `DELETE /v1/responses/{id}`.
pub(crate) fn delete(app: &App, exchange: &Exchange, id: &str) -> Result<Reply, ApiError> {
    if !app.responses().delete(exchange.caller().id(), id) {
        return Err(Fault::ResponseNotFound(id).into());
    }
    let body = Deleted { id, object: "response", deleted: true };
    Ok(json(StatusCode::OK, to_json(&body)))
}

/// `POST /v1/responses/{id}/cancel`: there are no responses in the background, so that one that is
/// stored has ended.
pub(crate) fn cancel(app: &App, exchange: &Exchange, id: &str) -> Result<Reply, ApiError> {
    stored(app, exchange, id)?;
    Err(Fault::CannotCancel.into())
}

/// `GET /v1/responses/{id}/input_items`, a page of them as `query` says.
pub(crate) async fn input_items(
    app: &App,
    exchange: &Arc<Exchange>,
    id: &str,
    query: Option<&str>,
) -> Result<Reply, ApiError> {
    let stored = stored(app, exchange, id)?;
    let page = Page::of(query)?;
    let large = is_large(stored.text_bytes());
    exchange.takes(stored.parsed_bytes).map_err(|NoRoom| Fault::NoMemoryForAnswer)?;
    let body = move |_: &App| to_json(&page.of_items(stored.input()));
    Ok(json(StatusCode::OK, done(app, exchange, large, body).await?))
}

/// Which items a client wants.
#[derive(Debug)]
struct Page {
    limit: usize,
    /// The last item comes first.
    is_descending: bool,
    /// Only items behind the one of this id.
    after: Option<String>,
}

impl Page {
    fn of(query: Option<&str>) -> Result<Self, ApiError> {
        let mut page = Self { limit: 20, is_descending: true, after: None };
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match (name, value) {
                ("limit", value) => {
                    let limit = value.parse().ok().filter(|n| (1..=MOST_ITEMS).contains(n));
                    page.limit = limit.ok_or_else(|| {
                        ApiError::invalid_value("limit", value, "an integer from 1 to 100")
                    })?;
                }
                ("order", "asc") => page.is_descending = false,
                ("order", "desc") => page.is_descending = true,
                ("order", value) => {
                    return Err(ApiError::invalid_value("order", value, "\"asc\" or \"desc\""));
                }
                ("after", value) => page.after = Some(value.to_owned()),
                // Such as `include`: there is nothing more to include.
                _ => {}
            }
        }
        Ok(page)
    }

    fn of_items(&self, mut items: Vec<serde_json::Value>) -> InputItems {
        if self.is_descending {
            items.reverse();
        }
        if let Some(after) = &self.after {
            let place = items.iter().position(|item| item["id"] == after.as_str());
            items.drain(..place.map_or(0, |place| place + 1));
        }
        let has_more = items.len() > self.limit;
        items.truncate(self.limit);
        InputItems::new(items, has_more)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn pages_follow_each_other() {
        let items: Vec<Value> = (0..5).map(|id| json!({"id": format!("i{id}")})).collect();
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let query = format!("order=asc&limit=2{after}");
            let page = json!(Page::of(Some(&query)).unwrap().of_items(items.clone()));
            seen.extend(page["data"].as_array().unwrap().clone());
            after = format!("&after={}", page["last_id"].as_str().unwrap());
            if page["has_more"] == false {
                break;
            }
        }
        assert_eq!(seen, items);
        let last = json!(Page::of(None).unwrap().of_items(items));
        assert_eq!((&last["first_id"], &last["last_id"]), (&json!("i4"), &json!("i0")));
        for query in ["limit=0", "limit=101", "limit=x", "order=up"] {
            assert!(Page::of(Some(query)).is_err(), "{query}");
        }
    }
}
