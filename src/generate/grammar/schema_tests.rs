//! The first walk over schemas of every size.

use super::*;

/// The field, value and bound of a refusal.
fn refused(schema: &Json) -> (String, String, String) {
    match check(schema, "f") {
        Err(GenerateError::InvalidField { field, value, accepted }) => (field, value, accepted),
        other => panic!("{other:?}"),
    }
}

/// `length` definitions, each a reference to the next.
fn chain(length: usize) -> Json {
    let next = |index: usize| json!({"$ref": format!("#/$defs/d{}", index + 1)});
    let mut definitions: Map<String, Json> =
        (0..length).map(|index| (format!("d{index}"), next(index))).collect();
    definitions.insert(format!("d{length}"), json!({"type": "null"}));
    json!({"$ref": "#/$defs/d0", "$defs": definitions})
}

/// `length` definitions, each an object with a property of the next.
fn nested_references(length: usize) -> Json {
    let next = |index: usize| json!({"type": "object", "properties": {"p": {"$ref": format!("#/$defs/d{}", index + 1)}}});
    let mut definitions: Map<String, Json> =
        (0..length).map(|index| (format!("d{index}"), next(index))).collect();
    definitions.insert(format!("d{length}"), json!({"type": "null"}));
    json!({"$ref": "#/$defs/d0", "$defs": definitions})
}

#[test]
fn each_bound_is_named_with_its_field_and_value() {
    let properties: Map<String, Json> =
        (0..40_000).map(|index| (format!("p{index}"), json!(true))).collect();
    let table = [
        (chain(593), ".$ref(#/$defs/d32)", "a chain of 33 references", "at most 32 in a chain"),
        (chain(100_000), "f", "more than 1048576 bytes", "at most 1048576 bytes"),
        (nested_references(300), ".properties.p", "a schema within 101 others", "at most 100"),
        (json!({"properties": properties}), "f.properties.p", "schema number 32769", "32768"),
        (json!({"enum": vec![json!({}); 5000]}), "f.enum", "a list of 5000", "at most 4096"),
        (json!({"anyOf": vec![json!({}); 5000]}), "f.anyOf", "a list of 5000", "at most 4096"),
        (json!({"const": "x".repeat(2 << 20)}), "f", "more than 1048576", "at most 1048576"),
        (json!({"enum": vec![json!({}); 1 << 20]}), "f", "more than 1048576", "at most 1048576"),
    ];
    for (schema, place, shown, bound) in table {
        let (field, value, accepted) = refused(&schema);
        assert!(field.contains(place), "{field}");
        assert!(value.contains(shown), "{field}: {value}");
        assert!(accepted.contains(bound), "{field}: {accepted}");
    }
}

#[test]
fn what_is_within_the_bounds_is_taken() {
    for schema in [chain(31), nested_references(48), json!({"enum": vec![json!(1); 4096]})] {
        check(&schema, "f").unwrap();
    }
    // A cycle is followed once.
    let cycle = json!({"$ref": "#/$defs/a", "$defs": {
        "a": {"$ref": "#/$defs/b"}, "b": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#"}]}}});
    check(&cycle, "f").unwrap();
}

/// The shortest way to a schema counts, not the longest: definitions that all refer to one another,
/// as those of large standards do.
#[test]
fn many_definitions_that_refer_to_one_another_are_not_deep() {
    let definition = |index: usize| {
        let properties: Map<String, Json> = (1..9)
            .map(|step| {
                (
                    format!("p{step}"),
                    json!({"$ref": format!("#/$defs/d{}", (index * 7 + step) % 700)}),
                )
            })
            .collect();
        json!({"type": "object", "properties": properties})
    };
    let definitions: Map<String, Json> =
        (0..700).map(|index| (format!("d{index}"), definition(index))).collect();
    check(&json!({"$ref": "#/$defs/d0", "$defs": definitions}), "f").unwrap();
}

#[test]
fn places_of_long_names_stay_short() {
    let mut schema = json!({"not": {}});
    for _ in 0..40 {
        schema = json!({"properties": {"x".repeat(10_000): schema}});
    }
    let (field, ..) = refused(&schema);
    assert!(field.len() < 5_000, "{}", field.len());
}
