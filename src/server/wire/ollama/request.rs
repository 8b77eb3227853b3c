//! What Ollama's clients ask.

use serde::Deserialize;
use serde_json::{Value, json};

use super::open_calls::OpenCalls;
use crate::error::ApiError;
use crate::wire::bounds;
use crate::wire::chat::ChatRequest;
use crate::wire::common::{Entries, List, Object, read_fields, shown};
use crate::wire::completions::CompletionRequest;
use crate::wire::known::{names_of, unread};
use crate::wire::names::{ChatBody, Names, Renaming};
use phi4d_generate::Prompt;

const NAMES: Names = &[
    ("max_tokens", "options.num_predict"),
    ("temperature", "options.temperature"),
    ("top_k", "options.top_k"),
    ("top_p", "options.top_p"),
    ("min_p", "options.min_p"),
    ("typical_p", "options.typical_p"),
    ("repeat_penalty", "options.repeat_penalty"),
    ("repetition_penalty", "options.repeat_penalty"),
    ("presence_penalty", "options.presence_penalty"),
    ("frequency_penalty", "options.frequency_penalty"),
    ("seed", "options.seed"),
    ("stop", "options.stop"),
    ("mirostat", "options.mirostat"),
    ("response_format.json_schema.schema", "format"),
    ("response_format", "format"),
    ("reasoning_effort", "think"),
    ("n", "options.n"),
];

/// Options about how a model is loaded and run, which is this server's to decide.
const OF_THE_SERVER: &[&str] = &[
    "num_ctx",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "num_thread",
    "num_keep",
    "numa",
    "low_vram",
    "f16_kv",
    "use_mmap",
    "use_mlock",
    "vocab_only",
    "logits_all",
    "mirostat_tau",
    "mirostat_eta",
    "penalize_newline",
];

/// Options that chat requests have under the same name.
const SAME: &[&str] = &[
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
    "mirostat",
];

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
    messages: Option<List<Object<OllamaMessage>, { bounds::TURNS }>>,
    tools: Option<List<Value, { bounds::TOOLS }>>,
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

/// `POST /api/chat`.
#[derive(Debug)]
pub(crate) struct OllamaChat {
    pub(crate) model: Option<String>,
    /// `None` where there are no messages: the model is to be loaded, or unloaded.
    pub(crate) chat: Option<Box<ChatRequest>>,
    pub(crate) unloads: bool,
    pub(crate) renaming: Renaming,
    pub(crate) ignored: Vec<String>,
}

/// `POST /api/generate`.
#[derive(Debug)]
pub(crate) struct OllamaGenerate {
    pub(crate) model: Option<String>,
    pub(crate) task: GenerateTask,
    pub(crate) unloads: bool,
    pub(crate) renaming: Renaming,
    pub(crate) ignored: Vec<String>,
}

/// What is to be generated.
#[derive(Debug)]
pub(crate) enum GenerateTask {
    /// Nothing: the model is to be loaded, or unloaded.
    Load,
    /// The answer to a prompt.
    Chat(Box<ChatRequest>),
    /// What follows a text as it stands, or what fits between two.
    Text(Box<CompletionRequest>),
}

/// The fields that are read, for the OpenAPI document.
#[cfg(test)]
pub(crate) fn field_schemas(
    kind: super::Kind,
    generator: &mut schemars::SchemaGenerator,
) -> Vec<schemars::Schema> {
    let own = match kind {
        super::Kind::Chat => generator.subschema_for::<ChatFields>(),
        super::Kind::Generate => generator.subschema_for::<GenerateFields>(),
    };
    vec![generator.subschema_for::<SharedFields>(), own]
}

