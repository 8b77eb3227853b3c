//! `phi4d inspect`: what the export in a folder is, and what would run it.

mod report;
mod runs;

use std::path::PathBuf;

use super::args::InspectArgs;
use super::exit::Fatal;
use super::output::print;
use super::plan::Plan;
use super::start;
use phi4d_generate::{TextFacts, TextLoadError, inspect_text};
use phi4d_model::{self as model, Export, Placement};
use phi4d_os as os;
use phi4d_settings::Settings;
pub(super) use runs::Runs;

/// Everything that was found out.
struct Findings {
    folder: PathBuf,
    export: Export,
    text: Result<TextFacts, TextLoadError>,
    runs: Runs,
    plan: Plan,
    /// Where the nodes run, if that was asked for.
    placement: Option<Placement>,
}

pub(super) fn run(arguments: &InspectArgs) -> Result<(), Fatal> {
    let required: &[_] = if arguments.folder.is_some() { &[] } else { &["model"] };
    let resolved = arguments.settings.resolve(required)?;
    let mut settings = resolved.settings;
    if let Some(folder) = &arguments.folder {
        settings.model = Some(folder.clone());
    }
    let found = findings(&settings, arguments.nodes)?;
    print(&if arguments.json { report::json(&found) } else { report::text(&found) })
}

fn findings(settings: &Settings, nodes: bool) -> Result<Findings, Fatal> {
    let folder = start::model_folder(settings)?.to_path_buf();
    let export = model::inspect(&folder)?;
    let spare = os::spare_memory() as u64;
    let plan = Plan::new(&export, settings, spare);
    let runs = Runs::find(settings, &export);
    let placement = if nodes { Some(placement(settings, &folder)?) } else { None };
    Ok(Findings { text: inspect_text(&folder), folder, export, runs, plan, placement })
}

/// Loads the model for a look at its nodes.
fn placement(settings: &Settings, folder: &std::path::Path) -> Result<Placement, Fatal> {
    let options = model::LoadOptions { slots: 1, ..start::load_options(settings, folder) };
    Ok(model::load(&options)?.placement)
}
