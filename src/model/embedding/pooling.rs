//! How the vectors of a text's tokens become one.

use std::fmt;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::Value;

use crate::error::LoadError;

/// How the vectors of a text's tokens become one, in the words of sentence-transformers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of all tokens.
    Mean,
    /// The first token's.
    Cls,
    /// The last token's.
    LastToken,
    /// The greatest number at each place.
    Max,
}

/// All kinds: their name, and the key that is true in older files.
const KINDS: [(Pooling, &str, &str); 4] = [
    (Pooling::Mean, "mean", "pooling_mode_mean_tokens"),
    (Pooling::Cls, "cls", "pooling_mode_cls_token"),
    (Pooling::LastToken, "lasttoken", "pooling_mode_lasttoken"),
    (Pooling::Max, "max", "pooling_mode_max_tokens"),
];

impl fmt::Display for Pooling {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = KINDS.iter().find(|(kind, ..)| kind == self).map_or("", |(_, name, _)| name);
        formatter.write_str(name)
    }
}

impl Pooling {
    /// Reads a module's config.json; `None` if the file is not there.
    ///
    /// # Errors
    /// If it can't be read, or names no pooling or one that this program does not do.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, LoadError> {
        let invalid = |reason: String| LoadError::Invalid { path: path.into(), reason };
        let bytes = match std::fs::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(LoadError::Read { path: path.into(), source }),
            Ok(bytes) => bytes,
        };
        let config: Value = serde_json::from_slice(&bytes).map_err(|e| invalid(e.to_string()))?;
        Self::of(&config).map(Some).map_err(invalid)
    }

    fn of(config: &Value) -> Result<Self, String> {
        const ACCEPTED: &str = "expected one of mean, cls, lasttoken and max";
        if let Some(name) = config["pooling_mode"].as_str() {
            let kind = KINDS.iter().find(|(_, known, _)| *known == name);
            return kind.map(|kind| kind.0).ok_or(format!("pooling_mode is {name:?}; {ACCEPTED}"));
        }
        let fields = config.as_object().into_iter().flatten();
        let chosen =
            fields.filter(|(key, value)| key.starts_with("pooling_mode_") && **value == true);
        // Older files may ask for several, whose vectors are joined: none of the supported kinds.
        let chosen: Vec<&str> = chosen.map(|(key, _)| key.as_str()).collect();
        let kind = KINDS.iter().find(|(.., key)| chosen == [*key]);
        kind.map(|kind| kind.0).ok_or(match chosen.as_slice() {
            [] => format!("it names no pooling; {ACCEPTED}"),
            some => format!("{} is not supported; {ACCEPTED}", some.join(" with ")),
        })
    }

    /// The vector of a text whose tokens have the rows of `hidden`, each of `size` numbers.
    pub(super) fn pooled(self, hidden: &[f32], size: usize) -> Vec<f32> {
        let rows = || hidden.chunks_exact(size);
        match self {
            Self::Cls => rows().next().unwrap_or_default().to_vec(),
            Self::LastToken => rows().next_back().unwrap_or_default().to_vec(),
            Self::Max => {
                // Below any number, so that a text of negative values only keeps them.
                let mut most = vec![f32::NEG_INFINITY; size];
                for row in rows() {
                    most.iter_mut().zip(row).for_each(|(most, value)| *most = most.max(*value));
                }
                most
            }
            Self::Mean => {
                let mut sum = vec![0.0; size];
                for row in rows() {
                    sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
                }
                #[expect(clippy::cast_precision_loss, reason = "texts have far fewer tokens")]
                let count = rows().count().max(1) as f64;
                sum.into_iter().map(|sum| single(sum / count)).collect()
            }
        }
    }
}

/// Scales `vector` to length 1; a vector of zeros stays.
pub fn normalise(vector: &mut [f32]) {
    let length = vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|value| *value = single(f64::from(*value) / length));
    }
}

#[expect(clippy::cast_possible_truncation, reason = "sums are taken in double precision")]
fn single(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_kind_takes_what_it_is_named_for() {
        let hidden = [1.0, 2.0, 3.0, -2.0, 5.0, 0.0];
        let pooled = |kind: Pooling| kind.pooled(&hidden, 2);
        assert_eq!(pooled(Pooling::Mean), [3.0, 0.0]);
        assert_eq!(pooled(Pooling::Cls), [1.0, 2.0]);
        assert_eq!(pooled(Pooling::LastToken), [5.0, 0.0]);
        assert_eq!(pooled(Pooling::Max), [5.0, 2.0]);
    }

    #[test]
    fn length_becomes_one() {
        let mut vector = [3.0, 4.0];
        normalise(&mut vector);
        assert_eq!(vector, [0.6, 0.8]);
        let mut zeros = [0.0; 3];
        normalise(&mut zeros);
        assert_eq!(zeros, [0.0; 3]);
    }

    #[test]
    fn both_spellings_are_read_and_others_refused() {
        for (kind, name, key) in KINDS {
            assert_eq!(Pooling::of(&json!({ "pooling_mode": name })), Ok(kind));
            assert_eq!(Pooling::of(&json!({ key: true, "include_prompt": true })), Ok(kind));
            assert_eq!(kind.to_string(), name);
        }
        let refused = |config: Value| Pooling::of(&config).unwrap_err();
        assert!(refused(json!({})).contains("names no pooling"));
        assert!(refused(json!({ "pooling_mode": "weightedmean" })).contains("\"weightedmean\""));
        let two = json!({ "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true });
        assert!(refused(two).contains("pooling_mode_cls_token with pooling_mode_mean_tokens"));
        assert!(
            refused(json!({ "pooling_mode_mean_sqrt_len_tokens": true })).contains("not supported")
        );
    }
}
