//! What happens when a file of the model can't be read any more while it is mapped into memory: it
//! was cut short in place, or its disk fails.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub use unix::{end_on_lost_file, is_file_lost};
#[cfg(windows)]
pub use windows::{end_on_lost_file, is_file_lost};
