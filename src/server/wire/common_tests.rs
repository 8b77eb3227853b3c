use super::*;
use serde_json::json;

#[derive(Debug, Deserialize)]
struct Fields {
    integer: Option<Integer>,
    number: Option<Number>,
    list: Option<List<Object<Inner>, 3>>,
    #[serde(rename = "map")]
    _map: Option<Entries<Number, 2>>,
    #[serde(rename = "text")]
    _text: Option<TextOr<String, 2>>,
    #[serde(rename = "flag")]
    _flag: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Inner {
    #[serde(rename = "name")]
    _name: Option<String>,
}

fn fault(body: &Value) -> (Option<String>, String) {
    let error = read_fields::<Fields>(body).unwrap_err();
    assert_eq!(error.status.as_u16(), 400);
    assert_eq!(error.code, "invalid_type");
    (error.param, error.message)
}

#[test]
fn wrong_types_name_path_value_and_what_is_expected() {
    let table = [
        (json!({"integer": 5.0}), "integer", "floating point `5.0`, expected an integer"),
        (json!({"integer": "5"}), "integer", "string \"5\", expected an integer"),
        (json!({"integer": true}), "integer", "boolean `true`, expected an integer"),
        (json!({"number": "1"}), "number", "string \"1\", expected a number"),
        (json!({"number": [1]}), "number", "a list, expected a number"),
        (json!({"list": {"a": 1}}), "list", "an object, expected a list"),
        (json!({"list": [{}, ["x"]]}), "list[1]", "a list, expected an object"),
        (json!({"list": [{"name": 3}]}), "list[0].name", "integer `3`, expected a string"),
        (json!({"map": [1]}), "map", "a list, expected an object"),
        (json!({"map": {"7": "x"}}), "map.7", "string \"x\", expected a number"),
        (json!({"text": 3}), "text", "integer `3`, expected a string or a list"),
        (json!({"text": ["a", 3]}), "text[1]", "integer `3`, expected a string"),
        (json!({"flag": "yes"}), "flag", "string \"yes\", expected a boolean"),
    ];
    for (body, param, reason) in table {
        let (found, message) = fault(&body);
        assert_eq!(found.as_deref(), Some(param), "{message}");
        assert_eq!(message, format!("{param}: invalid type: {reason}"));
    }
}

#[test]
fn what_is_longer_than_its_bound_is_refused_before_it_is_read() {
    let many: serde_json::Map<String, Value> =
        (0..1025).map(|index| (index.to_string(), Value::Null)).collect();
    let table = [
        (json!({"list": [1, 2, 3, 4]}), "list: a list of 4 items", "at most 3 items"),
        (json!({"text": [1, 2, 3]}), "text: a list of 3 items", "at most 2 items"),
        (
            json!({"map": {"a": 1, "b": 2, "c": "x"}}),
            "map: an object of 3 entries",
            "at most 2 entries",
        ),
        (Value::Object(many), "the request's body: 1025 fields", "at most 1024 fields"),
    ];
    for (body, start, end) in table {
        let error = read_fields::<Fields>(&body).unwrap_err();
        assert_eq!(error.status.as_u16(), 400);
        assert!(error.message.starts_with(start), "{}", error.message);
        assert!(error.message.ends_with(end), "{}", error.message);
    }
    let full = json!({"list": [{}, {}, {}], "text": ["a", "b"], "map": {"a": 1, "b": 2}});
    read_fields::<Fields>(&full).unwrap();
}

#[test]
fn a_body_that_is_no_object_is_refused() {
    for body in [json!([]), json!("x"), json!(3), json!(null)] {
        let (param, message) = fault(&body);
        assert_eq!(param, None);
        assert!(message.contains("expected a JSON object"), "{message}");
    }
}

#[test]
fn long_values_are_not_repeated_whole() {
    let (_, message) = fault(&json!({"number": "x".repeat(10_000)}));
    assert!(message.len() < 300, "{message}");
    assert!(message.ends_with("expected a number"), "{message}");
}

#[test]
fn null_is_not_given_and_unknown_fields_are_ignored() {
    let body = json!({"integer": null, "number": null, "list": null, "other": [1]});
    let fields: Fields = read_fields(&body).unwrap();
    assert!(fields.integer.is_none() && fields.number.is_none() && fields.list.is_none());
}

#[test]
fn integers_are_exact_up_to_64_bits() {
    let integer = |value: Value| {
        let fields: Fields = read_fields(&json!({ "integer": value })).unwrap();
        fields.integer.unwrap()
    };
    assert_eq!(integer(json!(u64::MAX)).fit::<u64>("f", "").unwrap(), u64::MAX);
    assert_eq!(integer(json!(i64::MIN)).fit::<i64>("f", "").unwrap(), i64::MIN);
    let error = integer(json!(-1)).fit::<u64>("max_tokens", "1 or more").unwrap_err();
    assert_eq!(error.message, "max_tokens: -1 is not accepted; expected 1 or more");
}

#[test]
fn stream_options_need_a_stream() {
    let delivery =
        |body: Value| read_fields::<AnswerFields>(&body).and_then(|fields| fields.delivery());
    assert_eq!(delivery(json!({})).unwrap(), Delivery::Whole);
    assert_eq!(delivery(json!({"stream": false})).unwrap(), Delivery::Whole);
    let plain = Delivery::Stream { include_usage: false, continuous: false };
    assert_eq!(delivery(json!({"stream": true})).unwrap(), plain);
    let body = json!({"stream": true, "stream_options": {"include_usage": true}});
    assert_eq!(
        delivery(body).unwrap(),
        Delivery::Stream { include_usage: true, continuous: false }
    );
    let error = delivery(json!({"stream_options": {}})).unwrap_err();
    assert_eq!(error.param.as_deref(), Some("stream_options"));
    let error = delivery(json!({"stream": true, "stream_options": [true]})).unwrap_err();
    assert_eq!(error.param.as_deref(), Some("stream_options"));
}
