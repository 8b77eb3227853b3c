//! Models in a folder of this machine: a disk that was carried to it, another program's cache.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::UNIX_EPOCH;

use super::digest::{Expected, read_sums, sha256};
use super::error::FetchError;
use super::layout::{CONFIG, FilePlace, ModelFile, SUMS, choose, is_wanted};
use super::models::Origin;
use super::names::Variant;

/// How deep below the folder a model is looked for: Hugging Face's cache has four levels.
const MAX_DEPTH: usize = 5;

/// Most entries that are looked at, so that a home folder fails soon.
const MAX_ENTRIES: usize = 20_000;

/// The model's files in `folder` or in one folder below it, the largest last.
pub(super) fn files(
    folder: &Path,
    variant: Variant,
) -> Result<(Origin, Vec<ModelFile>), FetchError> {
    let mut paths = Vec::new();
    find(folder, "", &mut MAX_ENTRIES.clone(), &mut paths)?;
    // A folder that is itself a model is meant, whatever is below it.
    let named = folder.join(CONFIG).exists().then_some("");
    let shown = folder.display().to_string();
    let chosen = choose(paths.iter().map(String::as_str), named, variant, &shown)?;
    let sums = sums(folder, &chosen)?;
    let mut files = Vec::new();
    let mut versions = String::new();
    for path in paths {
        let Some(name) = is_wanted(&path, &chosen) else { continue };
        let full = folder.join(&path);
        let metadata = fs::metadata(&full).map_err(FetchError::file("read", &full))?;
        let made = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        versions.push_str(&format!("{name} {} {made:?}\n", metadata.len()));
        let expected = sums.iter().find(|(listed, _)| listed == name);
        files.push(ModelFile {
            name: name.to_owned(),
            place: FilePlace::Local(full),
            size: metadata.len(),
            expected: expected.map_or(Expected::Any, |(_, expected)| expected.clone()),
        });
    }
    files.sort_by_key(|file| file.size);
    let commit = sha256(versions.as_bytes());
    Ok((Origin { endpoint: String::new(), repository: shown, commit, folder: chosen }, files))
}

/// Adds the files below `folder` to `paths`, which are relative to where the search began. Links are
/// followed: Hugging Face's cache consists of them.
fn find(
    folder: &Path,
    below: &str,
    left: &mut usize,
    paths: &mut Vec<String>,
) -> Result<(), FetchError> {
    let here = folder.join(below);
    for entry in fs::read_dir(&here).map_err(FetchError::file("read", &here))? {
        let entry = entry.map_err(FetchError::file("read", &here))?;
        *left = left.checked_sub(1).ok_or_else(|| FetchError::Invalid {
            given: folder.display().to_string(),
            expected: format!("a folder with a model and at most {MAX_ENTRIES} other files"),
        })?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        if !entry.path().is_dir() {
            paths.push(path);
        } else if path.split('/').count() < MAX_DEPTH {
            find(folder, &path, left, paths)?;
        }
    }
    Ok(())
}

/// The hashes of the model's files, by name, if a list of them is there.
fn sums(folder: &Path, chosen: &str) -> Result<Vec<(String, Expected)>, FetchError> {
    let path = folder.join(chosen).join(SUMS);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(&path).map_err(FetchError::file("read", &path))?;
    read_sums(&text).ok_or_else(|| FetchError::Answer {
        url: path.display().to_string(),
        expected: "list of SHA-256 hashes",
    })
}

/// Copies `file`, which is `source`, to `path` and checks it; `gained` gets the bytes of each piece.
pub(super) fn copy(
    file: &ModelFile,
    source: &Path,
    path: &Path,
    gained: &mut dyn FnMut(u64),
) -> Result<(), FetchError> {
    let mut from = File::open(source).map_err(FetchError::file("open", source))?;
    let mut to = File::create(path).map_err(FetchError::file("create", path))?;
    let mut hash = file.expected.begin(file.size);
    let mut buffer = vec![0; 1 << 20];
    let mut copied = 0;
    loop {
        let count = from.read(&mut buffer).map_err(FetchError::file("read", source))?;
        if count == 0 {
            break;
        }
        to.write_all(&buffer[..count]).map_err(FetchError::file("write", path))?;
        // For nothing to compare with, gigabytes are not hashed.
        if file.expected != Expected::Any {
            hash.update(&buffer[..count]);
        }
        copied += count as u64;
        gained(count as u64);
    }
    to.sync_all().map_err(FetchError::file("write", path))?;
    if copied != file.size {
        return Err(FetchError::WrongBytes {
            file: file.name.clone(),
            kind: "size",
            found: copied.to_string(),
            expected: file.size.to_string(),
        });
    }
    file.expected.check(&file.name, hash)
}
