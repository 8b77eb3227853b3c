//! Characters that must not reach a log or a terminal as they are.
//!
//! Text of clients, such as a request's path, is in log lines. Controls, line and paragraph separators
//! could forge lines or steer a terminal, and format characters could hide text or turn it around.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Unicode's format characters (Cf) and what else shows as nothing, as ranges in ascending order.
/// A test holds them to the tables of the `regex` crate.
const UNSEEN: &[(char, char)] = &[
    ('\u{ad}', '\u{ad}'),
    ('\u{600}', '\u{605}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{6dd}', '\u{6dd}'),
    ('\u{70f}', '\u{70f}'),
    ('\u{890}', '\u{891}'),
    ('\u{8e2}', '\u{8e2}'),
    ('\u{180e}', '\u{180e}'),
    ('\u{200b}', '\u{200f}'),
    // Line and paragraph separators, then bidirectional embeddings and overrides.
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{fff9}', '\u{fffb}'),
    ('\u{110bd}', '\u{110bd}'),
    ('\u{110cd}', '\u{110cd}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0000}', '\u{e007f}'),
];

/// Whether a character could disturb who reads a log or a terminal.
#[must_use]
pub fn is_disruptive(character: char) -> bool {
    if character.is_ascii() {
        return character.is_ascii_control();
    }
    let at = UNSEEN.partition_point(|(_, last)| *last < character);
    character.is_control() || UNSEEN.get(at).is_some_and(|(first, _)| *first <= character)
}

/// Whether a character is one by which letters and emoji are joined or kept apart. Text for people to read
/// needs it.
#[must_use]
pub fn is_joiner(character: char) -> bool {
    matches!(character, '\u{200c}' | '\u{200d}' | '\u{ad}')
}

/// `text` with each such character as Rust writes it, such as `\n` and `\u{202e}`.
#[must_use]
pub fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(is_disruptive) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if is_disruptive(character) {
            safe.extend(character.escape_default());
        } else {
            safe.push(character);
        }
    }
    Cow::Owned(safe)
}

/// JSON with each such character within its strings escaped, so that its value stays the same.
#[must_use]
pub(super) fn escaped_json(json: &str) -> Cow<'_, str> {
    // Controls up to U+001F are escaped in any JSON, and none is outside of strings here.
    if !json.contains(is_disruptive) {
        return Cow::Borrowed(json);
    }
    let mut safe = String::with_capacity(json.len() + 8);
    for character in json.chars() {
        if is_disruptive(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a String can't fail.
                let _ = write!(safe, "\\u{unit:04x}");
            }
        } else {
            safe.push(character);
        }
    }
    Cow::Owned(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every character, against Unicode's categories.
    #[test]
    fn they_are_the_controls_separators_and_format_characters() {
        let known = regex::Regex::new(r"^[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]$").unwrap();
        for character in '\0'..=char::MAX {
            let expected = known.is_match(character.encode_utf8(&mut [0; 4]));
            // Beside them, what is not assigned yet within blocks of such.
            let reserved = matches!(character, '\u{2065}' | '\u{e0000}'..='\u{e007f}');
            assert_eq!(is_disruptive(character), expected || reserved, "{character:?}");
        }
    }

    #[test]
    fn text_is_escaped_and_json_keeps_its_value() {
        assert_eq!(escaped("grün 中文 😀"), "grün 中文 😀");
        assert_eq!(escaped("a\u{202e}b\u{2028}\n\u{9b}"), "a\\u{202e}b\\u{2028}\\n\\u{9b}");
        let nasty: String = ('\0'..=char::MAX).filter(|c| is_disruptive(*c)).collect();
        let object = serde_json::json!({ nasty.as_str(): nasty });
        let json = object.to_string();
        let safe = escaped_json(&json);
        assert!(!safe.contains(is_disruptive));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), object);
    }
}
