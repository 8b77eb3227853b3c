//! What a Hugging Face compatible endpoint says of a repository.

use serde::Deserialize;

use super::client::Client;
use super::digest::Expected;
use super::error::FetchError;
use super::models::ORIGIN;
use super::names::{FASTER, Repository, Variant, is_plain};
use super::url::Url;
use super::web::SUMS;

/// The file that makes a folder a model's.
pub(super) const CONFIG: &str = "genai_config.json";

/// Most pages of a listing.
const MAX_PAGES: usize = 100;

/// A file to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteFile {
    /// Its name in the model's folder.
    pub(super) name: String,
    /// Where its content is.
    pub(super) url: Url,
    /// Bytes.
    pub(super) size: u64,
    /// What its content is.
    pub(super) expected: Expected,
}

#[derive(Debug, Deserialize)]
struct Revision {
    sha: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: String,
    lfs: Option<Lfs>,
}

#[derive(Debug, Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

/// The commit that the source's revision stands for now, so that all files are of one.
pub(super) async fn commit(client: &Client, repository: &Repository) -> Result<String, FetchError> {
    let path = format!("api/models/{}/revision/{}", repository.name, repository.revision);
    let url = repository.endpoint.below(&path);
    let (body, _) = client.get_whole(&url, "link").await?;
    let read: Result<Revision, _> = serde_json::from_slice(&body);
    let refused = || FetchError::Answer { url: url.to_string(), expected: "model's revision" };
    let sha = read.map_err(|_| refused())?.sha;
    let hexadecimal = !sha.is_empty() && sha.bytes().all(|byte| byte.is_ascii_hexdigit());
    if hexadecimal { Ok(sha) } else { Err(refused()) }
}

/// The folder that fits, and its files, the largest last.
pub(super) async fn files(
    client: &Client,
    repository: &Repository,
    commit: &str,
    variant: Variant,
) -> Result<(String, Vec<RemoteFile>), FetchError> {
    listed(&tree(client, repository, commit).await?, repository, commit, variant)
}

/// The folder that fits, and its files, of the repository's `entries`.
pub(super) fn listed(
    entries: &[Entry],
    repository: &Repository,
    commit: &str,
    variant: Variant,
) -> Result<(String, Vec<RemoteFile>), FetchError> {
    let folder = folder_of(repository, entries, variant)?;
    let resolve = format!("{}/resolve/{commit}", repository.name);
    let mut files = Vec::new();
    for entry in entries.iter().filter(|entry| entry.kind == "file") {
        let Some(name) = is_wanted(&entry.path, &folder) else { continue };
        let (size, expected) = match &entry.lfs {
            Some(lfs) => (lfs.size, Expected::Sha256(lfs.oid.to_ascii_lowercase())),
            None => (entry.size, Expected::GitBlob(entry.oid.to_ascii_lowercase())),
        };
        let url = repository.endpoint.below(&resolve).below(&entry.path);
        if !expected.is_sane() {
            return Err(FetchError::Answer { url: url.to_string(), expected: "file with a hash" });
        }
        files.push(RemoteFile { name: name.to_owned(), url, size, expected });
    }
    // What is wrong with the small ones shows before hours are spent on the large one.
    files.sort_by_key(|file| file.size);
    Ok((folder, files))
}

/// All of the repository's entries, over all pages.
async fn tree(
    client: &Client,
    repository: &Repository,
    commit: &str,
) -> Result<Vec<Entry>, FetchError> {
    let path = format!("api/models/{}/tree/{commit}", repository.name);
    let mut url = repository.endpoint.below(&path).with_query("recursive=true");
    let mut entries = Vec::new();
    for _ in 0..MAX_PAGES {
        let (body, link) = client.get_whole(&url, "link").await?;
        let page: Vec<Entry> = serde_json::from_slice(&body)
            .map_err(|_| FetchError::Answer { url: url.to_string(), expected: "list of files" })?;
        entries.extend(page);
        match link.as_deref().and_then(next_page) {
            Some(next) => url = url.join(next)?,
            None => return Ok(entries),
        }
    }
    Err(FetchError::Answer { url: url.to_string(), expected: "end of a list" })
}

/// The next page's URL in a `Link` header.
pub(super) fn next_page(link: &str) -> Option<&str> {
    let next = link.split(',').find(|part| part.contains("rel=\"next\""))?;
    next.split_once('<')?.1.split_once('>').map(|(url, _)| url)
}

/// The folder that was named, else the only one with a model that fits.
fn folder_of(
    repository: &Repository,
    entries: &[Entry],
    variant: Variant,
) -> Result<String, FetchError> {
    let files = entries.iter().filter(|entry| entry.kind == "file");
    choose(
        files.map(|entry| entry.path.as_str()),
        repository.folder.as_deref(),
        variant,
        &repository.name,
    )
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

    #[test]
    fn the_next_page_is_found_in_its_header() {
        assert_eq!(next_page("<http://a/x?cursor=1>; rel=\"next\""), Some("http://a/x?cursor=1"));
        assert_eq!(next_page("<http://a/x>; rel=\"prev\""), None);
    }
}
