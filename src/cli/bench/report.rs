//! What a benchmark found: lines for people, JSON for programs.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, Value, json};

/// Figures in the order they were found.
#[derive(Debug, Default)]
pub(super) struct Report {
    text: String,
    values: Map<String, Value>,
}

impl Report {
    /// Begins a group of figures.
    pub(super) fn section(&mut self, title: &str) {
        // Writing to a String can't fail.
        let _ = writeln!(self.text, "\n{title}");
    }

    /// A figure: `name` for people, `key` for programs.
    pub(super) fn figure(&mut self, key: &str, name: &str, value: f64, unit: &str) {
        let _ = writeln!(self.text, "  {name:<46} {value:>10.2} {unit}");
        self.values.insert(key.to_owned(), json!(value));
    }

    /// The figures of one kind of work on `tokens` tokens: the milliseconds that it takes in bare steps and
    /// through the daemon. Their keys and names begin with those that are given. Returns the tokens per
    /// second of bare steps.
    pub(super) fn compared(
        &mut self,
        [key, name]: [&str; 2],
        tokens: usize,
        bare: f64,
        daemon: f64,
    ) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "prompts are short")]
        let rate = tokens as f64 * 1e3 / bare;
        let mut figure = |key_end: &str, name_end: &str, value, unit| {
            self.figure(&format!("{key}_{key_end}"), &format!("{name}: {name_end}"), value, unit);
        };
        figure("bare_ms", "bare", bare, "ms");
        figure("daemon_ms", "daemon", daemon, "ms");
        figure("ratio", "daemon / bare", daemon / bare, "");
        figure("rate", "bare", rate, "tokens/s");
        rate
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn json(&self) -> String {
        format!("{:#}\n", Value::Object(self.values.clone()))
    }
}

/// Milliseconds.
pub(super) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The value that `share` of the values do not exceed; 0 without values.
pub(super) fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index below the count of a few thousand"
    )]
    let index = (values.len().saturating_sub(1) as f64 * share).round() as usize;
    values.get(index).copied().unwrap_or(0.0)
}

pub(super) fn median(values: Vec<f64>) -> f64 {
    quantile(values, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_sorted_values() {
        let values = vec![5.0, 1.0, 3.0, 2.0, 4.0];
        assert_eq!(median(values.clone()), 3.0);
        assert_eq!(quantile(values.clone(), 0.0), 1.0);
        assert_eq!(quantile(values, 1.0), 5.0);
        assert_eq!(median(Vec::new()), 0.0);
    }

    #[test]
    fn figures_are_reported_both_ways() {
        let mut report = Report::default();
        report.section("Decode");
        report.figure("decode_ms", "a step", 1.5, "ms");
        assert!(report.text().contains("a step") && report.text().contains("1.50 ms"));
        assert_eq!(report.json(), "{\n  \"decode_ms\": 1.5\n}\n");
    }
}
