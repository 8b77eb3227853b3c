//! A folder of models: what is in it, room for another, and the step by which that appears whole.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::FetchError;
use super::layout::{CONFIG, ORIGIN};
use super::names::is_name;
use super::system;

/// Begins the names of folders whose model is not whole yet.
const PARTIAL: &str = ".partial-";

/// Where a model's files are from. Of a folder of this machine, `endpoint` is empty and `repository`
/// its path; `commit` differs between versions of the files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Origin {
    pub(super) endpoint: String,
    pub(super) repository: String,
    pub(super) commit: String,
    pub(super) folder: String,
}

impl Origin {
    /// `REPOSITORY/FOLDER`.
    pub(super) fn place(&self) -> String {
        let parts = [self.repository.trim_end_matches('/'), &self.folder];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
    }
}

/// A model that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Its folder's name.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Bytes of its files.
    pub bytes: u64,
    /// Whether all of it is there.
    pub is_whole: bool,
    /// `REPOSITORY/FOLDER@COMMIT`, if it was fetched by this program.
    pub origin: Option<String>,
}

/// A folder whose folders are models.
#[derive(Debug, Clone)]
pub struct Models {
    root: PathBuf,
}

/// A model's folder while it is incomplete, locked by this process.
#[derive(Debug)]
pub(super) struct Staging {
    pub(super) folder: PathBuf,
    target: PathBuf,
    lock: File,
}

impl Models {
    /// The models in `root`, which need not be there yet.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where the model of this name is or would be.
    #[must_use]
    pub fn folder(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// All models, by name, and those that are not whole yet.
    ///
    /// # Errors
    /// If the folder can't be read; one that is not there holds nothing.
    pub fn list(&self) -> Result<Vec<Installed>, FetchError> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(FetchError::file("read", &self.root)(error)),
        };
        let mut found = Vec::new();
        for entry in entries.filter_map(Result::ok) {
            let folder = entry.path();
            let file_name = entry.file_name().to_string_lossy().into_owned();
            let partial = file_name.strip_prefix(PARTIAL);
            let is_whole = partial.is_none();
            let name = partial.unwrap_or(&file_name).to_owned();
            if !is_name(&name) || !folder.is_dir() || (is_whole && !folder.join(CONFIG).exists()) {
                continue;
            }
            let origin = read_origin(&folder)
                .map(|origin| format!("{}@{:.12}", origin.place(), origin.commit));
            found.push(Installed { bytes: bytes_in(&folder), name, folder, is_whole, origin });
        }
        found.sort_by(|a, b| (&a.name, a.is_whole).cmp(&(&b.name, b.is_whole)));
        Ok(found)
    }

    /// Removes a model and what there is of it in part; gives how many bytes that frees.
    ///
    /// # Errors
    /// If it is not there or can't be removed.
    pub fn remove(&self, name: &str) -> Result<u64, FetchError> {
        let missing = || FetchError::Missing { name: name.to_owned(), folder: self.root.clone() };
        if !is_name(name) {
            return Err(missing());
        }
        let whole = self.folder(name);
        let mut folders = vec![self.root.join(format!("{PARTIAL}{name}"))];
        // A folder without a model's file may be anything.
        if whole.join(CONFIG).exists() {
            folders.push(whole);
        }
        folders.retain(|folder| folder.is_dir());
        if folders.is_empty() {
            return Err(missing());
        }
        let mut bytes = 0;
        for folder in folders {
            bytes += bytes_in(&folder);
            fs::remove_dir_all(&folder).map_err(FetchError::file("remove", &folder))?;
        }
        Ok(bytes)
    }

    /// The folder in which a model from `origin` comes together. What another attempt left there
    /// is kept if it is of the same files.
    pub(super) fn stage(&self, name: &str, origin: &Origin) -> Result<Staging, FetchError> {
        let folder = self.root.join(format!("{PARTIAL}{name}"));
        let failed = |action| FetchError::file(action, &folder);
        fs::create_dir_all(&folder).map_err(failed("make"))?;
        let lock = folder.join(".lock");
        let file = File::create(&lock).map_err(FetchError::file("make", &lock))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(FetchError::Busy { folder }),
            Err(TryLockError::Error(error)) => return Err(FetchError::file("lock", lock)(error)),
        }
        if read_origin(&folder).as_ref() != Some(origin) {
            for entry in fs::read_dir(&folder).map_err(failed("read"))?.filter_map(Result::ok) {
                if entry.file_name() != ".lock" {
                    fs::remove_file(entry.path())
                        .map_err(FetchError::file("remove", entry.path()))?;
                }
            }
            let path = folder.join(ORIGIN);
            let text = serde_json::to_vec_pretty(origin).unwrap_or_default();
            fs::write(&path, text).map_err(FetchError::file("write", &path))?;
        }
        Ok(Staging { target: self.folder(name), folder, lock: file })
    }

    /// Checks that so many bytes fit beside what is there, and returns how many are free.
    pub(super) fn check_space(&self, wanted: u64) -> Result<u64, FetchError> {
        let failed = FetchError::file("look at", &self.root);
        let free = system::free_bytes(&self.root).map_err(failed)?;
        if free < wanted {
            return Err(FetchError::NoSpace { folder: self.root.clone(), free, wanted });
        }
        Ok(free)
    }
}

