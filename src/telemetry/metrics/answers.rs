//! What is measured of answers: how they ended, and histograms of their times and tokens.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use super::super::trace::Tracer;
use super::buckets;

/// How an answer ended, by vLLM's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ending {
    /// The model ended it, or a stop string did.
    Stop,
    /// The limit of tokens was reached.
    Length,
    /// The client went away.
    Abort,
    /// It failed.
    Error,
}

impl Ending {
    const ALL: [Self; 4] = [Self::Stop, Self::Length, Self::Abort, Self::Error];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Abort => "abort",
            Self::Error => "error",
        }
    }
}

impl EncodeLabelValue for Ending {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.as_str(), encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct EndingLabel {
    finished_reason: Ending,
}

/// What timers of answers feed.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) model: String,
    pub(super) tracer: Tracer,
    pub(super) endings: Family<EndingLabel, Counter<u64, AtomicU64>>,
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
    pub(super) fn new(model: &str, context_tokens: usize, tracer: Tracer) -> Self {
        let request = || Histogram::new(buckets::REQUEST);
        let tokens = || Histogram::new(buckets::tokens(context_tokens));
        let endings = Family::default();
        // Series that exist from the start show a first event as a step from 0.
        for finished_reason in Ending::ALL {
            drop(endings.get_or_create(&EndingLabel { finished_reason }));
        }
        Self {
            model: model.to_owned(),
            tracer,
            endings,
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

    /// Counts an answer that ended.
    pub(super) fn count(&self, how: Ending) {
        self.endings.get_or_create(&EndingLabel { finished_reason: how }).inc();
    }

    /// Each histogram with its name (after `phi4d_` or `vllm:`) and its help text.
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
