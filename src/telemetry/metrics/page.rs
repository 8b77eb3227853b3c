//! The page: the registry and values taken at the moment, in Prometheus's text format.

use std::collections::HashMap;
use std::fmt::{Error, Write as _};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// A value taken when the page is made.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its name; a counter's without the `_total` that the page adds.
    pub name: &'static str,
    /// Its help text.
    pub help: &'static str,
    /// The value.
    pub value: Value,
    /// The model that it is of, which gives it labels; `None` for what is the whole server's.
    pub model: Option<usize>,
    /// Labels of its own.
    pub labels: Vec<(&'static str, String)>,
}

/// A value and what kind it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// A count that only grows.
    Count(u64),
    /// A number of things now.
    Number(u64),
    /// A number with digits behind the point: a part of a whole, or seconds.
    Share(f64),
}

/// The page. `labels` are what a sample's model adds to its own.
pub(super) fn render<'a>(
    registry: &Registry,
    samples: Vec<Sample>,
    labels: impl Fn(&Sample) -> &'a [(&'static str, String)],
) -> String {
    let mut now = Registry::default();
    for mut sample in samples {
        let of_model = labels(&sample);
        sample.labels.splice(0..0, of_model.iter().cloned());
        now.register_collector(Box::new(sample));
    }
    let mut text = String::new();
    // Writing to a String can't fail.
    let _ = encode_registry(&mut text, registry);
    let _ = encode_registry(&mut text, &now);
    classic(&text)
}

impl Collector for Sample {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let kind = match self.value {
            Value::Count(_) => MetricType::Counter,
            Value::Number(_) | Value::Share(_) => MetricType::Gauge,
        };
        let help = format!("{}.", self.help);
        let mut metric = encoder.encode_descriptor(self.name, &help, None, kind)?;
        let labels = self.labels.as_slice();
        let metric = if labels.is_empty() { metric } else { metric.encode_family(&labels)? };
        match self.value {
            Value::Count(count) => ConstCounter::new(count).encode(metric),
            Value::Number(number) => ConstGauge::new(number).encode(metric),
            Value::Share(share) => ConstGauge::new(share).encode(metric),
        }
    }
}

/// A label's value as it may stand between quotes, which the encoder does not see to.
pub(super) fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// OpenMetrics text as the older format that every scraper reads, which differs in this: a
/// counter's family has the name of its samples. Families of one name become one, as both formats want.
fn classic(open_metrics: &str) -> String {
    let mut families: Vec<String> = Vec::new();
    let mut known: HashMap<&str, usize> = HashMap::new();
    let mut current = 0;
    let mut help: Option<&str> = None;
    for line in open_metrics.lines() {
        if line.starts_with("# HELP ") {
            help = Some(line);
            continue;
        }
        let family = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '));
        let Some((name, kind)) = family else {
            if let Some(text) = families.get_mut(current) {
                text.push_str(line);
                text.push('\n');
            }
            continue;
        };
        let described = help.take().and_then(|help| help[7..].split_once(' '));
        current = *known.entry(name).or_insert(families.len());
        if current < families.len() {
            continue;
        }
        let suffix = if kind == "counter" { "_total" } else { "" };
        let mut text = String::new();
        // Writing to a String can't fail.
        if let Some((_, words)) = described {
            let _ = writeln!(text, "# HELP {name}{suffix} {words}");
        }
        let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
        families.push(text);
    }
    families.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_have_their_kind_and_labels() {
        let model = Some(0);
        let sample = |name, value, labels| Sample { name, help: "Helps", value, model, labels };
        let samples = vec![
            sample("phi4d_steps", Value::Count(3), Vec::new()),
            sample("vllm:num_requests_running", Value::Number(2), Vec::new()),
            sample("vllm:cache_config_info", Value::Number(1), vec![("block_size", "64".into())]),
            sample("phi4d_kv_cache_usage_ratio", Value::Share(0.5), Vec::new()),
        ];
        let labels = [("model_name", escaped("a\"b"))];
        let aliased = |sample: &Sample| match sample.name.starts_with("vllm:") {
            true => labels.as_slice(),
            false => &[],
        };
        let text = render(&Registry::default(), samples, aliased);
        assert_eq!(
            text,
            "# HELP phi4d_steps_total Helps.\n\
             # TYPE phi4d_steps_total counter\n\
             phi4d_steps_total 3\n\
             # HELP vllm:num_requests_running Helps.\n\
             # TYPE vllm:num_requests_running gauge\n\
             vllm:num_requests_running{model_name=\"a\\\"b\"} 2\n\
             # HELP vllm:cache_config_info Helps.\n\
             # TYPE vllm:cache_config_info gauge\n\
             vllm:cache_config_info{model_name=\"a\\\"b\",block_size=\"64\"} 1\n\
             # HELP phi4d_kv_cache_usage_ratio Helps.\n\
             # TYPE phi4d_kv_cache_usage_ratio gauge\n\
             phi4d_kv_cache_usage_ratio 0.5\n"
        );
    }

    #[test]
    fn families_of_several_models_are_one() {
        let sample = |name: &str| Sample {
            name: "phi4d_steps",
            help: "Helps",
            value: Value::Count(3),
            model: None,
            labels: vec![("model", name.to_owned())],
        };
        let text = render(&Registry::default(), vec![sample("a"), sample("b")], |_| &[]);
        assert_eq!(
            text,
            "# HELP phi4d_steps_total Helps.\n\
             # TYPE phi4d_steps_total counter\n\
             phi4d_steps_total{model=\"a\"} 3\n\
             phi4d_steps_total{model=\"b\"} 3\n"
        );
    }
}
