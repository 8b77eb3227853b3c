//! Telemetry: the log, to the journal or to standard error, the metrics and the traces.

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
    Format, Target, catch_panic, flush, has_terminal, init, is_started, lost_lines, show_transient,
    write_line,
};
pub use metrics::{Ending, Metrics, OpenConnection, Operation, RequestTimer, Sample, Value};
pub use trace::{
    Attribute, OpenSpan, Span, SpanKind, TraceContext, Tracer, encode as encode_spans, time_of,
};
