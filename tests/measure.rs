//! What bodies are said to take in memory once they are parsed is no less than what they take, by an
//! allocator that counts, and not much more.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unsafe_code, reason = "a test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use phi4d_server::fuzzing::{MOST_SPELT, measured};
use proptest::prelude::*;
use serde_json::Value;

/// Counts what this thread has allocated, each piece rounded up as glibc does.
struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    let live = LIVE.get() + bytes;
    LIVE.set(live);
    PEAK.set(PEAK.get().max(live));
}

fn rounded(bytes: usize) -> isize {
    isize::try_from((bytes + 8).next_multiple_of(16).max(32)).unwrap()
}

// SAFETY: every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(rounded(layout.size()));
        // SAFETY: the caller keeps to the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(-rounded(layout.size()));
        // SAFETY: the caller keeps to the contract.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(rounded(size) - rounded(layout.size()));
        // SAFETY: the caller keeps to the contract.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that parsing `json` took at any moment, and whether it is JSON.
fn peak_of(json: &[u8]) -> (usize, bool) {
    let before = LIVE.get();
    PEAK.set(before);
    let parsed = serde_json::from_slice::<Value>(json);
    (usize::try_from(PEAK.get() - before).unwrap(), parsed.is_ok())
}

fn check(json: &[u8]) {
    let [_, bound, _] = measured(json);
    let (peak, valid) = peak_of(json);
    let shown = String::from_utf8_lossy(&json[..json.len().min(100)]).into_owned();
    assert!(bound >= peak, "{bound} of {peak} for {shown}");
    if valid {
        assert!(bound <= 3 * peak + 1024, "{bound} for {peak}: {shown}");
    }
}

/// `count` times `item`, with commas between.
fn many(open: &str, item: impl Fn(usize) -> String, count: usize, close: &str) -> String {
    let items: Vec<String> = (0..count).map(item).collect();
    format!("{open}{}{close}", items.join(","))
}

/// A beginning, items and an end.
type Shape<'a> = (&'a str, &'a dyn Fn(usize) -> String, &'a str);

#[test]
fn shapes_that_take_the_most() {
    for count in [0, 1, 2, 3, 4, 5, 8, 9, 100, 1000, 1025, 100_000] {
        let shapes: [Shape<'_>; 9] = [
            ("[", &|_| "{}".to_owned(), "]"),
            ("[", &|_| "[]".to_owned(), "]"),
            ("[", &|_| "[0]".to_owned(), "]"),
            ("[", &|_| "{\"\":0}".to_owned(), "]"),
            ("[", &|_| "0".to_owned(), "]"),
            ("[", &|_| "\"a\"".to_owned(), "]"),
            ("[", &|_| "\"\\u0041\\n\"".to_owned(), "]"),
            ("{", &|index| format!("\"{index}\":0"), "}"),
            ("{", &|index| format!("\"{index}\":{{\"a\":[{{}}]}}"), "}"),
        ];
        for (open, item, close) in shapes {
            check(many(open, item, count, close).as_bytes());
        }
    }
    check(format!("\"{}\"", "a".repeat(1 << 20)).as_bytes());
    check(format!("\"{}\"", "\\u00e9".repeat(1 << 17)).as_bytes());
    check(format!("{}{}", "[".repeat(127), "]".repeat(127)).as_bytes());
    check("[".repeat(1000).as_bytes());
    check(format!("{}0", "{\"a\":".repeat(100)).as_bytes());
}

/// `json` as the text of a string within a body, with escapes as `serde_json` writes them or all by number.
fn within(json: &str, by_number: bool) -> Vec<u8> {
    let text = if by_number {
        format!("\"{}\"", json.bytes().map(|byte| format!("\\u{byte:04x}")).collect::<String>())
    } else {
        serde_json::to_string(json).unwrap()
    };
    format!("{{\"a\":{text}}}").into_bytes()
}

#[test]
fn objects_within_texts_take_what_is_said_at_most() {
    for item in ["{}", "[]", "[[]]", "0", "\"a\"", "{\"\":0}", "\"\\n\"", "{\"a\":[{}]}"] {
        for count in [0, 1, 2, 5, 100, 10_000] {
            let json = many(" \n{\"enum\":[", |_| item.to_owned(), count, "]}");
            let (peak, valid) = peak_of(json.as_bytes());
            assert!(valid, "{item}");
            for by_number in [false, true] {
                let spelt = measured(&within(&json, by_number))[2];
                assert!(spelt >= peak, "{spelt} of {peak} for {count} {item}");
            }
        }
    }
    // What is no object, and what is too long to be parsed.
    let long = format!("{{\"a\":\"{}\"}}", "a".repeat(MOST_SPELT));
    for json in ["[{},{}]", "a, {b}", "", "\\", &long] {
        assert_eq!(measured(&within(json, false))[2], 0);
    }
}

#[test]
fn values_are_counted() {
    for (json, values) in [
        ("{}", 1),
        ("0", 1),
        ("[1,2,3]", 4),
        ("{\"a\":[],\"b\":{\"c\":\",[\"}}", 4),
        ("[[],[]]", 3),
    ] {
        assert_eq!(measured(json.as_bytes())[0], values, "{json}");
    }
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
    ];
    leaf.prop_recursive(8, 400, 40, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..40).prop_map(Value::from),
            prop::collection::vec((".{0,12}", inner), 0..40)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn any_json_takes_what_is_said_at_most(value in json(), pretty in any::<bool>()) {
        let text = if pretty {
            serde_json::to_vec_pretty(&value).unwrap()
        } else {
            serde_json::to_vec(&value).unwrap()
        };
        check(&text);
    }

    #[test]
    fn what_is_no_json_takes_no_more(
        value in json(),
        cut in any::<prop::sample::Index>(),
        junk in r#"[\[\]{}:,"\\a0 ]{0,60}"#,
    ) {
        let mut text = serde_json::to_vec(&value).unwrap();
        text.truncate(cut.index(text.len() + 1));
        text.extend_from_slice(junk.as_bytes());
        check(&text);
    }
}
