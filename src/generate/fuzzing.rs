//! What must hold of prompts and answers, whatever the text.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use serde::de::IgnoredAny;
use serde_json::{Map, Value as Json};

pub use super::grammar::fuzzing::Forms;
use super::prompt::PromptReader;
use super::reading::AnswerReader;
use super::reasoning::ReasoningReader;
use super::request::{Chat, Ending, Message, Prompt, Role, TextDelta, TokenDelta};
use super::stream::StopMatcher;
use super::template::{ChatTemplate, TemplateMessage};
use super::tokenizer::Tokenizer;
use super::tools::parse::{CallReader, Piece};
use super::tools::{Tool, ToolCall, Tools, call_json_end};

/// Stands between the parts of an input that has several.
const SEPARATOR: char = '\u{1e}';

/// The text up to the next [`SEPARATOR`], and the rest.
fn split(text: &str) -> (&str, &str) {
    text.split_once(SEPARATOR).unwrap_or((text, ""))
}

/// `text` in pieces whose lengths in characters `lengths` gives, repeated; a digit means
/// itself. Pieces may be empty.
fn cut<'t>(text: &'t str, lengths: &str) -> Vec<&'t str> {
    let lengths: Vec<usize> = lengths.bytes().map(|byte| usize::from(byte & 15)).collect();
    if lengths.iter().sum::<usize>() == 0 {
        return vec![text];
    }
    let (mut pieces, mut rest) = (Vec::new(), text);
    for length in lengths.into_iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let at = rest.char_indices().nth(length).map_or(rest.len(), |(at, _)| at);
        let (piece, behind) = rest.split_at(at);
        pieces.push(piece);
        rest = behind;
    }
    pieces
}

#[test]
fn texts_are_cut_into_pieces_that_are_the_text() {
    assert_eq!(cut("aäbcd", "12"), ["a", "äb", "c", "d"]);
    assert_eq!(cut("abc", "0"), ["abc"]);
    assert_eq!(cut("ab", "01"), ["", "a", "", "b"]);
    assert_eq!(split("a\u{1e}b\u{1e}c"), ("a", "b\u{1e}c"));
}

/// Stop strings in `FLAGS-AND-CUTS ␞ STOP ␞ … ␞ TEXT`: what comes out and where it ends is what a
/// search of the whole text says, however the text is cut.
pub fn stop(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut parts: Vec<&str> = text.split(SEPARATOR).collect();
    let text = parts.pop().unwrap_or_default();
    let head = if parts.is_empty() { "" } else { parts.remove(0) };
    let stops: Vec<String> = parts.into_iter().map(str::to_owned).collect();
    let included = head.starts_with('i');
    let mut matcher = StopMatcher::new(&stops, included);
    let (mut out, mut stopped, mut taken) = (String::new(), false, 0);
    for piece in cut(text, head) {
        stopped = matcher.push(piece, &mut out);
        if stopped {
            break;
        }
        taken += piece.len();
        let held = &text[out.len()..taken];
        assert!(held.is_empty() || stops.iter().any(|stop| stop.starts_with(held)), "{held:?}");
    }
    if !stopped {
        matcher.finish(&mut out);
    }
    // The match that ends first, and of those the longest.
    let matches = stops.iter().enumerate().filter(|(_, stop)| !stop.is_empty());
    let first = matches
        .filter_map(|(place, stop)| text.find(stop.as_str()).map(|at| (at + stop.len(), at, place)))
        .min();
    assert_eq!(stopped, first.is_some());
    let end = first.map_or(text.len(), |(end, start, _)| if included { end } else { start });
    assert_eq!(out, text[..end]);
    assert_eq!(matcher.hit(), first.map(|(_, _, place)| place));
}

