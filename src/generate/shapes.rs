//! Checks the parameters of the filters and penalties that come from llama.cpp.

use super::error::{GenerateError, invalid};
use super::numbers::{Range, narrow, narrow_positive, number};
use super::request::{DryParameters, Parameters};
use phi4d_engine::{Dry, TokenSet, Xtc};

const DEFAULT_XTC_THRESHOLD: f32 = 0.1;
const DEFAULT_DRY_BASE: f32 = 1.75;
const DEFAULT_DRY_ALLOWED_LENGTH: usize = 2;

pub(super) fn top_n_sigma(given: Option<f64>) -> Result<f32, GenerateError> {
    match given {
        // llama.cpp's own way to turn it off.
        Some(-1.0) => Ok(0.0),
        given => Ok(number("top_n_sigma", given, Range::closed(0.0, 100.0))?.map_or(0.0, narrow)),
    }
}

pub(super) fn typical_p(field: &str, given: Option<f64>) -> Result<f32, GenerateError> {
    Ok(number(field, given, Range::above(0.0, 1.0))?.map_or(1.0, narrow_positive))
}

pub(super) fn xtc(given: &Parameters) -> Result<Option<Xtc>, GenerateError> {
    let probability = number("xtc_probability", given.xtc_probability, Range::closed(0.0, 1.0))?;
    let threshold = number("xtc_threshold", given.xtc_threshold, Range::closed(0.0, 0.5))?;
    Ok(probability.map(narrow).filter(|&probability| probability > 0.0).map(|probability| Xtc {
        probability,
        threshold: threshold.map_or(DEFAULT_XTC_THRESHOLD, narrow),
    }))
}

/// The penalty without its breakers, which take the tokenizer to find.
pub(super) fn dry(given: &DryParameters) -> Result<Option<Dry>, GenerateError> {
    let multiplier = number("dry_multiplier", given.multiplier, Range::closed(0.0, 10.0))?;
    let base = number("dry_base", given.base, Range::closed(1.0, 10.0))?;
    let allowed_length = match given.allowed_length {
        Some(0) => {
            return Err(invalid("dry_allowed_length", 0, "an integer of at least 1"));
        }
        Some(length) => usize::try_from(length).unwrap_or(usize::MAX),
        None => DEFAULT_DRY_ALLOWED_LENGTH,
    };
    let last_tokens = match given.penalty_last_n {
        None | Some(-1) => usize::MAX,
        Some(n) => usize::try_from(n).map_err(|_| {
            invalid("dry_penalty_last_n", n, "an integer of at least 0, or -1 for all tokens")
        })?,
    };
    let multiplier = multiplier.map_or(0.0, narrow);
    Ok((multiplier > 0.0 && last_tokens > 0).then(|| Dry {
        multiplier,
        base: base.map_or(DEFAULT_DRY_BASE, narrow),
        allowed_length,
        last_tokens,
        breakers: TokenSet::default(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault<T: std::fmt::Debug>(result: Result<T, GenerateError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn zero_turns_each_off() {
        let off = Parameters {
            xtc_probability: Some(0.0),
            dry: DryParameters { multiplier: Some(0.0), ..DryParameters::default() },
            ..Parameters::default()
        };
        assert_eq!((xtc(&off).unwrap(), dry(&off.dry).unwrap()), (None, None));
        let off = DryParameters { multiplier: Some(1.0), penalty_last_n: Some(0), ..off.dry };
        assert_eq!(dry(&off).unwrap(), None);
        for given in [None, Some(0.0), Some(-1.0)] {
            assert!(top_n_sigma(given).unwrap() == 0.0);
        }
        assert!(typical_p("typical_p", None).unwrap() == 1.0);
    }

    #[test]
    fn given_values_arrive_with_defaults_for_the_rest() {
        let given = Parameters { xtc_probability: Some(0.5), ..Parameters::default() };
        let expected = Xtc { probability: 0.5, threshold: DEFAULT_XTC_THRESHOLD };
        assert_eq!(xtc(&given).unwrap(), Some(expected));
        let given = DryParameters {
            multiplier: Some(0.5),
            penalty_last_n: Some(64),
            ..DryParameters::default()
        };
        let expected = Dry {
            multiplier: 0.5,
            base: 1.75,
            allowed_length: 2,
            last_tokens: 64,
            breakers: TokenSet::default(),
        };
        assert_eq!(dry(&given).unwrap(), Some(expected));
    }

    #[test]
    fn values_outside_their_ranges_are_refused_by_name() {
        for bad in [-2.0, -0.5, 101.0, f64::NAN] {
            assert!(fault(top_n_sigma(Some(bad))).starts_with("top_n_sigma: "));
        }
        for bad in [0.0, 1.5, f64::NAN] {
            assert!(fault(typical_p("typical_p", Some(bad))).starts_with("typical_p: "));
        }
        let with = |probability, threshold| {
            let given = Parameters {
                xtc_probability: Some(probability),
                xtc_threshold: Some(threshold),
                ..Parameters::default()
            };
            fault(xtc(&given))
        };
        assert!(with(1.1, 0.1).starts_with("xtc_probability: 1.1 "));
        assert!(with(0.5, 0.6).starts_with("xtc_threshold: 0.6 "));
        let on = DryParameters { multiplier: Some(1.0), ..DryParameters::default() };
        let table = [
            (DryParameters { multiplier: Some(-1.0), ..on.clone() }, "dry_multiplier: -1 "),
            (DryParameters { base: Some(0.5), ..on.clone() }, "dry_base: 0.5 "),
            (DryParameters { allowed_length: Some(0), ..on.clone() }, "dry_allowed_length: 0 "),
            (DryParameters { penalty_last_n: Some(-2), ..on }, "dry_penalty_last_n: -2 "),
        ];
        for (given, start) in table {
            assert!(fault(dry(&given)).starts_with(start));
        }
    }
}
