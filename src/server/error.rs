//! The one map from faults to HTTP: status, OpenAI error object, headers.

use std::time::Duration;

use hyper::{Method, StatusCode};

use super::models::PinError;
use phi4d_engine::{JobError, SubmitError};
use phi4d_generate::GenerateError;

/// Retry-After of errors that pass by themselves.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Longest value that is repeated in a message.
const MAX_VALUE_CHARS: usize = 120;

/// A fault as the client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    /// Stable name of the fault, `error.code`.
    pub(super) code: &'static str,
    /// The field at fault, `error.param`.
    pub(super) param: Option<String>,
    pub(super) message: String,
    /// What to put into Retry-After.
    pub(super) retry_after: Option<Duration>,
    /// What to put into Allow.
    pub(super) allow: Option<Box<str>>,
    /// Whether to ask for a key by WWW-Authenticate.
    pub(super) challenge: bool,
    /// Tokens of a prompt that does not fit, and tokens that fit.
    pub(super) context: Option<Box<[usize; 2]>>,
    /// Whether the connection must close after this answer.
    pub(super) close: bool,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            param: None,
            message: message.into(),
            retry_after: None,
            allow: None,
            challenge: false,
            context: None,
            close: false,
        }
    }

    fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    fn unavailable(code: &'static str, message: String) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
    }

    fn internal(code: &'static str, message: String) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, code, message)
    }

    fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    fn with_retry(mut self) -> Self {
        self.retry_after = Some(RETRY_AFTER);
        self
    }

    fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// OpenAI's `error.type`.
    pub(super) fn kind(&self) -> &'static str {
        if self.status.is_client_error() { "invalid_request_error" } else { "server_error" }
    }

    /// A header can be read in more than one way. The connection closes: a proxy in front may have
    /// understood the rest of it differently, too.
    pub(super) fn invalid_header(name: &str, problem: &str) -> Self {
        Self::bad_request("invalid_header", format!("the header {name} {problem}")).closing()
    }

    /// The body is not JSON.
    pub(super) fn invalid_json(reason: impl std::fmt::Display) -> Self {
        Self::bad_request("invalid_json", format!("the request's body is not valid JSON: {reason}"))
    }

    /// A field holds another type than it should; `reason` names what was found and expected.
    pub(super) fn invalid_type(path: &str, reason: &str) -> Self {
        if path.is_empty() || path == "." {
            Self::bad_request("invalid_type", format!("the request's body: {reason}"))
        } else {
            Self::bad_request("invalid_type", format!("{path}: {reason}")).with_param(path)
        }
    }

    /// A field holds a value that is not accepted.
    pub(super) fn invalid_value(
        field: impl Into<String>,
        value: impl std::fmt::Display,
        accepted: &str,
    ) -> Self {
        let verdict = format!("is not accepted; expected {accepted}");
        Self::about_value("invalid_value", field.into(), &value.to_string(), &verdict)
    }

    /// A field that must be there is not.
    pub(super) fn missing(field: impl Into<String>, accepted: &str) -> Self {
        let field = field.into();
        Self::bad_request(
            "missing_required_parameter",
            format!("{field}: missing or null; expected {accepted}"),
        )
        .with_param(field)
    }

    /// A known feature that this server does not have.
    pub(super) fn unsupported(
        field: impl Into<String>,
        value: impl std::fmt::Display,
        accepted: &str,
    ) -> Self {
        let verdict = format!("is not supported; accepted: {accepted}");
        Self::about_value("unsupported_parameter", field.into(), &value.to_string(), &verdict)
    }

    /// `verdict` on a field's value, which is shortened.
    fn about_value(code: &'static str, field: String, value: &str, verdict: &str) -> Self {
        let value = shortened(value);
        Self::bad_request(code, format!("{field}: {value} {verdict}")).with_param(field)
    }

    /// The model `name` can't be had now.
    pub(super) fn no_model(name: &str, error: &PinError) -> Self {
        match error {
            PinError::Submit(error) => (*error).into(),
            PinError::Failed(_) | PinError::TooLarge { .. } => {
                let message = format!("model: {name:?}: {error}");
                Self::unavailable("model_unavailable", message).with_param("model")
            }
        }
    }

    /// The caller has nothing stored of the id that a field names.
    pub(super) fn not_stored(field: &str, id: &str, accepted: &str) -> Self {
        let mut error = Self::invalid_value(field, format_args!("{id:?}"), accepted);
        error.code = "not_stored";
        error.message += ", which this server may have dropped; send its items as input";
        error
    }
}

