//! House rules that a compiler does not know: what the README promises is what CI runs, what the
//! documents name exists, and no source file grows too long.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may stop where something is wrong"
)]

#[cfg(unix)]
mod dependencies;
mod imports;
mod seeds;

use std::fs;
use std::path::{Path, PathBuf};

/// No file is longer, tests included.
const MOST_LINES: usize = 600;

/// Files that each journey of ARCHITECTURE.md passes at most: a chat request from accept to SSE, `kv_cache_bytes`
/// from file to use, a decode step.
const MOST_PASSED: [usize; 3] = [30, 8, 15];

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

/// Executable scripts below a folder, by their paths from the root; what runs in another system apart.
#[cfg(unix)]
fn scripts(folder: &str) -> Vec<String> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut found = Vec::new();
    for entry in fs::read_dir(root(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().into_string().unwrap());
        let kind = entry.metadata().unwrap();
        if kind.is_dir() && !path.ends_with("/guest") {
            found.extend(scripts(&path));
        } else if kind.is_file() && kind.permissions().mode() & 0o111 != 0 {
            found.push(path);
        }
    }
    found
}

#[cfg(unix)]
#[test]
fn ci_runs_every_script_of_the_tests() {
    let mut unread: Vec<String> = [".ci", "tests"].iter().flat_map(|name| scripts(name)).collect();
    assert!(unread.len() > 30, "{unread:?}");
    unread.retain(|path| ![".ci/run", ".ci/nightly"].contains(&path.as_str()));
    let mut open = vec![read(".ci/run"), read(".ci/nightly")];
    while let Some(text) = open.pop() {
        let calls = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        let text = calls.collect::<Vec<_>>().join("\n");
        let words = text.split(|c: char| c.is_whitespace() || "\"'()".contains(c));
        let (named, others): (Vec<_>, Vec<_>) = unread
            .into_iter()
            .partition(|path| words.clone().any(|word| word.trim_start_matches("$root/") == path));
        open.extend(named.iter().map(|path| read(path)));
        unread = others;
    }
    assert!(unread.is_empty(), "neither .ci/run nor .ci/nightly leads to {unread:?}");
}

