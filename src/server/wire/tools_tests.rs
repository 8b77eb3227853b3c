use super::super::common::read_fields;
use super::*;
use serde_json::json;

fn read(body: &Value) -> Result<Tools, ApiError> {
    read_fields::<ToolFields>(body).and_then(ToolFields::tools)
}

fn tool(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name}})
}

#[test]
fn tools_and_the_choice_among_them_arrive() {
    let body = json!({
        "tools": [tool("a"), {"type": "function", "function": {
            "name": "b-2_", "description": "d", "strict": true,
            "parameters": {"type": "object", "properties": {"z": {}, "a": {}}}
        }}],
        "tool_choice": {"type": "function", "function": {"name": "a"}},
        "parallel_tool_calls": false
    });
    let tools = read(&body).unwrap();
    assert_eq!(tools.choice, ToolChoice::Named("a".to_owned()));
    assert!(tools.single);
    let [a, b] = tools.definitions.as_slice() else { panic!("{tools:?}") };
    assert_eq!((a.name.as_str(), a.strict, a.parameters.len()), ("a", None, 0));
    assert_eq!((b.description.as_deref(), b.strict), (Some("d"), Some(true)));
    // In the order given, which the model is to see.
    let names: Vec<&String> = b.parameters["properties"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["z", "a"]);
}

#[test]
fn words_choose() {
    for (word, choice) in
        [("auto", ToolChoice::Auto), ("none", ToolChoice::None), ("required", ToolChoice::Required)]
    {
        let body = json!({"tools": [tool("a")], "tool_choice": word});
        assert_eq!(read(&body).unwrap().choice, choice);
    }
    for nothing in [json!({}), json!({"tools": []}), json!({"tool_choice": "none"})] {
        assert!(read(&nothing).unwrap().definitions.is_empty());
    }
}

#[test]
fn the_model_is_reported_of_allowed_tools_only() {
    let choice = json!({"type": "allowed_tools", "allowed_tools": {
        "mode": "required", "tools": [tool("b")]
    }});
    let tools = read(&json!({"tools": [tool("a"), tool("b")], "tool_choice": choice})).unwrap();
    assert_eq!(tools.choice, ToolChoice::Required);
    assert_eq!(tools.definitions.len(), 1);
    assert_eq!(tools.definitions[0].name, "b");
}

#[test]
fn faults_name_their_place() {
    let (missing, value, kind) = ("missing_required_parameter", "invalid_value", "invalid_type");
    let function = |function: Value| json!({"tools": [{"type": "function", "function": function}]});
    let choose = |choice: Value| json!({"tools": [tool("a")], "tool_choice": choice});
    let allow = |allowed: Value| choose(json!({"type": "allowed_tools", "allowed_tools": allowed}));
    let long = "x".repeat(65);
    let table = [
        (json!({"tools": {}}), "tools", kind),
        (json!({"tools": ["f"]}), "tools[0]", kind),
        (json!({"tools": vec![tool("a"); 129]}), "tools", value),
        (json!({"tools": [{"function": {"name": "a"}}]}), "tools[0].type", missing),
        (
            json!({"tools": [tool("a"), {"type": "web_search"}]}),
            "tools[1].type",
            "unsupported_parameter",
        ),
        (json!({"tools": [{"type": "function"}]}), "tools[0].function", missing),
        (function(json!({})), "tools[0].function.name", missing),
        (function(json!({"name": ""})), "tools[0].function.name", value),
        (function(json!({"name": "a b"})), "tools[0].function.name", value),
        (function(json!({"name": long})), "tools[0].function.name", value),
        (json!({"tools": [tool("a"), tool("a")]}), "tools[1].function.name", value),
        (function(json!({"name": "a", "parameters": [1]})), "tools[0].function.parameters", kind),
        (
            function(json!({"name": "a", "parameters": {"type": "string"}})),
            "tools[0].function.parameters.type",
            value,
        ),
        (function(json!({"name": "a", "strict": "yes"})), "tools[0].function.strict", kind),
        (json!({"tool_choice": "required"}), "tool_choice", value),
        (choose(json!("any")), "tool_choice", value),
        (choose(json!(7)), "tool_choice", kind),
        (choose(json!({"type": "custom"})), "tool_choice.type", value),
        (choose(json!({"type": "function"})), "tool_choice.function.name", missing),
        (
            choose(json!({"type": "function", "function": {"name": "b"}})),
            "tool_choice.function.name",
            value,
        ),
        (allow(json!({})), "tool_choice.allowed_tools.tools", missing),
        (
            allow(json!({"tools": [tool("b")]})),
            "tool_choice.allowed_tools.tools[0].function.name",
            value,
        ),
        (
            allow(json!({"tools": [tool("a")], "mode": "none"})),
            "tool_choice.allowed_tools.mode",
            value,
        ),
        (json!({"parallel_tool_calls": "no"}), "parallel_tool_calls", kind),
    ];
    for (body, param, code) in table {
        let error = read(&body).unwrap_err();
        assert_eq!(error.param.as_deref(), Some(param), "{body}: {}", error.message);
        assert_eq!(error.code, code, "{body}: {}", error.message);
    }
}