impl Staging {
    /// Makes the whole model appear under its name, in one step.
    pub(super) fn finish(self) -> Result<PathBuf, FetchError> {
        let lock = self.folder.join(".lock");
        fs::remove_file(&lock).map_err(FetchError::file("remove", &lock))?;
        // Where open files hold their folder fast, it could not be renamed.
        drop(self.lock);
        sync(&self.folder)?;
        if self.target.exists() {
            // The old one goes when the new one has its name.
            system::exchange(&self.folder, &self.target)
                .map_err(FetchError::file("replace", &self.target))?;
            fs::remove_dir_all(&self.folder).map_err(FetchError::file("remove", &self.folder))?;
        } else {
            fs::rename(&self.folder, &self.target)
                .map_err(FetchError::file("make", &self.target))?;
        }
        if let Some(root) = self.target.parent() {
            sync(root)?;
        }
        Ok(self.target)
    }
}

fn sync(folder: &Path) -> Result<(), FetchError> {
    system::sync(folder).map_err(FetchError::file("write", folder))
}

fn read_origin(folder: &Path) -> Option<Origin> {
    serde_json::from_slice(&fs::read(folder.join(ORIGIN)).ok()?).ok()
}

fn bytes_in(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let sizes = entries.filter_map(|entry| entry.metadata().ok());
    sizes.filter(fs::Metadata::is_file).map(|metadata| metadata.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(commit: &str) -> Origin {
        Origin {
            endpoint: "http://a".to_owned(),
            repository: "me/m".to_owned(),
            commit: commit.to_owned(),
            folder: "cpu".to_owned(),
        }
    }

    #[test]
    fn parts_are_kept_for_the_same_files_and_dropped_for_others() {
        let root = tempfile::tempdir().unwrap();
        let models = Models::new(root.path());
        let staging = models.stage("m", &origin("1")).unwrap();
        fs::write(staging.folder.join("part"), "x").unwrap();
        let busy = models.stage("m", &origin("1")).unwrap_err();
        assert!(matches!(busy, FetchError::Busy { .. }), "{busy}");
        drop(staging);
        let again = models.stage("m", &origin("1")).unwrap();
        assert!(again.folder.join("part").exists());
        drop(again);
        let other = models.stage("m", &origin("2")).unwrap();
        assert!(!other.folder.join("part").exists());
    }

    #[test]
    fn a_model_appears_whole_replaces_another_and_goes() {
        let root = tempfile::tempdir().unwrap();
        let models = Models::new(root.path().join("below"));
        assert_eq!(models.list().unwrap(), []);
        for commit in ["123", "456"] {
            let staging = models.stage("m", &origin(commit)).unwrap();
            fs::write(staging.folder.join(CONFIG), commit).unwrap();
            assert!(models.list().unwrap().iter().any(|model| !model.is_whole));
            let folder = staging.finish().unwrap();
            assert_eq!(fs::read_to_string(folder.join(CONFIG)).unwrap(), commit);
            let [model] = &models.list().unwrap()[..] else { panic!("not one") };
            assert_eq!(model.origin.as_deref(), Some(&*format!("me/m/cpu@{commit}")));
            assert!(model.is_whole);
        }
        for name in ["x", "..", "", ".partial-m", "/etc"] {
            assert!(matches!(models.remove(name), Err(FetchError::Missing { .. })), "{name}");
        }
        assert!(models.remove("m").unwrap() > 3);
        assert_eq!(models.list().unwrap(), []);
    }

    #[test]
    fn a_folder_that_is_no_model_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("photos")).unwrap();
        let models = Models::new(root.path());
        assert!(models.remove("photos").is_err());
        assert!(root.path().join("photos").exists());
    }

    #[test]
    fn room_is_looked_for_before() {
        let root = tempfile::tempdir().unwrap();
        let models = Models::new(root.path());
        models.check_space(1).unwrap();
        let error = models.check_space(u64::MAX).unwrap_err().to_string();
        assert!(error.contains("bytes free"), "{error}");
    }
}
