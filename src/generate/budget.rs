//! Ends reasoning that has taken too many tokens.

use std::sync::Arc;
use std::time::Duration;

use super::reasoning::ReasoningReader;
use super::tokenizer::{Markup, Tokenizer};
use phi4d_engine::{MaskError, Progress, TokenMask};

/// A mask around `inner`: once the reasoning has used its budget, it allows only the closing tag,
/// else what `inner` allows.
#[derive(Debug)]
pub(super) struct ReasoningBudget {
    tokenizer: Arc<Tokenizer>,
    inner: Option<Box<dyn TokenMask>>,
    reader: ReasoningReader,
    /// Tokens of reasoning that are left.
    left: u64,
    /// Tokens that must come next, in reverse order.
    forced: Vec<u32>,
    /// The same, in order.
    next: Vec<u32>,
    /// One bit for each token.
    mask: Vec<u32>,
}

impl ReasoningBudget {
    /// A budget of `most` tokens. `opened` if the prompt ends within reasoning.
    pub(super) fn new(
        tokenizer: Arc<Tokenizer>,
        inner: Option<Box<dyn TokenMask>>,
        most: u64,
        opened: bool,
        vocab_size: usize,
    ) -> Self {
        let mut budget = Self {
            tokenizer,
            inner,
            reader: ReasoningReader::new(opened),
            left: most,
            forced: Vec::new(),
            next: Vec::new(),
            mask: vec![u32::MAX; vocab_size.div_ceil(32)],
        };
        budget.force_if_spent();
        budget
    }

    fn force_if_spent(&mut self) {
        if self.left == 0 && self.forced.is_empty() && self.reader.is_open() {
            let closer = format!("{}\n\n", self.reader.rest_of_closer());
            self.forced =
                self.tokenizer.encode(&closer, Markup::Parsed, usize::MAX).unwrap_or_default();
            self.forced.reverse();
        }
    }
}

impl TokenMask for ReasoningBudget {
    fn allowed(&mut self) -> Result<&[u32], MaskError> {
        match (self.forced.last(), &mut self.inner) {
            (Some(&token), _) => {
                self.mask.fill(0);
                if let Some(word) = self.mask.get_mut(token as usize / 32) {
                    *word |= 1 << (token % 32);
                }
            }
            (None, Some(inner)) => return inner.allowed(),
            (None, None) => self.mask.fill(u32::MAX),
        }
        Ok(&self.mask)
    }

    fn accept(&mut self, token: u32) -> Result<Progress, MaskError> {
        let progress = match &mut self.inner {
            Some(inner) => inner.accept(token)?,
            None => Progress::Open,
        };
        if self.forced.last() == Some(&token) {
            self.forced.pop();
        }
        if self.reader.is_open() {
            self.left = self.left.saturating_sub(1);
        }
        let vocabulary = self.tokenizer.vocabulary();
        // Tags are ASCII, so a character that tokens cut can be replaced without harm.
        let text = String::from_utf8_lossy(vocabulary.bytes(token));
        self.reader.push(&text);
        self.force_if_spent();
        Ok(progress)
    }

    fn progress(&mut self, limit: Duration) -> Option<Progress> {
        self.inner.as_mut().map_or(Some(Progress::Open), |inner| inner.progress(limit))
    }

    /// Also while the closing tag is forced: `inner` must follow each of its tokens.
    fn ready(&mut self, limit: Duration) -> bool {
        self.inner.as_mut().is_none_or(|inner| inner.ready(limit))
    }

    fn forced(&mut self) -> &[u32] {
        match (self.forced.last(), &mut self.inner) {
            (Some(_), _) => {
                self.next.clear();
                self.next.extend(self.forced.iter().rev());
                &self.next
            }
            (None, Some(inner)) => inner.forced(),
            (None, None) => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::demo_folder;
    use super::*;

    /// What comes of the tokens of `wanted` where the mask lets them come, and of what is forced
    /// in between; with `most` tokens of reasoning.
    fn run(wanted: &str, most: u64, opened: bool) -> String {
        let tokenizer = Tokenizer::load(&demo_folder().join("tokenizer.json")).unwrap();
        let tokenizer = Arc::new(tokenizer);
        let mut budget = ReasoningBudget::new(Arc::clone(&tokenizer), None, most, opened, 1024);
        let wanted = tokenizer.encode(wanted, Markup::Plain, usize::MAX).unwrap();
        let mut wanted = wanted.into_iter().peekable();
        let mut made = Vec::new();
        loop {
            let allowed = budget.allowed().unwrap().to_vec();
            let may = |token: u32| allowed[token as usize / 32] >> (token % 32) & 1 == 1;
            let forced = budget.forced().to_vec();
            let token = match forced.first() {
                Some(&token) => {
                    assert_eq!(allowed.iter().map(|word| word.count_ones()).sum::<u32>(), 1);
                    token
                }
                None => match wanted.next() {
                    Some(token) => token,
                    None => return tokenizer.vocabulary().spell(&made),
                },
            };
            assert!(may(token));
            assert_eq!(budget.accept(token), Ok(Progress::Open));
            made.push(token);
        }
    }

    fn tokens(text: &str) -> u64 {
        let tokenizer = Tokenizer::load(&demo_folder().join("tokenizer.json")).unwrap();
        tokenizer.encode(text, Markup::Plain, usize::MAX).unwrap().len() as u64
    }

    #[test]
    fn a_reasoning_within_its_budget_is_left_alone() {
        let text = "<think>I add up.</think>It is 3.";
        assert_eq!(run(text, 100, false), text);
        // Text that is no reasoning has no budget, however long.
        assert_eq!(run("It is <think> 3.", 0, false), "It is <think> 3.");
    }

    #[test]
    fn a_reasoning_beyond_its_budget_is_ended() {
        let reasoning = "I add up and up and up";
        let most = tokens(reasoning) - 3;
        let made = run(&format!("<think>{reasoning}"), most, false);
        let (before, after) = made.split_once("</think>\n\n").unwrap();
        assert!(format!("<think>{reasoning}").starts_with(before), "{made}");
        assert!(!after.is_empty() && reasoning.ends_with(after), "{made}");
        assert_eq!(run("<think>x", 0, false).matches("</think>\n\n").count(), 1);
        assert_eq!(run("3.", 0, true), "</think>\n\n3.");
        // What has begun of the closer is finished.
        let begun = "a </th";
        let made = run(&format!("<think>{begun}x"), tokens(begun), false);
        assert!(made.starts_with("<think>a </think>\n\n"), "{made}");
    }
}
