//! Telemetry: the log, to the journal or to standard error.

mod line;
mod log;

pub use log::{Format, Target, init, logs_to_journal};
