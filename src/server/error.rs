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

    pub(super) fn model_not_found(asked: &str, served: &[&str]) -> Self {
        let served: Vec<String> = served.iter().map(|name| format!("{name:?}")).collect();
        let served = served.join(", ");
        Self::new(
            StatusCode::NOT_FOUND,
            "model_not_found",
            format!("model: {:?} does not exist here; this server has {served}", shortened(asked)),
        )
        .with_param("model")
    }

    /// The model `name` can't be had now.
    pub(super) fn no_model(name: &str, error: &PinError) -> Self {
        match error {
            PinError::Submit(error) => (*error).into(),
            PinError::Failed(_) | PinError::TooLarge { .. } => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "model_unavailable",
                format!("model: {name:?}: {error}"),
            )
            .with_param("model"),
        }
    }

    /// There is no embedding model.
    pub(super) fn no_embedding_model() -> Self {
        let message = "this server has no embedding model; the setting embedding_model names the \
                       folder of one";
        Self::new(StatusCode::NOT_FOUND, "no_embedding_model", message)
    }

    /// The caller has nothing stored of the id that a field names.
    pub(super) fn not_stored(field: &str, id: &str, accepted: &str) -> Self {
        let mut error = Self::invalid_value(field, format_args!("{id:?}"), accepted);
        error.code = "not_stored";
        error.message += ", which this server may have dropped; send its items as input";
        error
    }

    /// The caller has no stored response of this id.
    pub(super) fn response_not_found(id: &str) -> Self {
        let id = shortened(id);
        let message = format!("the response {id:?} is not stored, or no longer");
        Self::new(StatusCode::NOT_FOUND, "response_not_found", message)
    }

    /// A response that is stored has ended.
    pub(super) fn cannot_cancel() -> Self {
        let message = "only responses in the background can be cancelled, and there are none here; \
                       close the connection of a running one";
        Self::bad_request("not_cancellable", message)
    }

    /// No route has this path; `known` lists those that there are.
    pub(super) fn unknown_url(method: &Method, path: &str, known: &str) -> Self {
        let message = format!("unknown URL: {method} {}; known are {known}", shortened(path));
        Self::new(StatusCode::NOT_FOUND, "unknown_url", message)
    }

    pub(super) fn method_not_allowed(method: &Method, path: &str, allow: &str) -> Self {
        let mut error = Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            format!("{method} is not accepted by {path}; expected {allow}"),
        );
        error.allow = Some(allow.into());
        error
    }

    pub(super) fn unsupported_media_type(
        header: &'static str,
        value: &str,
        accepted: &str,
    ) -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            format!("{header}: {:?} is not accepted; expected {accepted}", shortened(value)),
        )
        .with_param(header)
    }

    pub(super) fn body_too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "request_too_large",
            format!("the request's body is too large; accepted are up to {limit} bytes"),
        )
        .closing()
    }

    pub(super) fn body_timeout(limit: Duration) -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "request_timeout",
            format!("the request's body did not arrive within {} s", limit.as_secs_f64()),
        )
        .closing()
    }

    /// Parsed, the body would take more memory than any request may.
    pub(super) fn too_many_values(values: usize, bytes: usize, most: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "request_too_large",
            format!(
                "the request's body has {values} JSON values, for which up to {bytes} bytes of \
                 memory are needed; accepted are up to {most}, half of request_memory_bytes"
            ),
        )
    }

    /// The answer would take more memory than any request may.
    pub(super) fn answer_too_large(bytes: usize, most: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "answer_too_large",
            format!(
                "the answer needs up to {bytes} bytes of memory; a request may take up to {most}, half \
                 of request_memory_bytes; ask for fewer tokens, answers or log-probabilities, or \
                 for a stream"
            ),
        )
    }

    /// There is no memory for the answer now.
    pub(super) fn no_memory_for_answer() -> Self {
        let message = GenerateError::OutOfMemory.to_string();
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "out_of_memory", message).with_retry()
    }

    /// There is no memory for the body, by the budget or by the system.
    pub(super) fn no_memory_for_body() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "out_of_memory",
            "there is no memory for the request's body; send a smaller one, or try again later",
        )
        .with_retry()
        .closing()
    }

    /// The body ended early or its framing is broken.
    pub(super) fn broken_body(error: &hyper::Error) -> Self {
        Self::bad_request("invalid_body", format!("the request's body could not be read: {error}"))
            .closing()
    }

    /// A key is needed and none was sent.
    pub(super) fn no_key() -> Self {
        Self::unauthorized(
            "an API key is needed; send it as Authorization: Bearer KEY or as x-api-key: KEY",
        )
    }

    /// The key that was sent is not one of this server's.
    pub(super) fn wrong_key() -> Self {
        Self::unauthorized("the API key is not known here; `phi4d key list` shows those that are")
    }

    fn unauthorized(message: &str) -> Self {
        let error = Self::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message);
        Self { challenge: true, ..error }
    }

    /// The settings name who may use the Unix socket, and this user is not among them.
    pub(super) fn user_not_allowed(uid: u32) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "user_not_allowed",
            format!(
                "user {uid} may not use this socket; socket_allow_users and socket_allow_groups \
                 name those that may"
            ),
        )
    }

    /// The request's host name is not one of this server's.
    pub(super) fn foreign_host(host: &str) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "host_not_allowed",
            format!("this server is not called {:?}; allowed_hosts adds names", shortened(host)),
        )
    }

    /// The request comes from a web page that the settings do not allow.
    pub(super) fn foreign_page(origin: &str) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "origin_not_allowed",
            format!(
                "pages from {:?} may not use this server; cors_origins names those that may",
                shortened(origin)
            ),
        )
    }

    /// The route is for administrators, and the caller is none.
    pub(super) fn not_admin() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "insufficient_scope",
            "this is for administrators: a key with the scope admin, or root and the daemon's own \
             user on the Unix socket",
        )
    }

    /// The key's limit of concurrent answers is reached.
    pub(super) fn key_in_flight(name: &str, most: u32) -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limit_exceeded",
            format!("the key {name:?} may have {most} answers at the same time (max_in_flight)"),
        )
        .with_retry()
    }

    /// The request alone asks for more answers than its key may have.
    pub(super) fn key_never_in_flight(name: &str, asked: u64, most: u32) -> Self {
        Self::bad_request(
            "key_limit_exceeded",
            format!(
                "the request asks for {asked} answers at the same time, but the key {name:?} may \
                 have {most} (max_in_flight); ask for fewer by n, best_of or prompt"
            ),
        )
    }

    /// The key's tokens of this minute are used or reserved; there are some again after `wait`, if
    /// that is known, else when a running request ends.
    pub(super) fn key_tokens(name: &str, limit: u32, wait: Option<Duration>) -> Self {
        let mut error = Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limit_exceeded",
            format!(
                "the key {name:?} may use {limit} tokens a minute (tokens_per_minute), and this \
                 request may take more than are left"
            ),
        );
        error.retry_after =
            Some(wait.map_or(RETRY_AFTER, |wait| Duration::from_secs(wait.as_secs() + 1)));
        error
    }

    /// The request alone may take more tokens than its key has in a minute.
    pub(super) fn key_never_tokens(name: &str, asked: u64, limit: u32) -> Self {
        Self::bad_request(
            "key_limit_exceeded",
            format!(
                "the request may take {asked} tokens, prompt and answers together, but the key \
                 {name:?} may use {limit} a minute (tokens_per_minute); lower max_tokens or n, or \
                 shorten the prompt"
            ),
        )
    }

    pub(super) fn draining() -> Self {
        SubmitError::ShuttingDown.into()
    }

    /// A fault of this program.
    pub(super) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "the server failed to handle the request; its log says why",
        )
    }
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
            GenerateError::EngineGone => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "engine_stopped", message)
            }
            GenerateError::Tokenizer(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "tokenizer_error", message)
            }
            GenerateError::Grammar(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "grammar_error", message)
            }
            GenerateError::FormsUnavailable(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "forms_unavailable", message)
            }
            GenerateError::GrammarsBusy => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "grammars_busy", message).with_retry()
            }
            GenerateError::OutOfMemory => Self::no_memory_for_answer(),
            GenerateError::TokenizerBusy => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "tokenizer_busy", message).with_retry()
            }
        }
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        let message = error.to_string();
        let unavailable = |code| Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message.clone());
        match error {
            SubmitError::Full { .. } => unavailable("queue_full").with_retry(),
            SubmitError::CallerFull { .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message)
                    .with_retry()
            }
            SubmitError::PromptLength { .. } => {
                Self::bad_request("context_length_exceeded", message)
            }
            SubmitError::ShuttingDown => unavailable("shutting_down").with_retry().closing(),
            SubmitError::Stopped => unavailable("engine_stopped"),
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
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", message)
                    .with_retry()
                    .closing()
            }
            JobError::Mask(_) => Self::bad_request("grammar_failed", message),
            JobError::Model(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "model_error", message)
            }
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
