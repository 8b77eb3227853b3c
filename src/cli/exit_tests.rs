use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use super::*;
use phi4d_model::KvTooSmall;
use phi4d_server::AccessFault;
use phi4d_settings::Fault;

fn io_error() -> io::Error {
    io::ErrorKind::NotFound.into()
}

fn load_errors() -> Vec<(Fatal, u8)> {
    let path = || PathBuf::from("/m/model.onnx");
    let text = || String::from("x");
    vec![
        (LoadError::Runtime { reason: text(), hint: text() }.into(), 69),
        (LoadError::Provider { provider: text(), reason: text() }.into(), 69),
        (LoadError::Read { path: path(), source: io_error() }.into(), 66),
        (LoadError::Invalid { path: path(), reason: text() }.into(), 65),
        (LoadError::Contract { path: path(), differences: vec![text()] }.into(), 65),
        (LoadError::Memory { bytes: 1, source: io_error() }.into(), 71),
        (LoadError::Weights { reason: "no memory for weights".into() }.into(), 71),
        (LoadError::Session(text()).into(), 70),
        (LoadError::Cancelled.into(), 70),
        (TextLoadError::Read { path: path(), source: io_error() }.into(), 66),
        (TextLoadError::Threads(io_error()).into(), 71),
        (TextLoadError::Invalid { path: path(), reason: text() }.into(), 65),
    ]
}

fn other_errors() -> Vec<(Fatal, u8)> {
    let path = || PathBuf::from("/run/phi4d.sock");
    let text = || String::from("x");
    let open = AccessFault::OpenToNetwork { address: text(), by: "" };
    let settings = SettingsError { faults: vec![missing("model")] };
    vec![
        (Fatal::Usage(text()), 64),
        (Fatal::Unwell(2), 1),
        (settings.into(), 78),
        (Fatal::NothingToListenOn, 78),
        (Fatal::NotWoken { setting: "listen", place: "127.0.0.1:8484".to_owned() }, 78),
        (AccessError { faults: vec![open] }.into(), 78),
        (KeysFileError::Taken(text()).into(), 64),
        (BindError::Tcp { address: text(), source: io_error() }.into(), 71),
        (BindError::InUse { path: path() }.into(), 73),
        (BindError::NotASocket { path: path() }.into(), 73),
        (BindError::ForeignFolder { path: path(), owner: 1 }.into(), 73),
        (BindError::Unix { path: path(), action: "bind", source: io_error() }.into(), 73),
        (ActivationError::Variable { name: "LISTEN_FDS", value: text() }.into(), 71),
        (StartError::Thread(io_error()).into(), 71),
        (StartError::Memory(KvTooSmall { bytes: 1, tokens: 0, least: 2 }).into(), 78),
        (Crashed.into(), 70),
        (Fatal::Internal(text()), 70),
        (Fatal::System { action: "x", source: io_error() }, 71),
        (Fatal::Unreachable { address: text(), reason: text(), may_come: true }, 69),
        (Fatal::NotReady { address: text(), reason: text() }, 69),
        (Fatal::Cut, 2),
        (Fatal::File { path: "/x".into(), reason: text() }, 66),
        (Fatal::Refused(text()), 76),
        (Fatal::Input(io_error()), 74),
        (Fatal::Output(io_error()), 74),
    ]
}

fn missing(key: &'static str) -> Fault {
    let (variable, flag) = (format!("PHI4D_{}", key.to_ascii_uppercase()), key.to_owned());
    Fault::Missing { key, variable, flag }
}

#[test]
fn every_error_has_the_documented_code_and_one_line() {
    let mut used = BTreeSet::from([0]);
    for (fatal, code) in load_errors().into_iter().chain(other_errors()) {
        assert_eq!(fatal.code() as u8, code, "{fatal}");
        let lines = fatal.lines();
        assert_eq!(lines.len(), 1, "{fatal}");
        assert!(!lines[0].contains('\n') && !lines[0].is_empty());
        used.insert(code);
    }
    let documented: BTreeSet<u8> = CODES.iter().map(|(code, _)| *code as u8).collect();
    assert_eq!(used, documented, "a code that is never used, or used and not documented");
}

#[test]
fn each_fault_of_the_settings_has_its_line() {
    let faults = vec![missing("model"), missing("listen")];
    let lines = Fatal::from(SettingsError { faults }).lines();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].starts_with("model ") && lines[1].starts_with("listen "));
}

#[test]
fn the_parsers_errors_become_one_line() {
    let error = crate::command().try_get_matches_from(["phi4d", "serve", "--slot", "3"]);
    let line = Fatal::usage(&error.unwrap_err()).to_string();
    assert_eq!(
        line,
        "unexpected argument '--slot' found tip: a similar argument exists: '--slots'; see phi4d \
         --help"
    );
}

#[test]
fn text_from_elsewhere_can_not_break_the_line() {
    assert_eq!(one_line("a\n  b\r\n\tc\u{1b}[1m"), "a b c [1m");
}
