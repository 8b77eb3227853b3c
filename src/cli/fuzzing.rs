//! What must hold of a stream of events, whatever the daemon sends; and of forms, which are compiled
//! in processes as in production.

use std::sync::{Arc, LazyLock};

use super::client::events::Events;
use super::forms::Forks;
use phi4d_generate::Form;
use phi4d_generate::fuzzing::Forms;

/// What compiles forms, and the threads that wait for it.
static FORMS: LazyLock<Option<(Forms, tokio::runtime::Runtime)>> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    Some((Forms::over(Arc::new(Forks::default()))?, runtime))
});

/// A JSON Schema is compiled and followed, or refused, by itself and as the arguments of a call.
pub fn schema(data: &[u8]) {
    if let Ok(schema) = serde_json::from_slice::<serde_json::Value>(data) {
        form(&Form::JsonSchema(schema));
    }
}

/// A regular expression is compiled and followed, or refused.
pub fn expression(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        form(&Form::Regex(text.to_owned()));
    }
}

/// A Lark grammar is compiled and followed, or refused.
pub fn grammar(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        form(&Form::Lark(text.to_owned()));
    }
}

/// A grammar in llama.cpp's notation is translated, compiled and followed, or refused.
pub fn gbnf(data: &[u8]) {
    if let Some(lark) = phi4d_server::fuzzing::lark(data) {
        form(&Form::Lark(lark));
    }
}

/// A body of every surface goes as far as its compiled form.
pub fn requests(data: &[u8]) {
    assert!(FORMS.is_some(), "the demo model's vocabulary can be read");
    if let Some((forms, runtime)) = &*FORMS {
        for (prompt, constraint) in phi4d_server::fuzzing::asked(data) {
            runtime.block_on(forms.check_request(&prompt, constraint.as_ref()));
        }
    }
}

fn form(form: &Form) {
    assert!(FORMS.is_some(), "the demo model's vocabulary can be read");
    if let Some((forms, runtime)) = &*FORMS {
        let _used: bool = runtime.block_on(forms.check(form));
    }
}

/// `CUT BYTES`: the events are those of the whole, however the bytes are cut, and no part of one
/// that has not ended is given.
pub fn events(data: &[u8]) {
    let Some((&first, bytes)) = data.split_first() else { return };
    let whole = Events::default().push(bytes);
    let mut events = Events::default();
    let size = usize::from(first & 15) + 1;
    let given: Vec<String> = bytes.chunks(size).flat_map(|part| events.push(part)).collect();
    assert_eq!(given, whole);
    assert_eq!(whole, expected(bytes));
    for event in &whole {
        let _ = super::chat::client::read_event(event);
    }
}

/// By the rules, over the whole: lines; an empty one ends an event; fields called `data` are its
/// lines.
fn expected(bytes: &[u8]) -> Vec<String> {
    let ended = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let mut lines = Vec::new();
    let mut events = Vec::new();
    for line in bytes[..ended].split_inclusive(|&byte| byte == b'\n') {
        let line = String::from_utf8_lossy(&line[..line.len() - 1]).into_owned();
        let line = line.trim_end_matches('\r');
        if line.is_empty() && !lines.is_empty() {
            events.push(std::mem::take(&mut lines).join("\n"));
        }
        if let Some(data) = line.strip_prefix("data:") {
            lines.push(data.strip_prefix(' ').unwrap_or(data).to_owned());
        }
    }
    events
}

/// `CUT COLUMNS STYLED TEXT`: what a terminal shows of an answer does not depend on how it was cut, has
/// no control characters but our styles, and without styles every letter.
pub fn terminal(data: &[u8]) {
    super::chat::check_terminal(data);
}
