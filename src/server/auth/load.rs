//! The rules from the settings and the files that they name, with every fault at once.

use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::cors::Cors;
use super::fault::{AccessError, AccessFault};
use super::hosts::Hosts;
use super::keys::{KeyLine, Keys, parse};
use super::peers::Peers;
use super::{Class, Rules, Scope, tls};
use phi4d_os as os;
use phi4d_settings::{MetricsAccess, Settings};

/// The name of the service manager's credential that holds keys.
const CREDENTIAL: &str = "api-keys";

/// The largest keys file.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// What the rules depend on beside the settings.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `$CREDENTIALS_DIRECTORY`.
    pub credentials: Option<PathBuf>,
    /// TCP addresses that the service manager listens on for us.
    pub passed: Vec<SocketAddr>,
    /// TCP addresses that are listened on already, whatever the settings say by now.
    pub bound: Vec<SocketAddr>,
}

/// The rules that `settings` ask for.
///
/// # Errors
/// Every fault in them and in the files that they name.
pub fn rules_of(settings: &Settings, environment: &Environment) -> Result<Rules, AccessError> {
    let mut faults = Vec::new();
    let keys = keys_path(settings, environment).map(|path| match read_keys(&path) {
        Ok((_, keys)) => keys,
        Err(found) => {
            faults.extend(found);
            Vec::new()
        }
    });
    if keys.is_none() && !settings.allow_unauthenticated_lan {
        faults.extend(open_doors(settings, environment));
    }
    let peers = Peers::of(settings, &mut faults);
    let tls = tls::of(settings, &mut faults);
    if !faults.is_empty() {
        return Err(AccessError { faults });
    }
    let hosts = if keys.is_some() { Hosts::default() } else { Hosts::of(settings) };
    Ok(Rules {
        refuses_pages: keys.is_none(),
        keys: keys.map(Keys::new),
        metrics: match settings.metrics_access {
            MetricsAccess::Open => Class::Open,
            MetricsAccess::Use => Class::Use,
            MetricsAccess::Admin => Class::Admin,
        },
        anonymous: Scope::Use,
        unix_needs_key: settings.socket_require_key,
        peers,
        hosts,
        cors: Cors::of(settings),
        page: settings.web_page,
        tls,
        ..Rules::default()
    })
}

/// Where the keys are, if there are to be any: a file that is named must be there; the service
/// manager's credential counts if it is.
fn keys_path(settings: &Settings, environment: &Environment) -> Option<PathBuf> {
    let credential = || {
        let path = environment.credentials.as_ref()?.join(CREDENTIAL);
        path.exists().then_some(path)
    };
    settings.api_keys_file.clone().or_else(credential)
}

/// Addresses that other machines can reach.
fn open_doors(settings: &Settings, environment: &Environment) -> Vec<AccessFault> {
    let reached = |addresses: &[SocketAddr], by| -> Vec<AccessFault> {
        let open = addresses.iter().filter(|address| !address.ip().is_loopback());
        open.map(|address| AccessFault::OpenToNetwork { address: address.to_string(), by })
            .collect()
    };
    let mut faults = reached(&environment.passed, " (from the service manager)");
    faults.extend(reached(&environment.bound, " (in force until a restart)"));
    // A TCP socket of the service manager's takes the place of the settings' address.
    if let Some(address) = settings.listen.as_ref().filter(|_| environment.passed.is_empty())
        && !address.is_loopback()
    {
        faults.push(AccessFault::OpenToNetwork { address: address.to_string(), by: "" });
    }
    faults
}

/// A keys file's text and keys.
pub(super) fn read_keys(path: &Path) -> Result<(String, Vec<KeyLine>), Vec<AccessFault>> {
    let text = read_bounded(path).map_err(|source| {
        vec![AccessFault::File { key: "api_keys_file", path: path.to_owned(), source }]
    })?;
    let at = |line, reason| AccessFault::Line { path: path.to_owned(), line, reason };
    match parse(&text) {
        Ok(keys) => Ok((text, keys)),
        Err(faults) => Err(faults.into_iter().map(|fault| at(fault.line, fault.reason)).collect()),
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let file = std::fs::File::open(path)?;
    let found = file.metadata()?;
    let refused = |reason: &str| io::Error::new(io::ErrorKind::InvalidData, reason.to_owned());
    if let Some(reason) = os::too_open(&found, os::Secrecy::Trusted) {
        return Err(refused(&reason));
    }
    let mut text = String::new();
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(refused("it is too large; accepted are up to 4 MiB"));
    }
    Ok(text)
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
