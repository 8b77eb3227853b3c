//! Stop strings in a stream of text.

use std::sync::Arc;

/// Searches text that arrives in pieces for stop strings, and holds back only what may be the
/// beginning of one.
///
/// The match that *ends* first wins, as it would if the text came character by character; of
/// those that end together, the longest. So the result does not depend on how the text is cut into
/// tokens, and no text waits for a match that could only come later.
#[derive(Debug, Clone)]
pub(super) struct StopMatcher {
    /// Shared by all answers to a request.
    patterns: Arc<[Pattern]>,
    /// How many bytes of each pattern have matched.
    matched: Vec<usize>,
    /// Whether the stop string itself is part of the output.
    included: bool,
    /// The stop string that was found.
    hit: Option<usize>,
    /// Text that is held back: the longest beginning of a stop string at its end.
    held: String,
}

/// A stop string, prepared for a search that reads each byte once (Knuth, Morris, Pratt).
#[derive(Debug)]
struct Pattern {
    /// Its index in the request's stop strings.
    place: usize,
    bytes: Vec<u8>,
    /// `borders[i]`: length of the longest proper prefix of the first `i + 1` bytes that is also
    /// their suffix.
    borders: Vec<usize>,
}

impl Pattern {
    fn new(place: usize, text: &str) -> Self {
        let bytes = text.as_bytes().to_vec();
        let mut borders = vec![0; bytes.len()];
        let mut length = 0;
        for index in 1..bytes.len() {
            while length > 0 && bytes[index] != bytes[length] {
                length = borders[length - 1];
            }
            if bytes[index] == bytes[length] {
                length += 1;
            }
            borders[index] = length;
        }
        Self { place, bytes, borders }
    }

    /// Advances from `matched` matched bytes by the text's next byte; true if it completes the stop
    /// string.
    fn advance(&self, matched: &mut usize, byte: u8) -> bool {
        while *matched > 0 && self.bytes[*matched] != byte {
            *matched = self.borders[*matched - 1];
        }
        if self.bytes[*matched] == byte {
            *matched += 1;
        }
        *matched == self.bytes.len()
    }
}

impl StopMatcher {
    /// Watches for `stops`. Empty strings are ignored: they would match anywhere.
    pub(super) fn new(stops: &[String], included: bool) -> Self {
        let patterns: Arc<[Pattern]> = stops
            .iter()
            .enumerate()
            .filter(|(_, stop)| !stop.is_empty())
            .map(|(place, stop)| Pattern::new(place, stop))
            .collect();
        Self {
            matched: vec![0; patterns.len()],
            patterns,
            hit: None,
            included,
            held: String::new(),
        }
    }

    /// Reads `text` and appends to `out` what can't be part of a stop string. Returns true if a
    /// stop string was found: nothing after it is appended, nor the stop string unless it is
    /// included.
    pub(super) fn push(&mut self, text: &str, out: &mut String) -> bool {
        if self.patterns.is_empty() {
            out.push_str(text);
            return false;
        }
        let before = self.held.len();
        self.held.push_str(text);
        for (index, byte) in text.bytes().enumerate() {
            let mut stop_length = 0;
            for (pattern, matched) in self.patterns.iter().zip(&mut self.matched) {
                if pattern.advance(matched, byte) && pattern.bytes.len() > stop_length {
                    stop_length = pattern.bytes.len();
                    self.hit = Some(pattern.place);
                }
            }
            if stop_length > 0 {
                let end = before + index + 1;
                out.push_str(&self.held[..if self.included { end } else { end - stop_length }]);
                self.held.clear();
                self.matched.fill(0);
                return true;
            }
        }
        // A prefix of a stop string begins with a whole character, so this is a boundary.
        let keep = self.matched.iter().copied().max().unwrap_or(0);
        let given = self.held.len() - keep;
        out.push_str(&self.held[..given]);
        self.held.drain(..given);
        false
    }

    /// Whether there is nothing to look for.
    pub(super) fn is_idle(&self) -> bool {
        self.patterns.is_empty()
    }

    /// The index of the stop string that was found, in the request's list.
    pub(super) fn hit(&self) -> Option<usize> {
        self.hit
    }

    /// Ends the search, here or for good: releases what was held back.
    pub(super) fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
        self.matched.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matcher(stops: &[&str]) -> StopMatcher {
        StopMatcher::new(&stops.iter().map(ToString::to_string).collect::<Vec<_>>(), false)
    }

    #[test]
    fn the_stop_string_is_given_out_where_it_is_asked_for() {
        let stops = ["END".to_owned(), "ND!".to_owned()];
        let mut matcher = StopMatcher::new(&stops, true);
        let mut out = String::new();
        assert!(!matcher.push("the E", &mut out));
        assert!(matcher.push("ND! and more", &mut out));
        assert_eq!((out.as_str(), matcher.hit()), ("the END", Some(0)));
    }

    /// The rule, over the whole text: least end, then least start.
    fn naive(text: &str, stops: &[String]) -> Option<usize> {
        stops
            .iter()
            .filter(|stop| !stop.is_empty())
            .filter_map(|stop| text.find(stop.as_str()).map(|at| (at + stop.len(), at)))
            .min()
            .map(|(_, start)| start)
    }

    #[test]
    fn only_a_possible_beginning_is_held_back() {
        let mut matcher = matcher(&["\nUser:", "END"]);
        let mut out = String::new();
        assert!(!matcher.push("Hi\nUse", &mut out));
        assert_eq!(out, "Hi");
        assert!(!matcher.push("ful\nE", &mut out));
        assert_eq!(out, "Hi\nUseful\n");
        assert!(matcher.push("NDless", &mut out));
        assert_eq!(out, "Hi\nUseful\n");
    }

    #[test]
    fn the_end_gives_out_what_was_held() {
        let mut matcher = matcher(&["stop"]);
        let mut out = String::new();
        assert!(!matcher.push("sto", &mut out));
        assert_eq!(out, "");
        matcher.finish(&mut out);
        assert_eq!(out, "sto");
    }

    #[test]
    fn the_match_that_ends_first_wins_and_then_the_longest() {
        for (stops, expected) in [
            (&["abcd", "c"][..], "xab"),
            (&["c", "bc", "abc"][..], "x"),
            (&["abcde", "bcd"][..], "xa"),
        ] {
            let mut out = String::new();
            assert!(matcher(stops).push("xabcdefg", &mut out));
            assert_eq!(out, expected, "{stops:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn any_cuts_give_what_a_search_of_the_whole_gives(
            text in "[abé🦀]{0,24}",
            stops in prop::collection::vec("[abé🦀]{0,5}", 0..5),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut bounds: Vec<usize> =
                text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            let chosen: Vec<usize> = cuts.iter().map(|c| bounds[c.index(bounds.len())]).collect();
            bounds = chosen.into_iter().chain([0, text.len()]).collect();
            bounds.sort_unstable();
            let mut matcher = StopMatcher::new(&stops, false);
            let mut out = String::new();
            let mut stopped = false;
            for pair in bounds.windows(2) {
                stopped = matcher.push(&text[pair[0]..pair[1]], &mut out);
                if stopped {
                    break;
                }
                let taken = &text[..pair[1]];
                let held = &taken[out.len()..];
                prop_assert!(taken.starts_with(&out));
                prop_assert!(held.is_empty() || stops.iter().any(|s| s.starts_with(held)));
            }
            if !stopped {
                matcher.finish(&mut out);
            }
            let expected = naive(&text, &stops);
            prop_assert_eq!(stopped, expected.is_some());
            prop_assert_eq!(out, &text[..expected.unwrap_or(text.len())]);
        }
    }
}
