//! Handlers of llama.cpp's own endpoints.

use std::time::Duration;

use hyper::StatusCode;
use serde_json::{Map, Value};

use super::{LlamaRequest, Props, PropsFacts, Text};
use crate::access::{Call, Exchange};
use crate::app::App;
use crate::error::ApiError;
use crate::handlers::generation::{Renderer, answer_by, asked};
use crate::reply::{Format, Reply, event, json};
use crate::served::{Asks, Served, Wait};
use crate::wire::common::{to_json, token_ids_of};
use crate::wire::error::Dialect;
use crate::wire::loading::waiting;
use crate::wire::timings::{progressed, timed};
use phi4d_generate::{Answer, Choices, Finish, Finished, PromptProgress, TextDelta, Usage};

/// Continues a text, or fills a gap, as `parse` reads the request.
pub(crate) async fn create(
    call: Call<'_>,
    parse: fn(&Value) -> Result<LlamaRequest, ApiError>,
) -> Result<Reply, ApiError> {
    let Call { app, request, exchange, .. } = call;
    let parse = move |body: Value| parse(&body);
    let (index, asked) = asked(app, request, exchange, parse, |asked| asked.parsed.asks()).await?;
    let renderer = TextRenderer {
        model: app.name_for(asked.parsed.model.clone()),
        context: 0,
        stops: asked.parsed.request.parameters.stop.clone(),
        fields: asked.response_fields,
        prompt_only: asked.prompt_only,
    };
    answer_by(app, index, asked.parsed, exchange, renderer).await
}

/// `GET /props`: of the first model.
pub(crate) async fn props(app: &App, exchange: &Exchange) -> Result<Reply, ApiError> {
    let served = Served::with(app, exchange, 0, &Asks::default()).await?;
    let generator = served.generator();
    let props = Props::new(PropsFacts {
        model: &app.first().name,
        template: generator.template(),
        context: generator.limits().context_tokens,
        slots: generator.stats().slots,
    });
    Ok(json(StatusCode::OK, to_json(&props)))
}

struct TextRenderer {
    model: String,
    /// Tokens of the model's context, once it is loaded.
    context: usize,
    /// The stop strings that were given.
    stops: Vec<String>,
    /// Only these fields are wanted, if any are named.
    fields: Vec<String>,
    /// Nothing is shown of what was generated.
    prompt_only: bool,
}

impl TextRenderer {
    /// The end of an answer, of which `text` was not sent yet.
    fn last(&self, text: Text<'_>, finished: Finished, usage: Usage) -> String {
        let word = finished.stop.and_then(|stop| self.stops.get(stop)).map(String::as_str);
        let (finished, usage) = match self.prompt_only {
            true => (
                Finished { reason: Finish::Length, stop: None, ..finished },
                Usage { completion_tokens: 0, ..usage },
            ),
            false => (finished, usage),
        };
        let Text { content, tokens, .. } = text;
        let ended =
            Text::more(content, tokens).ended((&self.model, self.context), finished, word, usage);
        self.chosen(timed(&ended, usage, true))
    }

    /// The fields that are wanted of an answer. One within another is `OUTER/INNER`, as llama.cpp
    /// has it.
    fn chosen(&self, answer: String) -> String {
        if self.fields.is_empty() {
            return answer;
        }
        let whole: Value = serde_json::from_str(&answer).unwrap_or_default();
        let found = self.fields.iter().filter_map(|name| {
            let value = whole.pointer(&format!("/{name}"))?;
            Some((name.clone(), value.clone()))
        });
        Value::Object(found.collect::<Map<String, Value>>()).to_string()
    }
}

impl Renderer for TextRenderer {
    const FORMAT: Format = Format::Events;
    const DIALECT: Dialect = Dialect::OpenAi;

    fn waiting(&mut self, wait: Wait, time: Duration) -> String {
        event(&waiting(&Text::more(String::new(), Vec::new()), wait, time))
    }

    fn begin(&mut self, served: &Served, _choices: &Choices) {
        self.context = served.generator().limits().context_tokens;
    }

    fn complete(&mut self, answers: Vec<Answer>, usage: Usage) -> String {
        // Requests of this API have one answer.
        let texts = answers.into_iter().map(|answer| {
            let text = match self.prompt_only {
                true => Text::more(String::new(), Vec::new()),
                false => Text::more(answer.text, token_ids_of(&answer.tokens)),
            };
            self.last(text, answer.finished, usage)
        });
        texts.collect()
    }

    fn progress(&mut self, _index: usize, progress: PromptProgress, _usage: Usage) -> String {
        event(&progressed(&Text::more(String::new(), Vec::new()), progress))
    }

    fn piece(&mut self, _index: usize, delta: TextDelta, _usage: Usage) -> String {
        if self.prompt_only || delta.text.is_empty() {
            return String::new();
        }
        event(&to_json(&Text::more(delta.text, token_ids_of(&delta.tokens))))
    }

    fn end(&mut self, _index: usize, finished: Finished, usage: Usage) -> String {
        event(&self.last(Text::more(String::new(), Vec::new()), finished, usage))
    }
}
