//! SIGHUP: settings, keys and certificates are read again, with no request the worse for it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;

use super::tls::{self, Authority};
use super::{add_key, ask, bearer, key_command, keys_file};
use crate::common::{Client, Daemon, Response, Setup, wait_for};

/// A setup with a settings file that a test may change.
fn with_file(setup: Setup, text: &str) -> (Setup, PathBuf) {
    let path = setup.folder.path().join("phi4d.toml");
    std::fs::write(&path, text).unwrap();
    (setup.with(&["--config", path.to_str().unwrap()]), path)
}

fn reload(daemon: &mut Daemon) {
    daemon.signal("HUP");
    daemon.wait_notified("RELOADING=1");
    daemon.wait_notified("READY=1");
}

fn models(daemon: &Daemon, key: Option<&str>) -> u16 {
    ask(&daemon.tcp(), "GET", "/v1/models", key).status
}

#[test]
fn keys_come_and_go_on_open_connections_too() {
    let setup = Setup::new();
    let file = keys_file(&setup);
    let old = add_key(&file, &["old"]);
    let mut daemon = setup.with(&["--api-keys-file", file.to_str().unwrap()]).start();
    let mut open = daemon.tcp().connect();
    let mut ask_open = |key: &str| {
        let text = format!("GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\n\r\n");
        std::io::Write::write_all(&mut open, text.as_bytes()).unwrap();
        Response::read_one(&mut open, "GET").status
    };
    let new = add_key(&file, &["new"]);
    assert!(key_command(&file, &["remove", "old"]).status.success());
    assert_eq!((ask_open(&old), ask_open(&new)), (200, 401));
    reload(&mut daemon);
    assert_eq!((ask_open(&old), ask_open(&new)), (401, 200));
}

#[test]
fn what_a_key_used_is_not_forgotten() {
    let setup = Setup::new();
    let file = keys_file(&setup);
    let key = add_key(&file, &["metered", "--tokens-per-minute", "25"]);
    let mut daemon = setup.with(&["--api-keys-file", file.to_str().unwrap()]).start();
    let token = bearer(&key);
    let headers = [("Content-Type", "application/json"), ("Authorization", token.as_str())];
    let body = json!({ "prompt": "a", "max_tokens": 20, "ignore_eos": true }).to_string();
    let post = |daemon: &Daemon| {
        daemon.tcp().request("POST", "/v1/completions", &headers, body.as_bytes()).status
    };
    assert_eq!(post(&daemon), 200);
    assert_eq!(post(&daemon), 429);
    reload(&mut daemon);
    assert_eq!(post(&daemon), 429);
}

#[test]
fn a_bad_configuration_is_refused_whole_and_the_old_stays() {
    let setup = Setup::new();
    let file = keys_file(&setup);
    let key = add_key(&file, &["a"]);
    let keys = format!("api_keys_file = {:?}\n", file.to_str().unwrap());
    let (setup, path) = with_file(setup, &keys);
    let mut daemon = setup.start();
    for (bad, said) in [
        ("metrics_access = \"open\"\nslots = 0\n", "slots"),
        ("metrics_access = \"open\"\napi_keys_file = \"/nonexistent\"\n", "/nonexistent"),
        ("metrics_access = \"open\"\nsocket_allow_users = [\"no-such-user\"]\n", "no-such-user"),
        ("metrics_access = ", "phi4d.toml"),
    ] {
        std::fs::write(&path, bad).unwrap();
        let before = daemon.log.text().matches("reload: refused").count();
        reload(&mut daemon);
        wait_for("the refusal in the log", || {
            let log = daemon.log.text();
            (log.matches("reload: refused").count() == before + 1).then_some(())
        });
        daemon.log.says(said);
        assert_eq!((models(&daemon, Some(&key)), models(&daemon, None)), (200, 401), "{bad}");
        assert_eq!(daemon.tcp().get("/metrics").status, 401, "{bad}");
    }
    std::fs::write(&path, format!("{keys}metrics_access = \"open\"\n")).unwrap();
    reload(&mut daemon);
    assert_eq!(daemon.tcp().get("/metrics").status, 200);
    assert_eq!(models(&daemon, None), 401);
}

#[test]
fn the_network_stays_shut_when_the_keys_go() {
    let setup = Setup::new().listen("0.0.0.0:0");
    let file = keys_file(&setup);
    add_key(&file, &["a"]);
    let keys = format!("api_keys_file = {:?}\n", file.to_str().unwrap());
    let (setup, path) = with_file(setup, &keys);
    let mut daemon = setup.start();
    // Even if the settings say another address by now: the socket is what it was.
    std::fs::write(&path, "").unwrap();
    reload(&mut daemon);
    daemon.log.says("reload: refused");
    assert_eq!(models(&daemon, None), 401);
}

#[test]
fn what_needs_a_restart_is_named() {
    let (setup, path) = with_file(Setup::new(), "slots = 3\n");
    let mut daemon = setup.start();
    std::fs::write(&path, "slots = 4\nlog_level = \"debug\"\n").unwrap();
    reload(&mut daemon);
    let log = daemon.log.says("were read again");
    assert!(log.contains("slots = ") && log.contains("needs a restart"), "{log}");
    assert!(!log.contains("log_level = "), "{log}");
    assert_eq!(daemon.health()["slots"], 3);
}

