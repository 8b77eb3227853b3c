//! House rules that a compiler does not know: what the README promises is what CI runs, and the
//! program's source stays within CONTRIBUTING.md.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may stop where something is wrong"
)]

mod source;

use std::fs;
use std::path::{Path, PathBuf};

use source::SourceFile;

/// No file is longer, tests included.
const MOST_LINES: usize = 600;

fn root(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(root(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The README's fenced shell commands; the first two are what `tests/fresh-root` runs.
fn readme_commands() -> Vec<String> {
    let readme = read("README.md");
    let blocks = readme.split("\n```sh\n").skip(1);
    blocks.map(|block| block.split("\n```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_readme_opens_with_two_commands_and_ci_runs_the_second() {
    let commands = readme_commands();
    assert!(commands.len() >= 2, "{commands:?}");
    for command in &commands[..2] {
        assert_eq!(command.lines().count(), 1, "{command}");
        let script = command.split(' ').next().unwrap();
        assert!(root(script).is_file(), "{command}: {script} is not in the checkout");
    }
    assert!(commands[0].contains("serve --model models/demo"), "{}", commands[0]);
    let steps = read(".ci/run");
    let runs = steps.lines().any(|line| {
        line.starts_with("step ")
            && line.split(' ').skip(2).collect::<Vec<_>>().join(" ") == commands[1]
    });
    assert!(runs, ".ci/run has no step that is {:?}", commands[1]);
}

#[test]
fn what_the_readme_points_to_is_there() {
    for page in ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "SECURITY.md"] {
        for link in read(page).split("](").skip(1) {
            let target = link.split(')').next().unwrap();
            let path = target.split('#').next().unwrap();
            if !path.is_empty() && !path.contains("://") {
                assert!(root(path).exists(), "{page} points to {target}, which is not there");
            }
        }
    }
}

#[test]
fn every_claim_of_security_names_tests_that_are_there() {
    let page = read("SECURITY.md");
    let claims: Vec<&str> = page.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(claims.len() > 10, "{claims:?}");
    for claim in claims {
        let held_by = claim.split('|').nth(2).unwrap();
        let tests: Vec<&str> = held_by.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "no test holds: {claim}");
        for test in tests {
            let (file, name) = test.split_once("::").unwrap_or((test, ""));
            assert!(root(file).exists(), "{test} is not there");
            let there = name.is_empty() || read(file).contains(&format!("fn {name}("));
            assert!(there, "{test} is not there");
        }
    }
}

#[test]
fn exit_codes_in_the_readme_are_those_of_the_program() {
    let documented: Vec<u8> = read("README.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split_once(" |")?.0.parse().ok())
        .collect();
    let mut used: Vec<u8> = source::program()
        .into_iter()
        .find(|file| file.path == "cli/exit.rs")
        .expect("src/cli/exit.rs maps errors to codes")
        .code
        .lines()
        .filter_map(|line| line.split_once("= ")?.1.trim_end_matches([',', ';']).parse().ok())
        .collect();
    used.sort_unstable();
    assert_eq!(documented, used);
}

#[test]
fn the_source_keeps_the_house_rules() {
    let broken: Vec<String> = source::program().iter().flat_map(broken_rules).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn broken_rules_are_found() {
    let check = |path: &str, text: &str| broken_rules(&SourceFile::new(path, text));
    let long = "\n".repeat(MOST_LINES + 1);
    let bad = [
        ("server/a.rs", "fn f() { x.unwrap(); }", "unwrap"),
        ("server/a.rs", "fn f() { x\n    .unwrap () }", "unwrap"),
        ("server/a.rs", "fn f() { unsafe { g() } }", "unsafe"),
        ("engine/a.rs", "unsafe impl Send for X {}", "unsafe"),
        ("server/a.rs", "#[allow(dead_code)]\nfn f() {}", "allow"),
        ("server/a.rs", "#![allow(clippy::all, reason = \"x\")]", "allow"),
        ("server/a.rs", "fn f() { todo!() }", "todo!"),
        ("server/a.rs", "fn f() { unimplemented!() }", "unimplemented!"),
        ("server/a.rs", long.as_str(), "lines"),
    ];
    for (path, text, names) in bad {
        let found = check(path, text);
        assert_eq!(found.len(), 1, "{path}: {text}: {found:?}");
        assert!(found[0].contains(names), "{path}: {text}: {found:?}");
    }
    let good = [
        ("server/a.rs", "fn f() { x.unwrap_or(1); x.unwrap_or_default() } // .unwrap()"),
        ("server/a.rs", "#[cfg(test)]\nmod tests { fn f() { x.unwrap(); } }"),
        ("model/a.rs", "fn f() { unsafe { g() } }"),
        ("os/a.rs", "fn f() { unsafe { g() } }"),
        ("server/a.rs", "const A: &str = \"unsafe\"; fn f() { allow(x) }"),
    ];
    for (path, text) in good {
        assert_eq!(check(path, text), Vec::<String>::new(), "{path}: {text}");
    }
}

fn broken_rules(file: &SourceFile) -> Vec<String> {
    let mut found = Vec::new();
    let mut broken = |at: usize, rule: &str| {
        found.push(format!("src/{}:{}: {rule}", file.path, file.line(at)));
    };
    for (at, _) in file.code.match_indices(".unwrap") {
        if file.code[at + ".unwrap".len()..].trim_start().starts_with('(') {
            broken(at, "unwrap outside tests");
        }
    }
    let may_be_unsafe = matches!(file.layer(), "model" | "os");
    for (at, _) in file.code.match_indices("unsafe") {
        // `unsafe_code` in a lint attribute is not the keyword.
        let word = file.code[at + "unsafe".len()..].starts_with([' ', '\n', '{']);
        if word && !may_be_unsafe {
            broken(at, "unsafe outside model/, os/ and main.rs");
        }
    }
    for attribute in ["#[allow(", "#![allow("] {
        for (at, _) in file.code.match_indices(attribute) {
            broken(at, "allow; expect(.., reason) says when it is no longer needed");
        }
    }
    for name in ["todo!", "unimplemented!"] {
        for (at, _) in file.code.match_indices(name) {
            broken(at, name);
        }
    }
    let lines = file.text.lines().count();
    if lines > MOST_LINES {
        broken(0, &format!("{lines} lines; at most {MOST_LINES}"));
    }
    found
}
