//! Traces: finished spans wait in a bounded queue for an exporter. Recording never blocks; what does not
//! fit is counted and dropped.

mod otlp;
mod span;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

pub use otlp::encode;
use span::random;
pub use span::{Attribute, OpenSpan, Span, SpanKind, TraceContext};

/// Ended spans that wait to be exported. When full, new ones are dropped and counted.
const QUEUE: usize = 4096;

/// Where spans go. Cheap to clone; off by default.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    /// Of traces that begin here, the share that is recorded.
    ratio: f64,
    queue: Mutex<VecDeque<Span>>,
    exported: AtomicU64,
    dropped: AtomicU64,
}

impl Tracer {
    /// Records all traces that a client says are recorded, and `ratio` (0 to 1) of those that
    /// begin here.
    #[must_use]
    pub fn recording(ratio: f64) -> Self {
        Self(Some(Arc::new(Inner {
            ratio,
            queue: Mutex::default(),
            exported: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        })))
    }

    /// Begins the span of a request with this `traceparent`; `None` if it is not recorded.
    #[must_use]
    pub fn begin(&self, traceparent: Option<&str>) -> Option<OpenSpan> {
        let inner = self.0.as_ref()?;
        if let Some(parent) = traceparent.and_then(TraceContext::parse) {
            return parent.sampled.then(|| parent.child());
        }
        let trace_id = (u128::from(random()) << 64) | u128::from(random());
        #[expect(clippy::cast_precision_loss, reason = "a share needs no more digits")]
        let draw = random() as f64 / u64::MAX as f64;
        (draw < inner.ratio).then(|| OpenSpan {
            context: TraceContext { trace_id, span_id: random(), sampled: true },
            parent: None,
        })
    }

    /// Queues an ended span.
    pub fn end(&self, span: Span) {
        let Some(inner) = &self.0 else { return };
        let mut queue = inner.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() < QUEUE {
            queue.push_back(span);
        } else {
            inner.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes up to `most` spans out of the queue, for export.
    #[must_use]
    pub fn take(&self, most: usize) -> Vec<Span> {
        let Some(inner) = &self.0 else { return Vec::new() };
        let mut queue = inner.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let count = queue.len().min(most);
        queue.drain(..count).collect()
    }

    /// Counts spans that were taken: exported, or lost on the way.
    pub fn count(&self, spans: usize, exported: bool) {
        let Some(inner) = &self.0 else { return };
        let counter = if exported { &inner.exported } else { &inner.dropped };
        counter.fetch_add(spans as u64, Ordering::Relaxed);
    }

    /// Spans exported and dropped so far.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        self.0.as_ref().map_or((0, 0), |inner| {
            (inner.exported.load(Ordering::Relaxed), inner.dropped.load(Ordering::Relaxed))
        })
    }
}

/// The time of day at `moment`.
#[must_use]
pub fn time_of(moment: Instant) -> SystemTime {
    let now = SystemTime::now();
    now.checked_sub(moment.elapsed()).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn span(name: &str) -> Span {
        let context = TraceContext { trace_id: 1, span_id: 2, sampled: true };
        Span {
            context,
            parent: None,
            kind: SpanKind::Internal,
            name: name.to_owned(),
            began: SystemTime::UNIX_EPOCH,
            ended: SystemTime::UNIX_EPOCH,
            attributes: Vec::new(),
            error: None,
        }
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let tracer = Tracer::recording(1.0);
        for _ in 0..QUEUE + 3 {
            tracer.end(span("a"));
        }
        assert_eq!(tracer.counts(), (0, 3));
        assert_eq!(tracer.take(10).len(), 10);
        tracer.count(10, true);
        tracer.end(span("a"));
        assert_eq!(tracer.counts(), (10, 3));
        assert_eq!(tracer.take(usize::MAX).len(), QUEUE - 9);
    }

    #[test]
    fn clients_say_what_is_recorded_and_the_rest_is_drawn() {
        let sampled = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let not = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        let never = Tracer::recording(0.0);
        let span = never.begin(Some(sampled)).unwrap();
        assert_eq!(span.parent, Some(0x00f0_67aa_0ba9_02b7));
        assert_eq!(span.context.trace_hex(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_ne!(Some(span.context.span_id), span.parent);
        assert_eq!(never.begin(None), None);
        let always = Tracer::recording(1.0);
        assert_eq!(always.begin(Some(not)), None);
        assert_eq!(always.begin(Some("rubbish")).unwrap().parent, None);
        assert_eq!(Tracer::default().begin(Some(sampled)), None);
        let half = Tracer::recording(0.5);
        let drawn = (0..1000).filter(|_| half.begin(None).is_some()).count();
        assert!((350..650).contains(&drawn), "{drawn}");
    }
}
