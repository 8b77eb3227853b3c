//! Can the state folder be written, and is there room?

use std::path::{Path, PathBuf};

use super::Case;
use super::findings::Findings;
use crate::start;
use phi4d_os as os;

const CHECK: &str = "state";

pub(super) fn check(case: &Case, findings: &mut Findings) {
    let Some(folder) = start::prefix_store(&case.settings) else {
        findings.good(CHECK, "cached prompts are not kept over restarts");
        return;
    };
    match writable(&folder) {
        Ok(()) => findings.good(CHECK, format!("{} can be written", folder.display())),
        Err(reason) => {
            let user = os::effective_uid();
            findings.fault(
                CHECK,
                format!("prefix_store {}: {reason}", folder.display()),
                format!(
                    "give the folder to the user that runs the daemon (here {user}), or set \
                     prefix_store to one of its own"
                ),
            );
            return;
        }
    }
    let free = os::free_disk(&folder);
    if let Some(free) = free.filter(|free| *free < case.settings.prefix_store_bytes) {
        findings.note(
            CHECK,
            format!(
                "the disk has {free} bytes free, less than prefix_store_bytes ({})",
                case.settings.prefix_store_bytes
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
