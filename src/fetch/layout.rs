//! Which of many files are a model's, by their paths.

use std::path::PathBuf;

use super::digest::Expected;
use super::error::FetchError;
use super::names::{FASTER, Variant, is_plain};
use super::url::Url;

/// The file that makes a folder a model's.
pub(super) const CONFIG: &str = "genai_config.json";

/// What a fetched folder says of where it is from.
pub(super) const ORIGIN: &str = "phi4d-source.json";

/// A list of the folder's files and their hashes, as `sha256sum` writes it.
pub(super) const SUMS: &str = "SHA256SUMS";

/// A file of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ModelFile {
    /// Its name in the model's folder.
    pub(super) name: String,
    pub(super) place: FilePlace,
    /// Bytes.
    pub(super) size: u64,
    /// What its content is.
    pub(super) expected: Expected,
}

/// Where a file's content is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FilePlace {
    Remote(Url),
    Local(PathBuf),
}

/// The file's name in the model's `folder`, if `path` is one to fetch. Folders below are another
/// model's; code is not run, so not fetched; what phi4d wrote there is of another machine.
pub(super) fn is_wanted<'a>(path: &'a str, folder: &str) -> Option<&'a str> {
    let name =
        if folder.is_empty() { path } else { path.strip_prefix(folder)?.strip_prefix('/')? };
    let is_ours = name == SUMS || name == ORIGIN;
    (is_plain(name) && !name.ends_with(".py") && !is_ours).then_some(name)
}

/// Of the folders among `paths` that hold a model: the one that was named, else the only one of this
/// variant. `from` is what the paths are of.
pub(super) fn choose<'a>(
    paths: impl Iterator<Item = &'a str>,
    named: Option<&str>,
    variant: Variant,
    from: &str,
) -> Result<String, FetchError> {
    let folders = paths.filter_map(|path| {
        let folder = path.strip_suffix(CONFIG)?;
        if folder.is_empty() { Some("") } else { folder.strip_suffix('/') }
    });
    let mut found: Vec<&str> = match named {
        Some(named) => folders.filter(|found| *found == named).collect(),
        None => folders.filter(|folder| variant.fits(folder)).collect(),
    };
    if found.len() > 1 && found.iter().filter(|folder| folder.ends_with(FASTER)).count() == 1 {
        found.retain(|folder| folder.ends_with(FASTER));
    }
    match found[..] {
        [folder] => Ok(folder.to_owned()),
        _ => Err(FetchError::Folder {
            repository: from.to_owned(),
            found: found.iter().map(ToString::to_string).collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(paths: &[&str], named: Option<&str>, variant: Variant) -> Result<String, String> {
        let chosen = choose(paths.iter().copied(), named, variant, "me/m");
        chosen.map_err(|error| error.to_string())
    }

    #[test]
    fn the_folder_that_fits_is_chosen_and_doubt_is_an_error() {
        let published = ["README.md", "cpu/int4/genai_config.json", "gpu/genai_config.json"];
        assert_eq!(chosen(&published, None, Variant::Cpu).unwrap(), "cpu/int4");
        assert_eq!(chosen(&published, None, Variant::Gpu).unwrap(), "gpu");
        assert_eq!(chosen(&["genai_config.json"], None, Variant::Cpu).unwrap(), "");
        let two = ["a/genai_config.json", "b/genai_config.json"];
        let error = chosen(&two, None, Variant::Cpu).unwrap_err();
        assert!(error.contains("several: a, b"), "{error}");
        assert_eq!(chosen(&two, Some("b"), Variant::Cpu).unwrap(), "b");
        assert!(chosen(&two, Some("c"), Variant::Cpu).is_err());
    }

    #[test]
    fn published_repositories_need_no_folder() {
        let cpu = "cpu_and_mobile/cpu-int4-rtn-block-32-acc-level-4";
        let gpu = "gpu/gpu-int4-rtn-block-32";
        // Phi-4 and Phi-4-mini; Phi-4-reasoning-plus; Phi-3.
        for others in [&[][..], &["npu/qnn-int4"], &["cpu_and_mobile/cpu-int4-rtn-block-32"]] {
            let folders = [&[cpu, gpu], others].concat();
            let paths: Vec<String> =
                folders.iter().map(|folder| format!("{folder}/genai_config.json")).collect();
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            assert_eq!(chosen(&paths, None, Variant::Cpu).unwrap(), cpu, "{others:?}");
            assert_eq!(chosen(&paths, None, Variant::Gpu).unwrap(), gpu, "{others:?}");
        }
    }
}
