//! `phi4d.service(8)`: the daemon under systemd.

use clap_mangen::roff::{Roff, roman};

use super::roff_text::{entry, exit_status, heading, paragraph, see_also, title};

/// Units and what each is for. A test holds this to the folder `systemd/`.
const UNITS: [(&str, &str); 4] = [
    (
        "phi4d.service",
        "The daemon. It counts as started once its model is loaded and it can answer.",
    ),
    (
        "phi4d@.service",
        "Further daemons, one per model; the name after the @ is that of the settings file.",
    ),
    ("phi4d.socket", "The Unix socket /run/phi4d/phi4d.sock, which stays open over restarts."),
    ("phi4d-http.socket", "TCP on loopback. Disabled by default."),
];

const SIGNALS: [(&str, &str); 3] = [
    (
        "SIGTERM, SIGINT",
        "No new connections or requests are accepted; running answers continue for at most \
         drain_timeout_s; cached prompts are stored; the daemon exits with code 0. A second signal \
         ends the wait.",
    ),
    (
        "SIGHUP",
        "Settings, keys and certificates are reloaded while requests continue; if any is wrong, \
         nothing changes. The log names what is wrong, and what needs a restart. \"systemctl \
         reload\" sends this signal.",
    ),
    ("SIGABRT", "Sent by systemd when the engine has made no progress for WatchdogSec."),
];

const FILES: [(&str, &str); 4] = [
    ("/etc/phi4d/phi4d.toml, /etc/phi4d/conf.d/*.toml", "The settings; see phi4d.toml(5)."),
    ("/run/phi4d/phi4d.sock", "The Unix socket."),
    ("/var/lib/phi4d/models", "Models downloaded by \"phi4d pull\"."),
    ("/var/lib/phi4d/prefixes", "The prefix store: prompts that stay cached over restarts."),
];

pub(super) fn page() -> String {
    let mut roff = Roff::new();
    heading(&mut roff, "NAME");
    roff.text([roman("phi4d.service - serves Phi-4 under systemd")]);
    heading(&mut roff, "SYNOPSIS");
    let names: Vec<&str> = UNITS.iter().map(|(name, _)| *name).collect();
    roff.text([roman(names.join(", "))]);
    heading(&mut roff, "DESCRIPTION");
    roff.text([roman(
        "The service runs \"phi4d serve\" as the user phi4d, with loopback networking only, no \
         capabilities and a read-only file system. It logs to the journal, with fields.",
    )]);
    paragraph(
        &mut roff,
        "A restart loses no request that waits in the Unix socket's backlog. An error that a restart \
         does not fix (settings, model, runtime) is not retried.",
    );
    paragraph(
        &mut roff,
        "With idle_exit the daemon ends when it has had no request for so long; the next connection to \
         one of the sockets starts it again.",
    );
    for (name, entries) in [("UNITS", &UNITS[..]), ("SIGNALS", &SIGNALS[..]), ("FILES", &FILES[..])]
    {
        heading(&mut roff, name);
        for (word, text) in entries {
            entry(&mut roff, word, text);
        }
    }
    exit_status(&mut roff);
    see_also(&mut roff, &["phi4d(1)", "phi4d.toml(5)", "systemd.service(5)", "journalctl(1)"]);
    format!("{}{}", title("phi4d.service", "8", "phi4d under systemd"), roff.render())
}
