//! The memory plan is one: `check`, `doctor`, `inspect`, the log at the start and `/metrics` print the
//! same numbers for the same folder and settings.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::process::Command;

use crate::common::{Setup, demo_folder};
use serde_json::Value;

/// Standard output of a command on the demo model with these settings.
fn output(command: &[&str], settings: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_phi4d"))
        .args(command)
        .args(["--log-level", "error", "--model", demo_folder().to_str().unwrap()])
        .args(settings)
        .env_clear()
        .envs(crate::common::isa())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The number that follows `name` and a separator.
#[track_caller]
fn number_after(text: &str, name: &str) -> u64 {
    let (_, rest) = text.split_once(name).unwrap_or_else(|| panic!("no {name:?} in {text}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("{name:?} has no number in {text}"))
}

/// The plan by all who print it: KV cache in tokens, then in bytes, tokens of one slot, memory of
/// requests, bytes of the prefix store. `None` where one does not print that number.
fn plans(settings: &[&str]) -> Vec<(&'static str, [Option<u64>; 5])> {
    let of_json = |plan: &Value| {
        ["kv_budget_tokens", "kv_budget_bytes", "slot_tokens", "request_memory_bytes"]
            .map(|key| plan[key].as_u64())
    };
    let with_store = |[a, b, c, d]: [Option<u64>; 4], plan: &Value| {
        [a, b, c, d, plan["prefix_store_bytes"].as_u64()]
    };
    let json =
        |command: &[&str]| -> Value { serde_json::from_str(&output(command, settings)).unwrap() };
    let doctor = json(&["doctor", "--json", "--no-speed", "--listen", "off", "--socket", "off"]);
    let doctor = &doctor["figures"]["memory"];
    let inspect = &json(&["inspect", "--json"])["memory"];
    let check = output(&["check"], settings);
    let limit = check.lines().find(|line| line.starts_with("KV limit")).unwrap();

    let daemon = Setup::new().with(settings).start();
    let metrics = daemon.unix().get("/metrics").text();
    let log = daemon.log.says("memory plan");
    let line = log.lines().find(|line| line.contains("memory plan")).unwrap();
    let logged = |name: &str| Some(number_after(line, &format!("{name}=")));
    vec![
        ("doctor", with_store(of_json(doctor), doctor)),
        ("inspect", with_store(of_json(inspect), inspect)),
        (
            "check",
            [
                Some(number_after(limit, "which is ")),
                None,
                Some(number_after(limit, "over all requests, ")),
                None,
                None,
            ],
        ),
        (
            "log",
            [
                logged("kv_cache_tokens"),
                logged("kv_cache_bytes"),
                logged("context_tokens"),
                logged("request_memory_bytes"),
                logged("prefix_store_bytes"),
            ],
        ),
        (
            "metrics",
            [
                Some(number_after(&metrics, "\nphi4d_kv_cache_capacity_tokens ")),
                None,
                None,
                None,
                None,
            ],
        ),
    ]
}

#[test]
fn all_who_print_the_memory_plan_print_the_same() {
    let requests = ["--request-memory-bytes", "104857600"];
    for (settings, tokens) in [
        // By default, as much as 24 slots of 4,096 tokens can fill.
        (&[][..], 98_304),
        (&["--slots", "3", "--prefix-slots", "2", "--context-tokens", "1000"], 5 * 1024),
        // 1,953 tokens of 1 KiB, in whole blocks of 64.
        (&["--kv-cache-bytes", "2000000", "--reproducible", "true"], 1920),
        // 3,472 tokens of 576 bytes: 8 bits and the scales.
        (&["--kv-cache-bytes", "2000000", "--kv-cache-type", "int8"], 3456),
        // 976 tokens of 2 KiB, in whole pages of 32.
        (&["--kv-cache-bytes", "2000000", "--own-kernels", "false"], 960),
    ] {
        let plans = plans(&[settings, &requests].concat());
        let (_, first) = plans[0];
        assert_eq!(first[0], Some(tokens), "{settings:?}");
        for (printer, plan) in &plans {
            for (number, expected) in plan.iter().zip(first) {
                assert!(number.is_none() || *number == expected, "{printer}: {plans:?}");
            }
        }
    }
}

#[test]
fn a_kv_cache_that_holds_no_sequence_is_refused_by_all() {
    let folder = demo_folder();
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_phi4d"))
            .args(arguments)
            .args(["--log-level", "error", "--kv-cache-bytes", "20480"])
            .args(["--model", folder.to_str().unwrap()])
            .env_clear()
            .envs(crate::common::isa())
            .output()
            .unwrap()
    };
    let fault =
        "kv_cache_bytes: 20480 holds 20 tokens of this model's KV cache; at least 128 are needed";
    let check = run(&["check"]);
    assert_eq!(check.status.code(), Some(78));
    assert!(String::from_utf8(check.stderr).unwrap().contains(fault));
    let doctor = run(&["doctor", "--no-speed", "--listen", "off", "--socket", "off"]);
    assert_eq!(doctor.status.code(), Some(1));
    assert!(String::from_utf8(doctor.stdout).unwrap().contains(fault));
}
