//! What bounds become, by a table and by exact arithmetic.

use proptest::prelude::*;

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
        (json!({"minimum": 1, "exclusiveMinimum": true}), (Some(1.000_000_000_000_000_2), None)),
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
    // Integers lie closer together than floats.
    let integer = |fields: &str| {
        closed_of(&serde_json::from_str(&format!("{{\"type\": [\"integer\"], {fields}}}")).unwrap())
    };
    for (fields, least, most) in [
        (r#""exclusiveMinimum": 0, "maximum": 0.5"#, 1.0, 0.0),
        (r#""minimum": -0.0, "exclusiveMaximum": 1"#, 0.0, 0.0),
        (r#""minimum": 0.5, "maximum": 9.5, "multipleOf": 0.7"#, 7.0, 7.0),
        (r#""minimum": 1e17, "maximum": 1e17"#, 1e17, 1e17),
        (
            r#""exclusiveMinimum": 9007199254740993, "exclusiveMaximum": 9007199254740997"#,
            9_007_199_254_740_994.0,
            9_007_199_254_740_996.0,
        ),
        (r#""minimum": 9000000000000000000, "exclusiveMaximum": 9e18"#, 9e18, 9e18_f64.next_down()),
        (r#""minimum": -1e300, "maximum": 18446744073709551616"#, -9e18, 9e18),
    ] {
        assert_eq!(integer(fields), (Some(least), Some(most)), "{fields}");
    }
}

/// Bounds and steps as texts, of which JSON's reader makes what it does of a request's.
fn bound() -> impl Strategy<Value = String> {
    let near = (-5_i128..6).prop_flat_map(|more| {
        let around =
            [0_i128, 1 << 53, 1 << 54, 1 << 60, i128::from(i64::MAX), i128::from(u64::MAX)];
        (prop::sample::select(around.to_vec()), any::<bool>()).prop_map(move |(at, negative)| {
            if negative { -at - more } else { at + more }.to_string()
        })
    });
    let fraction =
        (-40_i32..40, 1_i32..8).prop_map(|(a, b)| (f64::from(a) / f64::from(b)).to_string());
    let written =
        ["-0.0", "1e17", "-1e17", "2.5e16", "9007199254740993.0", "1e19", "1e300", "9e18"];
    prop_oneof![4 => near, 2 => fraction, 1 => prop::sample::select(written.to_vec()).prop_map(String::from)]
}

/// Whether an integer is at least (above, if `is_open`) a number, by the number's digits.
fn is_above(integer: i128, text: &str, is_open: bool) -> bool {
    let number: Number = serde_json::from_str(text).unwrap();
    match text.parse::<i128>() {
        Ok(bound) => integer > bound || integer == bound && !is_open,
        Err(_) => {
            let bound = number.as_f64().unwrap();
            let floor = whole(bound.floor());
            integer > floor || integer == floor && bound.fract() == 0.0 && !is_open
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// The library's reading of what it is given has no integer beyond the exact bounds, and lacks none that
    /// lies between floats within them.
    #[test]
    fn integers_are_bounded_exactly(
        least in bound(), most in bound(), open in any::<[bool; 2]>(), older: bool,
        step in prop::option::of(prop::sample::select(vec!["1", "3", "7", "0.5", "1.5", "0.7", "1e3"])),
    ) {
        let name = |side: &str, is_open: bool| match (is_open, older) {
            (false, _) => format!("\"{side}imum\""),
            (true, true) => format!("\"exclusive{}imum\": true, \"{side}imum\"", capital(side)),
            (true, false) => format!("\"exclusive{}imum\"", capital(side)),
        };
        let step_text = step.map_or(String::new(), |step| format!(", \"multipleOf\": {step}"));
        let text = format!(
            "{{\"type\": \"integer\", {}: {least}, {}: {most}{step_text}}}",
            name("min", open[0]), name("max", open[1]),
        );
        let schema: Json = serde_json::from_str(&text).unwrap();
        let mut out = Map::new();
        closed(schema.as_object().unwrap(), &mut out);
        let (low, high) = (out["minimum"].as_f64().unwrap(), out["maximum"].as_f64().unwrap());
        let every = out.get("multipleOf").map_or(1, |step| i128::from(step.as_u64().unwrap()));
        let given = |value: i128| {
            value >= whole(low) && value <= whole(high) && value % every == 0
        };
        let exact = |value: i128| {
            is_above(value, &least, open[0])
                && is_above(-value, &negative(&most), open[1])
                && step.is_none_or(|step| (value * 10) % whole(step.parse::<f64>().unwrap() * 10.0) == 0)
        };
        let around = [low, high].map(whole);
        let near = |edge: i128| (-2100..2100).map(move |more| edge.saturating_add(more));
        for value in around.into_iter().flat_map(near) {
            prop_assert!(exact(value) || !given(value), "{value} is allowed: {out:?}");
            let is_float = whole(value as f64) == value && value.abs() <= whole(LARGEST);
            let certain = |text: &str| {
                let number: Number = serde_json::from_str(text).unwrap();
                text.parse::<i128>().is_ok() || number.as_f64().is_some_and(is_certain)
            };
            if is_float && certain(&least) && certain(&most) {
                prop_assert!(given(value) || !exact(value), "{value} is not allowed: {out:?}");
            }
        }
    }
}

fn capital(side: &str) -> &str {
    if side == "min" { "Min" } else { "Max" }
}

fn negative(text: &str) -> String {
    text.strip_prefix('-').map_or_else(|| format!("-{text}"), String::from)
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
