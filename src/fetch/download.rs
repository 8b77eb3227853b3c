//! Downloads one file: starts or resumes it, and verifies its hash.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::CONTENT_RANGE;
use ring::digest::Context;
use tokio::time::{sleep, timeout};

use super::client::{Client, SILENCE};
use super::error::FetchError;
use super::layout::ModelFile;
use super::url::Url;

/// Attempts in a row without progress before the download fails.
const MAX_FRUITLESS_ATTEMPTS: u32 = 6;

/// The pause after the first such attempt; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// A download's progress.
#[derive(Debug)]
pub(super) enum Step<'a> {
    /// This many more bytes are on the disk: found there or received.
    Gained(u64),
    /// This many bytes must be fetched again.
    Lost(u64),
    /// It failed and is retried.
    Again(&'a FetchError),
}

/// Fetches `file`, which is at `url`, to `path`. A file that is already at `path` counts as its beginning.
pub(super) async fn fetch(
    client: &Client,
    url: &Url,
    file: &ModelFile,
    path: &Path,
    watch: &mut dyn FnMut(Step<'_>),
) -> Result<(), FetchError> {
    let mut fruitless = 0;
    let mut was_wrong = false;
    let mut part = Part::open(url, file, path)?;
    watch(Step::Gained(part.length));
    loop {
        let before = part.length;
        let error = match part.go_on(client, watch).await {
            Ok(()) => match part.check() {
                Ok(()) => return Ok(()),
                // Bytes of an earlier attempt may be wrong, so the file is fetched again, but once.
                Err(error) if !was_wrong => {
                    was_wrong = true;
                    watch(Step::Lost(part.restart()?));
                    watch(Step::Again(&error));
                    continue;
                }
                Err(error) => {
                    // Otherwise the next attempt would resume the wrong file.
                    part.restart()?;
                    return Err(error);
                }
            },
            Err(error) => error,
        };
        fruitless = if part.length > before { 0 } else { fruitless + 1 };
        if fruitless >= MAX_FRUITLESS_ATTEMPTS || !is_passing(&error) {
            return Err(error);
        }
        watch(Step::Again(&error));
        sleep(FIRST_PAUSE * 2_u32.pow(fruitless)).await;
    }
}

/// Whether a retry may succeed.
fn is_passing(error: &FetchError) -> bool {
    match error {
        FetchError::Unreachable { .. } => true,
        FetchError::Status { status, .. } | FetchError::ProxyRefused { status, .. } => {
            matches!(status, 408 | 416 | 429 | 500..)
        }
        _ => false,
    }
}

/// The part of a file that is on the disk.
struct Part<'a> {
    url: &'a Url,
    of: &'a ModelFile,
    path: &'a Path,
    file: File,
    length: u64,
    hash: Context,
}

impl<'a> Part<'a> {
    fn open(url: &'a Url, of: &'a ModelFile, path: &'a Path) -> Result<Self, FetchError> {
        let failed = || FetchError::file("open", path);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed())?;
        let length = file.metadata().map_err(failed())?.len();
        let mut part = Self { url, of, path, hash: of.expected.begin(of.size), length: 0, file };
        if length > of.size {
            part.restart()?;
            return Ok(part);
        }
        let mut buffer = vec![0; 1 << 20];
        loop {
            let count = part.file.read(&mut buffer).map_err(FetchError::file("read", path))?;
            if count == 0 {
                return Ok(part);
            }
            part.hash.update(&buffer[..count]);
            part.length += count as u64;
        }
    }

    /// Discards what is there and returns how many bytes that was.
    fn restart(&mut self) -> Result<u64, FetchError> {
        self.file.set_len(0).map_err(FetchError::file("write", self.path))?;
        self.file.seek(SeekFrom::Start(0)).map_err(FetchError::file("write", self.path))?;
        self.hash = self.of.expected.begin(self.of.size);
        Ok(std::mem::take(&mut self.length))
    }

    /// Fetches the rest.
    async fn go_on(
        &mut self,
        client: &Client,
        watch: &mut dyn FnMut(Step<'_>),
    ) -> Result<(), FetchError> {
        if self.length == self.of.size {
            return Ok(());
        }
        let range = format!("bytes={}-", self.length);
        let headers: &[(&str, &str)] = if self.length > 0 { &[("range", &range)] } else { &[] };
        let response = client.get(self.url, headers).await?;
        match response.status().as_u16() {
            206 if begins_at(&response, self.length) => {}
            // The whole file, from an endpoint that ignores ranges.
            200 => watch(Step::Lost(self.restart()?)),
            206 | 416 => {
                watch(Step::Lost(self.restart()?));
                return Err(FetchError::Status { url: self.url.to_string(), status: 416 });
            }
            status => return Err(FetchError::Status { url: self.url.to_string(), status }),
        }
        self.read(response.into_body(), watch).await
    }

    async fn read(
        &mut self,
        mut body: Incoming,
        watch: &mut dyn FnMut(Step<'_>),
    ) -> Result<(), FetchError> {
        let cut = |reason: String| FetchError::broken(self.url.origin(), reason);
        loop {
            let frame = timeout(SILENCE, body.frame()).await;
            let frame = frame.map_err(|_| cut("the download stopped".to_owned()))?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|error| cut(format!("the download broke off: {error}")))?;
            let Ok(data) = frame.into_data() else { continue };
            if self.length + data.len() as u64 > self.of.size {
                return Err(FetchError::WrongBytes {
                    file: self.of.name.clone(),
                    kind: "size",
                    found: format!("more than {}", self.of.size),
                    expected: self.of.size.to_string(),
                });
            }
            self.file.write_all(&data).map_err(FetchError::file("write", self.path))?;
            self.hash.update(&data);
            self.length += data.len() as u64;
            watch(Step::Gained(data.len() as u64));
        }
        if self.length < self.of.size {
            return Err(cut("the download ended early".to_owned()));
        }
        Ok(())
    }

    /// Compares the content with the listed hash, and flushes it to the disk.
    fn check(&mut self) -> Result<(), FetchError> {
        self.of.expected.check(&self.of.name, self.hash.clone())?;
        self.file.sync_all().map_err(FetchError::file("write", self.path))
    }
}

/// Whether the response begins at byte `start`, as requested.
fn begins_at(response: &Response<Incoming>, start: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
    let first = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next());
    first.and_then(|first| first.parse().ok()) == Some(start)
}
