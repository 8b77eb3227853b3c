//! Sends ended spans to a collector, as long as the daemon runs.

use std::time::Duration;

use bytes::Bytes;
use hyper::Request;
use hyper::header::CONTENT_TYPE;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use phi4d_fetch::{Client, FetchError, Server, Url};
use phi4d_telemetry::{Span, Tracer, encode_spans};

/// How often spans are sent.
const TICK: Duration = Duration::from_secs(1);

/// Most spans of one request.
const BATCH: usize = 512;

/// How long the last spans may take when the daemon stops.
const LAST: Duration = Duration::from_secs(2);

/// A running exporter.
pub(super) struct Exporter {
    task: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl Exporter {
    /// Sends what `tracer` records to the collector at `endpoint`.
    ///
    /// # Errors
    /// If `endpoint` is no URL.
    pub(super) fn start(endpoint: &str, tracer: Tracer) -> Result<Self, FetchError> {
        let url = Url::parse(endpoint)?.below("v1/traces");
        let (stop, stopped) = oneshot::channel();
        let sending = Sending {
            url,
            tracer,
            client: Client::default(),
            instance: format!("{}", std::process::id()),
            kept: Vec::new(),
            failing: false,
        };
        let task = tokio::spawn(sending.run(stopped));
        Ok(Self { task, stop })
    }

    /// Sends what is left, within a limit.
    pub(super) async fn finish(self) {
        // If the task has ended there is nothing to stop.
        let _ = self.stop.send(());
        if timeout(LAST, self.task).await.is_err() {
            log::warn!("the collector takes too long; the last spans are lost");
        }
    }
}

struct Sending {
    url: Url,
    tracer: Tracer,
    client: Client,
    instance: String,
    /// A batch that the collector did not accept, to be sent again. Meanwhile the queue fills up and
    /// drops what does not fit.
    kept: Vec<Span>,
    failing: bool,
}

impl Sending {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                _ = &mut stopped => {
                    self.send_all().await;
                    return;
                }
            }
            self.send_all().await;
        }
    }

    /// Sends until the queue is empty or the collector refuses.
    async fn send_all(&mut self) {
        loop {
            if self.kept.is_empty() {
                self.kept = self.tracer.take(BATCH);
            }
            if self.kept.is_empty() {
                return;
            }
            let body = Bytes::from(encode_spans(&self.kept, &self.instance));
            let request = Request::post(self.url.target()).header(CONTENT_TYPE, "application/json");
            let response = self.client.send(&Server::Url(self.url.clone()), request, body).await;
            let (done, trouble) = match response.map(|response| response.status().as_u16()) {
                Ok(200..300) => (Some(true), None),
                // The collector may accept them later.
                Ok(status @ (429 | 500..)) => (None, Some(format!("status {status}"))),
                Ok(status) => (Some(false), Some(format!("status {status}"))),
                Err(error) => (None, Some(error.to_string())),
            };
            self.report(trouble);
            let Some(exported) = done else { return };
            self.tracer.count(self.kept.len(), exported);
            self.kept.clear();
        }
    }

    /// One message when trouble begins and one when it ends.
    fn report(&mut self, trouble: Option<String>) {
        match (trouble, self.failing) {
            (Some(trouble), false) => log::warn!("traces cannot be exported: {trouble}"),
            (None, true) => log::info!("traces are exported again"),
            (Some(_), true) | (None, false) => return,
        }
        self.failing = !self.failing;
    }
}