/// The JSON of a call's arguments, followed character by character: it is whole exactly where
/// serde's parser says so, and what is handed on is that value.
pub fn call_json(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Json>();
    let parsed = values.next();
    let end = values.byte_offset();
    // Raw control characters in texts and texts that no UTF-8 can hold are taken on purpose.
    match (call_json_end(text), parsed) {
        (Some((length, out)), Some(Ok(value))) => {
            assert_eq!(length, end);
            assert_eq!(serde_json::from_str::<Json>(&out).ok(), Some(value));
        }
        (None, Some(Ok(value))) => assert!(value.is_number(), "{value} was not followed"),
        _ => {}
    }
}

/// What an answer was read as.
#[derive(Debug, Default, PartialEq, Eq)]
struct Read {
    text: String,
    reasoning: String,
    calls: Vec<(String, String)>,
    full: bool,
}

fn read(mut reader: AnswerReader, pieces: &[&str]) -> Read {
    let (mut read, mut next, mut given) = (Read::default(), 0, 0);
    let mut take = |reader: &mut AnswerReader| {
        for delta in reader.take_ready() {
            read.text.push_str(&delta.text);
            read.reasoning.push_str(&delta.reasoning);
            for token in delta.tokens {
                assert_eq!(token.id, next, "tokens come once and in order");
                next += 1;
            }
            let Some(call) = delta.call else { continue };
            if let Some(begun) = call.begun {
                assert_eq!(call.index, read.calls.len());
                read.calls.push((begun.name, String::new()));
            }
            assert_eq!(call.index + 1, read.calls.len(), "a piece of the call that came last");
            if let Some((_, arguments)) = read.calls.last_mut() {
                arguments.push_str(&call.arguments);
            }
        }
    };
    for piece in pieces {
        let tokens =
            vec![TokenDelta { id: given, bytes: Vec::new(), logprobs: None, is_end: false }];
        given += 1;
        reader.read(TextDelta { text: (*piece).to_owned(), tokens, ..TextDelta::default() });
        take(&mut reader);
        if reader.is_full() {
            break;
        }
    }
    reader.finish(false);
    take(&mut reader);
    assert_eq!(next, given, "every token is reported");
    read.full = reader.is_full();
    read
}

/// An answer in `FLAGS ␞ CUTS ␞ TEXT`, separated into reasoning, text and calls: the same however
/// it is cut; nothing is lost; a whole call's arguments are a JSON object.
pub fn answer(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (flags, rest) = split(text);
    let (cuts, text) = split(rest);
    let has = |flag| flags.contains(flag);
    let names = || vec!["f".to_owned(), "get_weather".to_owned()];
    let reader = || {
        let reasoning = has('t').then(|| ReasoningReader::new(has('o')));
        AnswerReader::new(reasoning, has('c').then(|| CallReader::new(names())), has('1'))
    };
    let pieces = cut(text, cuts);
    let whole = read(reader(), &[text]);
    assert_eq!(read(reader(), &pieces), whole);
    if !has('t') {
        assert_eq!(whole.reasoning, "");
    }
    if whole.calls.is_empty() && !has('t') {
        assert_eq!(whole.text, text);
    }
    if !has('c') {
        assert_eq!(whole.calls, []);
    }
    if has('c') {
        let mut calls = CallReader::new(names());
        let pieces = [calls.push(text, usize::MAX), calls.finish(false)].concat();
        let is_object = |piece: &&Piece| match piece {
            Piece::Arguments(text) => {
                text.starts_with('{') && serde_json::from_str::<IgnoredAny>(text).is_ok()
            }
            _ => false,
        };
        // The others the model broke off, or the answer's end did.
        assert!(pieces.iter().filter(is_object).count() >= calls.ended(), "{pieces:?}");
        assert!(has('t') || whole.full == (has('1') && calls.ended() > 0));
    }
}

