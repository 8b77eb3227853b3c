//! From a request's method and path to its handler, and from what comes back to a response.

use std::borrow::Cow;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Method, Request};

use super::access::Exchange;
use super::app::{App, Phase};
use super::auth::{Class, Parts, Rules, admit, preflight};
use super::body::discard_rest;
use super::caller::Origin;
use super::error::ApiError;
use super::guard::CatchPanic;
use super::handlers::{
    anthropic, chat, completions, health, metrics, models, ollama, openapi, responses, slots,
    tokens,
};
use super::page;
use super::reply::{Reply, failure, permitted, sealed};
use super::strict;
use super::wire::error::Dialect;

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    Chat,
    Completions,
    Models,
    Model,
    Render,
    Tokenize,
    Detokenize,
    Slots,
    OllamaChat,
    OllamaGenerate,
    OllamaShow,
    OllamaTags,
    OllamaPs,
    OllamaVersion,
    Responses,
    Messages,
    CountTokens,
    OpenApi,
    Health,
    Ready,
    Metrics,
    Page,
    PageFile,
}

/// What leads to each route: a path, or the beginning of one that ends in a name.
pub(super) const PATHS: &[(&str, Route)] = &[
    ("/v1/chat/completions", Route::Chat),
    ("/v1/completions", Route::Completions),
    ("/v1/chat/completions/render", Route::Render),
    ("/apply-template", Route::Render),
    ("/tokenize", Route::Tokenize),
    ("/detokenize", Route::Detokenize),
    ("/v1/models", Route::Models),
    // What follows is one id: models' names may hold slashes.
    ("/v1/models/{id}", Route::Model),
    ("/v1/responses", Route::Responses),
    ("/v1/messages", Route::Messages),
    ("/v1/messages/count_tokens", Route::CountTokens),
    ("/api/chat", Route::OllamaChat),
    ("/api/generate", Route::OllamaGenerate),
    ("/api/show", Route::OllamaShow),
    ("/api/tags", Route::OllamaTags),
    ("/api/ps", Route::OllamaPs),
    ("/api/version", Route::OllamaVersion),
    ("/slots", Route::Slots),
    ("/openapi.json", Route::OpenApi),
    ("/health", Route::Health),
    ("/ready", Route::Ready),
    ("/metrics", Route::Metrics),
    ("/", Route::Page),
    ("/page/{id}", Route::PageFile),
];

/// What stands for a name at the end of a path.
const NAME: &str = "{id}";

impl Route {
    /// The route of `path` as [`PATHS`] spells it, and the route.
    fn find(path: &str) -> Option<(&'static str, Self)> {
        PATHS.iter().copied().find(|(pattern, _)| match pattern.strip_suffix(NAME) {
            None => *pattern == path,
            Some(beginning) => path.strip_prefix(beginning).is_some_and(|name| !name.is_empty()),
        })
    }

    /// How closely it is guarded.
    fn class(self, rules: &Rules) -> Class {
        match self {
            Self::Chat
            | Self::Completions
            | Self::Responses
            | Self::Messages
            | Self::OllamaChat
            | Self::OllamaGenerate
            | Self::Render
            | Self::Tokenize
            | Self::Detokenize
            | Self::CountTokens => Class::Metered,
            Self::Models
            | Self::Model
            | Self::OllamaShow
            | Self::OllamaTags
            | Self::OllamaPs
            | Self::OllamaVersion
            | Self::OpenApi => Class::Use,
            Self::Slots => Class::Admin,
            Self::Health | Self::Ready => Class::Open,
            Self::Page | Self::PageFile => Class::Page,
            Self::Metrics => rules.metrics(),
        }
    }

    /// Whether it is of the web page, and not of the API.
    pub(super) fn is_page(self) -> bool {
        matches!(self, Self::Page | Self::PageFile)
    }

    /// Whether it is answered while the daemon drains.
    fn outlives_serving(self) -> bool {
        matches!(self, Self::Health | Self::Ready | Self::Metrics | Self::Slots) || self.is_page()
    }

    /// Whether it is read; the others are asked with a body.
    fn is_read(self) -> bool {
        matches!(
            self,
            Self::Models
                | Self::Model
                | Self::Slots
                | Self::OllamaTags
                | Self::OllamaPs
                | Self::OllamaVersion
                | Self::OpenApi
                | Self::Health
                | Self::Ready
                | Self::Metrics
                | Self::Page
                | Self::PageFile
        )
    }

    fn allows(self, method: &Method) -> bool {
        match self.is_read() {
            true => method == Method::GET || method == Method::HEAD,
            false => method == Method::POST,
        }
    }

    fn allow_header(self) -> &'static str {
        if self.is_read() { "GET, HEAD" } else { "POST" }
    }
}

/// Answers one request. Never fails: faults and panics are answers, too.
pub(super) async fn respond(
    app: App,
    origin: &Origin,
    phase: Phase,
    request: Request<Incoming>,
) -> Reply {
    let exchange = Arc::new(Exchange::new(
        app.metrics().clone(),
        origin.caller().clone(),
        request.method().clone(),
        request.uri().path(),
        request.headers(),
    ));
    let dialect = Dialect::of(request.uri().path());
    if let Err(error) = strict::check(&request) {
        discard_rest(request).await;
        return sealed(failure(&error, dialect), exchange);
    }
    let permission = app.rules().permission(request.headers());
    let handled = CatchPanic::new(dispatch(&app, origin, phase, request, &exchange)).await;
    let mut reply = match handled {
        Ok(Ok(reply)) => reply,
        Ok(Err(error)) => failure(&error, dialect),
        Err(panicked) => {
            let id = exchange.id();
            log::error!(request_id = id; "the handler of request {id} panicked: {}", panicked.0);
            failure(&ApiError::internal(), dialect)
        }
    };
    reply.headers_mut().extend(permission);
    sealed(reply, exchange)
}

