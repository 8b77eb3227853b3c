//! Downloads a model: plans which files, then fetches them.

use std::path::{Path, PathBuf};

use super::client::Client;
use super::download::{self, Step};
use super::error::FetchError;
use super::hub;
use super::layout::{FilePlace, ModelFile};
use super::local;
use super::models::{Models, Origin, Staging};
use super::names::{Place, Repository, Source, Variant};
use super::web;

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
    files: Vec<ModelFile>,
    /// `REPOSITORY/FOLDER`.
    pub from: String,
    /// Bytes of all files.
    pub total: u64,
    /// Bytes that are still to be fetched.
    pub missing: u64,
    /// Bytes that are free where they go.
    pub free: u64,
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
        let (origin, files) = match &source.place {
            Place::Hub(repository) => hub_or_web(client, repository, variant).await?,
            Place::Web(url) => web::files(client, url, variant).await?,
            Place::Folder(folder) => local::files(folder, variant)?,
        };
        let from = origin.place();
        let staging = models.stage(&source.name, &origin)?;
        let total = files.iter().map(|file| file.size).sum();
        let here: u64 = files.iter().map(|file| bytes_here(&staging.folder, file)).sum();
        let missing = u64::saturating_sub(total, here);
        let free = models.check_space(missing.saturating_add(SPARE_BYTES))?;
        Ok(Plan { client, staging, files, from, total, missing, free })
    }
}

/// The model's files in `repository`, or in the folder of a web server whose URL looks like one's.
async fn hub_or_web(
    client: &Client,
    repository: &Repository,
    variant: Variant,
) -> Result<(Origin, Vec<ModelFile>), FetchError> {
    let commit = match (hub::commit(client, repository).await, &repository.url) {
        (Ok(commit), _) => commit,
        (Err(FetchError::Status { status: 404, .. } | FetchError::Answer { .. }), Some(url)) => {
            return web::files(client, url, variant).await.map_err(|error| match error {
                FetchError::Status { status: 404, url: list } => {
                    FetchError::NoModel { url: url.to_string(), list }
                }
                other => other,
            });
        }
        (Err(error), _) => return Err(error),
    };
    let (folder, files) = hub::files(client, repository, &commit, variant).await?;
    let origin = Origin {
        endpoint: repository.endpoint.origin(),
        repository: repository.name.clone(),
        commit,
        folder,
    };
    Ok((origin, files))
}

impl Plan<'_> {
    /// The content of the file `name`, which is small, or `None` if the model has no such file. It is
    /// fetched now, and is there when [`Self::run`] comes to it.
    ///
    /// # Errors
    /// If the file can't be fetched.
    pub async fn read(
        &self,
        name: &str,
        watch: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Option<Vec<u8>>, FetchError> {
        let Some(file) = self.files.iter().find(|file| file.name == name) else {
            return Ok(None);
        };
        let path = self.staging.folder.join(name);
        if !path.exists() {
            self.fetch(file, &path, &mut 0, watch).await?;
        }
        std::fs::read(&path).map(Some).map_err(FetchError::file("read", &path))
    }

    /// Names and sizes of all files, the largest last.
    pub fn files(&self) -> impl Iterator<Item = (&str, u64)> {
        self.files.iter().map(|file| (file.name.as_str(), file.size))
    }

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
            self.fetch(file, &path, &mut done, watch).await?;
        }
        self.staging.finish()
    }

    /// Fetches `file` to `path`, which it gets when it is complete and checked.
    async fn fetch(
        &self,
        file: &ModelFile,
        path: &Path,
        done: &mut u64,
        watch: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), FetchError> {
        let part = part_of(&self.staging.folder, file);
        match &file.place {
            FilePlace::Remote(url) => {
                let mut step = |step: Step<'_>| match step {
                    Step::Gained(bytes) => {
                        *done += bytes;
                        watch(Progress::Done(*done));
                    }
                    Step::Lost(bytes) => {
                        *done -= bytes;
                        watch(Progress::Done(*done));
                    }
                    Step::Again(error) => watch(Progress::Again(error)),
                };
                download::fetch(self.client, url, file, &part, &mut step).await?;
            }
            FilePlace::Local(source) => local::copy(file, source, &part, &mut |bytes| {
                *done += bytes;
                watch(Progress::Done(*done));
            })?,
        }
        std::fs::rename(&part, path).map_err(FetchError::file("create", path))
    }
}

fn part_of(folder: &Path, file: &ModelFile) -> PathBuf {
    folder.join(format!("{}{PART}", file.name))
}

fn bytes_here(folder: &Path, file: &ModelFile) -> u64 {
    let size = |path: PathBuf| std::fs::metadata(path).ok().map(|metadata| metadata.len());
    size(folder.join(&file.name)).or_else(|| size(part_of(folder, file))).unwrap_or(0)
}