impl OllamaChat {
    /// Reads a request's JSON.
    ///
    /// # Errors
    /// A 400 that names the first field at fault.
    pub(crate) fn parse(body: &Value) -> Result<Self, ApiError> {
        let shared: SharedFields = read_fields(body)?;
        let fields: ChatFields = read_fields(body)?;
        let mut ignored = unread(body, &[names_of::<SharedFields>(), names_of::<ChatFields>()])?;
        let mut chat = ChatBody::default();
        let (model, unloads) = shared.apply(&mut chat, &mut ignored)?;
        chat.put("tools", fields.tools.map(|List(tools)| tools));
        let messages = fields.messages.map_or_else(Vec::new, |list| list.0);
        let empty = messages.is_empty();
        let mut open = OpenCalls::default();
        for (index, Object(message)) in messages.into_iter().enumerate() {
            message.add_to(&mut chat, index, &mut open)?;
        }
        let (body, renaming) = chat.finish(NAMES);
        let chat = match empty {
            true => None,
            false => Some(Box::new(ChatRequest::parse(&body).map_err(|e| renaming.tell(e))?)),
        };
        Ok(Self { model, chat, unloads, renaming, ignored })
    }
}

impl OllamaMessage {
    /// Adds the message; `open` are the calls that have no result yet.
    fn add_to(
        self,
        chat: &mut ChatBody,
        index: usize,
        open: &mut OpenCalls,
    ) -> Result<(), ApiError> {
        let place = format!("messages[{index}]");
        no_images(self.images.as_ref(), &format!("{place}.images"))?;
        let mut message = json!({ "role": self.role, "content": self.content.unwrap_or_default() });
        let calls = self.tool_calls.map_or_else(Vec::new, |list| list.0);
        if !calls.is_empty() {
            let mut wire = Vec::with_capacity(calls.len());
            for (at, Object(call)) in calls.into_iter().enumerate() {
                let place = format!("{place}.tool_calls[{at}]");
                let Some(Object(function)) = call.function else {
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
                let id = call.id.filter(|id| !id.is_empty());
                let id = id.unwrap_or_else(|| format!("call_{index}_{at}"));
                open.add(&id, &name);
                let function = json!({ "name": name, "arguments": arguments });
                wire.push(json!({ "id": id, "type": "function", "function": function }));
            }
            message["tool_calls"] = wire.into();
        }
        if self.role.as_deref() == Some("tool") {
            let name = self.tool_name.or(self.name);
            let answered = open.answer(self.tool_call_id.as_deref(), name.as_deref());
            let Some(answered) = answered else {
                return Err(ApiError::invalid_value(
                    format!("{place}.tool_name"),
                    name.map_or_else(|| "null".to_owned(), |name| format!("{name:?}")),
                    "the name of a function that an earlier message calls",
                ));
            };
            message["tool_call_id"] = answered.into();
        }
        chat.say(place, message);
        Ok(())
    }
}

impl OllamaGenerate {
    /// Reads a request's JSON.
    ///
    /// # Errors
    /// A 400 that names the first field at fault.
    pub(crate) fn parse(body: &Value) -> Result<Self, ApiError> {
        let shared: SharedFields = read_fields(body)?;
        let fields: GenerateFields = read_fields(body)?;
        let mut ignored =
            unread(body, &[names_of::<SharedFields>(), names_of::<GenerateFields>()])?;
        no_images(fields.images.as_ref(), "images")?;
        if fields.template.as_ref().is_some_and(|template| !template.is_empty()) {
            let accepted = "null, or \"raw\": true with a prompt as the model reads it";
            return Err(ApiError::unsupported("template", "a string", accepted));
        }
        if fields.context.as_ref().is_some_and(|context| *context != json!([])) {
            let accepted = "null; /api/chat takes a conversation";
            return Err(ApiError::unsupported("context", "a value", accepted));
        }
        let mut chat = ChatBody::default();
        let (model, unloads) = shared.apply(&mut chat, &mut ignored)?;
        let prompt = fields.prompt.unwrap_or_default();
        let suffix = fields.suffix.filter(|suffix| !suffix.is_empty());
        let raw = fields.raw.unwrap_or(false);
        if prompt.is_empty() && suffix.is_none() && !raw {
            let renaming = Renaming::new(NAMES);
            return Ok(Self { model, task: GenerateTask::Load, unloads, renaming, ignored });
        }
        if raw || suffix.is_some() {
            chat.put("parse_special", Some(raw && suffix.is_none()));
            chat.put("prompt", Some(prompt));
            chat.put("suffix", suffix);
            let (body, renaming) = chat.finish(NAMES);
            let mut text = CompletionRequest::parse(&body).map_err(|error| renaming.tell(error))?;
            if body.get("max_tokens").is_none() {
                text.parameters.max_tokens = None;
            }
            debug_assert!(!matches!(text.prompts[0], Prompt::Chat(_)), "a text was asked for");
            let task = GenerateTask::Text(Box::new(text));
            return Ok(Self { model, task, unloads, renaming, ignored });
        }
        if let Some(system) = fields.system.filter(|system| !system.is_empty()) {
            chat.say("system", json!({ "role": "system", "content": system }));
        }
        chat.say("prompt", json!({ "role": "user", "content": prompt }));
        let (body, renaming) = chat.finish(NAMES);
        let chat = ChatRequest::parse(&body).map_err(|error| renaming.tell(error))?;
        Ok(Self { model, task: GenerateTask::Chat(Box::new(chat)), unloads, renaming, ignored })
    }
}

impl SharedFields {
    /// Puts what was given into `chat`; returns the model and whether it is to be unloaded.
    fn apply(
        self,
        chat: &mut ChatBody,
        ignored: &mut Vec<String>,
    ) -> Result<(Option<String>, bool), ApiError> {
        chat.put("stream", Some(self.stream.unwrap_or(true)));
        match self.format {
            None | Some(Value::Null) => {}
            Some(Value::String(format)) if format.is_empty() => {}
            Some(Value::String(format)) if format == "json" => {
                chat.put("response_format", Some(json!({ "type": "json_object" })));
            }
            Some(schema @ Value::Object(_)) => {
                let named = json!({ "name": "format", "schema": schema });
                let format = json!({ "type": "json_schema", "json_schema": named });
                chat.put("response_format", Some(format));
            }
            Some(other) => {
                let accepted = "\"json\" or a JSON Schema";
                return Err(ApiError::invalid_value("format", shown(&other), accepted));
            }
        }
        match self.think {
            None | Some(Value::Null | Value::Bool(true)) => {}
            Some(Value::Bool(false)) => chat.put("reasoning_effort", Some("none")),
            Some(Value::String(effort)) => chat.put("reasoning_effort", Some(effort)),
            Some(other) => {
                let accepted = "true, false, \"high\", \"medium\" or \"low\"";
                return Err(ApiError::invalid_value("think", shown(&other), accepted));
            }
        }
        if self.logprobs == Some(true) {
            let accepted = "false; /v1/chat/completions has them";
            return Err(ApiError::unsupported("logprobs", true, accepted));
        }
        let unloads = match self.keep_alive {
            None | Some(Value::Null) => false,
            Some(Value::Number(seconds)) => seconds.as_f64() == Some(0.0),
            Some(Value::String(text)) => ["0", "0s", "0m", "0h"].contains(&text.as_str()),
            Some(other) => {
                let accepted = "a number of seconds, or a string like \"5m\"";
                return Err(ApiError::invalid_value("keep_alive", shown(&other), accepted));
            }
        };
        for (name, value) in self.options.map_or_else(Vec::new, |Entries(options)| options) {
            match name.as_str() {
                // Negative asks for as many as there are or fit.
                "num_predict" if value.as_f64().is_some_and(|count| count < 0.0) => {}
                "num_predict" => chat.put("max_tokens", Some(value)),
                name if SAME.contains(&name) => chat.put(name, Some(value)),
                name if OF_THE_SERVER.contains(&name) => {}
                name => ignored.push(format!("options.{name}")),
            }
        }
        Ok((self.model, unloads))
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
    // Nothing is left out of an answer.
    #[serde(rename = "verbose")]
    _verbose: Option<bool>,
}

impl ShowRequest {
    /// The model that is asked about, and the names of fields that nobody read.
    ///
    /// # Errors
    /// If none is named, or in another type.
    pub(crate) fn parse(body: &Value) -> Result<(String, Vec<String>), ApiError> {
        let fields: Self = read_fields(body)?;
        let ignored = unread(body, &[names_of::<Self>()])?;
        let model = fields.model.or(fields.name);
        let model = model.ok_or_else(|| ApiError::missing("model", "the model's name"))?;
        Ok((model, ignored))
    }
}
