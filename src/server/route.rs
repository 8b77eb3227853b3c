//! The table of routes, and the way of a request through it: route, admission, handler, response.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Method, Request};
use percent_encoding::percent_decode_str;

use super::access::Exchange;
use super::app::{App, Phase};
use super::auth::{Class, Parts, admit, preflight};
use super::body::discard_rest;
use super::caller::Origin;
use super::error::ApiError;
use super::guard::CatchPanic;
use super::handlers::{
    anthropic, chat, completions, embeddings, llama, metrics, ollama, responses, status, tokens,
};
#[cfg(test)]
use super::openapi::operations::{self, Operation, Schemas};
use super::page;
use super::reply::{Reply, failure, permitted, sealed};
use super::strict;
use super::wire::error::Dialect;

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

/// An admitted request on its way to a handler.
struct Call<'a> {
    app: &'a App,
    request: Request<Incoming>,
    exchange: &'a Arc<Exchange>,
    /// What the path has in the place of [`NAME`], as it was sent.
    name: &'a str,
}

type Handler = for<'a> fn(Call<'a>) -> Pin<Box<dyn Future<Output = Handled> + Send + 'a>>;

type Handled = Result<Reply, ApiError>;

/// Makes [`ROUTES`] of rows, so that builds without tests need not know what the document says.
macro_rules! routes {
    ($($methods:ident $path:literal $access:ident $while:ident,
       $call:ident => $answer:expr, $operation:expr;)+) => {
        /// Every endpoint, in the order in which errors and documents list them.
        pub(super) static ROUTES: &[Route] = &[$(Route {
            path: $path,
            methods: Methods::$methods,
            access: Class::$access,
            always: routes!($while),
            handler: |$call| Box::pin($answer),
            #[cfg(test)]
            operation: $operation,
        }),+];
    };
    (serving) => { false };
    (always) => { true };
}

