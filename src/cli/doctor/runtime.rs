//! Is ONNX Runtime there, and the provider that is asked for?

use serde_json::json;

use super::Case;
use super::findings::Findings;
use crate::inspect::Runs;
use crate::start;
use phi4d_model as model;

const MEND: &str = "mend that, or set provider to auto or cpu";

pub(super) fn check(case: &Case, findings: &mut Findings) {
    const CHECK: &str = "runtime";
    match model::runtime_facts(case.settings.runtime_library.as_deref()) {
        Ok(facts) => {
            findings.good(
                CHECK,
                format!("ONNX Runtime {} in {}", facts.version, facts.library.display()),
            );
            let devices: Vec<String> = facts
                .devices
                .iter()
                .map(|device| {
                    format!("{} of {} by {}", device.kind, device.vendor, device.provider)
                })
                .collect();
            findings.good(CHECK, format!("it knows {}", devices.join(", ")));
            findings.figure("runtime_version", json!(facts.version));
        }
        Err(error) => findings.fault(
            CHECK,
            error.to_string(),
            "install the package phi4d, which brings it, or set runtime_library",
        ),
    }
}

pub(super) fn check_provider(case: &Case, findings: &mut Findings) {
    const CHECK: &str = "provider";
    let Some(export) = &case.export else {
        let asked = start::provider_settings(&case.settings);
        let library = case.settings.runtime_library.as_deref();
        if let Err(error) = model::provider_facts(&asked, &[], library) {
            findings.fault(CHECK, error.to_string(), MEND);
        }
        return;
    };
    let runs = Runs::find(&case.settings, export);
    match runs.provider {
        Ok((provider, reason)) => {
            findings.good(CHECK, format!("{provider}: {reason}; kernels: {}", runs.kernels));
            findings.figure("provider", json!(provider.as_str()));
        }
        Err(error) => {
            findings.fault(CHECK, error, MEND);
        }
    }
    for warning in runs.warnings {
        findings.note(CHECK, warning, "phi4d pull fetches the export for this machine");
    }
}
