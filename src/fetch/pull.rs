//! Downloads a model: plans which files, then fetches them.

use std::path::{Path, PathBuf};

use super::client::Client;
use super::download::{self, Step};
use super::error::FetchError;
use super::hub::{self, RemoteFile};
use super::models::{Models, Origin, Staging};
use super::names::{Source, Variant};

/// The suffix of files that are incomplete.
const PART: &str = ".part";

/// Room that is left beside the model.
const SPARE_BYTES: u64 = 64 << 20;

/// A model to fetch.
#[derive(Debug)]
pub struct Pull<'a> {
    /// Sends the requests.
    pub client: &'a Client,
    /// Where the model is published.
    pub source: Source,
    /// The folder that gets the model.
    pub models: &'a Models,
    /// Which export to fetch.
    pub variant: Variant,
    /// Whether one that is there already is replaced.
    pub replace: bool,
}

/// What a pull is going to do.
#[derive(Debug)]
pub struct Plan<'a> {
    client: &'a Client,
    staging: Staging,
    files: Vec<RemoteFile>,
    /// `REPOSITORY/FOLDER`.
    pub from: String,
    /// Bytes of all files.
    pub total: u64,
}

/// A pull's progress.
#[derive(Debug)]
pub enum Progress<'a> {
    /// A file is being fetched.
    File(&'a str),
    /// This many bytes of all files are on the disk.
    Done(u64),
    /// A download failed and is retried.
    Again(&'a FetchError),
}

impl<'a> Pull<'a> {
    /// Lists the files to fetch and checks that the disk has room.
    ///
    /// # Errors
    /// If the model is not there, is here already, or has no room.
    pub async fn plan(self) -> Result<Plan<'a>, FetchError> {
        let Self { client, source, models, variant, replace } = self;
        let folder = models.folder(&source.name);
        if folder.exists() && !replace {
            return Err(FetchError::Exists { folder });
        }
        let commit = hub::commit(client, &source).await?;
        let (folder, files) = hub::files(client, &source, &commit, variant).await?;
        let from = format!("{}/{folder}", source.repository);
        let origin = Origin {
            endpoint: source.endpoint.origin(),
            repository: source.repository,
            commit,
            folder,
        };
        let staging = models.stage(&source.name, &origin)?;
        let total = files.iter().map(|file| file.size).sum();
        let here: u64 = files.iter().map(|file| bytes_here(&staging.folder, file)).sum();
        models.check_space(u64::saturating_sub(total, here).saturating_add(SPARE_BYTES))?;
        Ok(Plan { client, staging, files, from, total })
    }
}

impl Plan<'_> {
    /// Fetches all files and gives the model's folder.
    ///
    /// # Errors
    /// If a file can't be fetched; the next attempt resumes from what is there by then.
    pub async fn run(self, watch: &mut dyn FnMut(Progress<'_>)) -> Result<PathBuf, FetchError> {
        let mut done = 0;
        for file in &self.files {
            let path = self.staging.folder.join(&file.name);
            if path.exists() {
                // Checked when it got its name.
                done += file.size;
                watch(Progress::Done(done));
                continue;
            }
            watch(Progress::File(&file.name));
            let part = part_of(&self.staging.folder, file);
            let mut step = |step: Step<'_>| match step {
                Step::Gained(bytes) => {
                    done += bytes;
                    watch(Progress::Done(done));
                }
                Step::Lost(bytes) => {
                    done -= bytes;
                    watch(Progress::Done(done));
                }
                Step::Again(error) => watch(Progress::Again(error)),
            };
            download::fetch(self.client, file, &part, &mut step).await?;
            std::fs::rename(&part, &path).map_err(FetchError::file("make", &path))?;
        }
        self.staging.finish()
    }
}

fn part_of(folder: &Path, file: &RemoteFile) -> PathBuf {
    folder.join(format!("{}{PART}", file.name))
}

fn bytes_here(folder: &Path, file: &RemoteFile) -> u64 {
    let size = |path: PathBuf| std::fs::metadata(path).ok().map(|metadata| metadata.len());
    size(folder.join(&file.name)).or_else(|| size(part_of(folder, file))).unwrap_or(0)
}