routes! {
    Post "/v1/chat/completions" Metered serving,
        c => chat::create(c.app, c.request, c.exchange), Some(operations::chat);
    Post "/v1/completions" Metered serving,
        c => completions::create(c.app, c.request, c.exchange), Some(operations::completions);
    Post "/v1/responses" Metered serving,
        c => responses::create(c.app, c.request, c.exchange), Some(operations::responses);
    Post "/v1/responses/input_tokens" Metered serving,
        c => responses::input_tokens(c.app, c.request, c.exchange),
        Some(operations::input_tokens);
    Post "/v1/embeddings" Metered serving,
        c => embeddings::create(c.app, c.request, c.exchange), Some(operations::embeddings);
    Get "/v1/responses/{id}/input_items" Use serving,
        c => async move {
            responses::input_items(c.app, c.exchange, c.name, c.request.uri().query()).await
        },
        Some(operations::input_items);
    Post "/v1/responses/{id}/cancel" Use serving,
        c => async move { responses::cancel(c.app, c.exchange, c.name) },
        Some(operations::cancel_response);
    Get "/v1/responses/{id}" Use serving,
        c => async move { responses::retrieve(c.app, c.exchange, c.name) },
        Some(operations::response);
    Delete "/v1/responses/{id}" Use serving,
        c => async move { responses::delete(c.app, c.exchange, c.name) },
        Some(operations::delete_response);
    Post "/v1/messages" Metered serving,
        c => anthropic::create(c.app, c.request, c.exchange), Some(operations::messages);
    Post "/v1/messages/count_tokens" Metered serving,
        c => anthropic::count_tokens(c.app, c.request, c.exchange), Some(operations::count_tokens);
    Post "/api/chat" Metered serving,
        c => ollama::chat(c.app, c.request, c.exchange), Some(operations::ollama_chat);
    Post "/api/generate" Metered serving,
        c => ollama::generate(c.app, c.request, c.exchange), Some(operations::ollama_generate);
    Post "/api/embed" Metered serving,
        c => embeddings::ollama(c.app, c.request, c.exchange), Some(operations::ollama_embed);
    Post "/api/embeddings" Metered serving,
        c => embeddings::ollama_one(c.app, c.request, c.exchange),
        Some(operations::ollama_embeddings);
    Post "/api/show" Use serving,
        c => ollama::show(c.app, c.request, c.exchange), Some(operations::ollama_show);
    Post "/api/pull" Use serving,
        c => ollama::pull(c.app, c.request, c.exchange), Some(operations::ollama_pull);
    Get "/api/tags" Use serving,
        c => async move { Ok(ollama::tags(c.app)) }, Some(operations::ollama_tags);
    Get "/api/ps" Use serving,
        c => async move { Ok(ollama::ps(c.app)) }, Some(operations::ollama_ps);
    Get "/api/version" Use serving,
        _c => async move { Ok(ollama::version()) }, Some(operations::ollama_version);
    Post "/completion" Metered serving,
        c => llama::completion(c.app, c.request, c.exchange), Some(operations::llama_completion);
    Post "/infill" Metered serving,
        c => llama::infill(c.app, c.request, c.exchange), Some(operations::llama_infill);
    Get "/props" Use serving,
        c => async move { Ok(llama::props(c.app)) }, Some(operations::llama_props);
    Post "/v1/chat/completions/render" Metered serving,
        c => tokens::render(c.app, c.request, c.exchange), Some(operations::render);
    Post "/apply-template" Metered serving,
        c => tokens::render(c.app, c.request, c.exchange), Some(operations::render);
    Post "/tokenize" Metered serving,
        c => tokens::tokenize(c.app, c.request, c.exchange), Some(operations::tokenize);
    Post "/detokenize" Metered serving,
        c => tokens::detokenize(c.app, c.request, c.exchange), Some(operations::detokenize);
    Get "/tokenizer_info" Use serving,
        c => async move { Ok(tokens::tokenizer_info(c.app)) }, Some(operations::tokenizer_info);
    Get "/version" Use serving,
        _c => async move { Ok(status::version()) }, Some(operations::version);
    Get "/v1/models" Use serving,
        c => async move { Ok(status::models(c.app)) }, Some(operations::models);
    Get "/v1/models/{id}" Use serving,
        c => async move { status::model(c.app, &decoded(c.name)) }, Some(operations::model);
    Get "/slots" Admin always,
        c => status::slots(c.app), Some(operations::slots);
    Get "/openapi.json" Use serving,
        _c => async move { Ok(status::openapi()) }, Some(operations::openapi);
    Get "/health" Open always,
        c => async move { Ok(status::health(c.app)) }, Some(operations::health);
    Get "/ready" Open always,
        c => async move { Ok(status::ready(c.app)) }, Some(operations::ready);
    Get "/metrics" Metrics always,
        c => async move { Ok(metrics::get(c.app)) }, Some(operations::metrics);
    Get "/" Page always, c => async move { page_file(&c.request) }, None;
    Get "/page/{id}" Page always, c => async move { page_file(&c.request) }, None;
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
    ApiError::unknown_url(request.method(), request.uri().path(), &known.join(", "))
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
        return Err(ApiError::method_not_allowed(request.method(), &path, &allow));
    };
    let parts = Parts { uri: request.uri(), headers: request.headers() };
    match admit(&rules, origin, route.access, &parts).await {
        Ok(admission) => exchange.admitted(admission),
        Err(error) => {
            discard_rest(request).await;
            return Err(error);
        }
    }
    // After admission: a caller without access learns nothing of the daemon's state.
    if phase != Phase::Serving && !route.always {
        return Err(ApiError::draining());
    }
    (route.handler)(Call { app, request, exchange, name }).await
}

#[cfg(test)]
mod tests {
    use super::super::access::{COMPLETION_ROUTES, PAGE_FILES};
    use super::*;

