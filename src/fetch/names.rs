//! What a model may be called: a short name, a repository, a URL or a folder.

use std::path::{Path, PathBuf};

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

/// Words in the names of folders with exports for GPUs, as Microsoft and others publish them.
const GPU_WORDS: [&str; 9] =
    ["gpu", "cuda", "directml", "dml", "webgpu", "rtx", "tensorrt", "migraphx", "rocm"];

/// Words in the names of folders with exports for other devices, whose graphs phi4d can't run.
const OTHER_WORDS: [&str; 6] = ["npu", "qnn", "vitis", "vitisai", "openvino", "coreml"];

/// Ends the name of the folder to take where a repository has two for CPUs, as those of Phi-3 have:
/// it differs in the precision of activations, and is the faster one.
pub(super) const FASTER: &str = "-acc-level-4";

impl Variant {
    /// Whether a folder's path says that it is of this kind. What names no device is for CPUs.
    pub(super) fn fits(self, folder: &str) -> bool {
        let folder = folder.to_ascii_lowercase();
        let has = |words: &[&str]| {
            folder.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| words.contains(&word))
        };
        !has(&OTHER_WORDS) && has(&GPU_WORDS) == (self == Self::Gpu)
    }
}

/// Models with short names, and their repositories.
pub const KNOWN: [(&str, &str); 5] = [
    ("phi-4", "microsoft/phi-4-onnx"),
    ("phi-4-mini", "microsoft/Phi-4-mini-instruct-onnx"),
    ("phi-4-mini-reasoning", "microsoft/Phi-4-mini-reasoning-onnx"),
    ("phi-4-reasoning", "microsoft/Phi-4-reasoning-onnx"),
    ("phi-4-reasoning-plus", "microsoft/Phi-4-reasoning-plus-onnx"),
];

/// Where published models are, unless it is said otherwise.
pub(super) const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Where a model is fetched from, and what it is called here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Where its files are.
    pub place: Place,
    /// What the model is called here.
    pub name: String,
}

/// Where a model's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a repository of a Hugging Face compatible endpoint.
    Hub(Repository),
    /// In a folder of any web server, with a file `SHA256SUMS` that lists them.
    Web(Url),
    /// In a folder of this machine.
    Folder(PathBuf),
}

/// A repository of a Hugging Face compatible endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// The endpoint.
    pub endpoint: Url,
    /// `OWNER/NAME`.
    pub name: String,
    /// A branch, tag or commit.
    pub revision: String,
    /// The folder in the repository; `None` looks for the one that fits the machine.
    pub folder: Option<String>,
    /// The URL as it was given: if the endpoint has no such repository, it may be a folder of a web
    /// server.
    pub url: Option<Url>,
}

impl Source {
    /// Reads `NAME`, `OWNER/REPOSITORY`, `OWNER/REPOSITORY/FOLDER`,
    /// `https://HOST/OWNER/REPOSITORY/tree/REVISION/FOLDER` with its last parts optional, the URL of
    /// a folder on a web server, or a path that begins with `/` or `.`. A model for GPUs is called by
    /// its name and `-gpu`.
    ///
    /// # Errors
    /// If it is none of these.
    pub fn parse(
        given: &str,
        endpoint: Option<&str>,
        variant: Variant,
    ) -> Result<Self, FetchError> {
        let mut source = Self::place_of(given, endpoint)?;
        if variant == Variant::Gpu && !source.name.ends_with("-gpu") {
            source.name.push_str("-gpu");
        }
        if is_name(&source.name) { Ok(source) } else { Err(refused(given)) }
    }

    fn place_of(given: &str, endpoint: Option<&str>) -> Result<Self, FetchError> {
        if given.starts_with('.') || Path::new(given).is_absolute() {
            return Self::of_folder(Path::new(given));
        }
        let endpoint = Url::parse(endpoint.unwrap_or(DEFAULT_ENDPOINT))?;
        if given.starts_with("http://") || given.starts_with("https://") {
            let url = Url::parse(given)?;
            let path = url.target().trim_matches('/').to_owned();
            let endpoint = Url::parse(&url.origin())?;
            if let Some(repository) = Repository::read(&path, endpoint, Some(&url)) {
                return Ok(repository);
            }
            // A query or an encoded part could lead anywhere.
            if !path.split('/').all(is_plain) {
                return Err(refused(given));
            }
            return Ok(Self { name: name_of(&path), place: Place::Web(url) });
        }
        if let Some((name, path)) = KNOWN.iter().find(|(name, _)| *name == given) {
            let known = Repository::read(path, endpoint, None).ok_or_else(|| refused(given))?;
            return Ok(Self { name: (*name).to_owned(), ..known });
        }
        Repository::read(given.trim_end_matches('/'), endpoint, None).ok_or_else(|| refused(given))
    }

    /// A folder of this machine. Its name is what it is called there, so that links stay, but `.` and
    /// `..` are no names.
    fn of_folder(path: &Path) -> Result<Self, FetchError> {
        let real = path.canonicalize().map_err(FetchError::file("open", path))?;
        let named = std::path::absolute(path).ok().filter(|path| path.file_name().is_some());
        let path = named.unwrap_or(real);
        Ok(Self { name: name_of(&path.to_string_lossy()), place: Place::Folder(path) })
    }
}

fn refused(given: &str) -> FetchError {
    let names: Vec<&str> = KNOWN.iter().map(|(name, _)| *name).collect();
    FetchError::Invalid {
        given: given.to_owned(),
        expected: format!(
            "one of {}, OWNER/REPOSITORY with or without /FOLDER, \
             https://HOST/OWNER/REPOSITORY with or without /tree/REVISION/FOLDER, the URL of a \
             folder on a web server, or a folder's path that begins with / or .",
            names.join(", ")
        ),
    }
}

