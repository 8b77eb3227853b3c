//! What must hold for any name, URL and listing of a model.

use std::path::{Component, Path};

use super::digest::read_sums;
use super::hub::{Entry, listed, next_page};
use super::layout::FilePlace;
use super::names::{Place, Source, Variant, is_name};
use super::url::Url;

/// Stands between the parts of an input that has several.
const SEPARATOR: char = '\u{1e}';

/// Whether a path stays below the folder that it is joined to.
fn stays_below(path: &str) -> bool {
    Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

fn check_url(url: &Url) {
    let written = url.to_string();
    assert!(written.bytes().all(|byte| byte.is_ascii_graphic()), "{written:?}");
    assert_eq!(Url::parse(&written).ok().as_ref(), Some(url), "{written}");
    assert!(url.target().starts_with('/'));
    let below = url.below("a/../ü b");
    assert!(below.is_same_origin(url) && Url::parse(&below.to_string()).is_ok(), "{below}");
}

/// `MODEL ␞ ENDPOINT ␞ LINK ␞ LISTING`: whatever is taken, files land in the model's folder under
/// plain names and come from the endpoint; URLs read back as they are written.
pub fn pull(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut parts = text.splitn(4, SEPARATOR);
    let [given, endpoint, link, listing] = [(); 4].map(|()| parts.next().unwrap_or_default());
    if let Ok(url) = Url::parse(endpoint) {
        check_url(&url);
        if let Some(Ok(next)) = next_page(link).map(|next| url.join(next)) {
            check_url(&next);
        }
    }
    for variant in [Variant::Cpu, Variant::Gpu] {
        let endpoint = (!endpoint.is_empty()).then_some(endpoint);
        let Ok(source) = Source::parse(given, endpoint, variant) else { continue };
        assert!(is_name(&source.name) && stays_below(&source.name), "{source:?}");
        if let Some(sums) = read_sums(listing) {
            assert!(sums.iter().all(|(path, expected)| stays_below(path) && expected.is_sane()));
        }
        let Place::Hub(repository) = source.place else { continue };
        check_url(&repository.endpoint);
        assert_eq!(repository.name.split('/').count(), 2, "{repository:?}");
        assert!(stays_below(&repository.name) && stays_below(&repository.revision));
        assert!(repository.folder.as_deref().is_none_or(stays_below), "{repository:?}");
        let Ok(entries) = serde_json::from_str::<Vec<Entry>>(listing) else { continue };
        let Ok((_, files)) = listed(&entries, &repository, "0123abcd", variant) else { continue };
        for file in files {
            assert!(is_name(&file.name) || file.name.len() > 100, "{file:?}");
            assert!(stays_below(&file.name) && !file.name.contains('/'), "{file:?}");
            let FilePlace::Remote(url) = &file.place else { unreachable!("{file:?} of a hub") };
            assert!(url.is_same_origin(&repository.endpoint), "{file:?}");
            assert!(file.expected.is_sane());
            check_url(url);
        }
    }
}
