//! Can the daemon use its files: the state folder, the model, the keys?

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::findings::{Check, Findings};
use crate::report::{ModelReport, bytes};
use crate::service::Unit;
use crate::service::sandbox::{Access, denied};
use crate::start;
use phi4d_model::{EmbeddingFolder, PREPARED_FOLDER};
use phi4d_os as os;
use phi4d_settings::Settings;

/// Less than this on the state folder's disk is a full one: a file of prefixes is larger.
const FULL_DISK: u64 = 16 << 20;

/// Whether the state folder can be written and has room. `service` is the unit that writes to it, if
/// it is not the caller.
pub(super) fn state(
    settings: &Settings,
    service: Option<&Unit>,
    lookup: impl Fn(&str) -> Option<String>,
    findings: &mut Findings,
) {
    let mut check = findings.of("state");
    let Some(folder) = start::prefix_store(settings, lookup) else {
        check.good("cached prompts are not kept over restarts");
        return;
    };
    let shown = folder.display();
    let refused = match service {
        None => writable(&folder),
        Some(unit) => {
            // The service makes the folder in its state folder, which systemd gives to it.
            let refused = denied(unit, &[(folder.clone(), Access::Write)]);
            refused.into_iter().next().map_or(Ok(()), |denied| Err(denied.reason))
        }
    };
    match (refused, service) {
        (Ok(()), _) => check.good(format!("{shown} can be written")),
        (Err(reason), None) => check.fault(
            format!("prefix_store {shown}: {reason}"),
            format!(
                "give the folder to the user that runs the daemon (here {}), or set prefix_store to \
                 one of its own",
                os::effective_uid()
            ),
        ),
        (Err(reason), Some(unit)) => {
            let owner = format!("{}:{}", unit.get("User"), unit.get("Group"));
            check.fix(
                format!("prefix_store {shown}: {reason}"),
                &["chown", "--recursive", &owner, &shown.to_string()],
            );
        }
    }
    room(&folder, settings.prefix_store_bytes, &mut check);
}

fn room(folder: &Path, wanted: u64, check: &mut Check<'_>) {
    let Some(free) = os::free_disk(folder) else { return };
    let shown = folder.display();
    if free < FULL_DISK {
        check.fault(
            format!("the disk of {shown} is full: {} are free", bytes(free)),
            "make room; df shows what is mounted there, du what takes it",
        );
    } else if free < wanted {
        check.note(
            format!(
                "the disk of {shown} has {} free, less than prefix_store_bytes ({})",
                bytes(free),
                bytes(wanted)
            ),
            "lower prefix_store_bytes; on a full disk the newest prefixes are not kept",
        );
    }
}

/// Tries to write a file into the folder, or into the nearest one above that is there.
fn writable(folder: &Path) -> Result<(), String> {
    let there = folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    if !there.is_dir() {
        return Err(format!("{} is not a folder", there.display()));
    }
    let probe: PathBuf = there.join(format!(".phi4d-doctor-{}", std::process::id()));
    std::fs::File::create_new(&probe).map_err(|error| error.to_string())?;
    // It was there a moment ago.
    let _ = std::fs::remove_file(&probe);
    Ok(())
}

/// Whether the service's user, in its sandbox, can read what the settings name. `files` are the
/// settings' own.
pub(super) fn readable(
    unit: &Unit,
    settings: &Settings,
    model: Option<&ModelReport>,
    files: &[PathBuf],
    findings: &mut Findings,
) {
    let mut check = findings.of("service");
    if unit.identity().is_none() {
        let (user, group) = (unit.get("User"), unit.get("Group"));
        check.fix(
            format!("{} runs as {user}:{group}, and there is no such user or group", unit.name()),
            &["systemd-sysusers", "phi4d.conf"],
        );
        return;
    }
    let mut wanted = files_of(settings, model);
    wanted.extend(files.iter().cloned());
    let wanted: Vec<_> = wanted.into_iter().map(|path| (path, Access::Read)).collect();
    let denied = denied(unit, &wanted);
    for denied in &denied {
        let text = format!("the service can't read {}: {}", denied.path.display(), denied.reason);
        check.fault(text, &denied.fix);
    }
    if denied.is_empty() {
        check.good(format!("{} can read what it needs", unit.name()));
    }
}

/// Files that the daemon reads by these settings.
pub(crate) fn files_of(settings: &Settings, model: Option<&ModelReport>) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = settings.model.iter().cloned().collect();
    if let Some(export) = model.map(|model| &model.export) {
        paths.push(export.graph.clone());
        paths.extend(export.weights.iter().map(|file| file.path.clone()));
    }
    if let Some(folder) = &settings.embedding_model {
        let found = EmbeddingFolder::read(folder, settings.embedding_max_tokens);
        paths.push(folder.clone());
        paths.extend(found.ok().map(|found| found.graph));
        paths.push(folder.join("tokenizer.json"));
    }
    let files = [
        &settings.runtime_library,
        &settings.provider_library,
        &settings.tls_cert_file,
        &settings.tls_key_file,
        &settings.tls_client_ca_file,
        &settings.api_keys_file,
    ];
    paths.extend(files.into_iter().flatten().cloned());
    paths
}

/// Notes what was prepared before the model's files changed: the daemon does not use it.
pub(super) fn prepared(model: &ModelReport, findings: &mut Findings) {
    let prepared = model.folder.join(PREPARED_FOLDER);
    let time =
        |path: &Path| -> Option<SystemTime> { std::fs::metadata(path).ok()?.modified().ok() };
    let Some(made) = time(&prepared.join("stamp")) else { return };
    let weights = model.export.weights.iter().map(|file| &file.path);
    let newer = weights.chain([&model.export.graph]).find(|path| time(path) > Some(made));
    if let Some(newer) = newer {
        findings.of("model").note(
            format!("{} is older than {}, so it is not used", prepared.display(), newer.display()),
            format!("phi4d prepare --model {}", model.folder.display()),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_still_to_be_made_is_judged_by_the_one_above() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(writable(&folder.path().join("a/b")), Ok(()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let file = folder.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert!(writable(&file.join("a")).unwrap_err().contains("is not a folder"));
    }
}
