//! `phi4d check` on folders that are damaged or made to harm: each ends with a documented code and a
//! line that names the file, within bounds of time and memory, and never by a signal.
//!
//! PHI4D_FOLDERS=N draws N folders in place of 96, PHI4D_FOLDER_SEED=N others.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test")]

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::common::demo_folder;

/// How long one check may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Address space of one check, in KiB: ten times what the demo takes.
const ADDRESS_SPACE: u64 = 8 << 20;

/// The files that are mutated.
const FILES: [&str; 4] =
    ["genai_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];

/// Codes that a folder may lead to: fine, damaged, missing, unusable, out of what the system has,
/// settings.
const CODES: [i32; 6] = [0, 65, 66, 69, 71, 78];

/// A copy of the demo model with links to its weights.
fn copy(folder: &Path) {
    for entry in fs::read_dir(demo_folder()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap();
        if FILES.iter().any(|file| name == *file) {
            fs::copy(&path, folder.join(name)).unwrap();
        } else {
            std::os::unix::fs::symlink(&path, folder.join(name)).unwrap();
        }
    }
}

/// Checks the folder. Returns the code and what was said.
fn check(folder: &Path) -> (i32, String) {
    let log = tempfile::tempfile().unwrap();
    let script = format!("ulimit -v {ADDRESS_SPACE} && exec \"$@\"");
    let mut command = Command::new("sh");
    command
        .args(["-c", &script, "sh", env!("CARGO_BIN_EXE_phi4d"), "check", "--threads", "1"])
        .args(["--log-level", "error", "--listen", "off", "--model"])
        .arg(folder)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_clear()
        .envs(crate::common::isa())
        .env("PATH", std::env::var("PATH").unwrap())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log.try_clone().unwrap());
    let mut child = command.spawn().unwrap();
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("the check takes more than {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    use std::io::{Read as _, Seek as _};
    let (mut log, mut said) = (log, String::new());
    log.rewind().unwrap();
    log.read_to_string(&mut said).unwrap();
    let code = status.code();
    (code.unwrap_or_else(|| panic!("signal {:?}: {said}", status.signal())), said)
}

/// Checks a folder in which `file` was mutated.
fn ends_well(folder: &Path, file: &str, what: &str) -> i32 {
    let (code, said) = check(folder);
    let shown: String = said.chars().take(600).collect();
    assert!(CODES.contains(&code), "{file}: {what}: {code}: {shown}");
    if code != 0 {
        let lines = said.lines().filter(|line| line.starts_with("phi4d: ")).count();
        assert_eq!(lines, 1, "{file}: {what}: {code}: {shown}");
        assert!(!said.contains("panicked"), "{file}: {what}: {shown}");
        if code == 65 {
            let named = said.contains(&folder.display().to_string());
            assert!(named, "{file}: {what}: no file is named: {shown}");
        }
    }
    code
}

/// A folder with `text` as its template.
fn with_template(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(folder.path());
    fs::write(folder.path().join("chat_template.jinja"), text).unwrap();
    folder
}

/// Templates whose parsing, compiling or running recurses, `depth` times.
fn chains(depth: usize) -> Vec<(&'static str, String)> {
    let many = |part: &str| part.repeat(depth);
    vec![
        ("sum", format!("{{{{ 1{} }}}}", many("+a"))),
        ("concatenation", format!("{{{{ 1{} }}}}", many("~a"))),
        ("power", format!("{{{{ 1{} }}}}", many("**a"))),
        ("comparison", format!("{{{{ 1{} }}}}", many("<a"))),
        ("and", format!("{{{{ 1{} }}}}", many(" and a"))),
        ("not", format!("{{{{ {}a }}}}", many("not "))),
        ("minus", format!("{{{{ {}a }}}}", many("-"))),
        ("brackets", format!("{{{{ {}a{} }}}}", many("("), many(")"))),
        ("lists", format!("{{{{ {}{} }}}}", many("["), many("]"))),
        ("maps", format!("{{{{ {}1{} }}}}", many("{1:"), many("}"))),
        ("attributes", format!("{{{{ a{} }}}}", many(".a"))),
        ("items", format!("{{{{ a{} }}}}", many("[0]"))),
        ("calls", format!("{{{{ a{} }}}}", many("()"))),
        ("filters", format!("{{{{ a{} }}}}", many("|e"))),
        ("tests", format!("{{{{ a{} }}}}", many(" is none"))),
        ("conditions", format!("{{{{ {}1 }}}}", many("a if b else "))),
        ("ifs", format!("{}{}", many("{% if a %}"), many("{% endif %}"))),
        ("elifs", format!("{{% if a %}}{}{{% endif %}}", many("{% elif a %}"))),
        ("loops", format!("{}{}", many("{% for a in a %}"), many("{% endfor %}"))),
        ("withs", format!("{}{}", many("{% with a=1 %}"), many("{% endwith %}"))),
        ("blocks", (0..depth).map(|n| format!("{{% block a{n} %}}")).collect()),
        ("constants", format!("{{{{ 1{} }}}}", many("+1"))),
        ("texts", format!("{{{{ 'a'{} }}}}", many("'a'"))),
    ]
}

#[test]
fn templates_of_any_depth_are_run_or_refused() {
    for depth in [100, 4000, 8000, 16_000, 1_000_000] {
        for (what, text) in chains(depth) {
            // All that fits is tried; of what is too large, one.
            if text.len() > (1 << 16) + 64 && !["sum", "brackets"].contains(&what) {
                continue;
            }
            let folder = with_template(&text);
            let begun = Instant::now();
            let code = ends_well(folder.path(), "chat_template.jinja", what);
            eprintln!("{what} {depth}: {code} in {:?}", begun.elapsed());
            let expected = if text.len() > 1 << 16 { &[65][..] } else { &[0, 65][..] };
            assert!(expected.contains(&code), "{what} {depth}: {code}");
        }
    }
}

#[test]
fn templates_that_call_themselves_end() {
    for text in [
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{% macro a(n) %}{{ b(n) }}{% endmacro %}{% macro b(n) %}{{ a(n) }}{% endmacro %}{{ a(1) }}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% include 'chat template' %}",
        "{% extends 'chat template' %}",
        "{% import 'chat template' as x %}",
        "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
        "{{ 'x' * 100000000000 }}",
        "{{ [1] * 100000000000 }}",
        "{{ range(100000000000)|list }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ '%s' % 'x' }}{{ 'x'|center(10000000000) }}",
        "{{ '{:>10000000000}'.format(1) }}",
        "{{ ('{:>9999}' * 5000).format(1) }}",
    ] {
        let folder = with_template(text);
        ends_well(folder.path(), "chat_template.jinja", text);
    }
    // Values within values, as deep as the fuel allows, dropped and written.
    for (outer, written) in [(1000, ""), (300, "{{ ns.x }}"), (300, "{{ ns.x|tojson }}")] {
        let grow = "{% set ns.x = [ns.x] %}";
        let text = format!(
            "{{% set ns = namespace(x=[]) %}}{{% for a in range({outer}) %}}\
             {{% for b in range(1000) %}}{grow}{{% endfor %}}{{% endfor %}}{written}"
        );
        let folder = with_template(&text);
        ends_well(folder.path(), "chat_template.jinja", &text);
    }
}

