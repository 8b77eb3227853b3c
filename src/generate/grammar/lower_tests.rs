//! What schemas become for the grammar library.

use super::*;

fn closed(schema: &Json) -> Json {
    lowered(schema, Closing::Listed)
}

#[test]
fn objects_with_listed_properties_are_closed() {
    let a = json!({"properties": {"a": {"type": "integer"}}});
    let with = |more: Json| -> Json {
        let mut schema = a.clone();
        schema.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        schema
    };
    let no_others = json!({"additionalProperties": false});
    assert_eq!(closed(&a), with(no_others.clone()));
    for same in [
        with(json!({"additionalProperties": true})),
        with(json!({"additionalProperties": {"type": "null"}})),
        with(no_others.clone()),
        json!({"type": "object"}),
        json!({"type": "object", "required": ["a"]}),
    ] {
        assert_eq!(closed(&same), same);
    }
    // What is required may be there, whether it is listed or not.
    let required = closed(&with(json!({"required": ["b"]})));
    assert_eq!(required["properties"], json!({"a": {"type": "integer"}, "b": true}));
    assert_eq!(closed(&with(json!({"unevaluatedProperties": true}))), a);
    assert_eq!(lowered(&a, Closing::Literal), a);
    let left_over = with(json!({"unevaluatedProperties": false}));
    assert_eq!(lowered(&left_over, Closing::Literal), with(no_others));
}

/// Parts of one object have their properties in common: only the whole is closed.
#[test]
fn an_object_in_parts_is_closed_as_a_whole() {
    let part = |name: &str| json!({"properties": {name: {"type": "integer"}}});
    let closure = |names: &[&str]| {
        let all: Map<String, Json> =
            names.iter().map(|name| ((*name).into(), json!(true))).collect();
        json!({"properties": all, "additionalProperties": false})
    };
    let all = closed(&json!({"allOf": [part("a"), part("b")]}));
    assert_eq!(all, json!({"allOf": [part("a"), part("b"), closure(&["b", "a"])]}));
    let beside = closed(&json!({"properties": {"a": true}, "anyOf": [part("b"), part("c")]}));
    let one = |name: &str| {
        let mut one = part(name);
        one["allOf"] = json!([closure(&["a", name])]);
        one
    };
    let expected = json!({"properties": {"a": true}, "anyOf": [one("b"), one("c")]});
    assert_eq!(beside, expected);
    let schema = json!({
        "$defs": {"base": part("a")},
        "allOf": [{"$ref": "#/$defs/base"}, part("b")],
        "properties": {"c": {"$ref": "#/$defs/base"}}
    });
    let result = closed(&schema);
    let definitions: Vec<&Json> = result["$defs"].as_object().unwrap().values().collect();
    // One for the part, and one for the object that stands alone.
    assert_eq!(definitions.len(), 2, "{result}");
    assert!(definitions.contains(&&part("a")), "{result}");
}

#[test]
fn alternatives_each_close_their_own_object() {
    let part = |name: &str| json!({"type": "object", "properties": {name: {"const": 1}}});
    let result = closed(&json!({"anyOf": [part("a"), {"type": "null"}, part("b")]}));
    for index in [0, 2] {
        assert_eq!(result["anyOf"][index]["additionalProperties"], false, "{result}");
    }
}

#[test]
fn alternatives_that_can_be_distinguished_are_any_of_them() {
    let apart = json!([{"type": "null"}, {"type": "object"}]);
    assert_eq!(closed(&json!({"oneOf": apart})), json!({"anyOf": apart}));
    let both = closed(&json!({"anyOf": [{}], "oneOf": apart}));
    assert_eq!(both, json!({"anyOf": [{}], "allOf": [{"anyOf": apart}]}));
    let overlapping = json!({"oneOf": [{"type": "number"}, {"type": "integer"}]});
    assert_eq!(closed(&overlapping), overlapping);
}

