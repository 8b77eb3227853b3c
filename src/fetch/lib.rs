//! Fetches from other machines: a small HTTP client, and models from a Hugging Face compatible
//! endpoint into a folder of models.
//!
//! A leaf: it knows no setting and no model, only URLs, files and their hashes.

#![forbid(unsafe_code)]

mod client;
mod digest;
mod download;
mod error;
#[cfg(all(unix, any(test, feature = "testing")))]
pub mod fuzzing;
mod hub;
mod models;
mod names;
mod proxy;
mod pull;
mod server;
mod tls;
#[cfg(unix)]
mod unix;
mod url;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

pub use client::Client;
pub use error::FetchError;
pub use models::{Installed, Models};
pub use names::{KNOWN, Source, Variant, is_name as is_model_name};
pub use proxy::Proxies;
pub use pull::{Plan, Progress, Pull};
pub use server::Server;
pub use tls::{Trust, TrustError};
pub use url::Url;