/// A request that is refused as a whole, or that meets a limit of the server, in the order in which they
/// are looked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault<'a> {
    /// No route has this path; `known` lists those that there are.
    #[error("unknown URL: {method} {}; known are {known}", shortened(.path))]
    UnknownUrl { method: &'a Method, path: &'a str, known: &'a str },
    #[error("{method} is not accepted by {path}; expected {allow}")]
    MethodNotAllowed { method: &'a Method, path: &'a str, allow: &'a str },
    /// The request's host name is not one of this server's.
    #[error("this server is not called {:?}; allowed_hosts adds names", shortened(.0))]
    ForeignHost(&'a str),
    /// The request comes from a web page that the settings do not allow.
    #[error("pages from {:?} may not use this server; cors_origins names those that may", shortened(.0))]
    ForeignPage(&'a str),
    /// The settings name who may use the Unix socket, and this user is not among them.
    #[error(
        "user {0} may not use this socket; socket_allow_users and socket_allow_groups name those that may"
    )]
    UserNotAllowed(u32),
    /// A key is needed and none was sent.
    #[error("an API key is needed; send it as Authorization: Bearer KEY or as x-api-key: KEY")]
    NoKey,
    /// The key that was sent is not one of this server's.
    #[error("the API key is not known here; `phi4d key list` shows those that are")]
    WrongKey,
    /// The route is for administrators, and the caller is none.
    #[error(
        "this is for administrators: a key with the scope admin, or root and the daemon's own user on the \
         Unix socket"
    )]
    NotAdmin,
    #[error("{header}: {:?} is not accepted; expected {accepted}", shortened(.value))]
    MediaType { header: &'static str, value: &'a str, accepted: &'a str },
    #[error("the request's body is too large; accepted are up to {0} bytes")]
    BodyTooLarge(usize),
    #[error("the request's body did not arrive within {} s", .0.as_secs_f64())]
    BodyTimeout(Duration),
    /// The body ended early or its framing is broken.
    #[error("the request's body could not be read: {0}")]
    BrokenBody(String),
    /// There is no memory for the body, by the budget or by the system.
    #[error("there is no memory for the request's body; send a smaller one, or try again later")]
    NoMemoryForBody,
    /// Parsed, the body would take more memory than any request may.
    #[error(
        "the request's body has {values} JSON values, for which up to {bytes} bytes of memory are needed; \
         accepted are up to {most}, half of request_memory_bytes"
    )]
    TooManyValues { values: usize, bytes: usize, most: usize },
    #[error("model: {:?} does not exist here; this server has {}", shortened(.asked), quoted(.served))]
    ModelNotFound { asked: &'a str, served: &'a [&'a str] },
    #[error(
        "this server has no embedding model; the setting embedding_model names the folder of one"
    )]
    NoEmbeddingModel,
    /// The caller has no stored response of this id.
    #[error("the response {:?} is not stored, or no longer", shortened(.0))]
    ResponseNotFound(&'a str),
    /// A response that is stored has ended.
    #[error(
        "only responses in the background can be cancelled, and there are none here; close the connection \
         of a running one"
    )]
    CannotCancel,
    /// The key's limit of concurrent answers is reached.
    #[error("the key {name:?} may have {most} answers at the same time (max_in_flight)")]
    KeyInFlight { name: &'a str, most: u32 },
    /// The request alone asks for more answers than its key may have.
    #[error(
        "the request asks for {asked} answers at the same time, but the key {name:?} may have {most} \
         (max_in_flight); ask for fewer by n, best_of or prompt"
    )]
    KeyNeverInFlight { name: &'a str, asked: u64, most: u32 },
    /// The key's tokens of this minute are used or reserved; there are some again after `wait`, if
    /// that is known, else when a running request ends.
    #[error(
        "the key {name:?} may use {most} tokens a minute (tokens_per_minute), and this request may take more \
         than are left"
    )]
    KeyTokens { name: &'a str, most: u32, wait: Option<Duration> },
    /// The request alone may take more tokens than its key has in a minute.
    #[error(
        "the request may take {asked} tokens, prompt and answers together, but the key {name:?} may use \
         {most} a minute (tokens_per_minute); lower max_tokens or n, or shorten the prompt"
    )]
    KeyNeverTokens { name: &'a str, asked: u64, most: u32 },
    /// There is no memory for the answer now.
    #[error("{}", GenerateError::OutOfMemory)]
    NoMemoryForAnswer,
    /// The answer would take more memory than any request may.
    #[error(
        "the answer needs up to {bytes} bytes of memory; a request may take up to {most}, half of \
         request_memory_bytes; ask for fewer tokens, answers or log-probabilities, or for a stream"
    )]
    AnswerTooLarge { bytes: usize, most: usize },
    /// A fault of this program.
    #[error("the server failed to handle the request; its log says why")]
    Internal,
}

