//! The times of one request's answer.

use std::sync::Arc;
use std::time::Instant;

use super::super::trace::{Attribute, OpenSpan, Span, SpanKind, TraceContext, time_of};
use super::answers::{Answers, Ending};

/// Takes the times of one answer. Dropped before [`Self::ended`], it counts as aborted.
#[derive(Debug)]
pub struct RequestTimer {
    answers: Arc<Answers>,
    arrived: Instant,
    prompt_tokens: usize,
    started: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    cached_tokens: usize,
    ended: bool,
    span: Option<(OpenSpan, Operation)>,
}

/// What an answer is, by the names of OpenTelemetry's conventions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// To a conversation.
    Chat,
    /// A continued text.
    TextCompletion,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::TextCompletion => "text_completion",
        }
    }
}

impl RequestTimer {
    pub(super) fn new(answers: Arc<Answers>, arrived: Instant, prompt_tokens: usize) -> Self {
        Self {
            answers,
            arrived,
            prompt_tokens,
            started: None,
            first_token: None,
            last_token: None,
            cached_tokens: 0,
            ended: false,
            span: None,
        }
    }

    /// The same, with a span that is a part of `parent`.
    #[must_use]
    pub fn traced(mut self, parent: Option<(TraceContext, Operation)>) -> Self {
        self.span = parent.map(|(parent, operation)| (parent.child(), operation));
        self
    }

    /// The prompt is being read, of which so many tokens were cached. Only the first call counts.
    pub fn started(&mut self, cached_tokens: usize, now: Instant) {
        if self.started.is_none() {
            self.started = Some(now);
            self.cached_tokens = cached_tokens;
            self.answers.queued.observe(seconds(self.arrived, now));
        }
    }

    /// A token was made.
    pub fn token(&mut self, now: Instant) {
        match self.last_token.replace(now) {
            None => {
                self.first_token = Some(now);
                self.answers.first_token.observe(seconds(self.arrived, now));
            }
            Some(last) => self.answers.between_tokens.observe(seconds(last, now)),
        }
    }

    /// The answer has ended, with `tokens` made in all. Only the first call counts.
    pub fn ended(&mut self, how: Ending, tokens: usize, now: Instant) {
        if self.ended {
            return;
        }
        self.ended = true;
        self.answers.count(how);
        if matches!(how, Ending::Stop | Ending::Length) {
            self.observe_whole(tokens, now);
        }
        if let Some((span, operation)) = self.span.take() {
            self.end_span(span, operation, how, tokens);
        }
    }

    /// Records a span by OpenTelemetry's conventions for generative AI; the last three attributes are
    /// vLLM's.
    fn end_span(&self, span: OpenSpan, operation: Operation, how: Ending, tokens: usize) {
        let text = |text: &str| Attribute::Text(text.to_owned());
        let count = |count: usize| Attribute::Whole(i64::try_from(count).unwrap_or(i64::MAX));
        let mut attributes = vec![
            ("gen_ai.operation.name", text(operation.as_str())),
            ("gen_ai.provider.name", text("phi4d")),
            ("gen_ai.request.model", text(&self.answers.model)),
            ("gen_ai.response.model", text(&self.answers.model)),
            ("gen_ai.usage.input_tokens", count(self.prompt_tokens)),
            ("gen_ai.usage.output_tokens", count(tokens)),
            ("gen_ai.usage.cache_read.input_tokens", count(self.cached_tokens)),
        ];
        let failed = match how {
            Ending::Stop | Ending::Length => {
                let reasons = vec![how.as_str().to_owned()];
                attributes.push(("gen_ai.response.finish_reasons", Attribute::Texts(reasons)));
                None
            }
            Ending::Abort | Ending::Error => {
                attributes.push(("error.type", text(how.as_str())));
                Some(how.as_str())
            }
        };
        let mut time = |name, at: Option<Instant>| {
            if let Some(at) = at {
                attributes.push((name, Attribute::Number(seconds(self.arrived, at))));
            }
        };
        time("gen_ai.latency.time_in_queue", self.started);
        time("gen_ai.latency.time_to_first_token", self.first_token);
        time("gen_ai.latency.e2e", Some(Instant::now()));
        self.answers.tracer.end(Span {
            context: span.context,
            parent: span.parent,
            kind: SpanKind::Internal,
            name: format!("{} {}", operation.as_str(), self.answers.model),
            began: time_of(self.arrived),
            ended: time_of(Instant::now()),
            attributes,
            error: failed,
        });
    }

