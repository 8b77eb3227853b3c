//! The table of routes, and the way of a request through it: route, admission, handler, response.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CONTENT_ENCODING,
    CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, HeaderName, ORIGIN, TRANSFER_ENCODING,
};
use hyper::http::uri::{Authority, Scheme};
use hyper::{Method, Request, Version};
use percent_encoding::percent_decode_str;

use super::access::{Call, Exchange, REQUEST_ID, TRACEPARENT};
use super::app::{App, Phase};
use super::auth::{Class, Parts, X_API_KEY, admit, preflight};
use super::body::discard_rest;
use super::caller::Origin;
use super::error::{ApiError, Fault};
use super::guard::CatchPanic;
use super::handlers::{
    anthropic, chat, completions, embeddings, llama, metrics, ollama, responses, status, tokens,
};
#[cfg(test)]
use super::openapi::operations::{self, Operation, Schemas};
use super::page;
use super::reply::{Reply, failure, permitted, sealed};
use super::wire::embeddings::EmbedRequest;
use super::wire::error::Dialect;
use super::wire::llama::LlamaRequest;
use super::wire::ollama::OllamaRequest;
use phi4d_engine::SubmitError;

/// One endpoint: all that the server knows about a path, in one row of [`ROUTES`].
pub(super) struct Route {
    /// A path, in which a name may stand ([`NAME`]). Labels of metrics use it as it stands here, so
    /// that clients can't make more of them. Routes of one path differ in their methods.
    pub(super) path: &'static str,
    methods: Methods,
    access: Class,
    /// Whether it is still answered while the daemon drains.
    always: bool,
    handler: Handler,
    /// What the OpenAPI document says of it; the web page is not in the document.
    #[cfg(test)]
    pub(super) operation: Option<fn(&mut Schemas) -> Operation>,
}

/// The methods of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Methods {
    Get,
    Post,
    Delete,
}

impl Methods {
    fn has(self, method: &Method) -> bool {
        match self {
            Self::Get => method == Method::GET || method == Method::HEAD,
            Self::Post => method == Method::POST,
            Self::Delete => method == Method::DELETE,
        }
    }

    /// The value of the header `Allow`.
    pub(super) fn allow(self) -> &'static str {
        match self {
            Self::Get => "GET, HEAD",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

type Handler = for<'a> fn(Call<'a>) -> Pin<Box<dyn Future<Output = Handled> + Send + 'a>>;

type Handled = Result<Reply, ApiError>;

/// Makes [`ROUTES`] of rows, so that builds without tests need not know what the document says. A handler
/// is a function of the [`Call`], one that gets the request's parser as well, or an expression.
macro_rules! routes {
    ($($methods:ident $path:literal $access:ident $while:ident
       ($($handler:tt)+) $($operation:path)?;)+) => {
        /// Every endpoint, in the order in which errors and documents list them.
        pub(super) static ROUTES: &[Route] = &[$(Route {
            path: $path,
            methods: Methods::$methods,
            access: Class::$access,
            always: routes!(@$while),
            handler: routes!(@handler $($handler)+),
            #[cfg(test)]
            operation: routes!(@operation $($operation)?),
        }),+];
    };
    (@serving) => { false };
    (@always) => { true };
    (@handler $call:ident => $answer:expr) => { |$call| Box::pin(async move { $answer }) };
    (@handler $create:path) => { |call| Box::pin($create(call)) };
    (@handler $create:path, $parse:path) => { |call| Box::pin($create(call, $parse)) };
    (@operation) => { None };
    (@operation $operation:path) => { Some($operation) };
}

routes! {
    Post "/v1/chat/completions" Metered serving (chat::create) operations::chat;
    Post "/v1/completions" Metered serving (completions::create) operations::completions;
    Post "/v1/responses" Metered serving (responses::create) operations::responses;
    Post "/v1/responses/input_tokens" Metered serving
        (responses::input_tokens) operations::input_tokens;
    Post "/v1/embeddings" Metered serving
        (embeddings::create, EmbedRequest::openai) operations::embeddings;
    Get "/v1/responses/{id}/input_items" Use serving
        (c => responses::input_items(c.app, c.exchange, c.name, c.request.uri().query()).await)
        operations::input_items;
    Post "/v1/responses/{id}/cancel" Use serving
        (c => responses::cancel(c.app, c.exchange, c.name)) operations::cancel_response;
    Get "/v1/responses/{id}" Use serving
        (c => responses::retrieve(c.app, c.exchange, c.name)) operations::response;
    Delete "/v1/responses/{id}" Use serving
        (c => responses::delete(c.app, c.exchange, c.name)) operations::delete_response;
    Post "/v1/messages" Metered serving (anthropic::create) operations::messages;
    Post "/v1/messages/count_tokens" Metered serving
        (anthropic::count_tokens) operations::count_tokens;
    Post "/api/chat" Metered serving (ollama::create, OllamaRequest::chat) operations::ollama_chat;
    Post "/api/generate" Metered serving
        (ollama::create, OllamaRequest::generate) operations::ollama_generate;
    Post "/api/embed" Metered serving
        (embeddings::create, EmbedRequest::ollama) operations::ollama_embed;
    Post "/api/embeddings" Metered serving
        (embeddings::create, EmbedRequest::ollama_one) operations::ollama_embeddings;
    Post "/api/show" Use serving (ollama::show) operations::ollama_show;
    Post "/api/pull" Use serving (ollama::pull) operations::ollama_pull;
    Get "/api/tags" Use serving (c => Ok(ollama::tags(c.app))) operations::ollama_tags;
    Get "/api/ps" Use serving (c => Ok(ollama::ps(c.app))) operations::ollama_ps;
    Get "/api/version" Use serving (_c => Ok(ollama::version())) operations::ollama_version;
    Post "/completion" Metered serving
        (llama::create, LlamaRequest::completion) operations::llama_completion;
    Post "/infill" Metered serving (llama::create, LlamaRequest::infill) operations::llama_infill;
    Get "/props" Use serving (c => llama::props(c.app, c.exchange).await) operations::llama_props;
    Post "/v1/chat/completions/render" Metered serving (tokens::render) operations::render;
    Post "/apply-template" Metered serving (tokens::render) operations::render;
    Post "/tokenize" Metered serving (tokens::tokenize) operations::tokenize;
    Post "/detokenize" Metered serving (tokens::detokenize) operations::detokenize;
    Get "/tokenizer_info" Use serving
        (c => tokens::tokenizer_info(c.app, c.exchange).await) operations::tokenizer_info;
    Get "/version" Use serving (_c => Ok(status::version())) operations::version;
    Get "/v1/models" Use serving (c => Ok(status::models(c.app))) operations::models;
    Get "/v1/models/{id}" Use serving
        (c => status::model(c.app, &decoded(c.name))) operations::model;
    Get "/slots" Admin always (c => status::slots(c.app).await) operations::slots;
    Get "/openapi.json" Use serving (_c => Ok(status::openapi())) operations::openapi;
    Get "/health" Open always (c => Ok(status::health(c.app))) operations::health;
    Get "/ready" Open always (c => Ok(status::ready(c.app))) operations::ready;
    Get "/metrics" Metrics always (c => Ok(metrics::get(c.app))) operations::metrics;
    Get "/" Page always (c => page_file(&c.request));
    Get "/page/{id}" Page always (c => page_file(&c.request));
}

/// Stands for a name in a path. At the end of a path a name may hold slashes, as models' names do.
const NAME: &str = "{id}";

impl Route {
    /// The method that the OpenAPI document lists.
    #[cfg(test)]
    pub(super) fn method(&self) -> &'static str {
        match self.methods {
            Methods::Get => "get",
            Methods::Post => "post",
            Methods::Delete => "delete",
        }
    }

