use super::super::keys::{Key, Scope};
use super::super::limits::Limits;
use super::*;
use phi4d_settings::{Inputs, resolve};

fn settings(pairs: &[(&str, &str)]) -> Settings {
    let flags = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    resolve(&Inputs { flags, ..Inputs::default() }).unwrap().settings
}

fn faults(pairs: &[(&str, &str)], environment: &Environment) -> Vec<String> {
    match rules_of(&settings(pairs), environment) {
        Ok(_) => Vec::new(),
        Err(error) => error.faults.iter().map(ToString::to_string).collect(),
    }
}

fn key_line() -> String {
    let key = Key::new([7; 32]);
    KeyLine::new("a", Scope::Use, Limits::default(), &key).unwrap().to_string()
}

#[test]
fn the_network_is_let_in_with_keys_or_when_it_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    std::fs::write(&keys, key_line()).unwrap();
    let keys = keys.to_str().unwrap();
    let lan: SocketAddr = "10.0.0.1:1".parse().unwrap();
    let local: SocketAddr = "127.0.0.1:1".parse().unwrap();
    for (listen, passed, open) in [
        ("0.0.0.0:1", None, false),
        ("[::]:1", None, false),
        ("box:1", None, false),
        ("127.0.0.1:1", None, true),
        ("localhost:1", None, true),
        ("off", None, true),
        ("off", Some(lan), false),
        ("127.0.0.1:1", Some(lan), false),
        ("0.0.0.0:1", Some(local), true),
    ] {
        let environment =
            Environment { passed: passed.into_iter().collect(), ..Environment::default() };
        let bare = faults(&[("listen", listen)], &environment);
        assert_eq!(bare.is_empty(), open, "{listen}: {bare:?}");
        assert!(bare.iter().all(|fault| fault.contains("allow_unauthenticated_lan")), "{bare:?}");
        for way in [("allow_unauthenticated_lan", "true"), ("api_keys_file", keys)] {
            assert!(
                faults(&[("listen", listen), way], &environment).is_empty(),
                "{listen} {way:?}"
            );
        }
    }
}

#[test]
fn every_fault_is_reported_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    std::fs::write(&path, format!("{}\nx\ny z\n", key_line())).unwrap();
    let found = faults(&[("api_keys_file", path.to_str().unwrap())], &Environment::default());
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("keys:2: ") && found[1].contains("keys:3: "), "{found:?}");
    let missing = folder.path().join("missing");
    let found = faults(&[("api_keys_file", missing.to_str().unwrap())], &Environment::default());
    assert!(found[0].contains("api_keys_file") && found[0].contains("missing"), "{found:?}");
}

#[cfg(unix)]
#[test]
fn a_file_that_everyone_may_write_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    std::fs::write(&path, key_line()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o646)).unwrap();
    let found = faults(&[("api_keys_file", path.to_str().unwrap())], &Environment::default());
    assert!(found[0].contains("0640"), "{found:?}");
}

#[test]
fn the_service_managers_credential_counts_if_it_is_there_and_no_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let environment =
        Environment { credentials: Some(folder.path().to_owned()), ..Environment::default() };
    assert!(!rules_of(&settings(&[]), &environment).unwrap().need_key());
    std::fs::write(folder.path().join("api-keys"), "bad").unwrap();
    assert_eq!(faults(&[], &environment).len(), 1);
    // An empty file closes the door; it does not open it.
    std::fs::write(folder.path().join("api-keys"), "").unwrap();
    assert!(rules_of(&settings(&[]), &environment).unwrap().need_key());
    let own = folder.path().join("own");
    std::fs::write(&own, key_line()).unwrap();
    std::fs::write(folder.path().join("api-keys"), "bad").unwrap();
    assert!(faults(&[("api_keys_file", own.to_str().unwrap())], &environment).is_empty());
}
