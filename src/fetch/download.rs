//! One file: begun, taken up where it was cut, and checked.

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

use super::client::{Client, SILENCE, unreachable};
use super::digest::hex;
use super::error::FetchError;
use super::hub::RemoteFile;

/// Attempts in a row that bring nothing before it is given up.
const MAX_VAIN_ATTEMPTS: u32 = 6;

/// The first pause after such an attempt; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// What becomes of a download, for whoever watches.
#[derive(Debug)]
pub(super) enum Step<'a> {
    /// So many more bytes are there (found on the disk or arrived).
    Gained(u64),
    /// So many bytes have to be fetched again.
    Lost(u64),
    /// It broke off and is tried again.
    Again(&'a FetchError),
}

/// Fetches `file` to `path`. What is at `path` already is taken to be its beginning.
pub(super) async fn fetch(
    client: &Client,
    file: &RemoteFile,
    path: &Path,
    watch: &mut dyn FnMut(Step<'_>),
) -> Result<(), FetchError> {
    let mut vain = 0;
    let mut was_wrong = false;
    let mut part = Part::open(file, path)?;
    watch(Step::Gained(part.length));
    loop {
        let before = part.length;
        let error = match part.go_on(client, watch).await {
            Ok(()) => match part.check() {
                Ok(()) => return Ok(()),
                // What was there from an earlier attempt may be to blame; once, not for ever.
                Err(error) if !was_wrong => {
                    was_wrong = true;
                    watch(Step::Lost(part.restart()?));
                    watch(Step::Again(&error));
                    continue;
                }
                Err(error) => {
                    // Else the next attempt would take it up.
                    part.restart()?;
                    return Err(error);
                }
            },
            Err(error) => error,
        };
        vain = if part.length > before { 0 } else { vain + 1 };
        if vain >= MAX_VAIN_ATTEMPTS || !is_passing(&error) {
            return Err(error);
        }
        watch(Step::Again(&error));
        sleep(FIRST_PAUSE * 2_u32.pow(vain)).await;
    }
}

/// Whether trying again may help.
fn is_passing(error: &FetchError) -> bool {
    match error {
        FetchError::Unreachable { .. } => true,
        FetchError::Status { status, .. } => matches!(status, 408 | 416 | 429 | 500..),
        _ => false,
    }
}

/// What there is of a file.
struct Part<'a> {
    of: &'a RemoteFile,
    path: &'a Path,
    file: File,
    length: u64,
    hash: Context,
}

impl<'a> Part<'a> {
    fn open(of: &'a RemoteFile, path: &'a Path) -> Result<Self, FetchError> {
        let failed = || FetchError::file("open", path);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed())?;
        let length = file.metadata().map_err(failed())?.len();
        let mut part = Self { of, path, hash: of.expected.begin(of.size), length: 0, file };
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

    /// Forgets what there is; gives how much that was.
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
        let response = client.get(&self.of.url, headers).await?;
        match response.status().as_u16() {
            206 if begins_at(&response, self.length) => {}
            // The whole, from an endpoint that does not give parts, or another part than wanted.
            200 => watch(Step::Lost(self.restart()?)),
            206 | 416 => {
                watch(Step::Lost(self.restart()?));
                return Err(FetchError::Status { url: self.of.url.to_string(), status: 416 });
            }
            status => return Err(FetchError::Status { url: self.of.url.to_string(), status }),
        }
        self.read(response.into_body(), watch).await
    }

    async fn read(
        &mut self,
        mut body: Incoming,
        watch: &mut dyn FnMut(Step<'_>),
    ) -> Result<(), FetchError> {
        let cut = |reason: String| unreachable(&self.of.url, reason);
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

    /// Compares what has arrived with what the endpoint listed, and has it on the disk.
    fn check(&mut self) -> Result<(), FetchError> {
        let found = hex(self.hash.clone());
        if found != self.of.expected.hex() {
            return Err(FetchError::WrongBytes {
                file: self.of.name.clone(),
                kind: self.of.expected.kind(),
                found,
                expected: self.of.expected.hex().to_owned(),
            });
        }
        self.file.sync_all().map_err(FetchError::file("write", self.path))
    }
}

/// Whether a part of a file begins where it was asked to.
fn begins_at(response: &Response<Incoming>, start: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
    let first = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next());
    first.and_then(|first| first.parse().ok()) == Some(start)
}
