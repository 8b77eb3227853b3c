//! `phi4d config`: the settings in force, and the file with all of them.

use super::args::ConfigCommand;
use super::exit::Fatal;
use super::output::print;
use phi4d_settings::{render_file, render_resolved};

pub(super) fn run(command: &ConfigCommand) -> Result<(), Fatal> {
    match command {
        ConfigCommand::Render => print(&render_file()),
        ConfigCommand::Show(settings) => {
            let resolved = settings.resolve(&[])?;
            let warnings = resolved.warnings.iter().map(|warning| format!("# {warning}\n"));
            print(&format!("{}{}", warnings.collect::<String>(), render_resolved(&resolved)))
        }
    }
}
