use proptest::prelude::*;

use super::*;

fn reader() -> CallReader {
    CallReader::new(vec!["f".to_owned(), "get_weather".to_owned()])
}

/// What a text is read as, with neighbours of a kind as one.
fn read<'t>(parts: impl IntoIterator<Item = &'t str>) -> Vec<Piece> {
    let mut reader = reader();
    let mut all: Vec<Piece> = Vec::new();
    let mut add = |pieces: Vec<Piece>| {
        for piece in pieces {
            match (all.last_mut(), piece) {
                (Some(Piece::Text(whole)), Piece::Text(more))
                | (Some(Piece::Arguments(whole)), Piece::Arguments(more)) => whole.push_str(&more),
                (_, piece) => all.push(piece),
            }
        }
    };
    for part in parts {
        add(reader.push(part, usize::MAX));
    }
    add(reader.finish(false));
    all
}

fn text(text: &str) -> Piece {
    Piece::Text(text.to_owned())
}

fn call(name: &str, arguments: &str) -> [Piece; 2] {
    [Piece::Call(name.to_owned()), Piece::Arguments(arguments.to_owned())]
}

#[test]
fn calls_are_read_in_every_form_that_models_write() {
    let one = call("f", "{\"a\": 1}").to_vec();
    for given in [
        "<|tool_call|>[{\"name\": \"f\", \"arguments\": {\"a\": 1}}]<|/tool_call|>",
        "functools[{\"name\": \"f\", \"arguments\": {\"a\": 1}}]",
        "\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>\n",
        "<tool_call>[{\"name\": \"f\", \"parameters\": {\"a\": 1}}]",
        "<tool_call>{\"id\": \"1\", \"type\": \"function\", \"name\": \"f\", \"arguments\": {\"a\": 1}}",
        "<tool_call>{\"arguments\": {\"a\": 1}, \"name\": \"f\"}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": \" {\\\"a\\\": 1}\\n\"}</tool_call>",
        "<|tool_call|> [ {\"name\" : \"f\" , \"arguments\" : {\"a\": 1} } ] <|/tool_call|>",
    ] {
        assert_eq!(read([given]), one, "{given}");
    }
    for given in [
        "<tool_call>{\"name\": \"f\"}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": null}</tool_call>",
        "functools[{\"arguments\": {}, \"name\": \"f\"}]",
    ] {
        assert_eq!(read([given]), call("f", "{}"), "{given}");
    }
}

#[test]
fn several_calls_come_one_behind_the_other() {
    let two = [call("f", "{}"), call("get_weather", "{\"city\": \"Oslo\"}")].concat();
    let (f, weather) = (
        "{\"name\": \"f\", \"arguments\": {}}",
        "{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\"}}",
    );
    for given in [
        format!("<|tool_call|>[{f}, {weather}]<|/tool_call|>"),
        format!("functools[{f},{weather}]"),
        format!("<tool_call>{f}\n{weather}</tool_call>"),
        format!("<tool_call>{f}</tool_call>\n\n<tool_call>{weather}</tool_call>"),
        format!("functools[{f}]\n<tool_call>[{weather}]</tool_call>"),
    ] {
        assert_eq!(read([given.as_str()]), two, "{given}");
    }
}

#[test]
fn text_around_calls_is_kept() {
    let given = "I look.\n<tool_call>{\"name\": \"f\"}</tool_call> Then this.\n";
    let expected = [vec![text("I look.\n")], call("f", "{}").to_vec(), vec![text(" Then this.\n")]];
    assert_eq!(read([given]), expected.concat());
}

#[test]
fn what_is_no_call_is_text() {
    for given in [
        "",
        " \n",
        "plain",
        "a < b, <tool, functools, functools [",
        "<tool_call>",
        "<tool_call></tool_call>",
        "functools[]",
        "functools[functools[1]]",
        "<tool_call>{\"name\": \"unknown\", \"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": 5}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": \"no JSON\"}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"size\": 1}</tool_call>",
        "<tool_call>{}</tool_call>",
        " <tool_call>{\"name\": \"f",
        "functools[{\"arguments\": {}",
        "<tool_call>[[{\"name\": \"f\"}]]</tool_call>",
    ] {
        let expected: Vec<Piece> = [text(given)].into_iter().filter(|p| *p != text("")).collect();
        assert_eq!(read([given]), expected, "{given:?}");
    }
}

#[test]
fn a_call_behind_one_that_was_none_is_found() {
    let given = "<tool_call>{\"name\": \"g\"} <tool_call>{\"name\": \"f\"}</tool_call>";
    let expected = [vec![text("<tool_call>{\"name\": \"g\"} ")], call("f", "{}").to_vec()];
    assert_eq!(read([given]), expected.concat());
}

#[test]
fn arguments_that_break_off_stay_and_what_follows_is_text() {
    let given = "functools[{\"name\": \"f\", \"arguments\": {\"a\": 1, oops}}]";
    let expected = [call("f", "{\"a\": 1, ").to_vec(), vec![text("oops}}]")]];
    assert_eq!(read([given]), expected.concat());
    assert_eq!(read(["functools[{\"name\": \"f\", \"arguments\": {\"a"]), call("f", "{\"a"));
}

