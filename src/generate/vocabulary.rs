//! The bytes of each token.

use std::collections::HashMap;

use super::added::AddedTokens;

/// The bytes of every token, and which tokens are control tokens. One buffer for all.
#[derive(Debug)]
pub(super) struct Vocabulary {
    bytes: Vec<u8>,
    /// `ends[id]` is where token `id`'s bytes end in `bytes`; they begin where the one before ends.
    ends: Vec<usize>,
    control: Vec<bool>,
    longest: usize,
}

impl Vocabulary {
    /// Builds the table from a byte-level vocabulary (token text and id) and the added tokens.
    pub(super) fn new(words: &HashMap<String, u32>, added: &AddedTokens) -> Self {
        let alphabet = byte_alphabet();
        let ids = words.values().copied().chain(added.iter().map(|t| t.id));
        let len = ids.max().map_or(0, |id| id as usize + 1);
        let mut tokens: Vec<Vec<u8>> = vec![Vec::new(); len];
        let mut control = vec![false; len];
        for (word, &id) in words {
            tokens[id as usize] = decode_word(word, &alphabet);
        }
        let longest = tokens.iter().map(Vec::len).max().unwrap_or(0);
        for token in added.iter() {
            tokens[token.id as usize] = token.content.clone().into_bytes();
            control[token.id as usize] = token.special;
        }
        let mut bytes = Vec::with_capacity(tokens.iter().map(Vec::len).sum());
        let ends = tokens
            .iter()
            .map(|token| {
                bytes.extend_from_slice(token);
                bytes.len()
            })
            .collect();
        Self { bytes, ends, control, longest }
    }

    /// One above the greatest id.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of a token; for a control token, its text. Ids that the tokenizer does not know
    /// have none: a model's vocabulary is often padded.
    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else {
            return &[];
        };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start..end]
    }

    /// The text that tokens stand for, control tokens spelt out. A character that they cut is
    /// U+FFFD.
    pub(super) fn spell(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.bytes(id)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes that a token adds to the text: none for a control token.
    pub(super) fn text_bytes(&self, id: u32) -> &[u8] {
        if self.is_control(id) { &[] } else { self.bytes(id) }
    }

    /// Whether a token is a control token (an added token marked `special`).
    pub(super) fn is_control(&self, id: u32) -> bool {
        self.control.get(id as usize).copied().unwrap_or(false)
    }

    /// Length in bytes of the longest token that ordinary text can become.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }
}

/// The byte that each character of a byte-level vocabulary stands for: printable Latin-1
/// characters stand for their own code, U+0100 and up for the other bytes in order.
fn byte_alphabet() -> HashMap<char, u8> {
    let mut stand_in = 0x100..;
    (0..=u8::MAX)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => (char::from(byte), byte),
            _ => {
                let code = stand_in.next().and_then(char::from_u32);
                (code.unwrap_or(char::REPLACEMENT_CHARACTER), byte)
            }
        })
        .collect()
}

/// A word with a character outside the alphabet stands for its own text.
fn decode_word(word: &str, alphabet: &HashMap<char, u8>) -> Vec<u8> {
    word.chars()
        .map(|character| alphabet.get(&character).copied())
        .collect::<Option<Vec<u8>>>()
        .unwrap_or_else(|| word.as_bytes().to_vec())
}
