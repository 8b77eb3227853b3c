//! Models in a folder of any web server. A list of hashes, as `sha256sum` writes it, says which files
//! there are: such servers have no listing that programs can read, and no hashes.

use super::client::Client;
use super::digest::{read_sums, sha256};
use super::error::FetchError;
use super::layout::{FilePlace, ModelFile, SUMS, choose, is_wanted};
use super::models::Origin;
use super::names::Variant;
use super::url::Url;

/// The model's files in the folder `url`, the largest last.
pub(super) async fn files(
    client: &Client,
    url: &Url,
    variant: Variant,
) -> Result<(Origin, Vec<ModelFile>), FetchError> {
    let list = url.below(SUMS);
    let (body, _) = client.get_whole(&list, "link").await?;
    let text = String::from_utf8_lossy(&body);
    let invalid =
        || FetchError::Answer { url: list.to_string(), expected: "list of SHA-256 hashes" };
    let sums = read_sums(&text).ok_or_else(invalid)?;
    let paths = sums.iter().map(|(path, _)| path.as_str());
    let folder = choose(paths, None, variant, &url.to_string())?;
    let mut files = Vec::new();
    for (path, expected) in sums {
        let Some(name) = is_wanted(&path, &folder) else { continue };
        let (name, url) = (name.to_owned(), url.below(&path));
        let size = client.size(&url).await?;
        files.push(ModelFile { name, place: FilePlace::Remote(url), size, expected });
    }
    files.sort_by_key(|file| file.size);
    let origin = Origin {
        endpoint: url.origin(),
        repository: url.to_string(),
        commit: sha256(&body),
        folder,
    };
    Ok((origin, files))
}