impl Repository {
    /// Reads `OWNER/NAME`, `OWNER/NAME/FOLDER` or `OWNER/NAME/tree/REVISION/FOLDER`.
    fn read(path: &str, endpoint: Url, url: Option<&Url>) -> Option<Source> {
        let parts: Vec<&str> = path.split('/').collect();
        if parts.len() < 2 || !parts.iter().all(|part| is_plain(part)) {
            return None;
        }
        let (revision, folder) = match &parts[2..] {
            ["tree", revision, folder @ ..] => (*revision, folder),
            folder => ("main", folder),
        };
        let repository = Self {
            endpoint,
            name: parts[..2].join("/"),
            revision: revision.to_owned(),
            folder: (!folder.is_empty()).then(|| folder.join("/")),
            url: url.cloned(),
        };
        let name = parts[1].trim_end_matches("-onnx").to_ascii_lowercase();
        Some(Source { name, place: Place::Hub(repository) })
    }
}

/// The model's name by the path of its folder: the last part that says more than a version or a kind
/// of export, without what Hugging Face's cache adds to it.
fn name_of(path: &str) -> String {
    let is_version = |part: &str| {
        let number = part.strip_prefix('v').is_some_and(|number| number.parse::<u32>().is_ok());
        // A commit, shortened at most as git shortens it.
        number || (part.len() >= 7 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    let is_kind = |part: &str| {
        let first = part.split(['-', '_']).next().unwrap_or_default();
        first == "cpu"
            || first == "snapshots"
            || [&GPU_WORDS[..], &OTHER_WORDS].concat().contains(&first)
    };
    let lower = path.to_ascii_lowercase();
    let parts: Vec<&str> = lower.split(['/', '\\']).filter(|part| !part.is_empty()).collect();
    let telling = parts.iter().rfind(|part| !is_version(part) && !is_kind(part));
    let name = telling.or(parts.last()).copied().unwrap_or_default();
    let name = name
        .strip_prefix("models--")
        .and_then(|rest| rest.split_once("--"))
        .map_or(name, |(_, name)| name);
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    name.trim_end_matches("-onnx").trim_start_matches('.').chars().map(plain).collect()
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

    /// Origin, repository, revision, folder and name of a hub's model.
    type Read = (String, String, String, Option<String>, String);

    fn parsed(given: &str) -> Result<Read, String> {
        let source = Source::parse(given, Some("http://hub:1/"), Variant::Cpu);
        let source = source.map_err(|error| error.to_string())?;
        let Place::Hub(repository) = source.place else { return Err(format!("{source:?}")) };
        let Repository { endpoint, name, revision, folder, .. } = repository;
        Ok((endpoint.origin(), name, revision, folder, source.name))
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
        for refused in ["", "phi-5", "me/..", "me/m/../x", "me//m", "me/m?x", "http://h/a/../b"] {
            let error = parsed(refused).unwrap_err();
            assert!(error.contains("phi-4-mini-reasoning"), "{refused}: {error}");
        }
    }

    #[test]
    fn folders_and_web_servers_are_understood() {
        let source = Source::parse("http://files/phi-4/", None, Variant::Cpu).unwrap();
        assert!(matches!(source.place, Place::Web(_)), "{source:?}");
        assert_eq!(source.name, "phi-4");
        let root = tempfile::tempdir().unwrap();
        for (path, name) in [
            ("Phi-4-mini-generic-cpu/v5", "phi-4-mini-generic-cpu"),
            ("models--me--Phi-4-onnx/snapshots/0123456789abcdef/cpu_and_mobile/cpu-int4", "phi-4"),
            ("My Model (2)", "my-model--2-"),
        ] {
            let folder = root.path().join(path);
            std::fs::create_dir_all(&folder).unwrap();
            let source = Source::parse(folder.to_str().unwrap(), None, Variant::Cpu).unwrap();
            assert!(matches!(&source.place, Place::Folder(_)), "{source:?}");
            assert_eq!(source.name, name);
        }
        let error = Source::parse("/nowhere/at/all", None, Variant::Cpu).unwrap_err().to_string();
        assert!(error.contains("/nowhere/at/all"), "{error}");
    }

    #[test]
    fn a_gpu_has_its_own_name() {
        let source = Source::parse("phi-4", None, Variant::Gpu).unwrap();
        assert_eq!(source.name, "phi-4-gpu");
        let long = format!("me/{}", "m".repeat(97));
        assert!(Source::parse(&long, None, Variant::Cpu).is_ok());
        assert!(Source::parse(&long, None, Variant::Gpu).is_err());
    }

    #[test]
    fn a_folder_is_for_cpus_for_gpus_or_for_neither() {
        for (folder, cpu, gpu) in [
            ("cpu_and_mobile/cpu-int4-rtn-block-32-acc-level-4", true, false),
            ("", true, false),
            ("onnx/int4", true, false),
            ("gpu/gpu-int4-rtn-block-32", false, true),
            ("cuda/cuda-fp16", false, true),
            ("directml/directml-int4-awq-block-128", false, true),
            ("webgpu", false, true),
            ("GPU", false, true),
            ("npu/qnn-int4", false, false),
            ("qnn/cpu", false, false),
            ("openvino_model", false, false),
        ] {
            assert_eq!(Variant::Cpu.fits(folder), cpu, "{folder}");
            assert_eq!(Variant::Gpu.fits(folder), gpu, "{folder}");
        }
    }
}
