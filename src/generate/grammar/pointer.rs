//! References within a schema: `$ref` by RFC 6901, in a URI's fragment (RFC 3986).

use std::borrow::Cow;

use serde_json::Value as Json;

/// What a reference leads to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'s> {
    pub(super) schema: &'s Json,
    /// Whether a schema around it, or itself, has an `$id`, against which its own references count.
    pub(super) within_id: bool,
}

/// The schema in `root` that `reference` points to; `None` if there is none, or it is elsewhere.
pub(super) fn resolve<'s>(root: &'s Json, reference: &str) -> Option<Target<'s>> {
    let pointer = decoded(fragment(root, reference)?)?;
    let mut target = Target { schema: root, within_id: false };
    if pointer.is_empty() {
        return Some(target);
    }
    for step in pointer.strip_prefix('/')?.split('/') {
        target.schema = target.schema.pointer(&format!("/{step}"))?;
        target.within_id |= has_id(target.schema);
    }
    Some(target)
}

/// Whether a schema below the root gives its references another base.
pub(super) fn has_id(schema: &Json) -> bool {
    schema.get("$id").and_then(Json::as_str).is_some_and(|id| !id.starts_with('#'))
}

/// The part of a reference after `#`, if it is one into this schema.
fn fragment<'r>(root: &Json, reference: &'r str) -> Option<&'r str> {
    let own = root.get("$id").and_then(Json::as_str).map_or("", |id| id.trim_end_matches('#'));
    let rest = reference.strip_prefix(own).unwrap_or(reference);
    match rest.strip_prefix('#') {
        Some(fragment) => Some(fragment),
        None => (rest.is_empty() && !reference.is_empty()).then_some(""),
    }
}

/// `text` with its percent-encoded bytes; `None` if they are no text.
fn decoded(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        };
        bytes.push(byte);
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pointers_are_read_as_the_standards_say() {
        let root = json!({
            "$id": "http://example.com/root.json",
            "$defs": {"a/b": 1, "m~n": 2, "c%d": 3, "é": 4, "e f": 5, "": 6, "list": [7, 8]}
        });
        for (reference, expected) in [
            ("#/$defs/a~1b", 1),
            ("#/$defs/m~0n", 2),
            ("#/$defs/c%25d", 3),
            ("#/$defs/%C3%A9", 4),
            ("#/$defs/é", 4),
            ("#/$defs/e%20f", 5),
            ("#/%24defs/a%7E1b", 1),
            ("#/$defs/", 6),
            ("#/$defs/list/1", 8),
            ("http://example.com/root.json#/$defs/a~1b", 1),
        ] {
            let found = resolve(&root, reference).unwrap_or_else(|| panic!("{reference}"));
            assert_eq!(found.schema, &json!(expected), "{reference}");
        }
        for reference in ["#", "http://example.com/root.json", "http://example.com/root.json#"] {
            assert_eq!(resolve(&root, reference).unwrap().schema, &root, "{reference}");
        }
        let other = ["", "#x", "#/$defs/x", "#/$defs/%ZZ", "#/$defs/%FF", "http://x/y", "y.json#"];
        for reference in other {
            assert!(resolve(&root, reference).is_none(), "{reference}");
        }
    }

    #[test]
    fn an_id_on_the_way_is_seen() {
        let root = json!({"$id": "a", "$defs": {"x": {"$id": "b", "properties": {"y": {}}}}});
        assert!(resolve(&root, "#/$defs/x/properties/y").unwrap().within_id);
        assert!(!resolve(&root, "#/$defs").unwrap().within_id);
    }
}
