//! How far a model's load is, in streams and in lists of models.

use std::time::Duration;

use serde::Serialize;

use super::common::to_json;
use crate::models::ModelView;
use crate::served::Wait;
use phi4d_engine::LoadStage;

/// How far a load is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Loading {
    /// `graph`, `weights`, `trial` or `tokenizer`, in this order.
    stage: &'static str,
    /// The part of the weights that has been read and laid out, 0 to 1; not there in other stages, and where only
    /// ONNX Runtime knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<f64>,
}

impl Loading {
    fn new(stage: LoadStage, weights: Option<f64>) -> Self {
        let value = weights.filter(|_| stage == LoadStage::Weights);
        Self { stage: name(stage), value: value.map(|part| (part * 1000.0).round() / 1000.0) }
    }

    /// Of a model that is loading.
    pub(crate) fn of(view: &ModelView) -> Option<Self> {
        view.load().map(|(stage, weights)| Self::new(stage, weights))
    }
}

fn name(stage: LoadStage) -> &'static str {
    match stage {
        LoadStage::Graph => "graph",
        LoadStage::Weights => "weights",
        LoadStage::Trial => "trial",
        LoadStage::Tokenizer => "tokenizer",
    }
}

/// What a request waits for.
#[derive(Debug, Serialize)]
struct LoadProgress {
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<usize>,
    #[serde(flatten)]
    loading: Option<Loading>,
    /// Since the request began to wait.
    time_ms: u128,
}

#[derive(Debug, Serialize)]
struct Waiting<'b, T> {
    #[serde(flatten)]
    body: &'b T,
    load_progress: LoadProgress,
}

/// `body`, a chunk without text, as JSON with what its request waits for, for `time` by now.
pub(crate) fn waiting<T: Serialize>(body: &T, wait: Wait, time: Duration) -> String {
    let (state, place, loading) = match wait {
        Wait::Turn(place) => ("waiting", Some(place), None),
        Wait::Load(stage, weights) => ("loading", None, Some(Loading::new(stage, weights))),
    };
    let load_progress = LoadProgress { state, place, loading, time_ms: time.as_millis() };
    to_json(&Waiting { body, load_progress })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_fraction_is_given_only_where_it_is_known() {
        let shown = |wait| -> Value {
            let time = Duration::from_millis(7);
            serde_json::from_str(&waiting(&json!({"object": "x"}), wait, time)).unwrap()
        };
        for (wait, expected) in [
            (Wait::Turn(2), json!({"state": "waiting", "place": 2})),
            (Wait::Load(LoadStage::Graph, None), json!({"state": "loading", "stage": "graph"})),
            (
                Wait::Load(LoadStage::Weights, Some(0.12345)),
                json!({"state": "loading", "stage": "weights", "value": 0.123}),
            ),
            (Wait::Load(LoadStage::Weights, None), json!({"state": "loading", "stage": "weights"})),
            (
                Wait::Load(LoadStage::Trial, Some(1.0)),
                json!({"state": "loading", "stage": "trial"}),
            ),
        ] {
            let mut expected = json!({"object": "x", "load_progress": expected});
            expected["load_progress"]["time_ms"] = 7.into();
            assert_eq!(shown(wait), expected);
        }
    }
}