/// How a folder's template puts things: as Phi-4's, as Phi-4-mini's, or side by side.
const TEMPLATES: [&str; 3] = [
    "{% for message in messages %}{% if (message['role'] == 'system') %}\
     {{'<|im_start|>system<|im_sep|>' + message['content'] + '<|im_end|>'}}\
     {% elif (message['role'] == 'user') %}\
     {{'<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|>'}}\
     {% elif (message['role'] == 'assistant') %}\
     {{'<|im_start|>assistant<|im_sep|>' + message['content'] + '<|im_end|>'}}\
     {% endif %}{% endfor %}\
     {% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}",
    "{% for message in messages %}\
     {% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}\
     {{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + \
     '<|/tool|>' + '<|end|>' }}\
     {% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}\
     {% endif %}{% endfor %}\
     {% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}",
    "<|im_start|>{{ note | tojson }}{% for message in messages %}{{ message.content }}\
     {{ message.content | trim }}{% endfor %}<|im_end|>",
];

/// Control tokens of other models of the family, beside the demo model's.
const MORE_TOKENS: [&str; 8] = [
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|tool|>",
    "<|/tool|>",
    "<|end|>",
    "<|tool_call|>",
    "<|/tool_call|>",
];

/// A model folder's template: it is refused, or it renders a conversation or refuses that.
pub fn template(data: &[u8]) {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let Ok(template) = ChatTemplate::new(source.to_owned(), &Json::Null) else { return };
    let turn =
        |role, content: &str| TemplateMessage { role, content: content.to_owned(), tools: None };
    let turns = [turn("system", "Be brief."), turn("user", "Hi"), turn("assistant", "Hello.")];
    for ending in [Ending::ModelTurn, Ending::Closed, Ending::Open] {
        let rendered = template.render(&turns, &Chat { ending, ..Chat::default() });
        // Its work is bounded, and so is what it makes of it: 64 bytes a piece of work.
        assert!(rendered.is_err() || rendered.is_ok_and(|text| text.len() < 1 << 30));
    }
}

/// The first id that is a control token's.
const CONTROLS: u32 = 1000;

/// Readers over the demo model's tokenizer: one for each template, strict and greedy about the
/// white space beside control tokens.
static READERS: LazyLock<Vec<PromptReader>> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo/tokenizer.json");
    let load = |strips: bool| -> Option<Arc<Tokenizer>> {
        let mut root: Json = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
        let added = root["added_tokens"].as_array_mut()?;
        let first = CONTROLS + u32::try_from(added.len()).ok()?;
        for (id, content) in (first..).zip(MORE_TOKENS) {
            added.push(serde_json::json!({
                "id": id, "content": content, "special": true, "single_word": false,
                "lstrip": strips, "rstrip": strips, "normalized": false,
            }));
        }
        for token in added {
            token["lstrip"] = strips.into();
            token["rstrip"] = strips.into();
        }
        Tokenizer::from_json(&serde_json::to_vec(&root).ok()?).ok().map(Arc::new)
    };
    let reader = |source: &str, strips: bool| {
        let template = ChatTemplate::new(source.to_owned(), &Json::Null).ok();
        Some(PromptReader::new(load(strips)?, template, 1001))
    };
    TEMPLATES
        .iter()
        .flat_map(|source| [reader(source, true), reader(source, false)])
        .flatten()
        .collect()
});