/// The file's JSON with the value at `pointer` replaced.
fn with_value(file: &str, pointer: &str, value: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(folder.path());
    let path = folder.path().join(file);
    let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let place = json.pointer_mut(pointer).unwrap_or_else(|| panic!("{file} has no {pointer}"));
    *place = value.clone();
    fs::write(path, json.to_string()).unwrap();
    folder
}

#[test]
fn ids_and_sizes_that_no_model_has_are_refused() {
    for id in [1_u64 << 20, 1 << 31, (1 << 32) - 1, 1 << 32] {
        let folder = with_value("tokenizer.json", "/added_tokens/0/id", &json!(id));
        assert_eq!(ends_well(folder.path(), "tokenizer.json", &format!("added id {id}")), 65);
        let folder = with_value("tokenizer.json", "/model/vocab", &json!({ "a": id }));
        assert_eq!(ends_well(folder.path(), "tokenizer.json", &format!("id {id}")), 65);
    }
    let long = json!("x".repeat(100_000));
    let folder = with_value("tokenizer.json", "/added_tokens/0/content", &long);
    assert_eq!(ends_well(folder.path(), "tokenizer.json", "a long token"), 65);
    for (pointer, values) in [
        ("/model/context_length", [0_u64, 1 << 24, 1 << 25, u64::MAX]),
        ("/model/vocab_size", [0, 1 << 24, 1 << 25, u64::MAX]),
        ("/model/decoder/head_size", [0, 1 << 14, 1 << 25, u64::MAX]),
        ("/model/decoder/num_hidden_layers", [0, 1 << 12, 1 << 25, u64::MAX]),
        ("/model/decoder/num_key_value_heads", [0, 1 << 12, 1 << 25, u64::MAX]),
        ("/model/eos_token_id", [0, 1 << 31, 1 << 32, u64::MAX]),
    ] {
        for value in values {
            let folder = with_value("genai_config.json", pointer, &json!(value));
            ends_well(folder.path(), "genai_config.json", &format!("{pointer} = {value}"));
        }
    }
}

