//! The `phi4d` program.
#![expect(unsafe_code, reason = "the environment can only be changed before there are threads")]

use std::process::ExitCode;

fn main() -> ExitCode {
    // ONNX Runtime's builds for download report to Microsoft and write into HOME unless this is
    // set before the library is loaded.
    // SAFETY: this is the first statement of the program, so that no other thread exists that
    // could read the environment meanwhile.
    unsafe { std::env::set_var("ORT_DISABLE_TELEMETRY", "1") };
    phi4d::cli::run(std::env::args_os())
}
