//! What a model may be called: a short name, a repository, or a URL.

use super::error::FetchError;
use super::url::Url;

/// Which export of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// For processors.
    Cpu,
    /// For GPUs.
    Gpu,
}

impl Variant {
    /// Whether a folder's path says that it is of this kind.
    pub(super) fn fits(self, folder: &str) -> bool {
        let is_gpu = ["gpu", "cuda", "directml"].iter().any(|word| folder.contains(word));
        is_gpu == (self == Self::Gpu)
    }
}

/// Models with short names, and their repositories.
pub const KNOWN: [(&str, &str); 4] = [
    ("phi-4", "microsoft/phi-4-onnx"),
    ("phi-4-mini", "microsoft/Phi-4-mini-instruct-onnx"),
    ("phi-4-reasoning", "microsoft/Phi-4-reasoning-onnx"),
    ("phi-4-reasoning-plus", "microsoft/Phi-4-reasoning-plus-onnx"),
];

/// Where published models are, unless it is said otherwise.
pub(super) const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Where a model is fetched from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The endpoint.
    pub endpoint: Url,
    /// `OWNER/NAME`.
    pub repository: String,
    /// A branch, tag or commit.
    pub revision: String,
    /// The folder in the repository; `None` looks for the one that fits the machine.
    pub folder: Option<String>,
    /// What the model is called here.
    pub name: String,
}

impl Source {
    /// Reads `NAME`, `OWNER/REPOSITORY`, `OWNER/REPOSITORY/FOLDER`, or
    /// `https://HOST/OWNER/REPOSITORY/tree/REVISION/FOLDER` with its last parts optional. A model
    /// for GPUs is called by its name and `-gpu`.
    ///
    /// # Errors
    /// If it is none of these.
    pub fn parse(
        given: &str,
        endpoint: Option<&str>,
        variant: Variant,
    ) -> Result<Self, FetchError> {
        let refused = || {
            let names: Vec<&str> = KNOWN.iter().map(|(name, _)| *name).collect();
            FetchError::Invalid {
                given: given.to_owned(),
                expected: format!(
                    "one of {}, OWNER/REPOSITORY with or without /FOLDER, or \
                     https://HOST/OWNER/REPOSITORY with or without /tree/REVISION/FOLDER",
                    names.join(", ")
                ),
            }
        };
        let mut endpoint = Url::parse(endpoint.unwrap_or(DEFAULT_ENDPOINT))?;
        let mut path = given.to_owned();
        if given.starts_with("http://") || given.starts_with("https://") {
            let url = Url::parse(given)?;
            endpoint = Url::parse(&url.origin())?;
            path = url.target().trim_start_matches('/').to_owned();
        }
        let mut source = Self {
            endpoint,
            repository: String::new(),
            revision: "main".to_owned(),
            folder: None,
            name: path.clone(),
        };
        if let Some((_, repository)) = KNOWN.iter().find(|(name, _)| *name == path) {
            source.repository = (*repository).to_owned();
        } else {
            source.read_path(path.trim_end_matches('/')).ok_or_else(refused)?;
        }
        if variant == Variant::Gpu && !source.name.ends_with("-gpu") {
            source.name.push_str("-gpu");
        }
        if !is_name(&source.name) {
            return Err(refused());
        }
        Ok(source)
    }

    fn read_path(&mut self, path: &str) -> Option<()> {
        let parts: Vec<&str> = path.split('/').collect();
        if parts.len() < 2 || !parts.iter().all(|part| is_plain(part)) {
            return None;
        }
        self.repository = parts[..2].join("/");
        let mut rest = &parts[2..];
        if let ["tree", revision, folder @ ..] = rest {
            self.revision = (*revision).to_owned();
            rest = folder;
        }
        self.folder = (!rest.is_empty()).then(|| rest.join("/"));
        let name = parts[1].trim_end_matches("-onnx").to_ascii_lowercase();
        self.name = name;
        Some(())
    }
}

/// A part of a path that leads nowhere else.
pub(super) fn is_plain(part: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !part.is_empty() && !part.starts_with('.') && part.bytes().all(fits)
}

/// Whether a model's folder may be called this.
#[must_use]
pub fn is_name(name: &str) -> bool {
    is_plain(name) && name.len() <= 100
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(given: &str) -> Result<(String, String, String, Option<String>, String), String> {
        let source = Source::parse(given, Some("http://hub:1/"), Variant::Cpu);
        let source = source.map_err(|error| error.to_string())?;
        let Source { endpoint, repository, revision, folder, name } = source;
        Ok((endpoint.origin(), repository, revision, folder, name))
    }

    #[test]
    fn names_repositories_and_urls_are_understood() {
        let expect = |origin: &str,
                      repository: &str,
                      revision: &str,
                      folder: Option<&str>,
                      name: &str| {
            let owned = str::to_owned;
            Ok((owned(origin), owned(repository), owned(revision), folder.map(owned), owned(name)))
        };
        let hub = "http://hub:1";
        assert_eq!(parsed("phi-4"), expect(hub, "microsoft/phi-4-onnx", "main", None, "phi-4"));
        assert_eq!(parsed("me/Mine-ONNX"), expect(hub, "me/Mine-ONNX", "main", None, "mine-onnx"));
        assert_eq!(parsed("me/m-onnx/a/b"), expect(hub, "me/m-onnx", "main", Some("a/b"), "m"));
        assert_eq!(
            parsed("https://x.org/me/m/tree/v1/cpu/int4"),
            expect("https://x.org", "me/m", "v1", Some("cpu/int4"), "m")
        );
        assert_eq!(
            parsed("https://x.org/me/m/"),
            expect("https://x.org", "me/m", "main", None, "m")
        );
        for refused in ["", "phi-5", "../etc", "me/..", "me/m/../x", "/a/b", "me//m", "me/m?x"] {
            let error = parsed(refused).unwrap_err();
            assert!(error.contains("phi-4-mini"), "{refused}: {error}");
        }
    }

    #[test]
    fn a_gpu_has_its_own_folder_and_name() {
        let source = Source::parse("phi-4", None, Variant::Gpu).unwrap();
        assert_eq!(source.name, "phi-4-gpu");
        let long = format!("me/{}", "m".repeat(97));
        assert!(Source::parse(&long, None, Variant::Cpu).is_ok());
        assert!(Source::parse(&long, None, Variant::Gpu).is_err());
        assert!(Variant::Gpu.fits("gpu/gpu-int4-rtn-block-32"));
        assert!(!Variant::Gpu.fits("cpu_and_mobile/cpu-int4-rtn-block-32-acc-level-4"));
        assert!(Variant::Cpu.fits("cpu_and_mobile/cpu-int4-rtn-block-32-acc-level-4"));
        assert!(Variant::Cpu.fits(""));
    }
}
