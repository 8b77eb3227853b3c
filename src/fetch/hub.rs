//! What a Hugging Face compatible endpoint says of a repository.

use serde::Deserialize;

use super::client::Client;
use super::digest::Expected;
use super::error::FetchError;
use super::layout::{FilePlace, ModelFile, choose, is_wanted};
use super::names::{Repository, Variant};

/// Most pages of a listing.
const MAX_PAGES: usize = 100;

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
) -> Result<(String, Vec<ModelFile>), FetchError> {
    listed(&tree(client, repository, commit).await?, repository, commit, variant)
}

/// The folder that fits, and its files, of the repository's `entries`.
pub(super) fn listed(
    entries: &[Entry],
    repository: &Repository,
    commit: &str,
    variant: Variant,
) -> Result<(String, Vec<ModelFile>), FetchError> {
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
        let place = FilePlace::Remote(url);
        files.push(ModelFile { name: name.to_owned(), place, size, expected });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_in_its_header() {
        assert_eq!(next_page("<http://a/x?cursor=1>; rel=\"next\""), Some("http://a/x?cursor=1"));
        assert_eq!(next_page("<http://a/x>; rel=\"prev\""), None);
    }
}