/// The tests that docs/faults.md names, as modules of the daemon's tests or scripts.
#[test]
fn every_fault_names_tests_that_are_there() {
    let page = read("docs/faults.md");
    let faults: Vec<&str> = page.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(faults.len() > 40, "{faults:?}");
    let there = |name: &str| {
        ["", ".rs", "/mod.rs"].iter().any(|end| root(&format!("{name}{end}")).is_file())
    };
    for fault in faults {
        let mut tests = fault.split('|').nth(3).unwrap().split(", ");
        let missing = tests.find(|test| {
            let mut words = test.split(['`', ' ']).filter(|word| !word.is_empty());
            match (words.next(), words.next()) {
                (None | Some("--lib"), _) => false,
                (Some(path), _) if path.contains('/') => !there(path),
                (Some(module), None) => !there(&format!("tests/{module}")),
                (Some(module), Some(part)) => !there(&format!("tests/{module}/{part}")),
            }
        });
        assert!(missing.is_none(), "{missing:?} is not there: {fault}");
    }
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
fn the_journeys_of_architecture_pass_files_that_are_there() {
    let page = read("ARCHITECTURE.md");
    let journeys = page.split("## Journeys").nth(1).unwrap().split("\n## ").next().unwrap();
    let journeys: Vec<&str> = journeys.split("\n### ").skip(1).collect();
    assert_eq!(journeys.len(), MOST_PASSED.len());
    for (journey, most) in journeys.into_iter().zip(MOST_PASSED) {
        let rows = journey.lines().filter(|line| line.starts_with("| `"));
        let rows = rows.map(|line| line.split('`').skip(1).step_by(2).collect::<Vec<_>>());
        let rows: Vec<_> = rows.collect();
        let passed: usize = rows.iter().map(|row| row.len() - 1).sum();
        assert!((most / 2..=most).contains(&passed), "{passed} files are passed by: {journey}");
        for row in rows {
            let (layer, files) = row.split_first().unwrap();
            for file in files {
                let path = format!("src/{layer}/{file}.rs");
                assert!(root(&path).is_file(), "{path} is not there");
            }
        }
    }
}

/// Whether `test` is there: a file, or `FILE::FUNCTION`.
fn is_there(test: &str) -> bool {
    let (file, name) = test.split_once("::").unwrap_or((test, ""));
    root(file).exists() && (name.is_empty() || read(file).contains(&format!("fn {name}(")))
}

/// What the help and the manual promise of answers and of a daemon's life, and the test that holds it. A
/// promise that is reworded fails here: whoever rewords it sees which test must still hold it.
const CLAIMS: &[(&str, &str, &str)] = &[
    (
        "src/settings/table.rs",
        "the same answer every time, bit for bit",
        "tests/real_model.rs::reproducible_answers_are_equal_cold_warm_together_streamed_preempted_and_restarted",
    ),
    (
        "src/settings/table.rs",
        "Answers stay the same where phi4d's own kernels run all of the model",
        "tests/real_model.rs::answers_are_equal_cold_warm_together_streamed_preempted_restarted_and_speculated",
    ),
    (
        "src/settings/table.rs",
        "Where phi4d's own kernels run the attention and all matmuls, that holds anyway",
        "tests/mixed_load.rs::every_answer_in_a_random_mix_is_the_one_given_alone",
    ),
    (
        "docs/tuning.md",
        "equal requests get equal answers, bit for bit, without a setting: alone or beside others, from cached \
         prefixes, streamed or not, after a preemption or a restart, and with speculative decoding",
        "tests/real_model.rs::answers_are_equal_cold_warm_together_streamed_preempted_restarted_and_speculated",
    ),
    (
        "docs/tuning.md",
        "A prefix that several sequences have in common is in the cache once",
        "tests/metrics.rs::eight_conversations_over_one_system_prompt_hold_its_blocks_once",
    ),
    (
        "ARCHITECTURE.md",
        "With own attention and matmuls answers are the same as without",
        "tests/real_model.rs::answers_are_equal_cold_warm_together_streamed_preempted_restarted_and_speculated",
    ),
    (
        "docs/tuning.md",
        "the same tokens each time, bit for bit: with a cold or a warm cache, alone or beside others, \
         streamed or not, after a restart, and after a preemption",
        "tests/real_model.rs::reproducible_answers_are_equal_cold_warm_together_streamed_preempted_and_restarted",
    ),
    (
        "docs/tuning.md",
        "the same request can get another answer the second time",
        "tests/real_model.rs::answers_without_the_setting",
    ),
    (
        "docs/tuning.md",
        "Speculative decoding helps with answers that repeat their prompt",
        "benches/real_tasks.py",
    ),
    (
        "docs/tuning.md",
        "A caller also gets no more places than it leaves free",
        "src/engine/door/tests.rs::a_caller_alone_has_half_of_the_queue_and_at_least_one_place",
    ),
    (
        "docs/security.md",
        "An answer gets each token after at most `n` times the time of a step of its caller's own answers alone",
        "src/engine/tests/pacing.rs::callers_with_few_and_with_many_answers_have_their_parts",
    ),
    (
        "docs/security.md",
        "a prompt takes no more than three times as long as alone",
        "src/engine/tests/pacing.rs::one_caller_with_answers_and_prompts_takes_no_more_than_two_thirds",
    ),
    (
        "README.md",
        "a prefix cache that survives restarts",
        "tests/prefix_store.rs::prompts_outlive_a_restart_and_give_the_same",
    ),
    (
        "README.md",
        "equal to the PyTorch checkpoint's 98.88%",
        "tests/parity.rs::the_tasks_are_solved_as_by_the_checkpoint",
    ),
    (
        "README.md",
        "`phi4d doctor` checks an installation and suggests a fix for each problem it finds",
        "tests/doctor.rs",
    ),
    ("README.md", "OpenTelemetry traces", "tests/traces.rs"),
    ("README.md", "socket activation", "tests/packages/guest/service.sh"),
    (
        "README.md",
        "take no memory until the next connection starts it",
        "tests/packages/guest/idle",
    ),
    (
        "docs/operations.md",
        "No request is lost. The daemon ends only if nothing is in flight",
        "tests/idle/mod.rs::no_request_is_lost_over_random_sleeps_and_wakes",
    ),
    (
        "docs/operations.md",
        "a further one is loaded at its first request after the daemon has woken",
        "tests/models/sleep.rs::the_first_request_after_a_sleep_may_be_for_any_model_and_finds_its_prompt",
    ),
];

#[test]
fn every_claim_of_help_and_docs_is_held_by_a_test_that_is_there() {
    for (page, claim, test) in CLAIMS {
        // As it reads: lines are joined, and a doc comment's marks are no words.
        let text = read(page).replace("///", " ");
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(claim), "{page} does not say {claim:?} any more; {test} holds it");
        assert!(is_there(test), "{test} is not there; {page} says {claim:?}");
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
            assert!(is_there(test), "{test} is not there");
        }
    }
}

#[test]
fn exit_codes_in_the_docs_are_those_of_the_program() {
    let documented: Vec<u8> = read("docs/exit-codes.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split_once(" |")?.0.parse().ok())
        .collect();
    let mut used: Vec<u8> = read("src/cli/exit.rs")
        .split("#[cfg(test)]")
        .next()
        .unwrap()
        .lines()
        .filter_map(|line| line.split_once("= ")?.1.trim_end_matches([',', ';']).parse().ok())
        .collect();
    used.sort_unstable();
    assert_eq!(documented, used);
}

#[test]
fn no_source_file_is_too_long() {
    let mut folders = vec![root("src"), root("tests")];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}")) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let lines = fs::read_to_string(&path).unwrap().lines().count();
                assert!(
                    lines <= MOST_LINES,
                    "{path:?} has {lines} lines, the most is {MOST_LINES}"
                );
                seen += 1;
            }
        }
    }
    assert!(seen > 300, "{seen} source files");
}
