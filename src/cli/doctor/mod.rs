//! `phi4d doctor`: looks the machine, the settings, the model and the installation over, and tells
//! what is wrong and how to mend it. Each check is a module that adds its findings.

mod access;
mod findings;
mod hardware;
mod limits;
mod memory;
mod model;
mod runtime;
mod service;
mod settings;
mod sockets;
mod speed;
mod state;

use super::args::DoctorArgs;
use super::exit::Fatal;
use super::output::print;
use findings::Findings;
use phi4d_model::Export;
use phi4d_settings::Settings;

/// What the checks look at.
struct Case {
    settings: Settings,
    /// The model's, where its folder could be read.
    export: Option<Export>,
    /// Whether the memory's speed is to be measured.
    measure: bool,
}

pub(super) fn run(arguments: &DoctorArgs) -> Result<(), Fatal> {
    let mut findings = Findings::default();
    hardware::check(&mut findings);
    if let Some(settings) = settings::check(&arguments.settings, &mut findings)? {
        let mut case = Case { settings, export: None, measure: !arguments.no_speed };
        access::check(&case, &mut findings);
        runtime::check(&case, &mut findings);
        case.export = model::check(&case, &mut findings);
        runtime::check_provider(&case, &mut findings);
        memory::check(&case, &mut findings);
        speed::check(&case, &mut findings);
        state::check(&case, &mut findings);
        sockets::check(&case, &mut findings);
        service::check(&case, &mut findings);
        limits::check(&case, &mut findings);
    }
    print(&if arguments.json { findings.json() } else { findings.text() })?;
    match findings.faults() {
        0 => Ok(()),
        faults => Err(Fatal::Unwell(faults)),
    }
}
