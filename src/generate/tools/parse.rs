//! Finds tool calls in a text that arrives in pieces.
//!
//! Calls are in blocks: a JSON list of calls, or calls in a row, between tags
//! (`<|tool_call|>…<|/tool_call|>`, `<tool_call>…</tool_call>`), or a list after `functools`. All
//! three are read for every model: each was trained for one and has seen the others. A call is
//! released once its name and the beginning of its arguments are known; what turns out not to be a
//! call becomes text again, so that nothing is lost. The result does not depend on how the text is
//! cut.

use std::collections::VecDeque;

use super::call::{CallScan, Step};
use super::scan::is_blank;

/// Tags that open a block.
pub(crate) const OPENERS: [&str; 3] = ["<|tool_call|>", "<tool_call>", FUNCTOOLS];
/// The tags that close it. The last opener has none.
const CLOSERS: [&str; 2] = ["<|/tool_call|>", "</tool_call>"];
/// Openers and closers that tokenizers may have as tokens.
pub(crate) const TAGS: [&str; 4] = [OPENERS[0], OPENERS[1], CLOSERS[0], CLOSERS[1]];
/// An opener that is a list's beginning already.
const FUNCTOOLS: &str = "functools[";

/// Bytes of an opener that are hardly the beginning of anything else.
const CERTAIN: usize = 5;

/// A piece of what was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Text outside of calls.
    Text(String),
    /// A call of the tool of this name begins.
    Call(String),
    /// More of its arguments.
    Arguments(String),
}

/// The state of the reader.
#[derive(Debug, Clone)]
enum Place {
    /// Outside of blocks. Holds back what may be the beginning of an opener.
    Outside(String),
    /// A call must follow: after an opener (where a list may begin, too), or within a block.
    CallDue { list: bool, fresh: bool },
    /// In a call.
    InCall(CallScan, bool),
    /// After a call.
    Behind { list: bool },
    /// After the list, perhaps within a closer.
    Closing(String),
}

/// Finds calls of certain tools.
#[derive(Debug, Clone)]
pub(crate) struct CallReader {
    names: Vec<String>,
    place: Place,
    /// White space before anything else, or after calls: dropped if calls follow, or if the answer
    /// ends with it after calls.
    blanks: String,
    /// Text since the call began, which is released if it turns out not to be a call.
    unsure: String,
    /// Bytes at the beginning of `unsure` that are text in that case, whatever follows.
    opener: usize,
    /// Whether any text was released since the last call ended.
    text_behind: bool,
    begun: usize,
    ended: usize,
    out: Vec<Piece>,
}

impl CallReader {
    /// A reader of calls of tools of these names.
    pub(crate) fn new(names: Vec<String>) -> Self {
        Self {
            names,
            place: Place::Outside(String::new()),
            blanks: String::new(),
            unsure: String::new(),
            opener: 0,
            text_behind: false,
            begun: 0,
            ended: 0,
            out: Vec::new(),
        }
    }

    /// How many calls have begun.
    pub(crate) fn begun(&self) -> usize {
        self.begun
    }

    /// How many calls are complete.
    pub(crate) fn ended(&self) -> usize {
        self.ended
    }

    /// Reads more text and returns the pieces that are certain. After `most` calls, the rest is
    /// ignored.
    pub(crate) fn push(&mut self, text: &str, most: usize) -> Vec<Piece> {
        let mut input: VecDeque<char> = text.chars().collect();
        while self.ended < most {
            let Some(c) = input.pop_front() else { break };
            if let Some(again) = self.step(c) {
                again.chars().rev().for_each(|c| input.push_front(c));
            }
        }
        std::mem::take(&mut self.out)
    }

    /// Whether what follows is of a block of calls.
    pub(crate) fn is_within(&self) -> bool {
        !matches!(self.place, Place::Outside(_))
    }

    /// The end of the text: releases what was held back. In a text that was `cut`, the beginning of
    /// a block is no text, since a call was about to come.
    pub(crate) fn finish(&mut self, cut: bool) -> Vec<Piece> {
        loop {
            match std::mem::replace(&mut self.place, Place::Outside(String::new())) {
                Place::Outside(held) if cut && held.len() >= CERTAIN => {
                    return std::mem::take(&mut self.out);
                }
                Place::Outside(held) => {
                    if !held.is_empty() || self.begun == 0 {
                        self.give_text(&held);
                    }
                    return std::mem::take(&mut self.out);
                }
                // The rest is a list's comma or a part of the closer, which are no text of the
                // answer.
                Place::Closing(_) | Place::Behind { .. } => self.unsure.clear(),
                Place::CallDue { .. } if self.opener == 0 => self.unsure.clear(),
                Place::InCall(call, _) if call.has_begun() => self.unsure.clear(),
                Place::CallDue { .. } | Place::InCall(..) if cut => self.unsure.clear(),
                Place::CallDue { .. } | Place::InCall(..) => {
                    let again = self.none_after_all();
                    let more = self.push(&again, usize::MAX);
                    self.out = more;
                }
            }
        }
    }

