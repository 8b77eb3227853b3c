//! Conversations in files: `{"phi4d_chat": 1, "messages": [...], "parameters": {...}}`.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::conversation::{Conversation, Message, Role};
use super::parameters::Parameters;
use phi4d_os::replace_file;

/// The only version of the format.
const VERSION: u32 = 1;

/// The largest file that is taken for a conversation.
const MOST_BYTES: u64 = 64 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    phi4d_chat: u32,
    messages: Vec<Message>,
    #[serde(default)]
    parameters: Map<String, Value>,
}

/// Writes the conversation atomically; replaces an existing file only if asked to.
pub(super) fn save(
    conversation: &Conversation,
    path: &Path,
    overwrite: bool,
) -> Result<(), String> {
    let file = File {
        phi4d_chat: VERSION,
        messages: conversation.messages.clone(),
        parameters: conversation.parameters.as_map().clone(),
    };
    let failed = |error: io::Error| format!("cannot write {}: {error}", path.display());
    let mut text = serde_json::to_string_pretty(&file).map_err(|error| error.to_string())?;
    text.push('\n');
    if !overwrite {
        // The name is reserved first, so that no file created meanwhile is lost.
        match OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(format!(
                    "{} is there already; /save -f FILE writes over it",
                    path.display()
                ));
            }
            Err(error) => return Err(failed(error)),
        }
    }
    let written = replace_file(path, text.as_bytes(), 0o600, None);
    if written.is_err() && !overwrite {
        let _ = fs::remove_file(path);
    }
    written.map_err(failed)
}

/// Reads a conversation.
pub(super) fn load(path: &Path) -> Result<Conversation, String> {
    let failed = |error: io::Error| format!("cannot read {}: {error}", path.display());
    let wrong = |why: String| format!("{} is no saved conversation: {why}", path.display());
    if fs::metadata(path).map_err(failed)?.len() > MOST_BYTES {
        return Err(wrong(format!("it is larger than {MOST_BYTES} bytes")));
    }
    let text = fs::read(path).map_err(failed)?;
    let file: File = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    if file.phi4d_chat != VERSION {
        return Err(wrong(format!("phi4d_chat = {}; expected {VERSION}", file.phi4d_chat)));
    }
    let late = file.messages.iter().skip(1).position(|message| message.role == Role::System);
    if let Some(late) = late {
        return Err(wrong(format!("messages[{}] is of system; only the first may be", late + 1)));
    }
    let parameters = Parameters::of_saved(file.parameters).map_err(wrong)?;
    Ok(Conversation::of(file.messages, parameters))
}

/// A path as it is typed: `~/` is the home folder.
pub(super) fn typed_path(text: &str) -> PathBuf {
    match (text.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(below), Some(home)) if !home.is_empty() => Path::new(&home).join(below),
        _ => PathBuf::from(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn files_are_written_over_only_when_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        let mut conversation = Conversation::default();
        conversation.ask("one");
        save(&conversation, &path, false).unwrap();
        let first = fs::read(&path).unwrap();
        conversation.answered("1");
        assert!(save(&conversation, &path, false).unwrap_err().contains("/save -f"));
        assert_eq!(fs::read(&path).unwrap(), first);
        save(&conversation, &path, true).unwrap();
        assert_eq!(load(&path).unwrap(), conversation);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let nowhere = folder.path().join("none/a.json");
        assert!(save(&conversation, &nowhere, false).unwrap_err().contains("none/a.json"));
    }

    #[test]
    fn what_is_no_conversation_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        for (text, why) in [
            ("", "EOF"),
            ("[]", "invalid"),
            (r#"{"messages": []}"#, "phi4d_chat"),
            (r#"{"phi4d_chat": 2, "messages": []}"#, "expected 1"),
            (r#"{"phi4d_chat": 1, "messages": [{"role": "tool", "content": ""}]}"#, "tool"),
            (r#"{"phi4d_chat": 1, "messages": [{"role": "user", "content": 3}]}"#, "3"),
            (
                r#"{"phi4d_chat": 1, "messages": [], "parameters": {"temperature": "x"}}"#,
                "temperature",
            ),
            (
                r#"{"phi4d_chat": 1, "messages": [{"role": "user", "content": ""},
                   {"role": "system", "content": ""}]}"#,
                "messages[1]",
            ),
        ] {
            fs::write(&path, text).unwrap();
            let error = load(&path).unwrap_err();
            assert!(error.contains(why) && error.contains("a.json"), "{text}: {error}");
        }
        assert!(load(&folder.path().join("none")).unwrap_err().contains("cannot read"));
    }

    proptest! {
        #[test]
        fn what_is_saved_is_loaded(texts in prop::collection::vec(".{0,20}", 0..5), seed: i64) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.json");
            let mut conversation = Conversation::default();
            for text in &texts {
                conversation.ask(text);
                conversation.answered(text);
            }
            conversation.parameters.put("seed", seed.into()).unwrap();
            save(&conversation, &path, false).unwrap();
            prop_assert_eq!(load(&path).unwrap(), conversation);
        }
    }
}
