//! Numbers of requests: their ranges, and what the engine computes with.

use std::fmt::Display;

use super::error::{GenerateError, invalid};

/// An interval with an upper end that belongs to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    least: f64,
    most: f64,
    least_included: bool,
}

impl Range {
    pub(super) fn closed(least: f64, most: f64) -> Self {
        Self { least, most, least_included: true }
    }

    pub(super) fn above(least: f64, most: f64) -> Self {
        Self { least, most, least_included: false }
    }

    pub(super) fn holds(self, value: f64) -> bool {
        let low_enough = value <= self.most;
        let high_enough =
            if self.least_included { value >= self.least } else { value > self.least };
        low_enough && high_enough
    }
}

impl Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (least, most) = (self.least, self.most);
        if self.least_included {
            write!(f, "a number from {least} to {most}")
        } else {
            write!(f, "a number above {least}, up to {most}")
        }
    }
}

/// Not-a-number and infinities are in no range.
pub(super) fn number(
    field: &str,
    value: Option<f64>,
    range: Range,
) -> Result<Option<f64>, GenerateError> {
    match value {
        Some(value) if !range.holds(value) => Err(invalid(field, value, range.to_string())),
        _ => Ok(value),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the value is in a small range; only precision is lost"
)]
pub(super) fn narrow(value: f64) -> f32 {
    value as f32
}

/// For ranges that leave 0 out: the least `f32` in place of a value that it would round to 0.
pub(super) fn narrow_positive(value: f64) -> f32 {
    narrow(value).max(f32::MIN_POSITIVE)
}
