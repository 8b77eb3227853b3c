//! Telemetry: the log, to the journal or to standard error, the metrics and the traces.
//!
//! - **Log.** A thread that logs formats its record and queues it; one thread writes to standard error or to the
//!   journal's socket. A reader that stalls costs log lines and delays no request. Panics are log lines, and the
//!   transient line of a terminal takes the same path.
//! - **Metrics.** The registry knows names, labels and buckets, and nothing of the other crates. Every label's
//!   values are from a fixed set, and histograms have vLLM's buckets. Counters of the engine are not kept twice:
//!   they are read from it when `/metrics` is requested.
//! - **Traces.** Ended spans wait in a bounded queue, from which `cli::traces` posts them as OTLP JSON. The
//!   encoding is a page long; the OpenTelemetry crates would add a second HTTP client and a gRPC stack.

#![forbid(unsafe_code)]

mod disruptive;
#[cfg(unix)]
mod journal;
mod line;
mod log;
mod metrics;
#[cfg(not(unix))]
mod no_journal;
mod queue;
mod record;
mod stderr;
mod trace;
mod transient;

pub use disruptive::{escaped, is_disruptive, is_joiner};
pub use line::timestamp;
pub use log::{
    Format, catch_panic, flush, has_terminal, init, is_started, lost_lines, show_transient,
    write_line,
};
pub use metrics::{Ending, Metrics, OpenConnection, Operation, RequestTimer, Sample, Value};
pub use trace::{
    Attribute, OpenSpan, Span, SpanKind, TraceContext, Tracer, encode as encode_spans, time_of,
};
