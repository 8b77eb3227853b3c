//! Numbers of a schema. The grammar library computes with `f64` and gets exclusive bounds of
//! fractions wrong, so bounds are given to it closed and as numbers that `f64` holds: the nearest
//! ones inside. Numbers that must be exact and can't be are refused.

use serde_json::{Map, Number, Value as Json, json};

/// Up to here the multiples of a fraction that are integers are written as those of an integer. For the library such
/// a form has as many states as the integer says; what larger fractions mean is left to it.
const LARGEST_STEP: u32 = 10_000;

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
        (Some(integer), Some(float)) => {
            whole(float) == i128::from(integer) && float.abs() < LARGEST
        }
        // Fractions. Larger ones may have been rounded when they were read.
        (None, Some(float)) => float.abs() < EXACT,
        _ => false,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "whole, and only bounds that are far out of reach have more bits"
)]
fn whole(float: f64) -> i128 {
    float as i128
}

/// The bounds of `fields` as `minimum` and `maximum` that the library keeps to. What they leave out is only
/// what lies between the outermost numbers that `f64` holds and the bounds themselves.
pub(super) fn closed(fields: &Map<String, Json>, out: &mut Map<String, Json>) {
    let (least, most) = if is_integer(fields) {
        let step = step(fields);
        if let Some(step) = step.filter(|step| *step <= LARGEST_STEP) {
            out.insert("multipleOf".into(), json!(step));
        }
        let first = |side: Side| {
            let least = side.edges(fields).map(|(bound, open)| bound.integer(open)).max()?;
            Some(rounded_up(multiple(least, i128::from(step.unwrap_or(1)))))
        };
        (first(LOWER), first(UPPER).map(|bound| -bound))
    } else {
        let first = |side: Side, open: bool, most: Option<f64>| {
            let edges = side.edges(fields);
            edges.map(|(bound, is_open)| bound.float(open && is_open, most)).reduce(f64::max)
        };
        let negative = |bound: Option<f64>| bound.map(|bound| -bound);
        let most = negative(first(UPPER, true, negative(first(LOWER, false, None))));
        (first(LOWER, true, most), most)
    };
    // Far from zero the library needs both.
    let far = |bound: Option<f64>| bound.is_some_and(|bound| bound >= FAR);
    let least = if far(most.map(|most| -most)) { least.or(Some(-LARGEST)) } else { least };
    let most = if far(least) { most.or(Some(LARGEST)) } else { most };
    // Adding 0 takes the sign off a zero.
    if let Some(least) = least {
        out.insert("minimum".into(), json!(least.max(-LARGEST) + 0.0));
    }
    if let Some(most) = most {
        out.insert("maximum".into(), json!(most.min(LARGEST) + 0.0));
    }
}

/// Whether a schema has a bound that [`closed`] may have moved by more than a fraction.
pub(super) fn are_far(schema: &Json) -> bool {
    let names = [LOWER, UPPER].into_iter().flat_map(|side| [side.limit, side.exclusive]);
    names.filter_map(|name| schema.get(name)?.as_f64()).any(|bound| bound.abs() >= EXACT)
}

/// Whether the numbers that a schema allows are integers.
fn is_integer(fields: &Map<String, Json>) -> bool {
    let has = |name: &str| match fields.get("type") {
        Some(Json::Array(kinds)) => kinds.iter().any(|kind| kind == name),
        kind => kind.is_some_and(|kind| kind == name),
    };
    has("integer") && !has("number")
}

/// Bounds on one side: the keywords, and what makes them lower bounds.
#[derive(Clone, Copy)]
struct Side {
    limit: &'static str,
    exclusive: &'static str,
    sign: i8,
}

const LOWER: Side = Side { limit: "minimum", exclusive: "exclusiveMinimum", sign: 1 };
const UPPER: Side = Side { limit: "maximum", exclusive: "exclusiveMaximum", sign: -1 };

impl Side {
    /// The bounds, and whether each is excluded itself.
    fn edges(self, fields: &Map<String, Json>) -> impl Iterator<Item = (Bound, bool)> {
        // As drafts 3 and 4 have it.
        let is_open = fields.get(self.exclusive) == Some(&Json::Bool(true));
        let both = [(self.limit, is_open), (self.exclusive, true)];
        both.into_iter().filter_map(move |(name, is_open)| {
            Some((Bound::of(fields.get(name)?.as_number()?, self.sign)?, is_open))
        })
    }
}

/// A lower bound.
#[derive(Debug, Clone, Copy)]
enum Bound {
    Integer(i128),
    Float(f64),
}

impl Bound {
    fn of(number: &Number, sign: i8) -> Option<Self> {
        match number.as_i64().map(i128::from).or(number.as_u64().map(i128::from)) {
            Some(integer) => Some(Self::Integer(integer * i128::from(sign))),
            None => {
                let float = number.as_f64()? * f64::from(sign);
                Some(Self::Float(if is_certain(float) { float } else { float.next_up() }))
            }
        }
    }

    /// The least integer that it allows.
    fn integer(self, is_open: bool) -> i128 {
        match self {
            Self::Integer(integer) => integer + i128::from(is_open),
            Self::Float(float) => {
                let is_excluded = is_open && float.fract() == 0.0;
                whole(float.ceil()).saturating_add(i128::from(is_excluded))
            }
        }
    }

    /// A small `f64` that it allows; the bound itself if it can be. `most` is the upper bound, if there is any.
    fn float(self, is_open: bool, most: Option<f64>) -> f64 {
        let (float, is_above) = match self {
            Self::Integer(integer) => {
                let float = rounded_up(integer);
                (float, whole(float) > integer)
            }
            Self::Float(float) => (float, false),
        };
        if is_open && !is_above { beyond(float, most) } else { float }
    }
}

/// Whether a number that was read as a float is surely what was written: a float has at least 15 digits, so what
/// has no more has not been rounded.
fn is_certain(float: f64) -> bool {
    let digits =
        format!("{float:e}").bytes().take_while(|c| *c != b'e').filter(u8::is_ascii_digit).count();
    float.abs() < EXACT || digits <= 15
}

/// The smallest `f64` that is not below.
fn rounded_up(integer: i128) -> f64 {
    let float = integer as f64;
    if whole(float) < integer { float.next_up() } else { float }
}

/// The smallest multiple of `step` that is not below.
fn multiple(integer: i128, step: i128) -> i128 {
    integer.saturating_add((step - integer.rem_euclid(step)) % step)
}

/// What integers must be multiples of where numbers must be multiples of `multipleOf`; `None` if there is no
/// such keyword, or the library can't count so far.
fn step(fields: &Map<String, Json>) -> Option<u32> {
    // As it was written: 0.7 is seven tenths, which no float is.
    let text = fields.get("multipleOf")?.as_f64()?.to_string();
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let numerator: u64 = format!("{whole}{fraction}").parse().ok()?;
    let denominator = 10_u64.checked_pow(fraction.len().try_into().ok()?)?;
    let (mut common, mut rest) = (numerator, denominator);
    while rest > 0 {
        (common, rest) = (rest, common % rest);
    }
    u32::try_from(numerator.checked_div(common)?).ok().filter(|step| *step > 0)
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
#[path = "bounds_tests.rs"]
mod tests;