#[test]
fn references_become_definitions_of_their_own() {
    let schema = json!({
        "$id": "http://x/y", "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": {"a/b": {"items": {"$ref": "http://x/y#/%24defs/a~1b"}}, "unused": {"not": {}}},
        "$ref": "#/$defs/a~1b"
    });
    let result = closed(&schema);
    let name = result["$ref"].as_str().unwrap().strip_prefix("#/$defs/").unwrap();
    let definitions = result["$defs"].as_object().unwrap();
    assert_eq!(definitions.len(), 1, "{result}");
    assert_eq!(definitions[name], json!({"items": {"$ref": format!("#/$defs/{name}")}}));
    assert_eq!(result.as_object().unwrap().len(), 2, "{result}");
}

#[test]
fn older_drafts_and_annotations_are_translated() {
    let table = [
        (
            json!({"items": [true], "additionalItems": false}),
            json!({"prefixItems": [true], "items": false}),
        ),
        (json!({"items": {}, "additionalItems": false}), json!({"items": {}})),
        (
            json!({"prefixItems": [{}], "unevaluatedItems": false}),
            json!({"prefixItems": [{}], "items": false}),
        ),
        (
            json!({"title": "t", "default": 1, "examples": [2], "x": {}, "format": "unknown"}),
            json!({}),
        ),
        (json!({"minLength": 2.0, "required": null}), json!({"minLength": 2})),
        (
            json!({"$schema": "http://json-schema.org/draft-07/schema#", "prefixItems": [false]}),
            json!({}),
        ),
        (json!({"pattern": "/"}), json!({"pattern": "\\x2f"})),
        (json!({"patternProperties": {"^.": {}}})["patternProperties"].clone(), json!({})),
        (json!(true), json!(true)),
        (json!(false), json!(false)),
    ];
    for (schema, expected) in table {
        assert_eq!(lowered(&schema, Closing::Literal), expected, "{schema}");
    }
    let both = closed(&json!({"format": "ipv4", "pattern": "1$"}));
    assert_eq!(both["pattern"], "1$");
    assert_eq!(both["allOf"][0]["pattern"].as_str(), formats::pattern("ipv4"));
}

/// However many definitions refer to one another, the result stays in proportion.
#[test]
fn closing_is_bounded() {
    let names: Map<String, Json> =
        (0..1000).map(|index| (format!("property number {index}"), json!({}))).collect();
    let parts: Vec<Json> =
        (0..1000).map(|index| json!({"properties": {format!("p{index}"): {}}})).collect();
    let schema = json!({"properties": names, "anyOf": parts});
    let size = lowered(&schema, Closing::Listed).to_string().len();
    assert!(size < 4 << 20, "{size}");
}

/// Schemas whose rewriting could take far more work than they have bytes.
#[test]
fn the_work_is_bounded() {
    let many = |count: usize, of: &dyn Fn(usize) -> Json| Json::Array((0..count).map(of).collect());
    let reference = json!({"$ref": "#/$defs/a"});
    let both = json!({"anyOf": many(4000, &|_| reference.clone())});
    let tagged = many(
        4000,
        &|index| json!({"type": "object", "properties": {"t": {"const": index}}, "required": ["t"]}),
    );
    let left_over = many(300, &|_| json!({"allOf": [reference], "unevaluatedProperties": false}));
    let wide = json!({"allOf": many(4000, &|index| json!({"required": [index.to_string()]}))});
    for schema in [
        json!({"oneOf": many(4000, &|_| reference.clone()), "$defs": {"a": both}}),
        json!({"oneOf": tagged, "properties": {"t": {}}}),
        json!({"allOf": left_over, "$defs": {"a": wide}}),
        json!({"prefixItems": left_over, "$defs": {"a": wide}}),
    ] {
        let _ = super::super::schema::check(&schema, "f");
        let size = closed(&schema).to_string().len();
        assert!(size < 16 << 20, "{size}");
    }
}
