//! Numbers of a schema. The grammar library computes with `f64` and gets exclusive bounds of
//! fractions wrong, so bounds are given to it closed and as numbers that `f64` holds: the nearest
//! ones inside. Numbers that must be exact and can't be are refused.

use serde_json::{Map, Number, Value as Json, json};

/// Above it, not every integer is an `f64`.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// The largest bound that the library can use (its integers have 64 bits).
const LARGEST: f64 = 9e18;

/// From here on, numbers have more digits than the library can count beyond.
const FAR: f64 = 1e17;

/// The least distance from an exclusive bound of 0.
const TINY: f64 = 1e-15;

/// The numbers that [`is_exact`] holds for.
pub(super) const EXACT_NUMBERS: &str = "a number up to 9007199254740992 (2^53), or a larger \
     integer of 63 bits that a 64-bit float holds exactly";

/// Whether the library spells exactly this number.
pub(super) fn is_exact(number: &Number) -> bool {
    match (number.as_i64(), number.as_f64()) {
        (Some(integer), Some(float)) => exactly(i128::from(integer), float),
        // Fractions. Larger ones may have been rounded when they were read.
        (None, Some(float)) => float.abs() < EXACT,
        _ => false,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the value is an integer of at most 64 bits as a float, which 128 bits hold"
)]
fn exactly(integer: i128, float: f64) -> bool {
    float as i128 == integer && float.abs() < LARGEST
}

/// The bounds of `fields` as `minimum` and `maximum` that the library keeps to.
pub(super) fn closed(fields: &Map<String, Json>, out: &mut Map<String, Json>) {
    let most = upper(fields);
    let least = lower(fields, most);
    // Far from zero the library needs both.
    let far = |bound: Option<f64>| bound.is_some_and(|bound| bound >= FAR);
    let least = if far(most.map(|most| -most)) { least.or(Some(-LARGEST)) } else { least };
    let most = if far(least) { most.or(Some(LARGEST)) } else { most };
    if let Some(least) = least {
        out.insert("minimum".into(), json!(least.max(-LARGEST)));
    }
    if let Some(most) = most {
        out.insert("maximum".into(), json!(most.min(LARGEST)));
    }
}

/// The largest number that the bounds allow.
fn upper(fields: &Map<String, Json>) -> Option<f64> {
    let get = |name: &str| fields.get(name).and_then(Json::as_number);
    let limit = get("maximum").and_then(|number| inside(number, false));
    let exclusive = match fields.get("exclusiveMaximum") {
        // As drafts 3 and 4 have it.
        Some(Json::Bool(true)) => limit,
        _ => get("exclusiveMaximum").and_then(|number| inside(number, false)),
    };
    let least = get("minimum").or(get("exclusiveMinimum")).and_then(Number::as_f64);
    let beside = |limit: f64| -beyond(-limit, least.map(|least| -least));
    smaller(limit, exclusive.map(beside))
}

/// The smallest number that the bounds allow; `most` is the largest.
fn lower(fields: &Map<String, Json>, most: Option<f64>) -> Option<f64> {
    let get = |name: &str| fields.get(name).and_then(Json::as_number);
    let limit = get("minimum").and_then(|number| inside(number, true));
    let exclusive = match fields.get("exclusiveMinimum") {
        Some(Json::Bool(true)) => limit,
        _ => get("exclusiveMinimum").and_then(|number| inside(number, true)),
    };
    let negative = |number: Option<f64>| number.map(|number| -number);
    negative(smaller(negative(limit), negative(exclusive.map(|limit| beyond(limit, most)))))
}

fn smaller(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// The `f64` for a bound that excludes no less than it: for a lower one (`up`) the nearest above.
fn inside(number: &Number, up: bool) -> Option<f64> {
    let float = number.as_f64()?;
    let integer = number.as_i64().map(i128::from).or(number.as_u64().map(i128::from));
    let further = match integer {
        Some(integer) => {
            #[expect(clippy::cast_possible_truncation, reason = "as in `exactly`")]
            let rounded = float as i128;
            if up { rounded < integer } else { rounded > integer }
        }
        // It may have been rounded when it was read.
        None => float.abs() > EXACT,
    };
    Some(match (further, up) {
        (false, _) => float,
        (true, true) => float.next_up(),
        (true, false) => float.next_down(),
    })
}

/// A number just above an exclusive lower bound; `most` is the upper one, if there is any.
fn beyond(limit: f64, most: Option<f64>) -> f64 {
    if limit == 0.0 {
        // The next number has 324 digits.
        most.filter(|most| *most > 0.0).map_or(TINY, |most| TINY.min(most / 8.0))
    } else {
        limit.next_up()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed_of(schema: &Json) -> (Option<f64>, Option<f64>) {
        let mut out = Map::new();
        closed(schema.as_object().unwrap(), &mut out);
        let get = |name: &str| out.get(name).and_then(Json::as_f64);
        (get("minimum"), get("maximum"))
    }

    #[test]
    fn bounds_are_closed_from_inside() {
        let table = [
            (json!({}), (None, None)),
            (json!({"minimum": 1, "maximum": 2.5}), (Some(1.0), Some(2.5))),
            (json!({"exclusiveMinimum": 0, "maximum": 0.5}), (Some(1e-15), Some(0.5))),
            (json!({"exclusiveMinimum": 0, "maximum": 8e-20}), (Some(1e-20), Some(8e-20))),
            (json!({"exclusiveMaximum": 0}), (None, Some(-1e-15))),
            (json!({"exclusiveMinimum": 1}), (Some(1.000_000_000_000_000_2), None)),
            (json!({"exclusiveMaximum": 1}), (None, Some(0.999_999_999_999_999_9))),
            (json!({"minimum": 3, "exclusiveMinimum": 1}), (Some(3.0), None)),
            (
                json!({"minimum": 1, "exclusiveMinimum": true}),
                (Some(1.000_000_000_000_000_2), None),
            ),
            (json!({"minimum": 1, "exclusiveMinimum": false}), (Some(1.0), None)),
            (json!({"maximum": i64::MAX}), (None, Some(9e18))),
            (json!({"minimum": 1_i64 << 60}), (Some(1_152_921_504_606_846_976.0), Some(9e18))),
            (json!({"maximum": -(1_i64 << 60)}), (Some(-9e18), Some(-1_152_921_504_606_846_976.0))),
            (json!({"minimum": i64::MIN, "maximum": u64::MAX}), (Some(-9e18), Some(9e18))),
            (
                json!({"minimum": 9_007_199_254_740_993_u64, "maximum": 9_007_199_254_740_995_u64}),
                (Some(9_007_199_254_740_994.0), Some(9_007_199_254_740_994.0)),
            ),
        ];
        for (schema, expected) in table {
            assert_eq!(closed_of(&schema), expected, "{schema}");
        }
    }

    #[test]
    fn exact_numbers_are_those_that_come_out_as_they_went_in() {
        let number = |text: &str| serde_json::from_str::<Number>(text).unwrap();
        for text in ["0", "-1", "0.1", "1e3", "9007199254740992", "1152921504606846976"] {
            assert!(is_exact(&number(text)), "{text}");
        }
        for text in [
            "9007199254740993",
            "-9007199254740993",
            "1234567890123456789",
            "9223372036854775807",
            "18446744073709551616",
            "1e21",
            "9007199254740993.0",
        ] {
            assert!(!is_exact(&number(text)), "{text}");
        }
    }
}