    /// Reads a character. Returns text that must be read again, in the state that follows.
    fn step(&mut self, c: char) -> Option<String> {
        match &mut self.place {
            Place::Outside(held) => {
                held.push(c);
                let held = std::mem::take(held);
                self.outside(held);
                return None;
            }
            Place::CallDue { list, fresh } => {
                self.unsure.push(c);
                let list = *list;
                match c {
                    c if is_blank(c) => return None,
                    '[' if *fresh && !list => {
                        self.place = Place::CallDue { list: true, fresh: false };
                        return None;
                    }
                    '{' => {
                        self.place = Place::InCall(CallScan::new(), list);
                        return None;
                    }
                    _ => {}
                }
            }
            Place::InCall(call, list) => {
                let list = *list;
                let step = call.push(c, &self.names);
                return self.in_call(step, list, c);
            }
            Place::Behind { list } => {
                self.unsure.push(c);
                match (*list, c) {
                    (_, c) if is_blank(c) => return None,
                    (_, ',') => {
                        self.place = Place::CallDue { list: *list, fresh: false };
                        return None;
                    }
                    (true, ']') => {
                        self.unsure.clear();
                        self.place = Place::Closing(String::new());
                        return None;
                    }
                    (false, '{') => {
                        self.place = Place::InCall(CallScan::new(), false);
                        return None;
                    }
                    (false, '<') => {
                        self.place = Place::Closing("<".to_owned());
                        return None;
                    }
                    _ => {}
                }
            }
            Place::Closing(held) => {
                self.unsure.push(c);
                if is_blank(c) && held.is_empty() {
                    return None;
                }
                held.push(c);
                if CLOSERS.contains(&held.as_str()) {
                    self.unsure.clear();
                    self.place = Place::Outside(String::new());
                    return None;
                }
                if CLOSERS.iter().any(|closer| closer.starts_with(held.as_str())) {
                    return None;
                }
            }
        }
        Some(self.none_after_all())
    }

    fn outside(&mut self, mut held: String) {
        loop {
            if let Some(opener) = OPENERS.iter().find(|opener| **opener == held) {
                self.unsure = std::mem::take(&mut self.blanks);
                self.opener = self.unsure.len() + 1;
                self.unsure.push_str(&held);
                self.place = Place::CallDue { list: *opener == FUNCTOOLS, fresh: true };
                return;
            }
            let mut rest = held.chars();
            match rest.next() {
                Some(first) if !OPENERS.iter().any(|o| o.starts_with(held.as_str())) => {
                    self.give_char(first);
                    held = rest.as_str().to_owned();
                }
                _ => break,
            }
        }
        self.place = Place::Outside(held);
    }

    fn in_call(&mut self, step: Step, list: bool, c: char) -> Option<String> {
        match step {
            Step::Waits => self.unsure.push(c),
            Step::Begins(name, arguments) => self.begin(name, arguments),
            Step::Goes(arguments) => self.give_arguments(arguments),
            Step::Ends => self.end(list),
            Step::BeginsAndEnds(name, arguments) => {
                self.begin(name, arguments);
                self.end(list);
            }
            Step::Wrong => {
                self.unsure.push(c);
                return Some(self.none_after_all());
            }
        }
        None
    }

    fn begin(&mut self, name: String, arguments: String) {
        self.unsure.clear();
        self.opener = 0;
        self.begun += 1;
        self.out.push(Piece::Call(name));
        self.give_arguments(arguments);
    }

    fn end(&mut self, list: bool) {
        self.unsure.clear();
        self.ended += 1;
        self.text_behind = false;
        self.place = Place::Behind { list };
    }

    /// Leaves the block: what was held back is text. All of it but the opener's beginning must be
    /// read again, as it may contain another opener.
    fn none_after_all(&mut self) -> String {
        self.place = Place::Outside(String::new());
        let mut unsure = std::mem::take(&mut self.unsure);
        let again = unsure.split_off(std::mem::take(&mut self.opener));
        if !unsure.is_empty() {
            self.give_text(&unsure);
        }
        again
    }

    fn give_char(&mut self, c: char) {
        if c.is_whitespace() && !self.text_behind {
            self.blanks.push(c);
        } else {
            self.give_text(c.encode_utf8(&mut [0; 4]));
        }
    }

    fn give_text(&mut self, text: &str) {
        let blanks = std::mem::take(&mut self.blanks);
        if blanks.is_empty() && text.is_empty() {
            return;
        }
        self.text_behind = true;
        match self.out.last_mut() {
            Some(Piece::Text(whole)) => {
                whole.push_str(&blanks);
                whole.push_str(text);
            }
            _ => self.out.push(Piece::Text(blanks + text)),
        }
    }

    fn give_arguments(&mut self, text: String) {
        match self.out.last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::Arguments(whole)) => whole.push_str(&text),
            _ => self.out.push(Piece::Arguments(text)),
        }
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