#[test]
fn certificates_are_renewed_while_connections_go_on() {
    let setup = Setup::new();
    let folder = setup.folder.path().to_owned();
    let (first, second) = (Authority::new(), Authority::new());
    let identity = first.sign(&folder, "server");
    let arguments = tls::arguments(&identity);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut daemon = setup.with(&arguments).start();
    let mut open = tls::connect(daemon.address(), &first, None);
    let get = |stream: &mut _| tls::ask(stream, "GET", "/v1/models", None).map(|it| it.status);
    assert_eq!(get(&mut open).unwrap(), 200);

    // Half of a renewal is a certificate that is not its key's: refused.
    let kept = std::fs::read(&identity.key).unwrap();
    second.sign(&folder, "server");
    let renewed = std::fs::read(&identity.key).unwrap();
    std::fs::write(&identity.key, kept).unwrap();
    reload(&mut daemon);
    assert_eq!(get(&mut tls::connect(daemon.address(), &first, None)).unwrap(), 200);

    std::fs::write(&identity.key, renewed).unwrap();
    reload(&mut daemon);
    assert_eq!(get(&mut tls::connect(daemon.address(), &second, None)).unwrap(), 200);
    assert!(get(&mut tls::connect(daemon.address(), &first, None)).is_err());
    assert_eq!(get(&mut open).unwrap(), 200, "the old connection goes on");
}

/// An expired certificate is served, since the fault may be the clock's, and logged.
#[test]
fn an_expired_certificate_is_reported_and_another_renewal_mends_it() {
    let setup = Setup::new();
    let folder = setup.folder.path().to_owned();
    let authority = Authority::new();
    let identity = authority.sign(&folder, "server");
    let arguments = tls::arguments(&identity);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut daemon = setup.with(&arguments).start();
    let mut open = tls::connect(daemon.address(), &authority, None);
    let get = |stream: &mut _| tls::ask(stream, "GET", "/v1/models", None).map(|it| it.status);
    assert_eq!(get(&mut open).unwrap(), 200);
    assert!(!daemon.log.text().contains("has expired"));

    authority.sign_until(&folder, "server", 2001);
    reload(&mut daemon);
    daemon.log.says("has expired; clients");
    let refused = get(&mut tls::connect(daemon.address(), &authority, None)).unwrap_err();
    assert!(refused.to_string().contains("certificate expired"), "{refused}");
    assert_eq!(get(&mut open).unwrap(), 200);

    authority.sign(&folder, "server");
    reload(&mut daemon);
    assert_eq!(get(&mut tls::connect(daemon.address(), &authority, None)).unwrap(), 200);
}

/// Asks until it is stopped, on new connections and on one that stays; counts what succeeded.
fn load(client: &Client, key: &str, stop: &AtomicBool, answered: &AtomicUsize) {
    let token = bearer(key);
    let headers = [("Content-Type", "application/json"), ("Authorization", token.as_str())];
    let mut open = client.connect();
    while !stop.load(Ordering::Acquire) {
        let body = json!({ "prompt": "a", "max_tokens": 8, "ignore_eos": true, "stream": true });
        let body = body.to_string();
        let streamed = client.request("POST", "/v1/completions", &headers, body.as_bytes());
        let last = streamed.chunks().pop().unwrap();
        assert_eq!(last["choices"][0]["finish_reason"], "length", "{}", streamed.text());
        let text = format!("GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\n\r\n");
        std::io::Write::write_all(&mut open, text.as_bytes()).unwrap();
        assert_eq!(Response::read_one(&mut open, "GET").status, 200);
        answered.fetch_add(2, Ordering::AcqRel);
    }
}

/// Stops the load when dropped, at a failure too.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn no_request_fails_while_reloads_go_on() {
    const RELOADS: usize = 20;
    let setup = Setup::new();
    let file = keys_file(&setup);
    let key = add_key(&file, &["a"]);
    let keys = format!("api_keys_file = {:?}\n", file.to_str().unwrap());
    let (setup, path) = with_file(setup, &keys);
    let mut daemon = setup.start();
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let client = daemon.tcp();
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for _ in 0..4 {
            scope.spawn(|| load(&client, &key, &stop, &answered));
        }
        for round in 0..RELOADS {
            let seen = answered.load(Ordering::Acquire);
            wait_for("requests between reloads", || {
                (answered.load(Ordering::Acquire) >= seen + 4).then_some(())
            });
            add_key(&file, &[&format!("k{round}")]);
            let bad = if round % 3 == 2 { "slots = \"none\"\n" } else { "" };
            std::fs::write(&path, format!("{keys}{bad}")).unwrap();
            reload(&mut daemon);
        }
    });
    let health = daemon.wait_idle();
    assert_eq!((&health["failed"], &health["cancelled"]), (&json!(0), &json!(0)), "{health}");
    assert_eq!(health["accepted"], health["finished"]);
    daemon.signal("TERM");
    assert!(daemon.wait_end().success());
    let log = daemon.log.text();
    assert_eq!(log.matches("the model is loaded").count(), 1);
    assert_eq!(log.matches("reload: refused").count(), RELOADS / 3);
}