async fn dispatch(
    app: &App,
    origin: &Origin,
    phase: Phase,
    request: Request<Incoming>,
    exchange: &Arc<Exchange>,
) -> Result<Reply, ApiError> {
    let path = request.uri().path().to_owned();
    let rules = app.rules();
    let found =
        Route::find(&path).filter(|(_, route)| !route.is_page() || rules.shows_page(origin));
    let Some((pattern, route)) = found else {
        return Err(ApiError::unknown_url(request.method(), &path));
    };
    exchange.routed(pattern);
    if rules.is_preflight(&request) {
        return Ok(permitted(preflight(request.headers(), route.allow_header())));
    }
    if !route.allows(request.method()) {
        let allow = route.allow_header();
        return Err(ApiError::method_not_allowed(request.method(), &path, allow));
    }
    let parts = Parts { uri: request.uri(), headers: request.headers() };
    match admit(&rules, origin, route.class(&rules), &parts).await {
        Ok(admission) => exchange.admitted(admission),
        Err(error) => {
            discard_rest(request).await;
            return Err(error);
        }
    }
    if phase != Phase::Serving && !route.outlives_serving() {
        return Err(ApiError::draining());
    }
    match route {
        Route::Chat => chat::create(app, request, exchange).await,
        Route::Completions => completions::create(app, request, exchange).await,
        Route::Models => Ok(models::list(app)),
        Route::Model => {
            let name = path.strip_prefix(pattern.trim_end_matches(NAME)).unwrap_or_default();
            models::get(app, &percent_decoded(name))
        }
        Route::Render => tokens::render(app, request, exchange).await,
        Route::Tokenize => tokens::tokenize(app, request, exchange).await,
        Route::Detokenize => tokens::detokenize(app, request, exchange).await,
        Route::Slots => slots::get(app).await,
        Route::OllamaChat => ollama::chat(app, request, exchange).await,
        Route::OllamaGenerate => ollama::generate(app, request, exchange).await,
        Route::OllamaShow => ollama::show(app, request, exchange).await,
        Route::OllamaTags => Ok(ollama::tags(app)),
        Route::OllamaPs => Ok(ollama::ps(app)),
        Route::OllamaVersion => Ok(ollama::version()),
        Route::Responses => responses::create(app, request, exchange).await,
        Route::Messages => anthropic::create(app, request, exchange).await,
        Route::CountTokens => anthropic::count_tokens(app, request, exchange).await,
        Route::OpenApi => Ok(openapi::get()),
        Route::Health => Ok(health::get(app)),
        Route::Ready => Ok(health::ready(app)),
        Route::Metrics => Ok(metrics::get(app)),
        Route::Page | Route::PageFile => page::get(&path, request.headers())
            .ok_or_else(|| ApiError::unknown_url(request.method(), &path)),
    }
}

/// `text` with its %XX read; as it stands if that isn't valid.
fn percent_decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let pair =
            tail.get(..2).filter(|pair| first == b'%' && pair.iter().all(u8::is_ascii_hexdigit));
        let decoded = pair
            .and_then(|pair| std::str::from_utf8(pair).ok())
            .and_then(|pair| u8::from_str_radix(pair, 16).ok());
        match decoded {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).map_or(Cow::Borrowed(text), Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_find_their_route() {
        let table = [
            ("/v1/chat/completions", Some(Route::Chat)),
            ("/v1/chat/completions/render", Some(Route::Render)),
            ("/v1/models", Some(Route::Models)),
            ("/v1/models/phi-4", Some(Route::Model)),
            ("/v1/models/microsoft/phi-4", Some(Route::Model)),
            ("/v1/models/microsoft%2Fphi-4", Some(Route::Model)),
            ("/metrics", Some(Route::Metrics)),
            ("/", Some(Route::Page)),
            ("/page/vendor/a.js", Some(Route::PageFile)),
            ("/page/", None),
            ("/v1/models/", None),
            ("/v1/chat/completions/", None),
            ("/V1/models", None),
        ];
        for (path, route) in table {
            assert_eq!(Route::find(path).map(|(_, route)| route), route, "{path}");
        }
        for (pattern, _) in PATHS {
            assert_eq!(Route::find(pattern).map(|(found, _)| found), Some(*pattern));
        }
    }

    #[test]
    fn percent_signs_that_are_no_escape_stay() {
        assert_eq!(percent_decoded("microsoft%2Fphi-4"), "microsoft/phi-4");
        for same in ["a%", "a%2", "%zz", "%ff", "%+1", "plain"] {
            assert_eq!(percent_decoded(same), same);
        }
        assert_eq!(percent_decoded("%41%c3%a9"), "Aé");
    }

    #[test]
    fn methods_are_checked_by_route() {
        assert!(Route::Chat.allows(&Method::POST));
        assert!(!Route::Chat.allows(&Method::GET));
        assert!(Route::Health.allows(&Method::HEAD));
        assert!(!Route::Models.allows(&Method::DELETE));
    }
}
