//! The `phi4d` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    phi4d::model::disable_telemetry();
    phi4d::cli::run(std::env::args_os())
}