impl Fault<'_> {
    /// The status, and the stable name.
    fn head(&self) -> (StatusCode, &'static str) {
        match self {
            Self::UnknownUrl { .. } => (StatusCode::NOT_FOUND, "unknown_url"),
            Self::MethodNotAllowed { .. } => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::ForeignHost(_) => (StatusCode::FORBIDDEN, "host_not_allowed"),
            Self::ForeignPage(_) => (StatusCode::FORBIDDEN, "origin_not_allowed"),
            Self::UserNotAllowed(_) => (StatusCode::FORBIDDEN, "user_not_allowed"),
            Self::NoKey | Self::WrongKey => (StatusCode::UNAUTHORIZED, "invalid_api_key"),
            Self::NotAdmin => (StatusCode::FORBIDDEN, "insufficient_scope"),
            Self::MediaType { .. } => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type")
            }
            Self::BodyTooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "request_too_large"),
            Self::BodyTimeout(_) => (StatusCode::REQUEST_TIMEOUT, "request_timeout"),
            Self::BrokenBody(_) => (StatusCode::BAD_REQUEST, "invalid_body"),
            Self::NoMemoryForBody => (StatusCode::SERVICE_UNAVAILABLE, "out_of_memory"),
            Self::TooManyValues { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "request_too_large"),
            Self::ModelNotFound { .. } => (StatusCode::NOT_FOUND, "model_not_found"),
            Self::NoEmbeddingModel => (StatusCode::NOT_FOUND, "no_embedding_model"),
            Self::ResponseNotFound(_) => (StatusCode::NOT_FOUND, "response_not_found"),
            Self::CannotCancel => (StatusCode::BAD_REQUEST, "not_cancellable"),
            Self::KeyInFlight { .. } | Self::KeyTokens { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded")
            }
            Self::KeyNeverInFlight { .. } | Self::KeyNeverTokens { .. } => {
                (StatusCode::BAD_REQUEST, "key_limit_exceeded")
            }
            Self::NoMemoryForAnswer => (StatusCode::SERVICE_UNAVAILABLE, "out_of_memory"),
            Self::AnswerTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "answer_too_large"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal_error"),
        }
    }
}

impl From<Fault<'_>> for ApiError {
    fn from(fault: Fault<'_>) -> Self {
        let (status, code) = fault.head();
        let mut error = Self::new(status, code, fault.to_string());
        match fault {
            Fault::MethodNotAllowed { allow, .. } => error.allow = Some(allow.into()),
            Fault::NoKey | Fault::WrongKey => error.challenge = true,
            Fault::MediaType { header, .. } => error.param = Some(header.to_owned()),
            Fault::ModelNotFound { .. } => error.param = Some("model".to_owned()),
            Fault::BodyTooLarge(_) | Fault::BodyTimeout(_) | Fault::BrokenBody(_) => {
                error.close = true;
            }
            Fault::NoMemoryForBody => error = error.with_retry().closing(),
            Fault::NoMemoryForAnswer | Fault::KeyInFlight { .. } => error = error.with_retry(),
            Fault::KeyTokens { wait, .. } => {
                let after = |wait: Duration| Duration::from_secs(wait.as_secs() + 1);
                error.retry_after = Some(wait.map_or(RETRY_AFTER, after));
            }
            _ => {}
        }
        error
    }
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}