    /// Feeds the histograms of answers that ran to an end.
    #[expect(clippy::cast_precision_loss, reason = "answers stay far below 2^52 tokens")]
    fn observe_whole(&self, tokens: usize, now: Instant) {
        let answers = &self.answers;
        answers.whole.observe(seconds(self.arrived, now));
        answers.prompt_tokens.observe(self.prompt_tokens as f64);
        answers.generation_tokens.observe(tokens as f64);
        let started = self.started.unwrap_or(self.arrived);
        answers.inference.observe(seconds(started, now));
        // An answer that was a stop token and nothing else has its first token at its end.
        let first = self.first_token.unwrap_or(now);
        answers.prefill.observe(seconds(started, first));
        answers.decode.observe(seconds(first, now));
        if tokens > 1 {
            answers.time_per_token.observe(seconds(first, now) / (tokens - 1) as f64);
        }
    }
}

impl Drop for RequestTimer {
    fn drop(&mut self) {
        self.ended(Ending::Abort, 0, Instant::now());
    }
}

fn seconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::super::trace::Tracer;
    use super::super::Metrics;
    use super::*;

    #[test]
    fn an_answer_feeds_each_histogram_and_is_counted_once() {
        let metrics = Metrics::new(&[("m", 1000)], Tracer::default());
        let arrived = Instant::now();
        let after = |millis| arrived + Duration::from_millis(millis);
        let mut timer = metrics.request(arrived, 30);
        timer.started(0, after(400));
        timer.started(0, after(900));
        for at in [1000, 1060, 1160] {
            timer.token(after(at));
        }
        timer.ended(Ending::Length, 3, after(2000));
        timer.ended(Ending::Error, 3, after(3000));
        drop(timer);
        drop(metrics.request(arrived, 30));
        let page = metrics.page(Vec::new());
        for line in [
            "phi4d_request_queue_time_seconds_bucket{le=\"0.3\"} 0",
            "phi4d_request_queue_time_seconds_bucket{le=\"0.5\"} 1",
            "phi4d_time_to_first_token_seconds_bucket{le=\"0.75\"} 0",
            "phi4d_time_to_first_token_seconds_bucket{le=\"1.0\"} 1",
            "phi4d_inter_token_latency_seconds_bucket{le=\"0.05\"} 0",
            "phi4d_inter_token_latency_seconds_bucket{le=\"0.075\"} 1",
            "phi4d_inter_token_latency_seconds_bucket{le=\"0.1\"} 2",
            "phi4d_inter_token_latency_seconds_count 2",
            "phi4d_e2e_request_latency_seconds_sum 2.0",
            "phi4d_request_inference_time_seconds_sum 1.6",
            "phi4d_request_prefill_time_seconds_sum 0.6",
            "phi4d_request_decode_time_seconds_sum 1.0",
            "phi4d_request_time_per_output_token_seconds_sum 0.5",
            "phi4d_request_prompt_tokens_bucket{le=\"20.0\"} 0",
            "phi4d_request_prompt_tokens_bucket{le=\"50.0\"} 1",
            "phi4d_request_generation_tokens_sum 3.0",
            "phi4d_request_success_total{finished_reason=\"length\"} 1",
            "phi4d_request_success_total{finished_reason=\"abort\"} 1",
            "phi4d_request_success_total{finished_reason=\"error\"} 0",
            "vllm:e2e_request_latency_seconds_count{model_name=\"m\",engine=\"0\"} 1",
            "vllm:request_success_total{model_name=\"m\",engine=\"0\",finished_reason=\"stop\"} 0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
    }
}