/// A conversation in `FLAGS ␞ TURN ␞ TURN …`, where a turn's first letter says what it is: what
/// the model reads has the template's control tokens and no other, whatever the texts say; and the
/// texts are read as they are.
pub fn prompt(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut parts = text.split(SEPARATOR);
    let flags = parts.next().unwrap_or_default();
    let chat = conversation(flags, parts);
    if chat.messages.is_empty() {
        return;
    }
    assert_eq!(READERS.len(), 2 * TEMPLATES.len());
    // A digit among the flags chooses one, for the fuzzer's speed.
    let chosen = flags.chars().find_map(|flag| flag.to_digit(10)).map(|digit| digit as usize % 6);
    for (index, reader) in READERS.iter().enumerate() {
        if chosen.is_some_and(|chosen| chosen != index) {
            continue;
        }
        // The same conversation with texts that no token is near to.
        let plain = reader.read_now(&Prompt::Chat(plain(&chat)), usize::MAX);
        let read = reader.read_now(&Prompt::Chat(chat.clone()), usize::MAX);
        let (Ok(plain), Ok(read)) = (plain, read) else { continue };
        let controls = |ids: &[u32]| ids.iter().copied().filter(|&id| id >= CONTROLS).collect();
        let (expected, found): (Vec<u32>, Vec<u32>) = (controls(&plain), controls(&read));
        assert_eq!(found, expected, "control tokens out of {chat:?}");
        let spelt = reader.tokenizer().vocabulary().spell(&read);
        for message in chat.messages.iter().filter(|message| message.role == Role::User) {
            assert!(spelt.contains(message.content.trim()), "{message:?} in {spelt:?}");
        }
    }
    texts_are_plain(&chat);
}

/// Text that no template places has no control token, and reads as it is written.
fn texts_are_plain(chat: &Chat) {
    let reader = &READERS[0];
    for message in &chat.messages {
        let text = message.content.clone();
        let prompt = Prompt::Text { text: text.clone(), parse_special: false };
        let Ok(ids) = reader.read_now(&prompt, usize::MAX) else { continue };
        if !text.is_empty() {
            assert!(ids.iter().all(|&id| id < CONTROLS), "{text:?} is {ids:?}");
            assert_eq!(reader.tokenizer().vocabulary().spell(&ids), text);
        }
    }
}

fn conversation<'t>(flags: &str, parts: impl Iterator<Item = &'t str>) -> Chat {
    let mut chat = Chat::default();
    if flags.contains('n') {
        chat.ending = Ending::Closed;
    }
    for part in parts.take(12) {
        let Some(kind) = part.chars().next() else { continue };
        let rest = &part[kind.len_utf8()..];
        let message = |role| Message::text(role, rest);
        let (name, text) = rest.split_once('\t').unwrap_or(("f", rest));
        match kind {
            's' => chat.messages.push(message(Role::System)),
            'a' => chat.messages.push(message(Role::Assistant)),
            'r' => {
                let answers = Some("1".to_owned());
                chat.messages.push(Message { answers, ..message(Role::Tool) });
            }
            'c' => {
                let call = ToolCall {
                    id: "1".to_owned(),
                    name: name.to_owned(),
                    arguments: text.to_owned(),
                };
                chat.messages.push(Message { calls: vec![call], ..message(Role::Assistant) });
            }
            'f' => {
                let mut tools = std::mem::take(&mut chat.tools);
                tools.definitions.push(Tool {
                    name: name.to_owned(),
                    description: Some(text.to_owned()),
                    parameters: Map::from_iter([(text.to_owned(), Json::from(name))]),
                    strict: None,
                    place: String::new(),
                });
                chat.tools = tools;
            }
            'v' => {
                let value = BTreeMap::from([(name, vec![text])]);
                chat.variables.insert("note".to_owned(), serde_json::json!(value));
            }
            _ => chat.messages.push(message(Role::User)),
        }
    }
    chat
}

/// `chat` with each text replaced by a letter.
fn plain(chat: &Chat) -> Chat {
    let letter = || "x".to_owned();
    let message = |message: &Message| Message {
        content: letter(),
        calls: message
            .calls
            .iter()
            .map(|call| ToolCall { arguments: letter(), name: letter(), ..call.clone() })
            .collect(),
        ..message.clone()
    };
    let tool = |tool: &Tool| Tool {
        name: letter(),
        description: None,
        parameters: Map::new(),
        ..tool.clone()
    };
    Chat {
        messages: chat.messages.iter().map(message).collect(),
        tools: Tools {
            definitions: chat.tools.definitions.iter().map(tool).collect(),
            ..chat.tools.clone()
        },
        variables: chat.variables.keys().map(|name| (name.clone(), Json::from("x"))).collect(),
        ..chat.clone()
    }
}
