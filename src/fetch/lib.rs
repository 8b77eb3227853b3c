//! Fetches from other machines: a small HTTP client, and models from a Hugging Face compatible
//! endpoint, a web server or a folder into a folder of models.
//!
//! A leaf: it knows no setting and no model, only URLs, files and their hashes.
//!
//! A model is fetched into `.partial-NAME` beside the other models, under a lock: the commit and the file list
//! first, then a check that they fit the disk, then each file. Interrupted files are resumed, and a file gets its
//! name only when its hash is the listed one. When all are there, the folder is renamed to the model's name. The
//! access token is sent to the endpoint and to no host that it redirects to.

#![forbid(unsafe_code)]

mod client;
mod digest;
mod download;
mod error;
#[cfg(all(unix, any(test, feature = "testing")))]
pub mod fuzzing;
mod hub;
mod layout;
mod local;
mod models;
mod names;
mod proxy;
mod pull;
mod server;
mod tls;
#[cfg(unix)]
mod unix;
mod url;
mod web;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

pub use client::Client;
pub use error::FetchError;
pub use models::{Installed, Models};
pub use names::{KNOWN, Place, Repository, Source, Variant, is_name as is_model_name};
pub use proxy::Proxies;
pub use pull::{Plan, Progress, Pull};
pub use server::Server;
pub use tls::{Trust, TrustError};
pub use url::Url;
