//! `provider = "auto"`: the first provider that can be used.

use ort::environment::Environment;
use ort::session::Session;

use super::chosen::Chosen;
use super::{Provider, ProviderSettings};
use crate::error::LoadError;

/// Providers in the order in which they are tried, and what the model builder calls them. The CPU
/// comes last and is not tried.
const ORDER: [(Provider, &str); 3] =
    [(Provider::Cuda, "cuda"), (Provider::DirectMl, "dml"), (Provider::WebGpu, "webgpu")];

/// The first provider that starts. Exports for the CPU (which name no other provider) stay on it:
/// their cache is twice as large as that of exports for devices.
pub(super) fn choose(
    settings: &ProviderSettings,
    made_for: &[String],
    environment: &'static Environment,
) -> Result<Chosen, LoadError> {
    if settings.library.is_some() {
        // A library that is named is meant to be used.
        let reason = "provider_library names a library";
        return Ok(Chosen::of(settings, Provider::Plugin, environment)?.because(reason));
    }
    let for_devices = made_for.iter().any(|name| ORDER.iter().any(|(_, known)| known == name));
    if !for_devices {
        return Ok(Chosen::cpu("the model was exported for the CPU".into()));
    }
    let mut refusals = Vec::new();
    for (provider, _) in ORDER {
        let tried = Chosen::of(settings, provider, environment).and_then(|chosen| {
            let builder =
                Session::builder(environment).map_err(|error| LoadError::of_session(&error))?;
            chosen.register(builder).map(|_| chosen)
        });
        match tried {
            Ok(chosen) => return Ok(chosen.because("it is the first that can be used here")),
            Err(error) => refusals.push(error.to_string()),
        }
    }
    let reason = format!("no other can be used: {}", refusals.join("; "));
    log::warn!("the model was exported for a GPU and runs on the CPU, as {reason}");
    Ok(Chosen::cpu(reason))
}
