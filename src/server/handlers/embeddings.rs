//! `POST /v1/embeddings`, `/api/embed` and `/api/embeddings`.

use std::sync::Arc;
use std::time::Instant;

use hyper::StatusCode;
use serde_json::Value;

use crate::access::{Call, Exchange};
use crate::app::{App, Embeddings, Phase};
use crate::body::{done, keep, read};
use crate::error::{ApiError, Fault};
use crate::reply::{Reply, json, telling_ignored};
use crate::wire::common::to_json;
use crate::wire::embeddings::{
    EmbedRequest, EmbeddingList, OllamaEmbedding, OllamaEmbeddings, Shape,
};
use phi4d_engine::JobError;
use phi4d_generate::{EmbeddingRequest, GenerateError, is_large};

/// Answers with the vectors of the request that `parse` reads.
pub(crate) async fn create(
    call: Call<'_>,
    parse: fn(&Value) -> Result<EmbedRequest, ApiError>,
) -> Result<Reply, ApiError> {
    let Call { app, request, exchange, .. } = call;
    let begun = Instant::now();
    let parse = move |app: &App, body: Value| {
        served(app)?;
        let asked = parse(&body)?;
        match asked.model.as_deref() {
            Some(name) if !app.embeds_as(name) => {
                let served = [served(app)?.name.as_str()];
                Err(Fault::ModelNotFound { asked: name, served: &served }.into())
            }
            _ => Ok(asked),
        }
    };
    let asked = read(request, app, exchange, parse).await?;
    let EmbedRequest { model, request, shape, ignored } = asked;
    let (vectors, tokens) = vectors(app, exchange, request, shape).await?;
    let model =
        model.unwrap_or_else(|| served(app).map_or_else(|_| String::new(), |e| e.name.clone()));
    let bytes = vectors.len() * vectors.first().map_or(0, Vec::len) * shape.bytes_of_number();
    let total_duration = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let write = move |_: &App| match shape {
        Shape::OpenAi { base64 } => to_json(&EmbeddingList::new(&model, vectors, base64, tokens)),
        Shape::Ollama => to_json(&OllamaEmbeddings {
            model: &model,
            embeddings: vectors,
            total_duration,
            load_duration: 0,
            prompt_eval_count: tokens,
        }),
        Shape::OllamaOne => {
            let embedding = vectors.into_iter().next().unwrap_or_default();
            to_json(&OllamaEmbedding { embedding })
        }
    };
    let body = done(app, exchange, is_large(bytes), write).await?;
    Ok(telling_ignored(json(StatusCode::OK, body), &ignored))
}

/// The embedding model that is served.
fn served(app: &App) -> Result<&Embeddings, ApiError> {
    app.embeddings().ok_or_else(|| Fault::NoEmbeddingModel.into())
}

/// The vectors of a request's texts and the tokens of these. Accounted for like a prompt: the key's
/// limits, the request's memory, its deadline and the end of the daemon.
async fn vectors(
    app: &App,
    exchange: &Arc<Exchange>,
    request: EmbeddingRequest,
    shape: Shape,
) -> Result<(Vec<Vec<f32>>, usize), ApiError> {
    let Embeddings { embedder, name, .. } = served(app)?;
    let weight = exchange.weight();
    let request = EmbeddingRequest { caller: exchange.caller().id(), weight, ..request };
    exchange.asks(name);
    exchange.admission().hold(1)?;
    // Adding up many texts takes time itself.
    let count = move |_: &App| (request.least_cost(), request);
    let (least, request) = done(app, exchange, is_large(weight), count).await?;
    exchange.admission().pay(least)?;
    let embedding = embedder.prepare(request).await?;
    let tokens = embedding.tokens();
    exchange.admission().reserve(tokens)?;
    let numbers = embedding.count().saturating_mul(embedder.dimensions());
    let bytes = numbers.saturating_mul(size_of::<f32>() + shape.bytes_of_number());
    keep(app, exchange, bytes.saturating_add(tokens.saturating_mul(2 * size_of::<u32>())))?;
    // It counts from here on, also for a client that leaves meanwhile.
    exchange.read_prompt(tokens);
    let embedded = tokio::select! {
        biased;
        vectors = embedder.embed(embedding) => vectors,
        () = app.reached(Phase::Cutting) => Err(JobError::ShuttingDown.into()),
    };
    if let Err(GenerateError::Submit(_)) = &embedded {
        exchange.read_prompt(0);
    }
    Ok((embedded?, tokens))
}
