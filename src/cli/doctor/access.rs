//! Are the rules of access whole: keys, users, certificates?

use super::Case;
use super::findings::Findings;
use crate::server::{self, Environment};

const CHECK: &str = "access";

pub(super) fn check(case: &Case, findings: &mut Findings) {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(Into::into);
    let environment = Environment { credentials, ..Environment::default() };
    match server::rules_of(&case.settings, &environment) {
        Ok(rules) if rules.need_key() => findings.good(CHECK, "TCP needs a key"),
        Ok(_) if case.settings.allow_unauthenticated_lan => findings.note(
            CHECK,
            "allow_unauthenticated_lan lets everyone who reaches the TCP address in",
            "make keys by phi4d key add, and set api_keys_file",
        ),
        Ok(_) => findings.good(CHECK, "no keys; only this machine gets in"),
        Err(error) => {
            for fault in error.faults {
                findings.fault(CHECK, fault.to_string(), "man phi4d.toml tells each key");
            }
        }
    }
}
