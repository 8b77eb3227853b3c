//! `phi4d setup lan`: a daemon for other machines, with an API key and TLS.

use std::path::PathBuf;

use super::steps::{MARK, Step, carry_out};
use crate::args::LanArgs;
use crate::exit::Fatal;
use crate::output::print;
use crate::service::sandbox::must_read;
use crate::service::switch::installed;
use crate::service::{SERVICE, TCP_SOCKET};
use phi4d_os::host_name;
use phi4d_settings::ListenAddress;

/// The recipes that the package has as examples.
const SETTINGS: &str = include_str!("../../../config/examples/lan.toml");
const DROP_IN: &str = include_str!("../../../systemd/examples/lan.conf");

const SETTINGS_FILE: &str = "/etc/phi4d/conf.d/lan.toml";
const DROP_IN_FILE: &str = "/etc/systemd/system/phi4d.service.d/lan.conf";
const KEYS_FILE: &str = "/etc/phi4d/api-keys";
const CERT_FILE: &str = "/etc/phi4d/server.pem";
const KEY_FILE: &str = "/etc/phi4d/server.key";

/// The lines of [`SETTINGS`] that are replaced.
const LISTEN_LINE: &str = "listen = \"0.0.0.0:8484\"";
const CERT_LINE: &str = "#tls_cert_file = \"/etc/phi4d/server.pem\"";
const KEY_LINE: &str = "#tls_key_file = \"/etc/phi4d/server.key\"";

pub(super) fn run(arguments: &LanArgs) -> Result<(), Fatal> {
    let unit = installed("setup lan")?;
    if arguments.steps.undo {
        carry_out(&undo(), &arguments.steps)?;
        return Ok(());
    }
    let address = ListenAddress::parse(&arguments.listen).ok_or_else(|| {
        let given = &arguments.listen;
        Fatal::Usage(format!("--listen = {given:?} is not accepted; expected HOST:PORT"))
    })?;
    for path in [&arguments.cert, &arguments.key].into_iter().flatten() {
        std::fs::metadata(path)
            .map_err(|error| Fatal::File { path: path.clone(), reason: error.to_string() })?;
        must_read(&unit, [path.clone()])?;
    }
    let names = names(arguments, &address);
    if !carry_out(&steps(arguments, &names)?, &arguments.steps)? {
        return Ok(());
    }
    print(&closing(arguments, &names, &address))
}

/// By which names clients reach this machine, the best first.
fn names(arguments: &LanArgs, address: &ListenAddress) -> Vec<String> {
    if !arguments.names.is_empty() {
        return arguments.names.clone();
    }
    let is_any = matches!(address.host.as_str(), "0.0.0.0" | "::");
    let listens = Some(address.host.clone()).filter(|_| !is_any);
    let names = listens.into_iter().chain(host_name()).chain(["localhost".to_owned()]);
    names.collect()
}

fn steps(arguments: &LanArgs, names: &[String]) -> Result<Vec<Step>, Fatal> {
    let mut steps = Vec::new();
    let tls = match (&arguments.cert, &arguments.key) {
        _ if arguments.no_tls => None,
        (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
        _ => {
            let (cert, key) = certificate(names)?;
            steps.push(write(CERT_FILE, cert, false));
            steps.push(write(KEY_FILE, key, true));
            Some((CERT_FILE.into(), KEY_FILE.into()))
        }
    };
    steps.push(write(SETTINGS_FILE, settings(&arguments.listen, tls.as_ref()), false));
    steps.push(write(DROP_IN_FILE, format!("{MARK} lan`.\n{DROP_IN}"), false));
    steps.push(Step::AddKey { file: KEYS_FILE.into(), name: arguments.key_name.clone() });
    // Sockets that systemd passes take the place of `listen`.
    steps.push(Step::run(&["systemctl", "disable", "--now", TCP_SOCKET]));
    steps.push(Step::run(&["systemctl", "daemon-reload"]));
    steps.push(Step::run(&["systemctl", "restart", SERVICE]));
    Ok(steps)
}

fn undo() -> Vec<Step> {
    let files = [SETTINGS_FILE, DROP_IN_FILE, CERT_FILE, KEY_FILE];
    let mut steps: Vec<Step> =
        files.into_iter().map(|path| Step::Remove { path: path.into() }).collect();
    steps.push(Step::run(&["systemctl", "daemon-reload"]));
    steps.push(Step::run(&["systemctl", "restart", SERVICE]));
    steps
}

fn write(path: &str, text: String, private: bool) -> Step {
    Step::Write { path: path.into(), text, private }
}

fn settings(listen: &str, tls: Option<&(PathBuf, PathBuf)>) -> String {
    let mut text = SETTINGS.replace(LISTEN_LINE, &format!("listen = {listen:?}"));
    if let Some((cert, key)) = tls {
        text = text.replace(CERT_LINE, &format!("tls_cert_file = {cert:?}"));
        text = text.replace(KEY_LINE, &format!("tls_key_file = {key:?}"));
    }
    format!("{MARK} lan`.\n{text}")
}

/// A certificate for `names` that signs itself, and its key, both in PEM format.
fn certificate(names: &[String]) -> Result<(String, String), Fatal> {
    let made = rcgen::generate_simple_self_signed(names).map_err(|error| {
        Fatal::Usage(format!("no certificate can be made for {}: {error}", names.join(", ")))
    })?;
    let marked = |pem: String| format!("{MARK} lan`, for {}.\n{pem}", names.join(", "));
    Ok((marked(made.cert.pem()), marked(made.signing_key.serialize_pem())))
}

/// How clients reach the daemon.
fn closing(arguments: &LanArgs, names: &[String], address: &ListenAddress) -> String {
    let scheme = if arguments.no_tls { "http" } else { "https" };
    let host = names.first().map_or("localhost", String::as_str);
    let self_made = !arguments.no_tls && arguments.cert.is_none();
    let trust = if self_made { " --cacert server.pem" } else { "" };
    let mut text = format!(
        "other machines reach it at {scheme}://{host}:{port}/ with the key:\n\
         curl{trust} --header \"Authorization: Bearer KEY\" {scheme}://{host}:{port}/v1/models\n",
        port = address.port
    );
    if self_made {
        text.push_str(&format!("give clients {CERT_FILE}, which is no secret, to trust\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_have_the_lines_that_are_replaced() {
        for line in [LISTEN_LINE, CERT_LINE, KEY_LINE] {
            assert!(SETTINGS.contains(line), "{line}");
        }
        let tls = ("/a b.pem".into(), "/c.key".into());
        let text = settings("[::]:1", Some(&tls));
        assert!(text.contains("\nlisten = \"[::]:1\"\n"), "{text}");
        assert!(text.contains("\ntls_cert_file = \"/a b.pem\"\ntls_key_file = \"/c.key\"\n"));
        assert!(!settings("a:1", None).contains("\ntls_cert_file"));
    }

    #[test]
    fn the_certificate_that_is_made_is_for_the_names() {
        let names = ["box".to_owned(), "192.0.2.7".to_owned()];
        let (cert, key) = certificate(&names).unwrap();
        assert!(cert.starts_with(MARK) && cert.contains("box, 192.0.2.7"), "{cert}");
        assert!(key.contains("PRIVATE KEY"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.pem");
        std::fs::write(&path, &cert).unwrap();
        // The comment before it is no part of it.
        phi4d_fetch::Trust::new(Some(&path)).unwrap();
        assert!(certificate(&["a b\u{e9}".to_owned()]).is_err());
    }
}
