//! Histograms of answers.

use prometheus_client::metrics::histogram::Histogram;

use super::buckets;

/// One histogram for each thing that is measured of an answer.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) first_token: Histogram,
    pub(super) between_tokens: Histogram,
    pub(super) time_per_token: Histogram,
    pub(super) whole: Histogram,
    pub(super) queued: Histogram,
    pub(super) inference: Histogram,
    pub(super) prefill: Histogram,
    pub(super) decode: Histogram,
    pub(super) prompt_tokens: Histogram,
    pub(super) generation_tokens: Histogram,
}

impl Answers {
    pub(super) fn new(context_tokens: usize) -> Self {
        let request = || Histogram::new(buckets::REQUEST);
        let tokens = || Histogram::new(buckets::tokens(context_tokens));
        Self {
            first_token: Histogram::new(buckets::FIRST_TOKEN),
            between_tokens: Histogram::new(buckets::BETWEEN_TOKENS),
            time_per_token: Histogram::new(buckets::BETWEEN_TOKENS),
            whole: request(),
            queued: request(),
            inference: request(),
            prefill: request(),
            decode: request(),
            prompt_tokens: tokens(),
            generation_tokens: tokens(),
        }
    }

    /// Each with its name (after `phi4d_` or `vllm:`) and what it tells.
    pub(super) fn named(&self) -> [(&'static str, &'static str, &Histogram); 10] {
        [
            (
                "time_to_first_token_seconds",
                "Time from a request's arrival to its first token",
                &self.first_token,
            ),
            (
                "inter_token_latency_seconds",
                "Time from one token of an answer to the next",
                &self.between_tokens,
            ),
            (
                "request_time_per_output_token_seconds",
                "Mean time of an answer's tokens after the first",
                &self.time_per_token,
            ),
            (
                "e2e_request_latency_seconds",
                "Time from a request's arrival to the end of its answer",
                &self.whole,
            ),
            (
                "request_queue_time_seconds",
                "Time from a request's arrival to the start of its prompt's reading",
                &self.queued,
            ),
            (
                "request_inference_time_seconds",
                "Time from the start of a prompt's reading to the end of the answer",
                &self.inference,
            ),
            (
                "request_prefill_time_seconds",
                "Time from the start of a prompt's reading to the first token",
                &self.prefill,
            ),
            (
                "request_decode_time_seconds",
                "Time from the first token to the end of the answer",
                &self.decode,
            ),
            ("request_prompt_tokens", "Tokens of a request's prompt", &self.prompt_tokens),
            ("request_generation_tokens", "Tokens of an answer", &self.generation_tokens),
        ]
    }
}
