//! What a Hugging Face compatible endpoint says of a repository.

use serde::Deserialize;

use super::client::Client;
use super::digest::Expected;
use super::error::FetchError;
use super::names::{Source, Variant, is_plain};
use super::url::Url;

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
pub(super) async fn commit(client: &Client, source: &Source) -> Result<String, FetchError> {
    let path = format!("api/models/{}/revision/{}", source.repository, source.revision);
    let url = source.endpoint.below(&path);
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
    source: &Source,
    commit: &str,
    variant: Variant,
) -> Result<(String, Vec<RemoteFile>), FetchError> {
    listed(&tree(client, source, commit).await?, source, commit, variant)
}

/// The folder that fits, and its files, of the repository's `entries`.
pub(super) fn listed(
    entries: &[Entry],
    source: &Source,
    commit: &str,
    variant: Variant,
) -> Result<(String, Vec<RemoteFile>), FetchError> {
    let folder = choose(source, entries, variant)?;
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let resolve = format!("{}/resolve/{commit}", source.repository);
    let mut files = Vec::new();
    for entry in entries.iter().filter(|entry| entry.kind == "file") {
        // Folders below are another model's; code is not run, so not fetched.
        let name = entry.path.strip_prefix(&prefix).filter(|name| is_plain(name));
        let Some(name) = name.filter(|name| !name.ends_with(".py")) else { continue };
        let (size, expected) = match &entry.lfs {
            Some(lfs) => (lfs.size, Expected::Sha256(lfs.oid.to_ascii_lowercase())),
            None => (entry.size, Expected::GitBlob(entry.oid.to_ascii_lowercase())),
        };
        let url = source.endpoint.below(&resolve).below(&entry.path);
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
async fn tree(client: &Client, source: &Source, commit: &str) -> Result<Vec<Entry>, FetchError> {
    let path = format!("api/models/{}/tree/{commit}", source.repository);
    let mut url = source.endpoint.below(&path).with_query("recursive=true");
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
fn choose(source: &Source, entries: &[Entry], variant: Variant) -> Result<String, FetchError> {
    let configs = entries.iter().filter(|entry| entry.kind == "file");
    let folders = configs.filter_map(|entry| {
        let folder = entry.path.strip_suffix(CONFIG)?;
        if folder.is_empty() { Some("") } else { folder.strip_suffix('/') }
    });
    let found: Vec<&str> = match &source.folder {
        Some(folder) => folders.filter(|found| found == folder).collect(),
        None => folders.filter(|folder| variant.fits(folder)).collect(),
    };
    match found[..] {
        [folder] => Ok(folder.to_owned()),
        _ => Err(FetchError::Folder {
            repository: source.repository.clone(),
            found: found.iter().map(ToString::to_string).collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(paths: &[&str]) -> Vec<Entry> {
        let entry = |path: &&str| Entry {
            kind: "file".to_owned(),
            path: (*path).to_owned(),
            size: 1,
            oid: String::new(),
            lfs: None,
        };
        paths.iter().map(entry).collect()
    }

    #[test]
    fn the_folder_that_fits_is_chosen_and_doubt_is_told() {
        let mut source = Source::parse("me/m", None, Variant::Cpu).unwrap();
        let published =
            entries(&["README.md", "cpu/int4/genai_config.json", "gpu/genai_config.json"]);
        assert_eq!(choose(&source, &published, Variant::Cpu).unwrap(), "cpu/int4");
        assert_eq!(choose(&source, &published, Variant::Gpu).unwrap(), "gpu");
        let flat = entries(&["genai_config.json"]);
        assert_eq!(choose(&source, &flat, Variant::Cpu).unwrap(), "");
        let two = entries(&["a/genai_config.json", "b/genai_config.json"]);
        let error = choose(&source, &two, Variant::Cpu).unwrap_err().to_string();
        assert!(error.contains("several: a, b"), "{error}");
        source.folder = Some("b".to_owned());
        assert_eq!(choose(&source, &two, Variant::Cpu).unwrap(), "b");
        source.folder = Some("c".to_owned());
        assert!(choose(&source, &two, Variant::Cpu).is_err());
    }

    #[test]
    fn the_next_page_is_found_in_its_header() {
        assert_eq!(next_page("<http://a/x?cursor=1>; rel=\"next\""), Some("http://a/x?cursor=1"));
        assert_eq!(next_page("<http://a/x>; rel=\"prev\""), None);
    }
}
