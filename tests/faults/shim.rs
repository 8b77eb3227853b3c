//! A library that makes the system misbehave; see `shim.c`.

use std::path::Path;
use std::process::Command;

use crate::common::Setup;

/// The setup with the shim preloaded. Needs the C compiler that Rust links with.
pub fn preloaded(setup: Setup) -> Setup {
    let library = setup.folder.path().join("shim.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/shim.c");
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
        .args([&library, &source])
        .status();
    assert!(status.unwrap().success());
    let library = library.to_str().unwrap().to_owned();
    setup.variable("LD_PRELOAD", library)
}
