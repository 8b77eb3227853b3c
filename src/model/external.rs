//! Follows links to files of weights.
//!
//! A downloader's cache has each file once, under a name of its own, and folders of links to them
//! (Hugging Face's: `snapshots/REVISION/model.onnx.data` leads to `blobs/HASH`). ONNX Runtime refuses
//! weights whose real path is outside the folder that it is given. So it is given the real folder,
//! and the graph, in memory, names the files by their real names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::protobuf::{
    Damaged, ENTRY_KEY, ENTRY_VALUE, GRAPH_INITIALIZER, MODEL_GRAPH, TENSOR_EXTERNAL, contents,
    edited, entry, put_bytes,
};

const LOCATION: &[u8] = b"location";

/// The model `bytes` with its files of weights by their real names, and the folder that these are
/// in. `None` where they are in `folder` by the names that the graph has, or missing.
///
/// # Errors
/// If the graph is damaged, or its weights lie in several folders.
pub(super) fn follow(bytes: &[u8], folder: &Path) -> Result<Option<(Vec<u8>, PathBuf)>, String> {
    let damaged = |damage: Damaged| damage.to_string();
    let mut real = BTreeMap::new();
    // A folder that is missing is reported by whoever reads its files.
    let Ok(home) = folder.canonicalize() else { return Ok(None) };
    for name in locations(bytes).map_err(damaged)? {
        let Ok(text) = std::str::from_utf8(name) else { return Ok(None) };
        // Missing files, and files of other folders, are errors of whoever reads them.
        let Ok(path) = folder.join(text).canonicalize() else { return Ok(None) };
        // A name with a folder in it leads elsewhere: ONNX Runtime is to refuse that itself.
        if Path::new(text).file_name().is_none_or(|file| file != text) {
            return Ok(None);
        }
        real.insert(name.to_vec(), path);
    }
    let Some(place) = real.values().next().and_then(|path| path.parent()) else { return Ok(None) };
    if let Some(other) = real.values().find(|path| path.parent() != Some(place)) {
        return Err(format!(
            "its weights lie in several folders, {} and {}; expected are files, or links to files, \
             of one folder",
            place.display(),
            other.parent().unwrap_or(other).display()
        ));
    }
    let same = |(name, path): (&Vec<u8>, &PathBuf)| {
        path.file_name().is_some_and(|file| file.as_encoded_bytes() == name)
    };
    if place == home && real.iter().all(same) {
        return Ok(None);
    }
    let place = place.to_path_buf();
    let graph = renamed(bytes, &real).map_err(damaged)?;
    Ok(Some((graph, place)))
}

/// The names of all files of weights, as the graph has them. Initializers of branches are not
/// searched: exports have small tensors there, which are in the graph itself.
fn locations(bytes: &[u8]) -> Result<Vec<&[u8]>, Damaged> {
    let mut found: Vec<&[u8]> = Vec::new();
    for graph in contents(bytes, MODEL_GRAPH) {
        for tensor in contents(graph?, GRAPH_INITIALIZER) {
            for external in contents(tensor?, TENSOR_EXTERNAL) {
                if let (LOCATION, name) = entry(external?)?
                    && !found.contains(&name)
                {
                    found.push(name);
                }
            }
        }
    }
    Ok(found)
}

fn renamed(bytes: &[u8], real: &BTreeMap<Vec<u8>, PathBuf>) -> Result<Vec<u8>, Damaged> {
    let entry = |external: &[u8]| {
        let (key, name) = entry(external)?;
        // Only the name changes. Where a tensor lies in the file stays, as the file is the same.
        let file = real.get(name).filter(|_| key == LOCATION).and_then(|path| path.file_name());
        Ok::<_, Damaged>(file.map(|file| {
            let mut edited = Vec::new();
            put_bytes(&mut edited, ENTRY_KEY, key);
            put_bytes(&mut edited, ENTRY_VALUE, file.as_encoded_bytes());
            edited
        }))
    };
    let tensor = |tensor: &[u8]| edited(tensor, TENSOR_EXTERNAL, entry).map(Some);
    edited(bytes, MODEL_GRAPH, |graph| edited(graph, GRAPH_INITIALIZER, tensor).map(Some))
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A model of two tensors, in these files.
    fn model(files: [&str; 2]) -> Vec<u8> {
        let mut graph = Vec::new();
        for file in files {
            let mut tensor = Vec::new();
            for (key, value) in [("location", file), ("offset", "location"), ("length", "8")] {
                let mut entry = Vec::new();
                put_bytes(&mut entry, ENTRY_KEY, key.as_bytes());
                put_bytes(&mut entry, ENTRY_VALUE, value.as_bytes());
                put_bytes(&mut tensor, TENSOR_EXTERNAL, &entry);
            }
            put_bytes(&mut tensor, 8, b"weights");
            put_bytes(&mut graph, GRAPH_INITIALIZER, &tensor);
            put_bytes(&mut graph, 1, b"node");
        }
        let mut model = Vec::new();
        put_bytes(&mut model, 2, b"builder");
        put_bytes(&mut model, MODEL_GRAPH, &graph);
        model
    }

    #[test]
    fn links_are_followed_to_their_files_names() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        for folder in ["blobs", "other", "snapshot"] {
            std::fs::create_dir(at(folder)).unwrap();
        }
        for file in ["blobs/1f", "blobs/2f", "other/3f", "snapshot/plain"] {
            std::fs::write(at(file), "x").unwrap();
        }
        let folder = at("snapshot");
        symlink("../blobs/1f", folder.join("a")).unwrap();
        symlink("../blobs/2f", folder.join("b")).unwrap();
        symlink("../other/3f", folder.join("c")).unwrap();
        symlink("plain", folder.join("d")).unwrap();
        symlink("snapshot", at("current")).unwrap();

        let (graph, place) = follow(&model(["a", "b"]), &folder).unwrap().unwrap();
        assert_eq!(graph, model(["1f", "2f"]));
        assert_eq!(place, at("blobs").canonicalize().unwrap());
        let (graph, place) = follow(&model(["d", "plain"]), &folder).unwrap().unwrap();
        assert_eq!((graph, place), (model(["plain"; 2]), folder.canonicalize().unwrap()));
        // As they are called, by whatever way to the folder.
        assert_eq!(follow(&model(["plain"; 2]), &folder), Ok(None));
        assert_eq!(follow(&model(["plain"; 2]), &at("current")), Ok(None));
        // These are for ONNX Runtime to refuse.
        assert_eq!(follow(&model(["a", "missing"]), &folder), Ok(None));
        assert_eq!(follow(&model(["../blobs/1f", "a"]), &folder), Ok(None));
        let refused = follow(&model(["a", "c"]), &folder).unwrap_err();
        assert!(refused.contains("blobs") && refused.contains("other"), "{refused}");
        assert!(follow(&model(["a", "b"])[..40], &folder).is_err());
    }
}
