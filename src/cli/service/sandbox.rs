//! What the unit lets the daemon read and write: by the unit's properties, which say why, and, for root,
//! by a transient unit with the same properties, which can't be wrong.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{Unit, run};
use crate::exit::Fatal;
use phi4d_os as os;

/// Properties that decide which files the daemon sees, copied to the transient unit. Without
/// `StateDirectory=`, which changes owners.
const COPIED: [&str; 14] = [
    "User",
    "Group",
    "SupplementaryGroups",
    "ProtectHome",
    "ProtectSystem",
    "PrivateTmp",
    "PrivateDevices",
    "InaccessiblePaths",
    "ReadOnlyPaths",
    "ReadWritePaths",
    "TemporaryFileSystem",
    "BindPaths",
    "BindReadOnlyPaths",
    "RootDirectory",
];

/// Tries each argument, which is `r` or `w`, a colon and a path, and prints those that fail.
const PROBE: &str = r#"for one; do
case $one in w:*) test -w "${one#w:}";; *) test -r "${one#r:}";; esac || printf '%s\n' "${one#?:}"
done"#;

/// Most paths of one probe: a command line has bounds.
const MOST_PATHS: usize = 1000;

/// What is done with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// A path that the daemon can't use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Denied {
    pub(crate) path: PathBuf,
    /// What stands in the way.
    pub(crate) reason: String,
    /// What to do.
    pub(crate) fix: String,
}

/// The paths of `wanted` that the daemon of `unit` can't use, with the reason. Paths that are not there
/// for the caller either are left out: another check reports them.
pub(crate) fn denied(unit: &Unit, wanted: &[(PathBuf, Access)]) -> Vec<Denied> {
    let probed = probe(unit, wanted);
    let mut found = Vec::new();
    for (path, access) in wanted {
        // A file that can't be looked at is not one that is missing.
        let missing = std::fs::symlink_metadata(path)
            .is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        if missing {
            continue;
        }
        let explained = explain(unit, path, *access);
        match &probed {
            Some(failed) if !failed.contains(path) => {}
            Some(_) => found.push(explained.unwrap_or_else(|| Denied {
                path: path.clone(),
                reason: format!("the sandbox of {} keeps the daemon out", unit.name()),
                fix: format!("systemctl cat {} shows its properties", unit.name()),
            })),
            None => found.extend(explained),
        }
    }
    found
}

/// Checks that the daemon of `unit` can read all of `paths`.
///
/// # Errors
/// With the first that it can't, why, and what to do.
pub(crate) fn must_read(
    unit: &Unit,
    paths: impl IntoIterator<Item = PathBuf>,
) -> Result<(), Fatal> {
    let wanted: Vec<_> = paths.into_iter().map(|path| (path, Access::Read)).collect();
    denied(unit, &wanted).into_iter().next().map_or(Ok(()), |Denied { path, reason, fix }| {
        let reason = format!("the service can't read it: {reason}; to fix that: {fix}");
        Err(Fatal::File { path, reason })
    })
}

/// Why the daemon can't use `path`, by the unit's properties and the modes of files.
fn explain(unit: &Unit, path: &Path, access: Access) -> Option<Denied> {
    // Both the path as it is named and where links lead must be seen.
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let denied = |reason: String, fix: &str| {
        Some(Denied { path: path.to_owned(), reason, fix: fix.to_owned() })
    };
    for place in [path, &real] {
        if let Some((property, root)) = hidden_by(unit, place) {
            let reason = format!("{} has {property}, which hides {root}", unit.name());
            return denied(reason, "move it to /var/lib/phi4d/models, which the service sees");
        }
    }
    let (user, groups) = unit.identity()?;
    if access == Access::Read {
        let barrier = os::barrier(path, user, &groups)?;
        let reason = format!("the user {} may not read {}", unit.get("User"), barrier.display());
        let fix = format!("chgrp {} {1} && chmod g+rX {1}", unit.get("Group"), barrier.display());
        return denied(reason, &fix);
    }
    None
}

