//! What the answer must be: OpenAI's `response_format`, and the names that llama.cpp's server and
//! vLLM give to the same.

use serde::Deserialize;
use serde_json::Value;

use super::bounds;
use super::common::{List, Object, shown, unsupported_word};
use super::gbnf;
use super::tools::is_name;
use crate::error::{ApiError, shortened};
use crate::memory::MOST_SPELT;
use phi4d_generate::{Constraint, Form, MOST_GRAMMAR_BYTES};

/// The fields of a request, at most one of which may be given.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct FormFields {
    response_format: Option<Object<ResponseFormat>>,
    json_schema: Option<Value>,
    grammar: Option<String>,
    structured_outputs: Option<Object<StructuredOutputs>>,
    guided_json: Option<Value>,
    guided_regex: Option<String>,
    guided_choice: Option<List<String, { bounds::CHOICES }>>,
    guided_grammar: Option<String>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct ResponseFormat {
    #[serde(rename = "type")]
    kind: Option<String>,
    json_schema: Option<Object<NamedSchema>>,
    /// llama.cpp's: beside `json_object`.
    schema: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct NamedSchema {
    name: Option<String>,
    schema: Option<Value>,
    // Only `false` says something; a client that gives something else is not refused for it.
    strict: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct StructuredOutputs {
    json: Option<Value>,
    json_object: Option<bool>,
    regex: Option<String>,
    choice: Option<List<String, { bounds::CHOICES }>>,
    grammar: Option<String>,
    structural_tag: Option<Value>,
}

const SCHEMA: &str = "a JSON Schema";
const KINDS: &str = "\"text\", \"json_object\" or \"json_schema\"";

impl FormFields {
    /// What the output must be; at most one field may ask for it.
    pub(crate) fn constraint(self) -> Result<Option<Constraint>, ApiError> {
        let mut given = Given::default();
        if let Some(Object(format)) = self.response_format {
            given.add(format.constraint("response_format")?)?;
        }
        given.add(self.json_schema.map(|schema| of_schema("json_schema", schema)).transpose()?)?;
        given.add(grammar("grammar", self.grammar)?)?;
        if let Some(Object(outputs)) = self.structured_outputs {
            outputs.add_to(&mut given)?;
        }
        given.add(self.guided_json.map(|schema| of_schema("guided_json", schema)).transpose()?)?;
        given.add(self.guided_regex.map(|text| of("guided_regex", Form::Regex(text))))?;
        given.add(self.guided_choice.map(|list| of("guided_choice", Form::Choice(list.0))))?;
        given.add(grammar("guided_grammar", self.guided_grammar)?)?;
        Ok(given.0)
    }
}

/// The one form that was given so far.
#[derive(Default)]
struct Given(Option<Constraint>);

impl Given {
    fn add(&mut self, further: Option<Constraint>) -> Result<(), ApiError> {
        match (&self.0, further) {
            (_, None) => Ok(()),
            (None, further) => {
                self.0 = further;
                Ok(())
            }
            (Some(first), Some(further)) => Err(ApiError::invalid_value(
                further.field,
                format_args!("a form beside {}", first.field),
                "one of them only",
            )),
        }
    }
}

pub(super) fn of(field: impl Into<String>, form: Form) -> Constraint {
    Constraint { form, field: field.into() }
}

/// A schema, as JSON or as text that spells it. Such a text is an object's before it is parsed, and no
/// longer than a schema may be: [`measure`](crate::memory::measure) has counted no other's values.
pub(super) fn of_schema(field: &str, schema: Value) -> Result<Constraint, ApiError> {
    let refused = |shown: String| ApiError::invalid_value(field, shown, SCHEMA);
    let schema = match schema {
        Value::String(text) if text.len() > MOST_SPELT => {
            let value = format!("a schema of {} bytes", text.len());
            let accepted = format!("one of at most {MOST_SPELT} bytes");
            return Err(ApiError::invalid_value(field, value, &accepted));
        }
        Value::String(text) => match text.trim_matches([' ', '\n', '\r', '\t']) {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            object if object.starts_with('{') => serde_json::from_str(object).map_err(|error| {
                ApiError::invalid_value(field, shown(&object.into()), &format!("{SCHEMA}: {error}"))
            })?,
            _ => return Err(refused(shown(&text.into()))),
        },
        schema => schema,
    };
    match schema {
        Value::Object(_) | Value::Bool(_) => Ok(of(field, Form::JsonSchema(schema))),
        other => Err(refused(shown(&other))),
    }
}

/// A grammar in Lark's notation or in llama.cpp's (GBNF), which is recognised by its `::=`.
fn grammar(field: &str, text: Option<String>) -> Result<Option<Constraint>, ApiError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    // A translation is many times as large, so this does not wait for it.
    if text.len() > MOST_GRAMMAR_BYTES {
        let value = format!("a grammar of {} bytes", text.len());
        let accepted = format!("one of at most {MOST_GRAMMAR_BYTES} bytes");
        return Err(ApiError::invalid_value(field, value, &accepted));
    }
    if !gbnf::is_gbnf(&text) {
        return Ok(Some(of(field, Form::Lark(text))));
    }
    let lark = gbnf::to_lark(&text).map_err(|reason| {
        // Rules' names are the client's own, which may be long.
        let accepted = format!("a grammar in GBNF, but {}", shortened(&reason));
        ApiError::invalid_value(field, shown(&text.into()), &accepted)
    })?;
    Ok(Some(of(field, Form::Lark(lark))))
}

impl ResponseFormat {
    fn constraint(self, place: &str) -> Result<Option<Constraint>, ApiError> {
        match self.kind.as_deref() {
            Some("json_object") => match self.schema {
                Some(schema) => of_schema(&format!("{place}.schema"), schema).map(Some),
                None => Ok(Some(of(place, Form::JsonObject))),
            },
            Some("json_schema") => {
                let place = format!("{place}.json_schema");
                let Some(Object(named)) = self.json_schema else {
                    return Err(ApiError::missing(place, "an object with name and schema"));
                };
                let constraint = named_schema(named.name.as_deref(), named.schema, &place)?;
                Ok(Some(with_strict(constraint, named.strict.as_ref())))
            }
            kind => no_form(kind, place),
        }
    }
}

/// The schema in an object at `place`, which may have a name.
pub(super) fn named_schema(
    name: Option<&str>,
    schema: Option<Value>,
    place: &str,
) -> Result<Constraint, ApiError> {
    if let Some(name) = name.filter(|name| !is_name(name)) {
        let accepted = "1 to 64 of a-z, A-Z, 0-9, _ and -";
        return Err(ApiError::invalid_value(
            format!("{place}.name"),
            format_args!("{name:?}"),
            accepted,
        ));
    }
    let place = format!("{place}.schema");
    let schema = schema.ok_or_else(|| ApiError::missing(&place, SCHEMA))?;
    of_schema(&place, schema)
}

/// A schema with its flag `strict`: given as false, objects are open where JSON Schema says so.
pub(super) fn with_strict(constraint: Constraint, strict: Option<&Value>) -> Constraint {
    match constraint.form {
        Form::JsonSchema(schema) if strict == Some(&Value::Bool(false)) => {
            Constraint { form: Form::LiteralSchema(schema), field: constraint.field }
        }
        _ => constraint,
    }
}

/// No form for the kind "text"; other kinds are errors.
pub(super) fn no_form(kind: Option<&str>, place: &str) -> Result<Option<Constraint>, ApiError> {
    match kind {
        Some("text") => Ok(None),
        other => Err(unsupported_word(format!("{place}.type"), other, KINDS)),
    }
}

impl StructuredOutputs {
    fn add_to(self, given: &mut Given) -> Result<(), ApiError> {
        let place = |name: &str| format!("structured_outputs.{name}");
        if let Some(tag) = &self.structural_tag {
            return Err(ApiError::unsupported(place("structural_tag"), shown(tag), "null"));
        }
        given.add(self.json.map(|schema| of_schema(&place("json"), schema)).transpose()?)?;
        let object = self.json_object == Some(true);
        given.add(object.then(|| of(place("json_object"), Form::JsonObject)))?;
        given.add(self.regex.map(|text| of(place("regex"), Form::Regex(text))))?;
        given.add(self.choice.map(|list| of(place("choice"), Form::Choice(list.0))))?;
        given.add(grammar(&place("grammar"), self.grammar)?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::common::read_fields;
    use super::*;

    fn parse(body: &Value) -> Result<Option<Constraint>, ApiError> {
        read_fields::<FormFields>(body)?.constraint()
    }

    #[test]
    fn each_way_to_ask_comes_to_its_form() {
        let schema = json!({"type": "object"});
        let table = [
            (json!({"response_format": {"type": "text"}}), None),
            (
                json!({"response_format": {"type": "json_object"}}),
                Some(of("response_format", Form::JsonObject)),
            ),
            (
                json!({"response_format": {"type": "json_object", "schema": schema}}),
                Some(of("response_format.schema", Form::JsonSchema(schema.clone()))),
            ),
            (
                json!({"response_format": {"type": "json_schema", "json_schema":
                    {"name": "x", "strict": true, "schema": schema}}}),
                Some(of("response_format.json_schema.schema", Form::JsonSchema(schema.clone()))),
            ),
            (
                json!({"response_format": {"type": "json_schema", "json_schema":
                    {"name": "x", "strict": false, "schema": schema}}}),
                Some(of("response_format.json_schema.schema", Form::LiteralSchema(schema.clone()))),
            ),
            (
                json!({"json_schema": schema}),
                Some(of("json_schema", Form::JsonSchema(schema.clone()))),
            ),
            (
                json!({"guided_json": "{\"type\": \"object\"}"}),
                Some(of("guided_json", Form::JsonSchema(schema))),
            ),
            (json!({"guided_regex": "a+"}), Some(of("guided_regex", Form::Regex("a+".into())))),
            (
                json!({"guided_choice": ["a", "b"]}),
                Some(of("guided_choice", Form::Choice(vec!["a".into(), "b".into()]))),
            ),
            (
                json!({"grammar": "start: \"::=\""}),
                Some(of("grammar", Form::Lark("start: \"::=\"".into()))),
            ),
            (
                json!({"structured_outputs": {"json_object": true}}),
                Some(of("structured_outputs.json_object", Form::JsonObject)),
            ),
            (
                json!({"grammar": "root ::= \"a\"+"}),
                Some(of("grammar", Form::Lark("start: r0\nr0: \"a\"+\n".into()))),
            ),
            (json!({"grammar": ""}), None),
            (json!({"structured_outputs": {}}), None),
        ];
        for (body, expected) in table {
            assert_eq!(parse(&body).unwrap(), expected, "{body}");
        }
    }

    #[test]
    fn faults_name_their_place() {
        let named = |name: &str| {
            json!({"response_format": {"type": "json_schema", "json_schema":
                {"name": name, "schema": {}}}})
        };
        for (body, param) in [
            (json!({"response_format": "json"}), "response_format"),
            (json!({"response_format": {}}), "response_format.type"),
            (json!({"response_format": {"type": "xml"}}), "response_format.type"),
            (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema"),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}),
                "response_format.json_schema.schema",
            ),
            (named("a b"), "response_format.json_schema.name"),
            (named(""), "response_format.json_schema.name"),
            (json!({"json_schema": 1}), "json_schema"),
            (json!({"guided_json": "{"}), "guided_json"),
            (json!({"grammar": "root ::= (\"a\""}), "grammar"),
            (json!({"guided_regex": "a", "guided_grammar": "start: \"a\""}), "guided_grammar"),
            (
                json!({"structured_outputs": {"regex": "a", "choice": ["a"]}}),
                "structured_outputs.choice",
            ),
            (
                json!({"structured_outputs": {"structural_tag": {}}}),
                "structured_outputs.structural_tag",
            ),
            (json!({"guided_choice": ["a", 1]}), "guided_choice[1]"),
        ] {
            assert_eq!(parse(&body).unwrap_err().param.as_deref(), Some(param), "{body}");
        }
    }

    fn fault(given: Result<impl std::fmt::Debug, ApiError>) -> String {
        given.unwrap_err().message
    }

    #[test]
    fn texts_are_refused_by_their_size_before_they_are_read() {
        for item in ["{},", "[[]],", "\"a\","] {
            let text = format!("{{\"enum\":[{}0]}}", item.repeat(MOST_SPELT / item.len()));
            let message = fault(of_schema("f", text.into()));
            assert!(message.ends_with("at most 1048576 bytes"), "{message}");
        }
        for item in [".", "|", "\"a\" ", "[a]", "a ", "\na ::= b"] {
            let text = format!("root ::= {}", item.repeat(MOST_GRAMMAR_BYTES / item.len()));
            let message = fault(grammar("f", Some(text)));
            assert!(message.ends_with("at most 262144 bytes"), "{message}");
        }
    }

    #[test]
    fn a_schema_may_be_a_text_that_spells_one() {
        let schema = |text: &str| of_schema("f", text.into()).map(|constraint| constraint.form);
        let null = Form::JsonSchema(json!({"type": "null"}));
        assert_eq!(schema(" \n{\"type\": \"null\"}\r\t").unwrap(), null);
        assert_eq!(schema("true\n").unwrap(), Form::JsonSchema(true.into()));
        assert_eq!(schema("false").unwrap(), Form::JsonSchema(false.into()));
        for text in ["", "[{}]", "null", "1", "{", "{} {}", "\u{a0}{}", "\"{}\""] {
            let message = fault(schema(text));
            assert!(message.contains(SCHEMA), "{message}");
        }
    }
}
