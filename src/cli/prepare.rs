//! `phi4d prepare`: does the work of loading a model ahead.

use super::args::SettingsArgs;
use super::exit::Fatal;
use super::output::print;
use super::start;
use phi4d_model as model;

pub(super) fn run(arguments: &SettingsArgs) -> Result<(), Fatal> {
    let resolved = arguments.resolve(&["model"])?;
    start::start_log(&resolved)?;
    let settings = &resolved.settings;
    let options = start::load_options(settings, start::model_folder(settings)?);
    let folder = model::prepare(&options)?;
    print(&format!("prepared {}\n", folder.display()))
}
