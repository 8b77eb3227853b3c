//! The times of one request's answer.

use std::sync::Arc;
use std::time::Instant;

use super::{EndingLabel, Inner, Metrics};

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
    pub(super) const ALL: [Self; 4] = [Self::Stop, Self::Length, Self::Abort, Self::Error];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Abort => "abort",
            Self::Error => "error",
        }
    }
}

/// Takes the times of one answer. Dropped before [`Self::ended`], it counts as aborted.
#[derive(Debug)]
pub struct RequestTimer {
    metrics: Arc<Inner>,
    arrived: Instant,
    started: bool,
    last_token: Option<Instant>,
    ended: bool,
}

impl Metrics {
    /// Times the answer to a request that arrived at `arrived`.
    #[must_use]
    pub fn request(&self, arrived: Instant) -> RequestTimer {
        RequestTimer {
            metrics: Arc::clone(&self.0),
            arrived,
            started: false,
            last_token: None,
            ended: false,
        }
    }
}

impl RequestTimer {
    /// The prompt is being read. Only the first call counts.
    pub fn started(&mut self, now: Instant) {
        if !self.started {
            self.started = true;
            self.metrics.queued.observe(seconds(self.arrived, now));
        }
    }

    /// A token was made.
    pub fn token(&mut self, now: Instant) {
        match self.last_token.replace(now) {
            None => self.metrics.first_token.observe(seconds(self.arrived, now)),
            Some(last) => self.metrics.between_tokens.observe(seconds(last, now)),
        }
    }

    /// The answer has ended. Only the first call counts.
    pub fn ended(&mut self, how: Ending, now: Instant) {
        if self.ended {
            return;
        }
        self.ended = true;
        self.metrics.endings.get_or_create(&EndingLabel { finished_reason: how }).inc();
        if matches!(how, Ending::Stop | Ending::Length) {
            self.metrics.whole.observe(seconds(self.arrived, now));
        }
    }
}

impl Drop for RequestTimer {
    fn drop(&mut self) {
        self.ended(Ending::Abort, Instant::now());
    }
}

fn seconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_answer_feeds_each_histogram_and_is_counted_once() {
        let metrics = Metrics::new("m");
        let arrived = Instant::now();
        let after = |millis| arrived + Duration::from_millis(millis);
        let mut timer = metrics.request(arrived);
        timer.started(after(400));
        timer.started(after(900));
        for at in [1000, 1060, 1160] {
            timer.token(after(at));
        }
        timer.ended(Ending::Length, after(2000));
        timer.ended(Ending::Error, after(3000));
        drop(timer);
        drop(metrics.request(arrived));
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
