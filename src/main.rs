//! The `phi4d` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    phi4d_cli::run(std::env::args_os())
}
