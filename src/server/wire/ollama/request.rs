//! Requests of Ollama's API.

use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::Kind;
use super::open_calls::OpenCalls;
use crate::error::ApiError;
use crate::models::KeepAlive;
use crate::wire::common::{
    Delivery, Entries, Integer, List, Number, Object, TextOr, read_at, read_fields, shown,
};
use crate::wire::form::{of, of_schema};
use crate::wire::known::{Groups, Ignored, names_of, unread};
use crate::wire::messages::{Conversation, answered, check_caller, role};
use crate::wire::parameters::{max_tokens, seed, top_k};
use crate::wire::reasoning::budget_of_effort;
use crate::wire::tools::{self, WireTool};
use crate::wire::{Parsed, bounds};
use phi4d_generate::{
    Chat, Constraint, Ending, Form, Message, ParameterNames, Parameters, Prompt, Reasoning,
    Request, Role, ToolCall, Tools,
};

const NAMES: ParameterNames = ParameterNames {
    max_tokens: "options.num_predict",
    temperature: "options.temperature",
    top_p: "options.top_p",
    top_k: "options.top_k",
    min_p: "options.min_p",
    typical_p: "options.typical_p",
    repetition_penalty: "options.repeat_penalty",
    presence_penalty: "options.presence_penalty",
    frequency_penalty: "options.frequency_penalty",
    stop: "options.stop",
};

/// Whether an option is about how a model is loaded and run, which the server's settings decide.
fn is_of_the_server(option: &str) -> bool {
    matches!(
        option,
        "num_ctx"
            | "num_batch"
            | "num_gpu"
            | "main_gpu"
            | "num_thread"
            | "num_keep"
            | "numa"
            | "low_vram"
            | "f16_kv"
            | "use_mmap"
            | "use_mlock"
            | "vocab_only"
            | "logits_all"
            | "mirostat_tau"
            | "mirostat_eta"
            | "penalize_newline"
    )
}

/// The options that have an effect.
#[derive(Debug, Default, Deserialize)]
struct Options {
    #[serde(default, deserialize_with = "unless_negative")]
    num_predict: Option<Integer>,
    temperature: Option<Number>,
    top_k: Option<Integer>,
    top_p: Option<Number>,
    min_p: Option<Number>,
    typical_p: Option<Number>,
    repeat_penalty: Option<Number>,
    presence_penalty: Option<Number>,
    frequency_penalty: Option<Number>,
    seed: Option<Integer>,
    stop: Option<TextOr<String, { bounds::STOPS }>>,
    mirostat: Option<Value>,
}

/// A count. Negative ones ask for as many tokens as there are or fit, which is the default.
fn unless_negative<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Integer>, D::Error> {
    match Value::deserialize(value)? {
        Value::Null => Ok(None),
        value if value.as_f64().is_some_and(|count| count < 0.0) => Ok(None),
        value => Integer::deserialize(value).map(Some).map_err(serde::de::Error::custom),
    }
}