/// The property of the unit that hides `path`, and the folder that it hides.
fn hidden_by(unit: &Unit, path: &Path) -> Option<(String, String)> {
    let below = |roots: &[&'static str]| roots.iter().find(|root| path.starts_with(root)).copied();
    let home = unit.get("ProtectHome");
    if matches!(home, "yes" | "tmpfs")
        && let Some(root) = below(&["/home", "/root", "/run/user"])
    {
        return Some((format!("ProtectHome={home}"), root.to_owned()));
    }
    let tmp = unit.get("PrivateTmp");
    if matches!(tmp, "yes" | "disconnected")
        && let Some(root) = below(&["/tmp", "/var/tmp"])
    {
        return Some((format!("PrivateTmp={tmp}"), root.to_owned()));
    }
    for property in ["InaccessiblePaths", "TemporaryFileSystem"] {
        for word in unit.words(property) {
            let root = word.trim_start_matches(['-', '+']).split(':').next().unwrap_or_default();
            if !root.is_empty() && path.starts_with(root) {
                return Some((format!("{property}={word}"), root.to_owned()));
            }
        }
    }
    None
}

/// The paths that fail in a transient unit with the properties of `unit`; `None` if there can be none:
/// for other users than root, and where the unit's user does not exist.
fn probe(unit: &Unit, wanted: &[(PathBuf, Access)]) -> Option<BTreeSet<PathBuf>> {
    if os::effective_uid() != 0 || wanted.is_empty() || unit.identity().is_none() {
        return None;
    }
    let mut arguments: Vec<String> =
        ["--quiet", "--wait", "--pipe", "--collect"].into_iter().map(ToOwned::to_owned).collect();
    for name in COPIED {
        let value = unit.get(name);
        if !value.is_empty() {
            arguments.push(format!("--property={name}={value}"));
        }
    }
    for folder in unit.words("StateDirectory") {
        arguments.push(format!("--property=ReadWritePaths=-/var/lib/{folder}"));
    }
    arguments.extend(["/bin/sh", "-c", PROBE, "sh"].map(ToOwned::to_owned));
    for (path, access) in wanted.iter().take(MOST_PATHS) {
        let kind = if *access == Access::Write { 'w' } else { 'r' };
        arguments.push(format!("{kind}:{}", path.display()));
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run("systemd-run", &arguments) {
        Ok(text) => Some(text.lines().map(PathBuf::from).collect()),
        Err(error) => {
            log::debug!("no transient unit: {error}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(properties: &str) -> Unit {
        Unit::read("phi4d.service", properties)
    }

    #[test]
    fn what_the_unit_hides_is_named_with_the_property_that_hides_it() {
        let packaged = unit("ProtectHome=yes\nPrivateTmp=yes\n");
        for (path, property, root) in [
            ("/home/ada/phi-4/model.onnx", "ProtectHome=yes", "/home"),
            ("/root/phi-4", "ProtectHome=yes", "/root"),
            ("/tmp/phi-4", "PrivateTmp=yes", "/tmp"),
            ("/var/tmp/phi-4", "PrivateTmp=yes", "/var/tmp"),
        ] {
            let hidden = hidden_by(&packaged, Path::new(path));
            assert_eq!(hidden, Some((property.to_owned(), root.to_owned())), "{path}");
        }
        for path in ["/var/lib/phi4d/models/phi-4", "/homes/x", "/srv/tmp/x"] {
            assert_eq!(hidden_by(&packaged, Path::new(path)), None, "{path}");
        }
        let open = unit("ProtectHome=read-only\nPrivateTmp=no\nInaccessiblePaths=-/srv/x /mnt\n");
        assert_eq!(hidden_by(&open, Path::new("/home/ada")), None);
        assert!(hidden_by(&open, Path::new("/srv/x/y")).is_some());
        assert!(hidden_by(&open, Path::new("/mnt/disk")).is_some());
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_is_not_there_is_not_called_hidden() {
        let packaged = unit("ProtectHome=yes\nPrivateTmp=yes\n");
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let (there, missing) = (folder.path().join("there"), folder.path().join("missing"));
        std::fs::write(&there, "x").unwrap();
        let wanted = [(there.clone(), Access::Read), (missing, Access::Read)];
        let denied = denied(&packaged, &wanted);
        assert_eq!(denied.len(), 1, "{denied:?}");
        assert_eq!(denied[0].path, there);
        assert!(denied[0].reason.contains("PrivateTmp=yes"), "{denied:?}");
    }
}