    /// Whether a request keeps the daemon from ending for want of requests. One that only asks how the
    /// daemon is does not, however often it comes.
    fn keeps_awake(&self) -> bool {
        !matches!(self.access, Class::Open | Class::Metrics | Class::Admin)
    }

    /// The routes of a request's `path`, which differ in their methods, and the name in it.
    fn find(path: &str) -> Option<(Vec<&'static Self>, &str)> {
        let (first, name) = ROUTES.iter().find_map(|route| Some((route, route.name_in(path)?)))?;
        let same = ROUTES.iter().filter(|route| route.path == first.path);
        Some((same.collect(), name))
    }

    /// The name that `path` has, if the route is its; empty for a route without names.
    fn name_in<'p>(&self, path: &'p str) -> Option<&'p str> {
        let Some((start, end)) = self.path.split_once(NAME) else {
            return (self.path == path).then_some("");
        };
        let name = path.strip_prefix(start)?.strip_suffix(end)?;
        (!name.is_empty() && (end.is_empty() || !name.contains('/'))).then_some(name)
    }
}

/// The path of the route that a client means by `path`: base URLs are written with and without a
/// slash at their end, and llama.cpp's clients leave `/v1` out of some paths and add it to others.
fn meant(path: &str) -> Cow<'_, str> {
    let mut meant = Cow::Borrowed(path);
    if path.contains("//") || path.ends_with('/') && path != "/" {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        meant = format!("/{}", parts.join("/")).into();
    }
    if meant == "/v1/health" {
        return Cow::Borrowed("/health");
    }
    if Route::find(&meant).is_none() {
        let longer = format!("/v1{meant}");
        if Route::find(&longer).is_some() {
            return longer.into();
        }
    }
    meant
}

/// A name with its %XX decoded; as it was sent if that is not UTF-8.
fn decoded(name: &str) -> Cow<'_, str> {
    percent_decode_str(name).decode_utf8().unwrap_or(Cow::Borrowed(name))
}

/// The value of the header `Allow` for routes of one path.
fn allowed(routes: &[&Route]) -> String {
    routes.iter().map(|route| route.methods.allow()).collect::<Vec<_>>().join(", ")
}

