//! The daemon gives up what it does not need of the system.

use super::exit::Fatal;
use phi4d_model::Provider;
use phi4d_os::{self as os, Profile};
use phi4d_settings::Sandbox;

/// Puts the filters on this process, as `sandbox` says, and logs whether it did.
///
/// # Errors
/// If it must and the system can't.
pub(super) fn confine(sandbox: Sandbox, provider: Provider) -> Result<(), Fatal> {
    if sandbox == Sandbox::Off {
        log::info!("not confined: sandbox is off");
        return Ok(());
    }
    let (profile, allowed) = match provider {
        Provider::Cpu => (Profile::Daemon, "only system calls that the daemon needs"),
        _ => (Profile::DaemonWithDevice, "all but system calls that nothing of it needs"),
    };
    match os::confine(profile) {
        Ok(()) => log::info!("confined by seccomp, allowed are {allowed}; no new privileges"),
        Err(error) if sandbox == Sandbox::Auto => log::warn!("not confined: {error}"),
        Err(error) => {
            let source = std::io::Error::other(error);
            return Err(Fatal::System { action: "confine the daemon (sandbox = on)", source });
        }
    }
    Ok(())
}