#[test]
fn arguments_are_given_out_as_they_come() {
    let mut reader = reader();
    assert_eq!(reader.push("<tool_call>{\"name\": \"f\", \"arguments\": ", 9), []);
    assert_eq!(reader.push("{\"a", 9), call("f", "{\"a"));
    assert_eq!(reader.push("\": 1", 9), [Piece::Arguments("\": 1".to_owned())]);
    assert_eq!((reader.begun(), reader.ended()), (1, 0));
    assert_eq!(reader.push("}}</tool", 9), [Piece::Arguments("}".to_owned())]);
    assert_eq!((reader.begun(), reader.ended()), (1, 1));
    assert_eq!(reader.finish(false), []);
}

#[test]
fn nothing_is_read_behind_the_last_call_that_is_wanted() {
    let mut reader = reader();
    let given = "functools[{\"name\": \"f\"}, {\"name\": \"f\"}] more";
    assert_eq!(reader.push(given, 1), call("f", "{}"));
    assert_eq!(reader.finish(false), []);
}

/// Texts made of what matters to the reader.
fn any_text() -> impl Strategy<Value = String> {
    let bits = [
        "<|tool_call|>",
        "<|/tool_call|>",
        "<tool_call>",
        "</tool_call>",
        "functools[",
        "<",
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        " ",
        "\n",
        "\"name\"",
        "\"arguments\"",
        "\"f\"",
        "\"g\"",
        "é",
        "{\"name\": \"f\", \"arguments\": {\"a\": [1, \"}\"]}}",
        "{\"name\": \"f\"}",
        "word",
        "\\",
        "\"",
        "1",
        "null",
    ];
    prop::collection::vec(prop::sample::select(bits.to_vec()), 0..14).prop_map(|bits| bits.concat())
}

proptest! {
    #[test]
    fn any_cut_of_a_text_gives_the_same(given in any_text(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        let boundaries: Vec<usize> =
            given.char_indices().map(|(at, _)| at).chain([given.len()]).collect();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| *cut.get(&boundaries)).collect();
        cuts.extend([0, given.len()]);
        cuts.sort_unstable();
        let parts = cuts.windows(2).map(|cut| &given[cut[0]..cut[1]]);
        prop_assert_eq!(read(parts), read([given.as_str()]));
    }

    /// Where no call begins, the text comes back whole.
    #[test]
    fn without_calls_nothing_is_lost(given in any_text()) {
        let read = read([given.as_str()]);
        if !read.iter().any(|piece| matches!(piece, Piece::Call(_))) {
            let whole = if given.is_empty() { vec![] } else { vec![text(&given)] };
            prop_assert_eq!(read, whole);
        }
    }

    #[test]
    fn what_is_written_is_read(
        calls in prop::collection::vec(("f|get_weather", "[a-z\"\\\\{}\\[\\]<é\n]{0,8}"), 1..4),
        before in "[a-z .]{0,6}",
        form in 0..3,
    ) {
        let mut expected = Vec::new();
        if !before.trim().is_empty() {
            expected.push(text(&before));
        }
        let mut known = Vec::new();
        for (name, value) in &calls {
            let arguments = serde_json::json!({ "x": value, "n": [1.5e3, null] }).to_string();
            known.push(serde_json::json!({
                "name": name,
                "arguments": serde_json::from_str::<serde_json::Value>(&arguments).unwrap(),
            }).to_string());
            expected.extend(call(name, &arguments));
        }
        let list = known.join(", ");
        let given = match form {
            0 => format!("{before}<|tool_call|>[{list}]<|/tool_call|>"),
            1 => format!("{before}functools[{list}]"),
            _ => format!("{before}<tool_call>{}</tool_call>", known.join("\n")),
        };
        prop_assert_eq!(read([given.as_str()]), expected);
    }
}

/// Wherever an answer is cut, what belongs to a call does not become text of the answer.
#[test]
fn the_beginning_of_a_cut_call_is_no_text() {
    for block in [
        "<tool_call>\n[{\"name\": \"f\", \"arguments\": {\"a\": [1, \"<tool_call>\"]}}]\n</tool_call>",
        "<|tool_call|>{\"arguments\": {\"a\": 1}, \"name\": \"f\"}<|/tool_call|>",
        "functools[{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"f\"}]",
    ] {
        let whole = format!("I look. {block}");
        for end in 8..=whole.len() {
            let mut reader = reader();
            let mut pieces = reader.push(&whole[..end], usize::MAX);
            pieces.extend(reader.finish(true));
            let said: String = pieces
                .iter()
                .filter_map(
                    |piece| if let Piece::Text(text) = piece { Some(text.as_str()) } else { None },
                )
                .collect();
            // Less than this may be the beginning of a word.
            let most = &whole[..end.min(8 + CERTAIN - 1)];
            assert!(said.len() >= 7 && most.starts_with(&said), "{:?}: {said:?}", &whole[..end]);
        }
    }
}
