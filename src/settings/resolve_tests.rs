use std::time::Duration;

use super::*;
use crate::SocketSetting;

/// Inputs from a file's text, environment and flags; the file lives as long as the guard.
struct Case {
    inputs: Inputs,
    file: tempfile::NamedTempFile,
}

fn case(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Case {
    let owned = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let guard = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(guard.path(), file).unwrap();
    Case {
        inputs: Inputs {
            file: Some(guard.path().to_owned()),
            environment: owned(environment).into_iter().collect(),
            flags: owned(flags),
            ..Inputs::default()
        },
        file: guard,
    }
}

fn messages(case: &Case) -> Vec<String> {
    let error = resolve(&case.inputs).unwrap_err();
    error.faults.iter().map(ToString::to_string).collect()
}

#[test]
fn the_defaults_are_good() {
    let resolved = resolve(&Inputs::default()).unwrap();
    let settings = &resolved.settings;
    assert_eq!(settings.model, None);
    assert_eq!(settings.slots, 8);
    assert_eq!(settings.socket, SocketSetting::Default);
    assert_eq!(settings.socket_mode, 0o660);
    assert_eq!(settings.request_timeout_s, Some(Duration::from_secs(600)));
    assert_eq!(
        settings.listen.as_ref().map(ToString::to_string).as_deref(),
        Some("127.0.0.1:8484")
    );
    assert!(resolved.entries.iter().all(|e| e.origin == "default"));
}

#[test]
fn flags_beat_the_environment_beats_the_file_beats_the_defaults() {
    let file = "slots = 2\nqueue = 2\nthreads = 2\n";
    let case =
        case(file, &[("PHI4D_SLOTS", "3"), ("PHI4D_QUEUE", "3"), ("HOME", "/")], &[("slots", "4")]);
    let resolved = resolve(&case.inputs).unwrap();
    let settings = &resolved.settings;
    assert_eq!((settings.slots, settings.queue, settings.threads), (4, 3, 2));
    let origin = |key: &str| {
        let entry = resolved.entries.iter().find(|entry| entry.key == key);
        entry.unwrap().origin.clone()
    };
    assert_eq!(origin("slots"), "flag --slots");
    assert_eq!(origin("queue"), "environment variable PHI4D_QUEUE");
    assert_eq!(origin("threads"), format!("{}:3", case.file.path().display()));
    assert_eq!(origin("max_connections"), "default");
}

#[test]
fn every_fault_is_reported_at_once_with_key_value_origin_and_what_is_accepted() {
    let mut case = case(
        "slots = 0\nslot = 4\nsocket_mode = 660\nlog_level = \"loud\"\n[server]\nport = 1\n",
        &[("PHI4D_QUEUE", "many")],
        &[("listen", "8484"), ("default_top_p", "0")],
    );
    case.inputs.required = vec!["model"];
    let path = case.file.path().display();
    assert_eq!(
        messages(&case),
        [
            format!("server (from {path}:5) is not a setting"),
            format!("slot (from {path}:2) is not a setting; did you mean slots?"),
            "listen = \"8484\" (from flag --listen) is not accepted; expected HOST:PORT, \
             [IPV6]:PORT or off"
                .to_owned(),
            format!(
                "socket_mode = \"660\" (from {path}:3) is not accepted; expected an octal mode in \
                 quotes, from \"0000\" to \"0777\""
            ),
            format!(
                "slots = \"0\" (from {path}:1) is not accepted; expected a whole number from 1 to \
                 1024"
            ),
            "queue = \"many\" (from environment variable PHI4D_QUEUE) is not accepted; expected \
             a whole number from 1 to 1000000"
                .to_owned(),
            "default_top_p = \"0\" (from flag --default-top-p) is not accepted; expected a number \
             above 0 and up to 1, or model"
                .to_owned(),
            format!(
                "log_level = \"loud\" (from {path}:4) is not accepted; expected one of off, error, \
                 warn, info, debug, trace"
            ),
            "model is not set; give it in the settings file, as PHI4D_MODEL or as --model"
                .to_owned(),
        ]
    );
}

#[test]
fn a_file_that_was_named_must_exist_and_the_default_one_need_not() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none.toml");
    let named = Inputs { file: Some(missing.clone()), ..Inputs::default() };
    let error = resolve(&named).unwrap_err().to_string();
    assert!(error.contains("none.toml: cannot read the settings file"));
    let by_default = Inputs { default_file: Some(missing), ..Inputs::default() };
    assert!(resolve(&by_default).is_ok());
}

#[test]
fn what_is_not_toml_is_refused_by_file_and_place() {
    let case = case("slots = = 1\n", &[], &[]);
    let messages = messages(&case);
    assert!(messages[0].starts_with(&case.file.path().display().to_string()));
    assert!(messages[0].contains("line 1"), "{messages:?}");
}

#[test]
fn unknown_variables_are_warned_about_not_refused() {
    let case = case("", &[("PHI4D_SLOST", "3"), ("PHI4D_CONFIG", "/x"), ("PHI4D_ISA", "x")], &[]);
    let resolved = resolve(&case.inputs).unwrap();
    assert_eq!(
        resolved.warnings,
        ["environment variable PHI4D_SLOST is no setting and was ignored; did you mean \
          PHI4D_SLOTS?"]
    );
}

#[test]
fn the_model_is_called_by_its_folder_unless_it_is_named() {
    let flags = [("model", "/srv/models/phi-4-mini/")];
    let by_folder = resolve(&case("", &[], &flags).inputs).unwrap();
    assert_eq!(by_folder.settings.served_model_name(), "phi-4-mini");
    let named = case("model_name = \"house\"", &[], &flags);
    let named = resolve(&named.inputs).unwrap();
    assert_eq!(named.settings.served_model_name(), "house");
}

#[test]
fn provider_options_are_a_table_in_files_and_a_text_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("phi4d.toml");
    std::fs::write(&file, "slots = 2\n[provider_options]\nDevice = 1\ntf32 = false\n").unwrap();
    let from_file = Inputs { file: Some(file), ..Inputs::default() };
    let pairs = |inputs: &Inputs| {
        let pairs = resolve(inputs).unwrap().settings.provider_options;
        pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
    };
    assert_eq!(pairs(&from_file), ["Device=1", "tf32=false"]);
    let flags = vec![("provider_options".to_owned(), "graphs=true".to_owned())];
    assert_eq!(pairs(&Inputs { flags, ..from_file }), ["graphs=true"]);
}
