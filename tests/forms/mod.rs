//! Forms of every kind, most of them hostile, against the real daemon: it lives, answers everyone,
//! keeps its size, and leaves no process behind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests may stop where something is wrong"
)]

mod draws;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{Client, Daemon, PATIENCE, Setup, connect_from, merge, send_signal, wait_for};

/// A daemon in a process group of its own, which distinguishes its processes from others'.
fn start(arguments: &[&str]) -> Daemon {
    Setup::new().with(arguments).within(&["setsid"]).start()
}

/// The processes of a daemon's group but for itself, those of ended ones left out.
fn others(daemon: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap();
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|&id| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let of_group = fields.get(2).is_some_and(|group| *group == daemon.to_string());
        of_group && id != daemon && !matches!(fields[0], "Z" | "X")
    })
    .collect()
}

/// Resident kilobytes of a process, 0 if it has ended.
fn resident(id: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or("0 kB");
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0)
}

fn body(form: &Value) -> Value {
    let mut body = json!({"prompt": "x", "max_tokens": 6, "temperature": 0});
    merge(&mut body, form);
    body
}

/// What a form's request ends in: its status and error code.
fn end_of(client: &Client, path: &str, body: &Value) -> (u16, String) {
    let response = client.post(path, body);
    let json = response.json();
    let code = json["error"]["code"].as_str().unwrap_or_default().to_owned();
    (response.status, code)
}