/// No route has this URL, or the page is off.
fn unknown_url<B>(request: &Request<B>) -> ApiError {
    let known = ROUTES.iter().filter(|route| route.access != Class::Page).map(|route| route.path);
    let mut known: Vec<&str> = known.collect();
    known.dedup();
    let (method, path) = (request.method(), request.uri().path());
    Fault::UnknownUrl { method, path, known: &known.join(", ") }.into()
}

fn page_file<B>(request: &Request<B>) -> Handled {
    let found = page::get(request.uri().path(), request.headers());
    found.ok_or_else(|| unknown_url(request))
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
    let dialect = Dialect::of(&meant(request.uri().path()));
    if let Err(error) = check_headers(&request) {
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
            failure(&Fault::Internal.into(), dialect)
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
    let path = meant(request.uri().path()).into_owned();
    let rules = app.rules();
    let is_there = |route: &&Route| route.access != Class::Page || rules.shows_page(origin);
    let (routes, name) = Route::find(&path).unwrap_or_default();
    let Some(first) = routes.first().copied().filter(is_there) else {
        return Err(unknown_url(&request));
    };
    exchange.routed(first.path);
    let allow = allowed(&routes);
    if rules.is_preflight(&request) {
        return Ok(permitted(preflight(request.headers(), &allow)));
    }
    let Some(route) = routes.into_iter().find(|route| route.methods.has(request.method())) else {
        let method = request.method();
        return Err(Fault::MethodNotAllowed { method, path: &path, allow: &allow }.into());
    };
    let parts = Parts { uri: request.uri(), headers: request.headers() };
    match admit(&rules, origin, route.access, &parts).await {
        Ok(admission) => exchange.admitted(admission),
        Err(error) => {
            discard_rest(request).await;
            return Err(error);
        }
    }
    if route.keeps_awake() {
        exchange.keeps_awake(app.demand().request());
    }
    // After admission: a caller without access learns nothing of the daemon's state.
    if phase != Phase::Serving && !route.always {
        return Err(SubmitError::ShuttingDown.into());
    }
    (route.handler)(Call { app, request, exchange, name }).await
}

/// Headers that the daemon reads, each of which has one value.
const SINGLE: [HeaderName; 13] = [
    HOST,
    ORIGIN,
    AUTHORIZATION,
    HeaderName::from_static(X_API_KEY),
    CONTENT_TYPE,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    TRANSFER_ENCODING,
    EXPECT,
    HeaderName::from_static(TRACEPARENT),
    HeaderName::from_static(REQUEST_ID),
    ACCESS_CONTROL_REQUEST_METHOD,
    ACCESS_CONTROL_REQUEST_HEADERS,
];

/// Refuses a request whose headers can be read in two ways: of two headers with one name, a proxy in
/// front may read the first and the daemon the second. So a header that decides something must be
/// there at most once. What hyper does not show of a head is checked in [`super::conn`].
///
/// # Errors
/// 400, which names the header.
fn check_headers<B>(request: &Request<B>) -> Result<(), ApiError> {
    let headers = request.headers();
    for name in &SINGLE {
        if headers.get_all(name).iter().nth(1).is_some() {
            return Err(refused(name, "is there more than once; send it once"));
        }
    }
    match headers.get(HOST) {
        None if request.version() == Version::HTTP_11 => {
            return Err(refused(&HOST, "is missing; every request needs it"));
        }
        None => {}
        Some(host) => {
            let host = host.to_str().ok().filter(|host| is_one_host(host));
            let host = host
                .ok_or_else(|| refused(&HOST, "is not one host's name, with a port or without"))?;
            if let Some(authority) = request.uri().authority()
                && !is_same_host(request.uri().scheme(), authority, host)
            {
                return Err(refused(&HOST, "names another host than the request's target"));
            }
        }
    }
    let is_list = |value: &[u8]| value.iter().any(|byte| b" \t,".contains(byte));
    if headers.get(ORIGIN).is_some_and(|origin| is_list(origin.as_bytes())) {
        return Err(refused(&ORIGIN, "names more than one origin; send one"));
    }
    Ok(())
}

fn refused(name: &HeaderName, problem: &str) -> ApiError {
    ApiError::invalid_header(name.as_str(), problem)
}

/// Whether `host` is one word that no program could read as a list, a path or a longer URL. It may
/// be empty, as RFC 9112 (3.2) wants it for targets without an authority.
fn is_one_host(host: &str) -> bool {
    host.bytes().all(|byte| byte.is_ascii_graphic() && !b",/\\?#".contains(&byte))
}

/// Whether a target in absolute form names `host`.
fn is_same_host(scheme: Option<&Scheme>, target: &Authority, host: &str) -> bool {
    let default_port = match scheme.map(Scheme::as_str) {
        Some("https") => ":443",
        _ => ":80",
    };
    let bare = |name: &str| {
        let name = name.to_ascii_lowercase();
        name.strip_suffix(default_port).map_or(name.clone(), ToOwned::to_owned)
    };
    bare(target.as_str()) == bare(host)
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
