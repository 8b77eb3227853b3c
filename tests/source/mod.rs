//! Reads the program's own source for the tests that hold it to the house rules.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may stop where something is wrong"
)]
#![allow(dead_code, reason = "each test file compiles this module for itself and uses a part")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// One file under `src/`.
pub(crate) struct SourceFile {
    /// Path below `src/`, with `/`.
    pub(crate) path: String,
    /// The text as it stands.
    pub(crate) text: String,
    /// The text without comments, literals and test code; lines keep their numbers.
    pub(crate) code: String,
}

impl SourceFile {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            code: blank_test_items(&blank_comments_and_literals(text)),
        }
    }

    /// The layer: the first folder, or the root module's name.
    pub(crate) fn layer(&self) -> &str {
        let first = self.path.split('/').next().expect("split gives one part");
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// How many modules deep the file's own module is; `engine/mod.rs` is 1.
    pub(crate) fn depth(&self) -> usize {
        let parts: Vec<&str> = self.path.split('/').collect();
        match *parts.last().expect("split gives one part") {
            "mod.rs" => parts.len() - 1,
            "main.rs" | "lib.rs" if parts.len() == 1 => 0,
            _ => parts.len(),
        }
    }

    /// The line number of byte `at` of `code`.
    pub(crate) fn line(&self, at: usize) -> usize {
        self.code[..at].matches('\n').count() + 1
    }
}

/// Every file under `src/` but those that are test code as a whole.
pub(crate) fn program() -> Vec<SourceFile> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    collect(&root, &mut paths);
    paths.sort();
    let files: Vec<SourceFile> = paths
        .iter()
        .map(|path| {
            let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
            let below = path.strip_prefix(&root).expect("found below it");
            SourceFile::new(&below.to_string_lossy().replace('\\', "/"), &text)
        })
        .collect();
    let tests = test_modules(&files);
    let is_test = |path: &str| {
        // `#[path = "x_tests.rs"] mod tests;` stands beside its module.
        path.ends_with("_tests.rs")
            || tests
                .iter()
                .any(|test| path == format!("{test}.rs") || path.starts_with(&format!("{test}/")))
    };
    files.into_iter().filter(|f| !is_test(&f.path)).collect()
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{folder:?}: {e}")) {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

/// Modules declared as `#[cfg(test)] mod NAME;` or the like, as paths below `src/` without `.rs`.
fn test_modules(files: &[SourceFile]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in files {
        let clean = blank_comments_and_literals(&file.text);
        for (start, end) in test_items(&clean) {
            let item = clean[start..end].trim_end();
            let Some(declaration) = item.strip_suffix(';') else {
                continue;
            };
            let mut words = declaration.split_whitespace().rev();
            if let (Some(name), Some("mod")) = (words.next(), words.next()) {
                let folder = match file.path.rsplit_once('/') {
                    Some((folder, "mod.rs")) => format!("{folder}/"),
                    None if matches!(file.path.as_str(), "main.rs" | "lib.rs") => String::new(),
                    _ => format!("{}/", file.path.trim_end_matches(".rs")),
                };
                found.insert(format!("{folder}{name}"));
            }
        }
    }
    found
}

/// Replaces comments and the insides of string and character literals by spaces.
pub(crate) fn blank_comments_and_literals(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                find(bytes, at, b"\n").unwrap_or(bytes.len())
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => block_comment_end(bytes, at),
            b'"' => string_end(bytes, at),
            b'r' if !in_word(bytes, at) => raw_string_end(bytes, at).unwrap_or(at),
            b'\'' => character_end(bytes, at).unwrap_or(at),
            _ => at,
        };
        if end == at {
            at += 1;
            continue;
        }
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    String::from_utf8(out).expect("blanking whole literals keeps UTF-8 whole")
}

/// Whether the byte before `at` makes it part of a longer word (`b` of `br""` aside).
fn in_word(bytes: &[u8], at: usize) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    match at.checked_sub(1).map(|i| bytes[i]) {
        Some(b'b' | b'c') => at >= 2 && is_word(bytes[at - 2]),
        Some(before) => is_word(before),
        None => false,
    }
}

fn find(bytes: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    bytes[from..].windows(what.len()).position(|window| window == what).map(|at| from + at)
}

fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let mut depth = 0;
    let mut at = start;
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn raw_string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let hashes = bytes[start + 1..].iter().take_while(|b| **b == b'#').count();
    if bytes.get(start + 1 + hashes) != Some(&b'"') {
        return None;
    }
    let close = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
    let end = find(bytes, start + 2 + hashes, &close)?;
    Some(end + close.len())
}

/// The end of a character literal; `None` for a lifetime.
fn character_end(bytes: &[u8], start: usize) -> Option<usize> {
    if bytes.get(start + 1) == Some(&b'\\') {
        return find(bytes, start + 3, b"'").map(|at| at + 1);
    }
    let text = std::str::from_utf8(&bytes[start + 1..]).ok()?;
    let first = text.chars().next()?;
    let end = start + 1 + first.len_utf8();
    (bytes.get(end) == Some(&b'\'')).then_some(end + 1)
}

/// Blanks items that are there for tests (and the fuzzer) only.
fn blank_test_items(clean: &str) -> String {
    let mut out = clean.as_bytes().to_vec();
    for (start, end) in test_items(clean) {
        for byte in &mut out[start..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }
    String::from_utf8(out).expect("items start and end at ASCII")
}

fn test_items(clean: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut from = 0;
    // What the fuzzer runs is test code, too.
    let next = |from: usize| {
        let marks =
            ["#[cfg(test)]", "#[cfg(any(test, fuzzing))]", "#[cfg(all(unix, any(test, fuzzing)))]"];
        marks.iter().filter_map(|mark| clean[from..].find(mark).map(|at| from + at)).min()
    };
    while let Some(at) = next(from) {
        let end = item_end(clean, at);
        found.push((at, end));
        from = end;
    }
    found
}

/// The end of the item that starts (with its attributes) at `start`: its `;` or closing brace.
fn item_end(clean: &str, start: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in clean.bytes().enumerate().skip(start) {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            b';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    clean.len()
}