    fn found(path: &str) -> Option<&'static Route> {
        Route::find(path).map(|(routes, _)| routes[0])
    }

    #[test]
    fn paths_find_their_route() {
        let table = [
            ("/v1/chat/completions", Some("/v1/chat/completions")),
            ("/v1/chat/completions/render", Some("/v1/chat/completions/render")),
            ("/v1/models", Some("/v1/models")),
            ("/v1/models/phi-4", Some("/v1/models/{id}")),
            ("/v1/models/microsoft/phi-4", Some("/v1/models/{id}")),
            ("/v1/models/microsoft%2Fphi-4", Some("/v1/models/{id}")),
            ("/v1/responses/resp_1", Some("/v1/responses/{id}")),
            ("/v1/responses/resp_1/input_items", Some("/v1/responses/{id}/input_items")),
            ("/metrics", Some("/metrics")),
            ("/", Some("/")),
            ("/page/vendor/a.js", Some("/page/{id}")),
            ("/page/", None),
            ("/v1/models/", None),
            ("/v1/chat/completions/", None),
            ("/V1/models", None),
        ];
        for (path, route) in table {
            assert_eq!(found(path).map(|route| route.path), route, "{path}");
        }
        assert_eq!(Route::find("/v1/models/a/b").unwrap().1, "a/b");
        for route in ROUTES {
            assert_eq!(found(route.path).map(|found| found.path), Some(route.path));
            assert_eq!(route.operation.is_none(), route.access == Class::Page, "{}", route.path);
        }
    }

    #[test]
    fn base_urls_of_any_spelling_lead_to_the_route() {
        for (path, expected) in [
            ("/v1/chat/completions", "/v1/chat/completions"),
            ("/v1/chat/completions/", "/v1/chat/completions"),
            ("//v1//chat/completions", "/v1/chat/completions"),
            ("/chat/completions", "/v1/chat/completions"),
            ("/models/microsoft/phi-4", "/v1/models/microsoft/phi-4"),
            ("/v1/health", "/health"),
            ("/", "/"),
            ("//", "/"),
            // What only administrators may see has one path, by which a proxy can hide it.
            ("/v1/slots", "/v1/slots"),
            ("/v1/metrics", "/v1/metrics"),
            ("/v1/v1/models", "/v1/v1/models"),
        ] {
            assert_eq!(meant(path), expected, "{path}");
        }
    }

    #[test]
    fn routes_of_one_path_differ_in_their_methods() {
        let (routes, name) = Route::find("/v1/responses/resp_1").unwrap();
        assert_eq!((allowed(&routes).as_str(), name), ("GET, HEAD, DELETE", "resp_1"));
        for route in ROUTES {
            let same = |other: &&Route| other.path == route.path && other.methods == route.methods;
            assert_eq!(ROUTES.iter().filter(same).count(), 1, "{}", route.path);
        }
    }

    #[test]
    fn paths_that_the_access_log_knows_are_routes() {
        for path in COMPLETION_ROUTES.into_iter().chain([PAGE_FILES]) {
            assert!(ROUTES.iter().any(|route| route.path == path), "{path}");
        }
    }

    #[test]
    fn percent_signs_that_are_no_escape_stay() {
        assert_eq!(decoded("microsoft%2Fphi-4"), "microsoft/phi-4");
        for same in ["a%", "a%2", "%zz", "%ff", "%+1", "plain"] {
            assert_eq!(decoded(same), same);
        }
        assert_eq!(decoded("%41%c3%a9"), "Aé");
    }

    #[test]
    fn methods_are_checked_by_route() {
        let allows = |path, method| found(path).unwrap().methods.has(&method);
        assert!(allows("/v1/chat/completions", Method::POST));
        assert!(!allows("/v1/chat/completions", Method::GET));
        assert!(allows("/health", Method::HEAD));
        assert!(!allows("/v1/models", Method::DELETE));
    }

    /// The tables in the docs list every route of the API with its methods, and no others.
    #[test]
    fn the_docs_list_every_route() {
        let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        let mut listed = Vec::new();
        for page in ["api.md", "surfaces.md"] {
            let text = std::fs::read_to_string(docs.join(page)).unwrap();
            for row in text.lines().filter_map(|line| line.strip_prefix("| `/")) {
                let (paths, rest) = row.split_once(" | ").unwrap();
                let (methods, _) = rest.split_once(" | ").unwrap();
                let paths = paths.split('`').step_by(2).filter(|path| !path.is_empty());
                listed.extend(
                    paths.map(|path| (path.trim_start_matches('/').to_owned(), methods.to_owned())),
                );
            }
        }
        let api = ROUTES.iter().filter(|route| route.access != Class::Page);
        let mut known: Vec<_> = api
            .map(|route| (route.path[1..].to_owned(), route.methods.allow().to_owned()))
            .collect();
        listed.sort_unstable();
        known.sort_unstable();
        assert_eq!(listed, known);
    }
}
