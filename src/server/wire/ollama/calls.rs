//! Puts tool calls together: Ollama's clients get each call in one piece.

use phi4d_generate::{CallDelta, ToolCall};

/// Collects the pieces of one call after another.
#[derive(Debug, Default)]
pub(super) struct CallCollector {
    open: Option<(usize, ToolCall)>,
}

impl CallCollector {
    /// Adds a piece. If it begins a call, the call before it is complete and is returned.
    pub(super) fn add(&mut self, piece: CallDelta) -> Option<(usize, ToolCall)> {
        let Some(begun) = piece.begun else {
            if let Some((_, call)) = &mut self.open {
                call.arguments.push_str(&piece.arguments);
            }
            return None;
        };
        let call = ToolCall { id: begun.id, name: begun.name, arguments: piece.arguments };
        self.open.replace((piece.index, call))
    }

    /// The last call, now complete.
    pub(super) fn finish(&mut self) -> Option<(usize, ToolCall)> {
        self.open.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use phi4d_generate::CallStart;

    #[test]
    fn calls_come_out_whole_and_in_order() {
        let piece = |index, name: Option<&str>, arguments: &str| CallDelta {
            index,
            begun: name.map(|name| CallStart { id: format!("{name}1"), name: name.to_owned() }),
            arguments: arguments.to_owned(),
        };
        let call = |name: &str, arguments: &str| ToolCall {
            id: format!("{name}1"),
            name: name.to_owned(),
            arguments: arguments.to_owned(),
        };
        let mut calls = CallCollector::default();
        assert_eq!(calls.add(piece(0, Some("a"), "")), None);
        assert_eq!(calls.add(piece(0, None, "{\"x\":")), None);
        assert_eq!(calls.add(piece(0, None, "1}")), None);
        assert_eq!(calls.add(piece(1, Some("b"), "")), Some((0, call("a", "{\"x\":1}"))));
        assert_eq!(calls.finish(), Some((1, call("b", ""))));
        assert_eq!(calls.finish(), None);
    }
}
