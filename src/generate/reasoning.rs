//! Separates the reasoning that begins an answer, `<think>…</think>`, from the rest.

/// The opening tag.
pub(super) const OPENER: &str = "<think>";
/// The closing tag.
pub(super) const CLOSER: &str = "</think>";
/// Both tags.
pub(super) const TAGS: [&str; 2] = [OPENER, CLOSER];

/// Text that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// Text of the reasoning, without its tags and the white space beside them.
    Reasoning(String),
    /// Text of the rest.
    Text(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Only white space and perhaps a part of the opening tag has come.
    Start,
    /// After the opening tag, within white space.
    Opened,
    Reasoning,
    /// After the closing tag, within white space.
    Closed,
    Rest,
}

/// Reads a text that comes in pieces. The result does not depend on how it is cut.
#[derive(Debug)]
pub(super) struct ReasoningReader {
    at: At,
    found: bool,
    /// Text that may turn out to be a tag, or white space beside one.
    held: String,
}

impl ReasoningReader {
    /// At an answer's beginning; `opened` if the prompt ends with the opener.
    pub(super) fn new(opened: bool) -> Self {
        let at = if opened { At::Opened } else { At::Start };
        Self { at, found: opened, held: String::new() }
    }

    /// Whether the text is within reasoning.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.at, At::Opened | At::Reasoning)
    }

    /// Whether it is still open if there is reasoning.
    pub(super) fn is_at_start(&self) -> bool {
        self.at == At::Start
    }

    /// Whether there is or was reasoning.
    pub(super) fn has_reasoning(&self) -> bool {
        self.found
    }

    /// Within reasoning: what must follow to close it, which is the closing tag or the rest of it
    /// if it has begun.
    pub(super) fn rest_of_closer(&self) -> &'static str {
        &CLOSER[begun(&self.held, CLOSER)..]
    }

    /// Reads more text.
    pub(super) fn push(&mut self, text: &str) -> Vec<Said> {
        let mut said = Vec::new();
        if self.at == At::Rest {
            if !text.is_empty() {
                said.push(Said::Text(text.to_owned()));
            }
            return said;
        }
        self.held.push_str(text);
        while self.step(&mut said) {}
        said
    }

    /// The end of the text: releases what was held back.
    pub(super) fn finish(&mut self) -> Option<Said> {
        let held = std::mem::take(&mut self.held);
        let said = match self.at {
            At::Start | At::Rest => Said::Text(held),
            At::Opened | At::Reasoning => Said::Reasoning(held.trim_end().to_owned()),
            At::Closed => return None,
        };
        match &said {
            Said::Text(text) | Said::Reasoning(text) => (!text.is_empty()).then_some(said),
        }
    }

    /// Reads up to the next tag or change of state; false if more text is needed.
    fn step(&mut self, said: &mut Vec<Said>) -> bool {
        match self.at {
            At::Start => {
                let begun = self.held.trim_start();
                if let Some(rest) = begun.strip_prefix(OPENER) {
                    self.held = rest.to_owned();
                    self.at = At::Opened;
                    self.found = true;
                    return true;
                }
                if OPENER.starts_with(begun) {
                    return false;
                }
                self.at = At::Rest;
            }
            At::Opened | At::Closed => {
                let blanks = self.held.len() - self.held.trim_start().len();
                self.held.drain(..blanks);
                if self.held.is_empty() {
                    return false;
                }
                self.at = if self.at == At::Opened { At::Reasoning } else { At::Rest };
            }
            At::Reasoning => {
                if let Some((reasoning, rest)) = self.held.split_once(CLOSER) {
                    let reasoning = reasoning.trim_end().to_owned();
                    self.held = rest.to_owned();
                    self.at = At::Closed;
                    if !reasoning.is_empty() {
                        said.push(Said::Reasoning(reasoning));
                    }
                    return true;
                }
                let free = self.held.len() - begun(&self.held, CLOSER);
                let free = self.held[..free].trim_end().len();
                if free > 0 {
                    said.push(Said::Reasoning(self.held.drain(..free).collect()));
                }
                return false;
            }
            At::Rest => {
                let rest = std::mem::take(&mut self.held);
                if !rest.is_empty() {
                    said.push(Said::Text(rest));
                }
                return false;
            }
        }
        true
    }
}

/// Bytes of the longest beginning of `tag` that ends `text`.
fn begun(text: &str, tag: &str) -> usize {
    (1..tag.len()).rev().find(|&length| text.ends_with(&tag[..length])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The whole reasoning and the whole rest.
    fn read<'t>(opened: bool, parts: impl IntoIterator<Item = &'t str>) -> (String, String) {
        let mut reader = ReasoningReader::new(opened);
        let (mut reasoning, mut text) = (String::new(), String::new());
        let mut add = |said| match said {
            Said::Reasoning(more) => {
                assert!(text.is_empty(), "reasoning behind the rest");
                reasoning.push_str(&more);
            }
            Said::Text(more) => text.push_str(&more),
        };
        for part in parts {
            reader.push(part).into_iter().for_each(&mut add);
        }
        reader.finish().into_iter().for_each(&mut add);
        (reasoning, text)
    }

    #[test]
    fn a_reasoning_is_distinguished_where_it_begins_the_answer() {
        for (given, reasoning, text) in [
            ("<think>a b</think>c", "a b", "c"),
            ("\n<think>\n a\n\nb \n</think>\n\n c \n", "a\n\nb", "c \n"),
            ("<think></think>c", "", "c"),
            ("<think>a", "a", ""),
            ("<think>a </thin", "a </thin", ""),
            ("<think>a</think>", "a", ""),
            ("<think>a</think>b<think>c</think>", "a", "b<think>c</think>"),
            ("x<think>a</think>", "", "x<think>a</think>"),
            (" x", "", " x"),
            ("<thin", "", "<thin"),
            (" ", "", " "),
            ("<think>a<think>b</think>c", "a<think>b", "c"),
        ] {
            assert_eq!(read(false, [given]), (reasoning.into(), text.into()), "{given:?}");
        }
        assert_eq!(read(true, ["\na</think>b"]), ("a".into(), "b".into()));
    }

    #[test]
    fn reasoning_is_given_out_as_it_comes() {
        let mut reader = ReasoningReader::new(false);
        assert_eq!(reader.push("<think>Let me"), [Said::Reasoning("Let me".into())]);
        assert_eq!(reader.push(" see </"), [Said::Reasoning(" see".into())]);
        assert!(reader.is_open());
        assert_eq!(reader.push("x"), [Said::Reasoning(" </x".into())]);
        assert_eq!(reader.push("</think> Yes"), [Said::Text("Yes".into())]);
        assert!(!reader.is_open());
    }

    proptest! {
        #[test]
        fn any_cut_of_a_text_gives_the_same(
            given in "(<think>|</think>|[<a/ \n>é]){0,10}", opened: bool,
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let boundaries: Vec<usize> =
                given.char_indices().map(|(at, _)| at).chain([given.len()]).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| *cut.get(&boundaries)).collect();
            cuts.extend([0, given.len()]);
            cuts.sort_unstable();
            let parts = cuts.windows(2).map(|cut| &given[cut[0]..cut[1]]);
            prop_assert_eq!(read(opened, parts), read(opened, [given.as_str()]));
        }
    }
}
