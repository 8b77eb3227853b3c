//! Bytes of tokens to text, complete characters only.

use std::str::from_utf8;

/// Turns a stream of bytes, cut anywhere, into the text that [`String::from_utf8_lossy`] makes of
/// the whole: each part is given out as soon as no later byte can change it.
#[derive(Debug, Clone, Default)]
pub(super) struct Detokenizer {
    /// The beginning of a character whose end has not come: at most three bytes.
    tail: Vec<u8>,
}

impl Detokenizer {
    /// Takes `bytes` and appends the characters that they complete to `text`.
    pub(super) fn push(&mut self, bytes: &[u8], text: &mut String) {
        let joined;
        let mut rest = if self.tail.is_empty() {
            bytes
        } else {
            self.tail.extend_from_slice(bytes);
            joined = std::mem::take(&mut self.tail);
            joined.as_slice()
        };
        loop {
            let error = match from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    return;
                }
                Err(error) => error,
            };
            let (valid, invalid) = rest.split_at(error.valid_up_to());
            text.push_str(&String::from_utf8_lossy(valid));
            let Some(length) = error.error_len() else {
                self.tail = invalid.to_vec();
                return;
            };
            text.push(char::REPLACEMENT_CHARACTER);
            rest = &invalid[length..];
        }
    }

    /// Ends the stream: a character left incomplete becomes U+FFFD.
    pub(super) fn finish(&mut self, text: &mut String) {
        if !self.tail.is_empty() {
            self.tail.clear();
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn push_all(parts: &[&[u8]]) -> String {
        let mut detokenizer = Detokenizer::default();
        let mut text = String::new();
        for part in parts {
            detokenizer.push(part, &mut text);
        }
        detokenizer.finish(&mut text);
        text
    }

    #[test]
    fn a_character_waits_for_its_last_byte_and_no_longer() {
        let mut detokenizer = Detokenizer::default();
        let mut text = String::new();
        for (byte, expected) in "é🦀".bytes().zip(["", "é", "é", "é", "é", "é🦀"]) {
            detokenizer.push(&[byte], &mut text);
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn a_broken_character_is_given_out_when_the_next_byte_breaks_it() {
        let mut detokenizer = Detokenizer::default();
        let mut text = String::new();
        detokenizer.push(b"\xF0\x9F", &mut text);
        assert_eq!(text, "");
        detokenizer.push(b"a", &mut text);
        assert_eq!(text, "\u{FFFD}a");
    }

    /// Bytes that are often the parts of characters, whole or broken.
    fn awkward_bytes() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            any::<char>().prop_map(|c| c.to_string().into_bytes()),
            any::<u8>().prop_map(|b| vec![b]),
            (any::<char>(), 1usize..4).prop_map(|(c, n)| {
                let bytes = c.to_string().into_bytes();
                bytes[..n.min(bytes.len())].to_vec()
            }),
            prop::sample::select(vec![0xC0u8, 0xE0, 0xED, 0xA0, 0xF0, 0xF4, 0x90, 0x80, 0xFF])
                .prop_map(|b| vec![b]),
        ];
        prop::collection::vec(part, 0..24).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn any_cuts_give_what_lossy_gives_for_the_whole(
            bytes in awkward_bytes(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|c| c.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let parts: Vec<&[u8]> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            prop_assert_eq!(push_all(&parts), String::from_utf8_lossy(&bytes));
        }
    }
}
