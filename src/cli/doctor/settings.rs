//! Are the settings good?

use super::findings::Findings;
use crate::args::SettingsArgs;
use crate::exit::Fatal;
use crate::start;
use phi4d_settings::Settings;

const CHECK: &str = "settings";

/// The settings, if they can be read.
pub(super) fn check(
    arguments: &SettingsArgs,
    findings: &mut Findings,
) -> Result<Option<Settings>, Fatal> {
    let resolved = match arguments.resolve(&[]) {
        Ok(resolved) => resolved,
        Err(Fatal::Settings(error)) => {
            for fault in error.faults {
                findings.fault(CHECK, fault.to_string(), "phi4d config render prints every key");
            }
            return Ok(None);
        }
        Err(fatal) => return Err(fatal),
    };
    for warning in &resolved.warnings {
        findings.note(CHECK, warning, "");
    }
    let settings = resolved.settings;
    let options = start::provider_settings(&settings).check();
    match options {
        Err(faults) => {
            for fault in faults {
                findings.fault(CHECK, fault.to_string(), "correct provider_options");
            }
        }
        Ok(()) => {
            let set = resolved.entries.iter().filter(|entry| entry.origin != "default").count();
            findings.good(CHECK, format!("read, with {set} that are not the default"));
        }
    }
    Ok(Some(settings))
}