/// An honest request with a form that was not asked for before; how long it took.
fn honest(daemon: &Daemon, number: usize) -> Duration {
    let began = Instant::now();
    let schema = json!({"type": "object", "properties": {format!("n{number}"): {"enum": [1, 2]}},
        "required": [format!("n{number}")], "additionalProperties": false});
    let mut request = body(&json!({"guided_json": schema}));
    request["max_tokens"] = json!(60);
    let response = daemon.unix().post("/v1/completions", &request);
    assert_eq!(response.status, 200, "{}", response.text());
    let text = response.json()["choices"][0]["text"].as_str().unwrap().to_owned();
    serde_json::from_str::<Value>(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
    began.elapsed()
}

/// Stops it, and returns its log.
fn stop(mut daemon: Daemon) -> String {
    let id = daemon.id();
    let began = Instant::now();
    daemon.signal("TERM");
    assert!(daemon.wait_end().success());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    wait_for("the end of the forms' processes", || others(id).is_empty().then_some(()));
    daemon.log.text()
}

/// The examples that ended or froze the daemon once.
#[test]
fn what_once_killed_or_froze_the_daemon_is_refused() {
    let daemon = start(&[]);
    honest(&daemon, 0);
    let client = daemon.tcp();
    for (form, field) in [
        (json!({"guided_json": draws::chain(593)}), "guided_json"),
        (json!({"guided_json": draws::deep_chain(593)}), "guided_json"),
        (json!({"grammar": draws::rules(682)}), "grammar"),
        (json!({"grammar": draws::rules(8000)}), "grammar"),
    ] {
        let response = client.post("/v1/completions", &body(&form));
        assert!([200, 400].contains(&response.status), "{}", response.text());
        if response.status == 400 {
            let error = response.json()["error"].clone();
            assert!(error["param"].as_str().unwrap().starts_with(field), "{error}");
        }
    }
    // Two that never end, whose clients leave at once.
    let costly = body(&json!({"guided_json": {"type": "integer", "multipleOf": 99_999_989}}));
    for _ in 0..2 {
        let text = costly.to_string();
        let headers = [("Content-Type", "application/json")];
        drop(client.send("POST", "/v1/completions", &headers, text.as_bytes()));
    }
    let began = Instant::now();
    honest(&daemon, 1);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let (status, code) = end_of(&client, "/v1/completions", &costly);
    assert_eq!((status, code.as_str()), (400, "invalid_value"));
    honest(&daemon, 2);
    stop(daemon);
}

/// A client that leaves ends its form's process in the middle of its work; so do a deadline and a stop.
#[test]
fn a_compile_ends_with_its_client_and_with_the_daemon() {
    let daemon = start(&[]);
    let id = daemon.id();
    let costly = body(&json!({"guided_json": {"type": "integer", "multipleOf": 99_999_989}}));
    // The first ones leave while the helper gets the vocabulary.
    for _ in 0..3 {
        let headers = [("Content-Type", "application/json")];
        drop(daemon.tcp().send("POST", "/v1/completions", &headers, costly.to_string().as_bytes()));
    }
    honest(&daemon, 0);
    wait_for("the end of the first", || (others(id).len() <= 2).then_some(()));
    let kept = others(id).len();
    let send = || {
        let headers = [("Content-Type", "application/json")];
        daemon.tcp().send("POST", "/v1/completions", &headers, costly.to_string().as_bytes())
    };
    let connection = send();
    wait_for("a process for the form", || (others(id).len() > kept).then_some(()));
    let left = Instant::now();
    drop(connection);
    wait_for("the end of that process", || (others(id).len() <= kept).then_some(()));
    assert!(left.elapsed() < Duration::from_millis(1500), "{:?}", left.elapsed());
    let mut hurried = costly.clone();
    hurried["timeout"] = json!(0.2);
    let (status, code) = end_of(&daemon.tcp(), "/v1/completions", &hurried);
    assert_eq!((status, code.as_str()), (504, "deadline_exceeded"));
    wait_for("the end of the hurried one", || (others(id).len() <= kept).then_some(()));
    let _connection = send();
    wait_for("a process for the form", || (others(id).len() > kept).then_some(()));
    stop(daemon);
}

/// A form's process may be killed at any time, by the kernel for want of memory: one answer fails, and
/// a compiled form that was kept is compiled again.
#[test]
fn a_killed_process_of_a_form_fails_one_answer() {
    let daemon = start(&["--context-tokens", "2048"]);
    let id = daemon.id();
    let [helper] = others(id)[..] else { panic!("{:?}", others(id)) };
    let item = json!({"type": "string", "minLength": 40});
    let schema = json!({"type": "array", "items": item, "minItems": 500});
    let mut long = body(&json!({"guided_json": schema, "stream": true, "max_tokens": 2000}));
    long["temperature"] = json!(1);
    let headers = [("Content-Type", "application/json")];
    for _ in 0..2 {
        let mut connection =
            daemon.tcp().send("POST", "/v1/completions", &headers, long.to_string().as_bytes());
        let mut first = [0; 1];
        std::io::Read::read_exact(&mut connection, &mut first).unwrap();
        wait_for("the answer's process and the form's", || {
            let forms = others(id).into_iter().filter(|&other| other != helper);
            let forms: Vec<u32> = forms.collect();
            forms.iter().for_each(|&form| send_signal(form, "KILL"));
            (!forms.is_empty()).then_some(())
        });
        let mut rest = Vec::new();
        let _ = std::io::Read::read_to_end(&mut connection, &mut rest);
        let text = String::from_utf8_lossy(&rest).into_owned();
        assert!(text.contains("grammar_failed"), "{text}");
    }
    honest(&daemon, 0);
    stop(daemon);
}

/// The helper takes little before the first form, and the daemon serves on without it.
#[test]
fn without_its_helper_the_daemon_serves_all_but_forms() {
    let daemon = start(&[]);
    let id = daemon.id();
    let [helper] = others(id)[..] else { panic!("{:?}", others(id)) };
    let own = resident(helper, "RssAnon:");
    assert!(own < 8 << 10, "{own} kB");
    honest(&daemon, 0);
    send_signal(helper, "TERM");
    send_signal(helper, "HUP");
    honest(&daemon, 1);
    send_signal(helper, "KILL");
    wait_for("the helper's end", || (!others(id).contains(&helper)).then_some(()));
    for number in 2..4 {
        let form = json!({"guided_choice": [format!("a{number}")]});
        let (status, code) = end_of(&daemon.tcp(), "/v1/completions", &body(&form));
        assert_eq!((status, code.as_str()), (503, "forms_unavailable"));
    }
    assert_eq!(daemon.tcp().post("/v1/completions", &body(&json!({}))).status, 200);
    let log = stop(daemon);
    assert_eq!(log.matches("the process that compiles forms has ended").count(), 1, "{log}");
}

/// Hundreds of draws of each kind by one caller, beside honest requests of another.
#[test]
fn no_form_of_any_kind_harms_the_daemon_or_others() {
    let daemon = start(&[]);
    let id = daemon.id();
    honest(&daemon, 0);
    let before = resident(id, "VmRSS:");
    let until = Instant::now() + Duration::from_secs(60);
    let done = AtomicBool::new(false);
    let (mut most_daemon, mut most_form) = (0, 0);
    let counts = std::thread::scope(|scope| {
        let hostile: Vec<_> = (0..3_u64)
            .map(|thread| {
                let client = daemon.tcp();
                scope.spawn(move || attack(&client, thread, until))
            })
            .collect();
        let watch = scope.spawn(|| {
            let (mut daemon_kb, mut form_kb) = (0, 0);
            while !done.load(Ordering::Relaxed) {
                daemon_kb = daemon_kb.max(resident(id, "VmRSS:"));
                for other in others(id) {
                    form_kb = form_kb.max(resident(other, "RssAnon:"));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            (daemon_kb, form_kb)
        });
        let mut number = 1;
        let mut times = Vec::new();
        while Instant::now() < until && hostile.iter().any(|thread| !thread.is_finished()) {
            let took = honest(&daemon, number);
            assert!(took < Duration::from_secs(10), "honest request {number} took {took:?}");
            number += 1;
            times.push(took);
        }
        times.sort();
        eprintln!("honest beside: {:?} median, {:?} at most", times[times.len() / 2], times.last());
        let counts: Vec<_> = hostile.into_iter().map(|thread| thread.join().unwrap()).collect();
        done.store(true, Ordering::Relaxed);
        (most_daemon, most_form) = watch.join().unwrap();
        counts
    });
    let sums = counts
        .iter()
        .fold([0; 3], |sums, count| [sums[0] + count[0], sums[1] + count[1], sums[2] + count[2]]);
    eprintln!(
        "{sums:?} ended in 200, 4xx, 503; resident: the daemon {before} kB before and {most_daemon} \
         at most, a form {most_form} at most"
    );
    assert!(sums[0] > 20 && sums[1] > 20, "{sums:?}: the draws are not of both kinds");
    assert!(most_daemon < before + (128 << 10), "{before} to {most_daemon} kB");
    assert!(most_form < 120 << 10, "{most_form} kB");
    daemon.ends();
    honest(&daemon, 1_000_000);
    // The helper and the forms that are kept; those of the last answers are still ending.
    wait_for("the end of all but 16 forms", || (others(id).len() <= 1 + 16).then_some(()));
    stop(daemon);
}

/// Asks for draws of all kinds in turn; how many ended in 200, 4xx and 503.
fn attack(client: &Client, seed: u64, until: Instant) -> [u32; 3] {
    let mut random = draws::Random::new(seed);
    let mut counts = [0; 3];
    for number in 0..3_000 {
        if Instant::now() > until {
            break;
        }
        let (path, request) = draws::request(&mut random, number);
        let began = Instant::now();
        let (status, code) = end_of(client, path, &request);
        let what = || request.to_string().chars().take(400).collect::<String>();
        match status {
            200 => counts[0] += 1,
            400..=499 => counts[1] += 1,
            503 if code == "grammars_busy" => counts[2] += 1,
            _ => panic!("{status} {code}: {}", what()),
        }
        assert!(began.elapsed() < PATIENCE / 2, "{:?}: {}", began.elapsed(), what());
    }
    counts
}

/// A long answer held to multiples of `number`, whose constraint takes some 25 MB, that 127.0.0.LAST asks for and
/// nobody reads; its status.
fn hold(daemon: &Daemon, last: u8, number: u32) -> (u16, TcpStream) {
    let item = json!({"type": "integer", "multipleOf": number});
    let mut request =
        body(&json!({"guided_json": {"type": "array", "items": item, "minItems": 900}}));
    merge(&mut request, &json!({"stream": true, "max_tokens": 4000}));
    let text = request.to_string();
    let mut stream = connect_from([127, 0, 0, last].into(), daemon.address());
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{text}",
        text.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut line = [0; 12];
    stream.read_exact(&mut line).unwrap();
    (std::str::from_utf8(&line[9..]).unwrap().parse().unwrap(), stream)
}

#[test]
fn one_caller_s_constraints_leave_room_for_another_s() {
    let daemon = start(&[]);
    let mut numbers = (0..6).map(|number| 49_000 + 2 * number + 1);
    let mut held = Vec::new();
    while held.last().is_none_or(|(status, _)| *status == 200) {
        held.push(hold(&daemon, 2, numbers.next().expect("one of six is refused")));
    }
    // At once: what runs grows, and may grow into the room.
    let (status, other) = hold(&daemon, 3, 48_001);
    assert_eq!(status, 200, "beside {}", held.len());
    held.extend(numbers.map(|number| hold(&daemon, 2, number)));
    let statuses: Vec<u16> = held.iter().map(|(status, _)| *status).collect();
    assert!(statuses.contains(&200) && statuses.contains(&503), "{statuses:?}");
    assert!(statuses.iter().all(|status| [200, 503].contains(status)), "{statuses:?}");
    drop((held, other));
    stop(daemon);
}