impl From<GenerateError> for ApiError {
    fn from(error: GenerateError) -> Self {
        let message = error.to_string();
        match error {
            GenerateError::InvalidField { field, .. } => {
                Self::bad_request("invalid_value", message).with_param(field)
            }
            GenerateError::ContextExceeded { prompt_tokens, context_tokens } => Self {
                context: Some(Box::new([prompt_tokens, context_tokens])),
                ..Self::bad_request("context_length_exceeded", message)
            },
            GenerateError::Template(_) => {
                Self::bad_request("invalid_value", message).with_param("messages")
            }
            GenerateError::Submit(error) => error.into(),
            GenerateError::Job(error) => error.into(),
            GenerateError::EngineGone => Self::internal("engine_stopped", message),
            GenerateError::Tokenizer(_) => Self::internal("tokenizer_error", message),
            GenerateError::Grammar(_) => Self::internal("grammar_error", message),
            GenerateError::FormsUnavailable(_) => Self::unavailable("forms_unavailable", message),
            GenerateError::GrammarsBusy => Self::unavailable("grammars_busy", message).with_retry(),
            GenerateError::OutOfMemory => Fault::NoMemoryForAnswer.into(),
            GenerateError::TokenizerBusy => {
                Self::unavailable("tokenizer_busy", message).with_retry()
            }
        }
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        let message = error.to_string();
        match error {
            SubmitError::Full { .. } => Self::unavailable("queue_full", message).with_retry(),
            SubmitError::CallerFull { .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message)
                    .with_retry()
            }
            SubmitError::PromptLength { .. } => {
                Self::bad_request("context_length_exceeded", message)
            }
            SubmitError::ShuttingDown => {
                Self::unavailable("shutting_down", message).with_retry().closing()
            }
            SubmitError::Stopped => Self::unavailable("engine_stopped", message),
        }
    }
}

impl From<JobError> for ApiError {
    fn from(error: JobError) -> Self {
        let message = error.to_string();
        match error {
            JobError::DeadlineExceeded => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", message)
            }
            JobError::SlowClient => {
                Self::new(StatusCode::REQUEST_TIMEOUT, "slow_client", message).closing()
            }
            JobError::ShuttingDown => {
                Self::unavailable("shutting_down", message).with_retry().closing()
            }
            JobError::Mask(_) => Self::bad_request("grammar_failed", message),
            JobError::Model(_) => Self::internal("model_error", message),
        }
    }
}

/// `text`, with its middle left out if it is long.
pub(super) fn shortened(text: &str) -> String {
    let chars = text.chars().count();
    if chars <= MAX_VALUE_CHARS {
        return text.to_owned();
    }
    let half = MAX_VALUE_CHARS / 2;
    let head: String = text.chars().take(half).collect();
    let tail: String = text.chars().skip(chars - half).collect();
    format!("{head}…{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use phi4d_engine::MaskError;
    use phi4d_generate::FormEnd;

    #[test]
    fn each_fault_has_its_status_and_code() {
        let field = || GenerateError::InvalidField {
            field: "temperature".to_owned(),
            value: "3".to_owned(),
            accepted: "0 to 2".to_owned(),
        };
        let context = GenerateError::ContextExceeded { prompt_tokens: 9, context_tokens: 8 };
        let template = GenerateError::Template("x".into());
        let model = JobError::Model("x".into());
        let table: [(GenerateError, &str); 17] = [
            (field(), "400 invalid_value"),
            (context, "400 context_length_exceeded"),
            (template, "400 invalid_value"),
            (SubmitError::Full { limit: 3 }.into(), "503 queue_full retry"),
            (SubmitError::ShuttingDown.into(), "503 shutting_down retry close"),
            (SubmitError::Stopped.into(), "503 engine_stopped"),
            (JobError::DeadlineExceeded.into(), "504 deadline_exceeded"),
            (JobError::SlowClient.into(), "408 slow_client close"),
            (JobError::ShuttingDown.into(), "503 shutting_down retry close"),
            (model.into(), "500 model_error"),
            (GenerateError::EngineGone, "500 engine_stopped"),
            (GenerateError::OutOfMemory, "503 out_of_memory retry"),
            (GenerateError::TokenizerBusy, "503 tokenizer_busy retry"),
            (GenerateError::GrammarsBusy, "503 grammars_busy retry"),
            (GenerateError::FormsUnavailable(FormEnd::Gone), "503 forms_unavailable"),
            (GenerateError::Grammar("x".into()), "500 grammar_error"),
            (JobError::Mask(MaskError("x".into())).into(), "400 grammar_failed"),
        ];
        for (error, expected) in table {
            let message = error.to_string();
            let api = ApiError::from(error);
            let retry = api.retry_after.map_or("", |_| " retry");
            let close = if api.close { " close" } else { "" };
            let found = format!("{} {}{retry}{close}", api.status.as_u16(), api.code);
            assert_eq!(found, expected, "{message}");
            assert_eq!(api.message, message);
        }
        assert_eq!(ApiError::from(field()).param.as_deref(), Some("temperature"));
    }

    #[test]
    fn long_values_are_shortened_between_characters() {
        assert_eq!(shortened("é"), "é");
        let long = shortened(&"é".repeat(5000));
        assert_eq!(long.chars().count(), MAX_VALUE_CHARS + 1);
        assert!(long.contains('…'));
    }
}
