//! Server-sent events, as far as an API's client needs them.

/// Gathers bytes and gives the data of each event that is complete.
#[derive(Debug, Default)]
pub(crate) struct Events {
    line: Vec<u8>,
    data: Option<String>,
}

impl Events {
    /// Takes more bytes, cut anywhere, and gives the data of the events that they complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut complete = Vec::new();
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
            let line = line.trim_end_matches('\r');
            if line.is_empty() {
                complete.extend(self.data.take());
            } else if let Some(value) = line.strip_prefix("data:") {
                let value = value.strip_prefix(' ').unwrap_or(value);
                match &mut self.data {
                    Some(data) => {
                        data.push('\n');
                        data.push_str(value);
                    }
                    None => self.data = Some(value.to_owned()),
                }
            }
        }
        complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn comments_other_fields_and_unfinished_events_give_nothing() {
        let mut events = Events::default();
        let given = events.push(b": keep-alive\n\nid: 7\ndata: a\ndata:b\r\n\r\ndata: [DONE]\n");
        assert_eq!(given, ["a\nb"]);
        assert_eq!(events.push(b"\n"), ["[DONE]"]);
    }

    proptest! {
        #[test]
        fn where_the_bytes_are_cut_makes_no_difference(
            texts in prop::collection::vec("[ -~äß語]{0,12}", 1..6),
            cut in 1_usize..9,
        ) {
            let wire: String = texts.iter().map(|text| format!("data: {text}\n\n")).collect();
            let mut events = Events::default();
            let given: Vec<String> =
                wire.as_bytes().chunks(cut).flat_map(|bytes| events.push(bytes)).collect();
            prop_assert_eq!(given, texts);
        }
    }
}
