//! Where downloaded models are, and which folder a model's name stands for.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use phi4d_fetch::{Models, is_model_name};
use phi4d_os::effective_uid;

/// Where packages let models live.
pub(super) const SYSTEM_MODELS: &str = "/var/lib/phi4d/models";

/// Names the folder of models for all commands.
const VARIABLE: &str = "PHI4D_MODELS";

/// The folder that was named, else the environment's, else the packages' one for root and one's own for
/// others.
pub(super) fn models(named: Option<&Path>) -> Models {
    let folder =
        named.map(Path::to_owned).or_else(|| set(VARIABLE).map(PathBuf::from)).or_else(own);
    Models::new(folder.unwrap_or_else(|| PathBuf::from(SYSTEM_MODELS)))
}

fn set(variable: &str) -> Option<OsString> {
    std::env::var_os(variable).filter(|value| !value.is_empty())
}

/// A user's own folder of models; root has none.
fn own() -> Option<PathBuf> {
    let data = set("XDG_DATA_HOME").or_else(|| set("LOCALAPPDATA").filter(|_| cfg!(windows)));
    let data = data.map(PathBuf::from);
    let data = data.or_else(|| Some(Path::new(&set("HOME")?).join(".local/share")));
    data.filter(|_| effective_uid() != 0).map(|data| data.join("phi4d/models"))
}

/// The folder of the complete model `name`: the environment's before the user's own, and that before the
/// system's.
pub(super) fn installed(name: &str) -> Option<PathBuf> {
    let named = set(VARIABLE).map(PathBuf::from);
    let folders = named.into_iter().chain(own()).chain([PathBuf::from(SYSTEM_MODELS)]);
    let mut folders = folders.map(|root| Models::new(root).folder(name));
    folders.find(|folder| is_model_name(name) && folder.join("genai_config.json").exists())
}

/// The folder that the setting `model` stands for: itself, or an installed model if it is only a name
/// and no such folder is there.
pub(super) fn folder_of(model: &Path) -> PathBuf {
    let mut parts = model.components();
    let (Some(Component::Normal(name)), None) = (parts.next(), parts.next()) else {
        return model.to_owned();
    };
    let found = name.to_str().filter(|_| !model.exists()).and_then(installed);
    found.unwrap_or_else(|| model.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_as_they_are() {
        for path in ["/srv/models/phi-4", "models/phi-4", "./phi-4", "..", "no-such-model"] {
            assert_eq!(folder_of(Path::new(path)), Path::new(path));
        }
        assert_eq!(installed("../etc"), None);
    }
}
