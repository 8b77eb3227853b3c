//! Settings: one table of keys, layered from defaults, file, environment and flags into one
//! checked [`Settings`].
//!
//! The table in `table.rs` is the only place where a key is described: the struct's fields, the
//! command line's flags, `config/phi4d.toml` and the refusals are all made from it. Settings are
//! resolved once; every fault is reported together, and nothing later can hold an invalid value.

#![forbid(unsafe_code)]

mod absent;
mod define;
mod error;
mod file;
#[cfg(all(unix, any(test, feature = "testing")))]
pub mod fuzzing;
mod kind;
mod lists;
mod models;
mod render;
mod resolve;
mod socket;
mod table;
mod value;

pub use define::{Definition, Entry};
pub use error::{Fault, SettingsError};
pub use file::{DROP_INS, drop_in_folder};
pub use models::NamedModel;
pub use render::{render_file, render_resolved};
pub use resolve::{DEFAULT_FILE, Inputs, Resolved, default_file, resolve};
pub use socket::{SocketSetting, client_socket_candidates};
pub use table::{DEFINITIONS, Settings};
pub use value::{
    Int8Activations, KvCacheType, ListenAddress, LogFormat, MetricsAccess, Provider, Sandbox,
    WebPage, WeightsMemory,
};