/// The fields of both requests.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct SharedFields {
    model: Option<String>,
    stream: Option<bool>,
    format: Option<Value>,
    options: Option<Entries<Value, { bounds::VARIABLES }>>,
    think: Option<Value>,
    keep_alive: Option<Value>,
    logprobs: Option<bool>,
    // Prompts that do not fit are refused, and contexts are not shifted.
    #[serde(rename = "truncate")]
    _truncate: Option<bool>,
    #[serde(rename = "shift")]
    _shift: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct ChatFields {
    messages: Option<List<Object<OllamaMessage>, { bounds::ITEMS }>>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct ToolFields {
    #[cfg_attr(test, schemars(with = "Option<List<Value, { bounds::TOOLS }>>"))]
    tools: Option<List<Object<WireTool>, { bounds::TOOLS }>>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct OllamaMessage {
    role: Option<String>,
    content: Option<String>,
    images: Option<Value>,
    tool_calls: Option<List<Object<OllamaCall>, { bounds::CALLS }>>,
    tool_name: Option<String>,
    name: Option<String>,
    tool_call_id: Option<String>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct OllamaCall {
    id: Option<String>,
    function: Option<Object<OllamaFunction>>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct OllamaFunction {
    name: Option<String>,
    arguments: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct GenerateFields {
    prompt: Option<String>,
    suffix: Option<String>,
    system: Option<String>,
    template: Option<String>,
    context: Option<Value>,
    raw: Option<bool>,
    images: Option<Value>,
}

type AllChatFields = (SharedFields, ChatFields, ToolFields);
type AllGenerateFields = (SharedFields, GenerateFields);

/// `POST /api/chat` or `POST /api/generate`.
#[derive(Debug)]
pub(crate) struct OllamaRequest {
    pub(crate) kind: Kind,
    pub(crate) model: Option<String>,
    /// `None` if the request only loads or unloads the model.
    pub(crate) parsed: Option<Parsed>,
    pub(crate) keep: KeepAlive,
}

/// The fields that are read, for the OpenAPI document.
#[cfg(test)]
pub(crate) fn field_schemas(
    kind: Kind,
    generator: &mut schemars::SchemaGenerator,
) -> Vec<schemars::Schema> {
    match kind {
        Kind::Chat => AllChatFields::schemas(generator),
        Kind::Generate => AllGenerateFields::schemas(generator),
    }
}

impl OllamaRequest {
    /// Reads the JSON of a request to `/api/chat`.
    ///
    /// # Errors
    /// A 400 that names the first field at fault.
    pub(crate) fn chat(body: &Value) -> Result<Self, ApiError> {
        let (shared, fields) = <(SharedFields, ChatFields)>::read(body)?;
        let shared = shared.read(Kind::Chat, unread(body, &AllChatFields::names())?)?;
        let messages = fields.messages.map_or_else(Vec::new, |list| list.0);
        if messages.is_empty() {
            return Ok(shared.load());
        }
        let mut conversation = Conversation::default();
        let mut open = OpenCalls::default();
        for (index, Object(message)) in messages.into_iter().enumerate() {
            message.add_to(&mut conversation, index, &mut open)?;
        }
        let ToolFields { tools } = read_fields(body)?;
        let definitions = tools::definitions(tools, "parameters", WireTool::function)?;
        let tools = tools::offered(definitions, None, false)?;
        shared.chat(conversation, tools)
    }
}

impl OllamaMessage {
    /// Adds the message; `open` are the calls that have no result yet.
    fn add_to(
        self,
        conversation: &mut Conversation,
        index: usize,
        open: &mut OpenCalls,
    ) -> Result<(), ApiError> {
        let place = format!("messages[{index}]");
        no_images(self.images.as_ref(), &format!("{place}.images"))?;
        let given = self.tool_calls.map_or_else(Vec::new, |list| list.0);
        let mut calls = Vec::with_capacity(given.len());
        for (at, Object(call)) in given.into_iter().enumerate() {
            let call = call.checked(&format!("{place}.tool_calls[{at}]"), [index, at])?;
            open.add(&call.id, &call.name);
            calls.push(call);
        }
        let mut answers = None;
        if self.role.as_deref() == Some("tool") {
            let name = self.tool_name.or(self.name);
            answers = open.answer(self.tool_call_id.as_deref(), name.as_deref());
            if answers.is_none() {
                return Err(ApiError::invalid_value(
                    format!("{place}.tool_name"),
                    name.map_or_else(|| "null".to_owned(), |name| format!("{name:?}")),
                    "the name of a function that an earlier message calls",
                ));
            }
        }
        let role = role(self.role.as_deref(), &place)?;
        check_caller(role, calls.len(), &place)?;
        let answers = answered(role, answers, &place)?;
        let content = self.content.unwrap_or_default();
        conversation.add(Message { role, content, calls, answers }, &place)
    }
}

impl OllamaCall {
    /// The call, with an id of its place where it has none.
    fn checked(self, place: &str, [message, at]: [usize; 2]) -> Result<ToolCall, ApiError> {
        let Some(Object(function)) = self.function else {
            return Err(ApiError::missing(format!("{place}.function"), "an object"));
        };
        let Some(name) = function.name else {
            return Err(ApiError::missing(format!("{place}.function.name"), "a string"));
        };
        let arguments = match function.arguments {
            Some(Value::String(text)) => text,
            Some(value) => value.to_string(),
            None => "{}".to_owned(),
        };
        let id = self.id.filter(|id| !id.is_empty());
        Ok(ToolCall { id: id.unwrap_or_else(|| format!("call_{message}_{at}")), name, arguments })
    }
}

impl OllamaRequest {
    /// Reads the JSON of a request to `/api/generate`.
    ///
    /// # Errors
    /// A 400 that names the first field at fault.
    pub(crate) fn generate(body: &Value) -> Result<Self, ApiError> {
        let (shared, fields) = AllGenerateFields::read(body)?;
        let ignored = unread(body, &AllGenerateFields::names())?;
        no_images(fields.images.as_ref(), "images")?;
        if fields.template.as_ref().is_some_and(|template| !template.is_empty()) {
            let accepted = "null, or \"raw\": true with a prompt as the model reads it";
            return Err(ApiError::unsupported("template", "a string", accepted));
        }
        if fields.context.as_ref().is_some_and(|context| *context != json!([])) {
            let accepted = "null; /api/chat takes a conversation";
            return Err(ApiError::unsupported("context", "a value", accepted));
        }
        let shared = shared.read(Kind::Generate, ignored)?;
        let prompt = fields.prompt.unwrap_or_default();
        let suffix = fields.suffix.filter(|suffix| !suffix.is_empty());
        match suffix {
            Some(after) => shared.generate(Prompt::Fill { before: prompt, after }),
            None if fields.raw == Some(true) => {
                shared.generate(Prompt::Text { text: prompt, parse_special: true })
            }
            None if prompt.is_empty() => Ok(shared.load()),
            None => {
                let mut conversation = Conversation::default();
                if let Some(system) = fields.system.filter(|system| !system.is_empty()) {
                    conversation.add_text(Role::System, system, "system")?;
                }
                conversation.add_text(Role::User, prompt, "prompt")?;
                shared.chat(conversation, Tools::default())
            }
        }
    }
}

/// What both requests have. The options are read only if something is to be generated.
struct Shared {
    kind: Kind,
    model: Option<String>,
    delivery: Delivery,
    constraint: Option<Constraint>,
    effort: Option<String>,
    options: Value,
    keep: KeepAlive,
    ignored: Vec<String>,
}

impl SharedFields {
    /// Checks the fields; `ignored` are the request's other ones.
    fn read(self, kind: Kind, mut ignored: Ignored) -> Result<Shared, ApiError> {
        let constraint = match self.format {
            None | Some(Value::Null) => None,
            Some(Value::String(format)) if format.is_empty() => None,
            Some(Value::String(format)) if format == "json" => Some(of("format", Form::JsonObject)),
            Some(schema @ Value::Object(_)) => Some(of_schema("format", schema)?),
            Some(other) => {
                let accepted = "\"json\" or a JSON Schema";
                return Err(ApiError::invalid_value("format", shown(&other), accepted));
            }
        };
        let effort = match self.think {
            None | Some(Value::Null | Value::Bool(true)) => None,
            Some(Value::Bool(false)) => Some("none".to_owned()),
            Some(Value::String(effort)) => Some(effort),
            Some(other) => {
                let accepted = "true, false, \"high\", \"medium\" or \"low\"";
                return Err(ApiError::invalid_value("think", shown(&other), accepted));
            }
        };
        if self.logprobs == Some(true) {
            let accepted = "false; /v1/chat/completions has them";
            return Err(ApiError::unsupported("logprobs", true, accepted));
        }
        let keep = match &self.keep_alive {
            None | Some(Value::Null) => Some(KeepAlive::Default),
            Some(Value::Number(seconds)) => seconds.as_f64().map(kept),
            Some(Value::String(text)) => duration(text).map(kept),
            Some(_) => None,
        };
        let Some(keep) = keep else {
            let accepted = "a number of seconds, or a string like \"5m\"; negative: for ever";
            let given = self.keep_alive.unwrap_or_default();
            return Err(ApiError::invalid_value("keep_alive", shown(&given), accepted));
        };
        let options = self.options.map(Entries::into_map).unwrap_or_default();
        let read = names_of::<Options>();
        let is_known = |name: &str| read.contains(&name) || is_of_the_server(name);
        let unknown = options.keys().filter(|name| !is_known(name));
        for name in unknown {
            ignored.leave_out(format!("options.{name}"), "an unknown option", "null")?;
        }
        Ok(Shared {
            kind,
            model: self.model,
            delivery: Delivery::of(self.stream.unwrap_or(true)),
            constraint,
            effort,
            options: options.into(),
            keep,
            ignored: ignored.names,
        })
    }
}

/// A model's stay after a request, of a number of seconds.
fn kept(seconds: f64) -> KeepAlive {
    /// No different from for ever, and instants can be that far ahead.
    const CENTURY: f64 = 100.0 * 365.0 * 86_400.0;
    if (0.0..CENTURY).contains(&seconds) {
        KeepAlive::For(Duration::from_secs_f64(seconds))
    } else {
        KeepAlive::Forever
    }
}

/// The seconds of a duration in Go's notation, such as `1h30m` or `-1m`; without a unit they are seconds.
fn duration(text: &str) -> Option<f64> {
    /// Longer ones first: `m` begins `ms`.
    const UNITS: [(&str, f64); 8] = [
        ("ns", 1e-9),
        ("us", 1e-6),
        ("\u{b5}s", 1e-6),
        ("\u{3bc}s", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
    ];
    let (sign, mut rest) = match text.trim().strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.trim().trim_start_matches('+')),
    };
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if is_number(rest) {
        return rest.parse::<f64>().ok().map(|seconds| sign * seconds);
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let (number, after) = rest.split_at(end);
        let (unit, factor) = UNITS.iter().find(|(unit, _)| after.starts_with(unit))?;
        seconds += number.parse::<f64>().ok()? * factor;
        rest = &after[unit.len()..];
    }
    Some(sign * seconds)
}

impl Shared {
    fn load(self) -> OllamaRequest {
        OllamaRequest { kind: self.kind, model: self.model, parsed: None, keep: self.keep }
    }

    fn chat(self, conversation: Conversation, tools: Tools) -> Result<OllamaRequest, ApiError> {
        let budget = budget_of_effort(self.effort.as_deref(), "think")?;
        let chat = Chat {
            messages: conversation.finish(Ending::ModelTurn)?,
            tools,
            reasoning: Reasoning { in_text: false, budget },
            ..Chat::default()
        };
        self.generate(Prompt::Chat(chat))
    }

    fn generate(self, prompt: Prompt) -> Result<OllamaRequest, ApiError> {
        let Self { kind, model, delivery, constraint, options, keep, ignored, .. } = self;
        let options: Options = read_at(&options, "options")?;
        let parameters = Parameters { constraint, ..options.parameters()? };
        let request = Request { prompts: vec![prompt], parameters, ..Request::default() };
        let parsed = Parsed { model: model.clone(), request, delivery, ignored };
        Ok(OllamaRequest { kind, model, parsed: Some(parsed), keep })
    }
}

impl Options {
    fn parameters(self) -> Result<Parameters, ApiError> {
        if let Some(mirostat) = self.mirostat.filter(|kind| kind.as_f64() != Some(0.0)) {
            return Err(ApiError::unsupported("options.mirostat", shown(&mirostat), "0"));
        }
        let number = |given: Option<Number>| given.map(|number| number.0);
        Ok(Parameters {
            names: NAMES,
            max_tokens: self.num_predict.map(|n| max_tokens(NAMES.max_tokens, n)).transpose()?,
            temperature: number(self.temperature),
            top_k: self.top_k.map(|k| top_k(NAMES.top_k, k)).transpose()?,
            top_p: number(self.top_p),
            min_p: number(self.min_p),
            typical_p: number(self.typical_p),
            repetition_penalty: number(self.repeat_penalty),
            presence_penalty: number(self.presence_penalty),
            frequency_penalty: number(self.frequency_penalty),
            seed: self.seed.map(|value| seed("options.seed", value)).transpose()?,
            stop: self.stop.map_or_else(Vec::new, TextOr::into_list),
            ..Parameters::default()
        })
    }
}

fn no_images(images: Option<&Value>, field: &str) -> Result<(), ApiError> {
    match images {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Array(images)) if images.is_empty() => Ok(()),
        Some(_) => Err(ApiError::unsupported(field, "a list", "no images; the model reads text")),
    }
}

/// `POST /api/show`.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ShowRequest {
    model: Option<String>,
    name: Option<String>,
    // Nothing is left out of an answer, and one that is streamed has one line.
    #[serde(rename = "verbose")]
    _verbose: Option<bool>,
    #[serde(rename = "stream")]
    _stream: Option<bool>,
    #[serde(rename = "insecure")]
    _insecure: Option<bool>,
}

impl ShowRequest {
    /// The model that is asked about, and the names of fields that nobody read.
    ///
    /// # Errors
    /// If none is named, or in another type.
    pub(crate) fn parse(body: &Value) -> Result<(String, Vec<String>), ApiError> {
        let fields: Self = read_fields(body)?;
        let ignored = unread(body, names_of::<Self>())?.names;
        let model = fields.model.or(fields.name);
        let model = model.ok_or_else(|| ApiError::missing("model", "the model's name"))?;
        Ok((model, ignored))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_are_read_as_ollama_reads_them() {
        let stay = |text: &str| duration(text).map(kept);
        let seconds = |seconds| Some(KeepAlive::For(Duration::from_secs_f64(seconds)));
        for (text, expected) in [
            ("5m", seconds(300.0)),
            ("1h30m", seconds(5400.0)),
            ("1.5s", seconds(1.5)),
            ("300ms", seconds(0.3)),
            ("10", seconds(10.0)),
            ("0", seconds(0.0)),
            ("0s", seconds(0.0)),
            ("-1", Some(KeepAlive::Forever)),
            ("-1m", Some(KeepAlive::Forever)),
            ("9999999h", Some(KeepAlive::Forever)),
            ("", None),
            ("5", seconds(5.0)),
            ("5x", None),
            ("m", None),
            ("5m3", None),
            ("soon", None),
            ("5 m", None),
        ] {
            assert_eq!(stay(text), expected, "{text:?}");
        }
    }
}
