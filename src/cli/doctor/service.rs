//! Is the systemd service whole: its user, and what that may read?

use std::path::{Path, PathBuf};

use super::Case;
use super::findings::Findings;
use phi4d_os as os;
use phi4d_settings::Provider;

const CHECK: &str = "service";

/// The service's user and group, by sysusers.
const USER: &str = "phi4d";

const UNITS: [&str; 3] = [
    "/etc/systemd/system/phi4d.service",
    "/usr/lib/systemd/system/phi4d.service",
    "/lib/systemd/system/phi4d.service",
];

pub(super) fn check(case: &Case, findings: &mut Findings) {
    let Some(unit) = UNITS.iter().map(Path::new).find(|unit| unit.exists()) else {
        findings.good(CHECK, "no unit is installed");
        return;
    };
    let (Some(user), Some(group)) = (os::user_id(USER), os::group_id(USER)) else {
        findings.fault(
            CHECK,
            format!("{} is installed, and there is no user or group {USER}", unit.display()),
            "systemd-sysusers makes them; or reinstall the package",
        );
        return;
    };
    let mut whole = true;
    for path in to_read(case) {
        if let Some(barrier) = os::barrier(&path, user, &[group]) {
            whole = false;
            findings.fault(
                CHECK,
                format!(
                    "the user {USER} can't read {}: {} keeps it out",
                    path.display(),
                    barrier.display()
                ),
                "chgrp phi4d and chmod g+rX what keeps it out, or move it to /var/lib/phi4d",
            );
        }
    }
    if whole {
        findings.good(CHECK, format!("{}, user {USER} can read what it needs", unit.display()));
    }
    let on_device = !matches!(case.settings.provider, Provider::Cpu | Provider::Auto);
    if on_device && !Path::new("/etc/systemd/system/phi4d.service.d").exists() {
        findings.note(
            CHECK,
            "the unit hides devices from the daemon, GPUs too",
            "copy the drop-in /usr/share/doc/phi4d/examples/cuda.conf to \
             /etc/systemd/system/phi4d.service.d/",
        );
    }
}

/// Files that the service reads.
fn to_read(case: &Case) -> Vec<PathBuf> {
    let settings = &case.settings;
    let mut paths = Vec::new();
    if let Some(export) = &case.export {
        paths.push(export.graph.clone());
        paths.extend(export.weights.iter().map(|file| file.path.clone()));
    }
    let files = [&settings.runtime_library, &settings.provider_library];
    paths.extend(files.into_iter().flatten().cloned());
    paths.retain(|path| path.exists());
    paths
}
