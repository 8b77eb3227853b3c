//! The web page: files that are part of the program, and the headers that hold a browser to them.
//!
//! The page loads nothing from other hosts, runs only scripts that are among its files, and never
//! parses text as HTML: with `require-trusted-types-for` a browser refuses `innerHTML` and its like,
//! so model output can only become text. The one allowed policy, in `web/trusted.js`, names the URLs
//! of two workers.

mod files;

use std::collections::HashMap;
use std::sync::LazyLock;

use hyper::HeaderMap;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};

use super::reply::{Reply, file, not_modified};
use files::FILES;

/// What a browser may do with the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; \
     img-src 'self'; connect-src 'self'; manifest-src 'self'; worker-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
     trusted-types phi4d";

/// Headers of every file. Browsers must revalidate each file, so that all parts of the page are of
/// one release after an upgrade; unchanged files are not sent again (304).
const HEADERS: [(HeaderName, &str); 8] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "no-referrer"),
    (CACHE_CONTROL, "no-cache"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
];

/// Lets the service worker, which is in a folder, serve the page above it. Relative to the worker's
/// URL, so that it holds below a proxy's path.
const WORKER_SCOPE: (HeaderName, &str) = (HeaderName::from_static("service-worker-allowed"), "../");

/// Path of the service worker.
const WORKER: &str = "/page/offline-worker.js";

/// A file with its headers.
struct Served {
    content_type: &'static str,
    bytes: &'static [u8],
    etag: HeaderValue,
}

/// By path.
static SERVED: LazyLock<HashMap<&'static str, Served>> = LazyLock::new(|| {
    let served = FILES.iter().map(|(path, bytes)| {
        let hash = blake3::hash(bytes).to_hex();
        // Hexadecimal digits make a header's value.
        let etag = HeaderValue::from_str(&format!("\"{}\"", &hash[..32]));
        let etag = etag.unwrap_or_else(|_| HeaderValue::from_static("\"\""));
        (*path, Served { content_type: content_type(path), bytes, etag })
    });
    served.collect()
});

/// The page's file at `path`, or 304 if the client has it; `None` if there is no such file.
pub(super) fn get(path: &str, headers: &HeaderMap) -> Option<Reply> {
    let served = SERVED.get(path)?;
    let mut reply = match has(headers, &served.etag) {
        true => not_modified(),
        false => file(served.content_type, served.bytes),
    };
    reply.headers_mut().insert(ETAG, served.etag.clone());
    let scope = (path == WORKER).then_some(WORKER_SCOPE);
    for (name, value) in HEADERS.into_iter().chain(scope) {
        reply.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Some(reply)
}

/// Whether the client has the version that `etag` names.
fn has(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let given = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let tags = given.flat_map(|value| value.split(',')).map(str::trim);
    // Proxies that compress answers turn tags into weak ones.
    tags.map(|tag| tag.strip_prefix("W/").unwrap_or(tag)).any(|tag| tag == "*" || tag == etag)
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.') {
        Some((_, "js" | "mjs")) => "text/javascript; charset=utf-8",
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "svg")) => "image/svg+xml",
        Some((_, "png")) => "image/png",
        Some((_, "webmanifest")) => "application/manifest+json",
        Some((_, "woff2")) => "font/woff2",
        Some((_, "txt")) => "text/plain; charset=utf-8",
        _ => "text/html; charset=utf-8",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(tag: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(IF_NONE_MATCH, tag.parse().unwrap());
        headers
    }

    #[test]
    fn every_file_in_the_folder_is_served_and_named_once() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../src/server/page");
        let mut found = Vec::new();
        for (part, prefix) in
            [("web", ""), ("vendor", "vendor/"), ("vendor/fonts", "vendor/fonts/")]
        {
            for entry in std::fs::read_dir(folder.join(part)).unwrap() {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                if entry.path().is_file() && name != "list.txt" {
                    found.push(match name.as_str() {
                        "index.html" => "/".to_owned(),
                        licence if licence.starts_with("LICENSE.") => {
                            format!("/page/{prefix}{licence}.txt")
                        }
                        _ => format!("/page/{prefix}{name}"),
                    });
                }
            }
        }
        found.sort_unstable();
        let mut served: Vec<&str> = FILES.iter().map(|(path, _)| *path).collect();
        served.sort_unstable();
        assert_eq!(served, found);
    }

    #[test]
    fn what_the_client_has_is_not_sent_again() {
        let first = get("/", &HeaderMap::new()).unwrap();
        let tag = first.headers()[ETAG].to_str().unwrap().to_owned();
        for (given, status) in [
            (tag.clone(), 304),
            (format!("\"x\", W/{tag}"), 304),
            ("*".to_owned(), 304),
            ("\"x\"".to_owned(), 200),
        ] {
            let reply = get("/", &headers(&given)).unwrap();
            assert_eq!(reply.status(), status, "{given}");
            assert_eq!(reply.headers()[ETAG], tag.as_str());
            assert!(reply.headers().contains_key(CONTENT_SECURITY_POLICY));
        }
        assert_ne!(tag, get("/page/page.css", &HeaderMap::new()).unwrap().headers()[ETAG]);
        assert!(get("/page/none.js", &HeaderMap::new()).is_none());
    }

    #[test]
    fn the_offline_copy_has_every_file_of_ours_but_itself() {
        let worker = std::str::from_utf8(FILES.iter().find(|(path, _)| *path == WORKER).unwrap().1);
        let list =
            worker.unwrap().split_once("const SHELL = [").unwrap().1.split_once(']').unwrap().0;
        let listed: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
        let own = FILES.iter().filter_map(|(path, _)| path.strip_prefix("/page/"));
        // Large pictures are the browser's to fetch when it installs the page.
        let own = own.filter(|path| !path.contains('/') && !path.ends_with("512.png"));
        for path in own.filter(|path| !WORKER.ends_with(path)) {
            assert!(listed.contains(&path), "{path}");
        }
        for path in listed {
            assert!(get(&format!("/page/{path}"), &HeaderMap::new()).is_some(), "{path}");
        }
    }

    #[test]
    fn only_the_service_worker_may_serve_the_page_above_it() {
        for (path, expected) in [(WORKER, Some("../")), ("/page/main.js", None), ("/", None)] {
            let reply = get(path, &HeaderMap::new()).unwrap();
            let scope = reply.headers().get("service-worker-allowed");
            assert_eq!(scope.map(|value| value.to_str().unwrap()), expected, "{path}");
        }
    }

    /// What the policy would refuse is not even tried.
    #[test]
    fn our_own_files_keep_to_the_policy() {
        let page = std::str::from_utf8(FILES[0].1).unwrap();
        for (what, why) in
            [("style=", "inline style"), ("<style", "inline style"), ("onclick", "inline script")]
        {
            assert!(!page.contains(what), "{why}: {what}");
        }
        assert_eq!(
            page.matches("<script").count(),
            page.matches("<script type=\"module\" src=").count()
        );
        let own =
            FILES.iter().filter(|(path, _)| path.ends_with(".js") && !path.contains("vendor"));
        for (path, bytes) in own {
            let text = std::str::from_utf8(bytes).unwrap();
            for sink in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("]
            {
                assert!(!text.contains(sink), "{path}: {sink}");
            }
        }
    }
}
