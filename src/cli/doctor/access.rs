//! Are the rules of access whole: keys, users, certificates?

use super::Case;
use super::findings::Findings;
use phi4d_server::{self as server, Environment};
use phi4d_settings::ListenAddress;

const CHECK: &str = "access";

pub(super) fn check(case: &Case, findings: &mut Findings) {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(Into::into);
    let environment = Environment { credentials, ..Environment::default() };
    match server::rules_of(&case.settings, &environment) {
        Ok(rules) => {
            let has_tls = case.settings.tls_cert_file.is_some();
            judge(case.settings.listen.as_ref(), rules.need_key(), has_tls, findings);
        }
        Err(error) => {
            for fault in error.faults {
                findings.fault(CHECK, fault.to_string(), "man phi4d.toml tells each key");
            }
        }
    }
}

/// Who gets in, where the rules are whole.
fn judge(listen: Option<&ListenAddress>, need_key: bool, has_tls: bool, findings: &mut Findings) {
    let open = listen.filter(|address| !address.is_loopback());
    match open {
        _ if need_key => findings.good(CHECK, "TCP needs a key"),
        None => findings.good(CHECK, "no keys; only this machine gets in"),
        Some(address) => findings.note(
            CHECK,
            format!("everyone who reaches {address} gets in, without a key"),
            "make keys by phi4d key add, and set api_keys_file; or listen on 127.0.0.1",
        ),
    }
    if let Some(address) = open
        && !has_tls
    {
        findings.note(
            CHECK,
            format!("{address} has no TLS: keys, questions and answers can be read on their way"),
            "set tls_cert_file and tls_key_file; or listen on 127.0.0.1 behind a proxy with TLS",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes(listen: &str, need_key: bool, certificate: bool) -> Vec<String> {
        let address = ListenAddress::parse(listen);
        let mut findings = Findings::default();
        judge(address.as_ref(), need_key, certificate, &mut findings);
        let text = findings.text();
        text.lines().filter(|line| line.starts_with("note")).map(ToOwned::to_owned).collect()
    }

    #[test]
    fn what_other_machines_reach_is_noted_where_it_has_no_key_or_no_tls() {
        for address in ["127.0.0.1:8484", "localhost:1", "[::1]:2"] {
            assert_eq!(notes(address, false, false), Vec::<String>::new(), "{address}");
        }
        for (address, need_key, certificate, words) in [
            ("0.0.0.0:8484", false, false, &["without a key", "no TLS"][..]),
            ("[::]:8484", false, true, &["without a key"]),
            ("192.0.2.1:8484", true, false, &["no TLS"]),
            ("phi.example:443", true, true, &[]),
        ] {
            let notes = notes(address, need_key, certificate);
            assert_eq!(notes.len(), words.len(), "{notes:?}");
            for (note, word) in notes.iter().zip(words) {
                assert!(note.contains(word) && note.contains(address), "{note}");
            }
        }
    }
}
