//! Telemetry: the log, to the journal or to standard error, and the metrics.

mod line;
mod log;
mod metrics;

pub use log::{Format, Target, init, logs_to_journal};
pub use metrics::{Ending, Metrics, OpenConnection, RequestTimer, Sample, Value};
