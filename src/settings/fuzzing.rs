//! What must hold of settings, whatever the files, the environment and the flags say.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::LazyLock;

use super::table::DEFINITIONS;
use super::{Inputs, Resolved, render_resolved, resolve};

/// Stands between the parts of an input that has several.
const SEPARATOR: char = '\u{1e}';

/// A file of this process's own.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    std::env::temp_dir().join(format!("phi4d-fuzzing-settings-{}.toml", std::process::id()))
});

/// `FILE ␞ ENVIRONMENT ␞ FLAGS`, the latter two as lines `KEY=VALUE`: they resolve, and what is
/// shown of them resolves to the same; or there is a fault, and each has a text.
pub fn settings(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut parts = text.splitn(3, SEPARATOR);
    let [file, environment, flags] = [(); 3].map(|()| parts.next().unwrap_or_default());
    let pairs = |text: &str| {
        let lines = text.lines().filter_map(|line| line.split_once('='));
        lines.map(|(key, value)| (key.to_owned(), value.to_owned())).collect::<Vec<_>>()
    };
    let known = |key: &str| DEFINITIONS.iter().any(|definition| definition.key == key);
    let inputs = Inputs {
        file: Some(FILE.clone()),
        environment: BTreeMap::from_iter(pairs(environment)),
        // The command line takes no others.
        flags: pairs(flags).into_iter().filter(|(key, _)| known(key)).collect(),
        ..Inputs::default()
    };
    if std::fs::write(FILE.as_path(), file).is_err() {
        return;
    }
    match resolve(&inputs) {
        Err(error) => {
            assert!(!error.faults.is_empty());
            assert!(error.faults.iter().all(|fault| !fault.to_string().is_empty()));
        }
        Ok(resolved) => {
            let shown = render_resolved(&resolved);
            assert!(std::fs::write(FILE.as_path(), &shown).is_ok());
            let again = resolve(&Inputs { file: Some(FILE.clone()), ..Inputs::default() });
            match again {
                Ok(again) => {
                    assert_eq!(again.settings, resolved.settings, "{shown}");
                    let models = |of: &Resolved| -> Vec<_> {
                        let named = of.models.iter();
                        named.map(|m| (m.name.clone(), m.at_start, m.settings.clone())).collect()
                    };
                    assert_eq!(models(&again), models(&resolved), "{shown}");
                }
                Err(error) => assert!(error.faults.is_empty(), "{error} in {shown}"),
            }
        }
    }
    let _ = std::fs::remove_file(FILE.as_path());
}
