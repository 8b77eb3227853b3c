//! Telemetry: the log, to the journal or to standard error, the metrics and the traces.

mod disruptive;
#[cfg(unix)]
mod journal;
mod line;
mod log;
mod metrics;
#[cfg(not(unix))]
mod no_journal;
mod trace;
mod transient;

pub use disruptive::{escaped, is_disruptive, is_joiner};
pub use line::timestamp;
pub use log::{Format, Target, has_terminal, init, logs_to_journal};
pub use metrics::{Ending, Metrics, OpenConnection, Operation, RequestTimer, Sample, Value};
pub use trace::{
    Attribute, OpenSpan, Span, SpanKind, TraceContext, Tracer, encode as encode_spans, time_of,
};
pub use transient::show_transient;