/// Every place in a value, by its pointer.
fn places(value: &Value, at: &str, into: &mut Vec<String>) {
    into.push(at.to_owned());
    let mut below = |key: &str, value: &Value| {
        let key = key.replace('~', "~0").replace('/', "~1");
        places(value, &format!("{at}/{key}"), into);
    };
    match value {
        // Of long lists a part is enough.
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate().take(20) {
                below(&index.to_string(), item);
            }
        }
        Value::Object(fields) => fields.iter().take(40).for_each(|(key, item)| below(key, item)),
        _ => {}
    }
}

fn odd_value(random: &mut StdRng, old: &Value) -> Value {
    match random.random_range(0..14) {
        0 => Value::Null,
        1 => json!(-1),
        2 => json!(1_u64 << random.random_range(0..64)),
        3 => json!(u64::MAX),
        4 => json!(1e300),
        5 => json!(""),
        6 => json!("\u{0}\u{202e}\u{10ffff}%d/../.."),
        7 => json!("(".repeat(random.random_range(1..50_000))),
        8 => json!("x".repeat(1 << random.random_range(0..21))),
        9 => json!([]),
        10 => json!({}),
        11 => (0..random.random_range(1..120)).fold(old.clone(), |inner, _| json!([inner])),
        12 => json!(!old.as_bool().unwrap_or(false)),
        _ => Value::Array(vec![old.clone(); random.random_range(1..2000)]),
    }
}

/// Changes the file's structure, or its bytes. Returns what was done.
fn mutate(random: &mut StdRng, path: &Path) -> String {
    let bytes = fs::read(path).unwrap();
    let json: Option<Value> = serde_json::from_slice(&bytes).ok();
    if let Some(mut json) = json.filter(|_| random.random_range(0..4) > 0) {
        let mut found = Vec::new();
        places(&json, "", &mut found);
        let at = found[random.random_range(0..found.len())].clone();
        let place = json.pointer_mut(&at).unwrap();
        *place = odd_value(random, place);
        fs::write(path, json.to_string()).unwrap();
        return at;
    }
    let mut bytes = bytes;
    for _ in 0..random.random_range(1..8) {
        let at = random.random_range(0..bytes.len().max(1)).min(bytes.len());
        match random.random_range(0..5) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] = random.random_range(0..=255),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 => {
                let to = bytes.len().min(at + random.random_range(0..64));
                let part = bytes[at..to].repeat(random.random_range(1..200));
                bytes.splice(at..at, part);
            }
            _ => {
                let words = ["{{", "}}", "{%", "%}", "{#", "-", "not ", "(", "[", "\"", "{%if x%}"];
                let word = words[random.random_range(0..words.len())];
                let part = word.repeat(random.random_range(1..5000));
                bytes.splice(at..at, part.bytes());
            }
        }
        if bytes.is_empty() {
            break;
        }
    }
    fs::write(path, bytes).unwrap();
    "bytes".to_owned()
}

#[test]
fn mutated_folders_end_with_a_documented_code() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let draws = number("PHI4D_FOLDERS").unwrap_or(96);
    let first = number("PHI4D_FOLDER_SEED").unwrap_or(1);
    let mut refused = 0;
    for seed in first..first + draws {
        let mut random = StdRng::seed_from_u64(seed);
        let folder = tempfile::tempdir().unwrap();
        copy(folder.path());
        let file = FILES[random.random_range(0..FILES.len())];
        let path = folder.path().join(file);
        if !path.exists() {
            // The demo has its template in tokenizer_config.json.
            fs::write(&path, "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
                .unwrap();
        }
        let what = mutate(&mut random, &path);
        refused += u32::from(ends_well(folder.path(), file, &format!("seed {seed}: {what}")) != 0);
    }
    assert!(u64::from(refused) * 4 > draws, "{refused} of {draws}: mutations do nothing");
}
