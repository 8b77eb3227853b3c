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
    let mut known: Vec<_> =
        api.map(|route| (route.path[1..].to_owned(), route.methods.allow().to_owned())).collect();
    listed.sort_unstable();
    known.sort_unstable();
    assert_eq!(listed, known);
}

fn verdict(target: &str, version: Version, headers: &[(&str, &str)]) -> Option<String> {
    let mut request = Request::builder().uri(target).version(version);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let error = check_headers(&request.body(()).unwrap()).err()?;
    assert_eq!((error.status.as_u16(), error.close), (400, true));
    Some(error.message)
}

#[test]
fn http_1_1_needs_one_host_that_fits_the_target() {
    fn v11(target: &str, headers: &[(&str, &str)]) -> Option<String> {
        verdict(target, Version::HTTP_11, headers)
    }
    for (target, host) in [
        ("/", "localhost"),
        ("/", "localhost:8484"),
        ("/", "[::1]:8484"),
        ("/", ""),
        ("http://localhost:8484/health", "LOCALHOST:8484"),
        ("http://a.example/", "a.example:80"),
        ("https://a.example:443/", "a.example"),
    ] {
        assert_eq!(v11(target, &[("host", host)]), None, "{target} at {host:?}");
    }
    for (target, host) in [
        ("/", "a, b"),
        ("/", "a b"),
        ("/", "a/b"),
        ("/", "a\\b"),
        ("/", "a?b"),
        ("/", "a#b"),
        ("http://a.example/", "b.example"),
        ("http://a.example/", "a.example:81"),
        ("http://user@a.example/", "a.example"),
        ("http://a.example/", ""),
    ] {
        assert!(v11(target, &[("host", host)]).is_some(), "{target} at {host:?}");
    }
    assert!(v11("/", &[]).is_some());
    assert!(v11("http://a.example/", &[]).is_some());
    assert_eq!(verdict("/", Version::HTTP_10, &[]), None);
}

#[test]
fn what_decides_comes_once() {
    for name in &SINGLE {
        let one = [("host", "a"), (name.as_str(), "a")];
        let one = if name == HOST { &one[1..] } else { &one[..] };
        assert_eq!(verdict("/", Version::HTTP_11, one), None, "{name}");
        let twice: Vec<_> = one.iter().copied().chain([(name.as_str(), "a")]).collect();
        let message = verdict("/", Version::HTTP_11, &twice).unwrap();
        assert!(message.contains(name.as_str()), "{message}");
    }
    for list in ["http://a.example http://b.example", "http://a.example,http://b.example"] {
        let headers = [("host", "a.example"), ("origin", list)];
        assert!(verdict("/", Version::HTTP_11, &headers).is_some(), "{list}");
    }
    // Those of which there may be more.
    let more = [("host", "a"), ("accept", "a"), ("accept", "b"), ("if-none-match", "a")];
    assert_eq!(verdict("/", Version::HTTP_11, &more), None);
}
