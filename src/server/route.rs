//! From a request's method and path to its handler, and from what comes back to a response.

use std::borrow::Cow;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Method, Request};

use super::access::Exchange;
use super::app::{App, Phase};
use super::caller::Caller;
use super::error::ApiError;
use super::guard::CatchPanic;
use super::handlers::{chat, completions, health, metrics, models};
use super::reply::{Reply, failure, sealed};

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
enum Route<'a> {
    Chat,
    Completions,
    Models,
    Model(Cow<'a, str>),
    Health,
    Ready,
    Metrics,
}

impl<'a> Route<'a> {
    fn find(path: &'a str) -> Option<Self> {
        match path {
            "/v1/chat/completions" => Some(Self::Chat),
            "/v1/completions" => Some(Self::Completions),
            "/v1/models" => Some(Self::Models),
            "/health" => Some(Self::Health),
            "/ready" => Some(Self::Ready),
            "/metrics" => Some(Self::Metrics),
            // The rest is one id: models' names may hold slashes.
            _ => match path.strip_prefix("/v1/models/") {
                None | Some("") => None,
                Some(id) => Some(Self::Model(percent_decoded(id))),
            },
        }
    }

    /// Its name in metrics.
    fn name(&self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Models => "/v1/models",
            Self::Model(_) => "/v1/models/{id}",
            Self::Health => "/health",
            Self::Ready => "/ready",
            Self::Metrics => "/metrics",
        }
    }

    /// Whether it is answered while the daemon drains.
    fn outlives_serving(&self) -> bool {
        matches!(self, Self::Health | Self::Ready | Self::Metrics)
    }

    fn allows(&self, method: &Method) -> bool {
        match self {
            Self::Chat | Self::Completions => method == Method::POST,
            Self::Models | Self::Model(_) | Self::Health | Self::Ready | Self::Metrics => {
                method == Method::GET || method == Method::HEAD
            }
        }
    }

    fn allow_header(&self) -> &'static str {
        match self {
            Self::Chat | Self::Completions => "POST",
            Self::Models | Self::Model(_) | Self::Health | Self::Ready | Self::Metrics => {
                "GET, HEAD"
            }
        }
    }
}

/// Answers one request. Never fails: faults and panics are answers, too.
pub(super) async fn respond(app: App, caller: Caller, request: Request<Incoming>) -> Reply {
    let exchange = Arc::new(Exchange::new(
        app.metrics().clone(),
        caller,
        request.method().clone(),
        request.uri().path(),
        request.headers(),
    ));
    let handled = CatchPanic::new(dispatch(&app, request, &exchange)).await;
    let reply = match handled {
        Ok(Ok(reply)) => reply,
        Ok(Err(error)) => failure(&error),
        Err(panicked) => {
            let id = exchange.id();
            log::error!(request_id = id; "the handler of request {id} panicked: {}", panicked.0);
            failure(&ApiError::internal())
        }
    };
    sealed(reply, exchange)
}

async fn dispatch(
    app: &App,
    request: Request<Incoming>,
    exchange: &Arc<Exchange>,
) -> Result<Reply, ApiError> {
    let path = request.uri().path().to_owned();
    let Some(route) = Route::find(&path) else {
        return Err(ApiError::unknown_url(request.method(), &path));
    };
    exchange.routed(route.name());
    if !route.allows(request.method()) {
        let allow = route.allow_header();
        return Err(ApiError::method_not_allowed(request.method(), &path, allow));
    }
    if app.phase() != Phase::Serving && !route.outlives_serving() {
        return Err(ApiError::draining());
    }
    match route {
        Route::Chat => chat::create(app, request, exchange).await,
        Route::Completions => completions::create(app, request, exchange).await,
        Route::Models => Ok(models::list(app)),
        Route::Model(id) => models::get(app, &id),
        Route::Health => Ok(health::get(app)),
        Route::Ready => Ok(health::ready(app)),
        Route::Metrics => Ok(metrics::get(app)),
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
        let model = |id| Some(Route::Model(Cow::Borrowed(id)));
        let table = [
            ("/v1/chat/completions", Some(Route::Chat)),
            ("/v1/completions", Some(Route::Completions)),
            ("/v1/models", Some(Route::Models)),
            ("/v1/models/phi-4", model("phi-4")),
            ("/v1/models/microsoft/phi-4", model("microsoft/phi-4")),
            ("/v1/models/microsoft%2Fphi-4", model("microsoft/phi-4")),
            ("/health", Some(Route::Health)),
            ("/ready", Some(Route::Ready)),
            ("/metrics", Some(Route::Metrics)),
            ("/", None),
            ("/v1/models/", None),
            ("/v1/chat/completions/", None),
            ("/V1/models", None),
        ];
        for (path, route) in table {
            assert_eq!(Route::find(path), route, "{path}");
        }
    }

    #[test]
    fn percent_signs_that_are_no_escape_stay() {
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
