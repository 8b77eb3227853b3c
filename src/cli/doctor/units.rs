//! What the service manager says of the units: state, sockets, limits.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use super::findings::Check;
use crate::exit;
use crate::report::bytes;
use crate::service::{SERVICE, TCP_SOCKET, UNIX_SOCKET, Unit, systemctl};
use phi4d_settings::{ListenAddress, Provider, Settings};

/// The units of the package, as far as they are installed.
#[derive(Debug, Default)]
pub(super) struct Units {
    pub(super) service: Option<Unit>,
    pub(super) sockets: Vec<Unit>,
}

impl Units {
    pub(super) fn find() -> Self {
        Self {
            service: Unit::find(SERVICE),
            sockets: [UNIX_SOCKET, TCP_SOCKET].into_iter().filter_map(Unit::find).collect(),
        }
    }

    /// Whether systemd holds a socket at `place`, a path or an address.
    pub(super) fn hold(&self, place: &Path) -> bool {
        let mut active = self.sockets.iter().filter(|unit| unit.is_active());
        active.any(|unit| unit.listens_on().iter().any(|listens| listens == place))
    }

    /// Whether systemd passes a Unix socket to the service.
    pub(super) fn pass_unix(&self) -> bool {
        let mut active = self.sockets.iter().filter(|unit| unit.is_active());
        active.any(|unit| unit.listens_on().iter().any(|place| place.is_absolute()))
    }

    /// TCP addresses that systemd passes to the service.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let active = self.sockets.iter().filter(|unit| unit.is_active());
        let places = active.flat_map(Unit::listens_on);
        places.filter_map(|place| place.to_str()?.parse().ok()).collect()
    }

    /// Whether the service has ended as idle (`idle_exit`), and a socket is there that starts it.
    fn sleeps(&self, service: &Unit, settings: &Settings) -> bool {
        settings.idle_exit.is_some()
            && service.get("ActiveState") == "inactive"
            && service.get("Result") == "success"
            && self.sockets.iter().any(Unit::is_active)
    }

    /// Judges the state of each unit, and whether the service has what `settings` ask for.
    pub(super) fn judge(&self, settings: &Settings, check: &mut Check<'_>) {
        let Some(service) = &self.service else {
            check.good("no unit is installed");
            return;
        };
        if self.sleeps(service, settings) {
            let text = format!("{SERVICE} is idle and takes no memory; a connection starts it");
            check.good(text);
        } else {
            state(service, check);
        }
        for socket in &self.sockets {
            socket_state(socket, check);
        }
        for unit in self.sockets.iter().chain([service]) {
            reload_needed(unit, check);
        }
        limits(service, settings, check);
        reach(service, settings.listen.as_ref(), check);
        devices(service, settings.provider, check);
    }
}

/// Whether the service runs, and whether it starts with the machine.
pub(super) fn state(unit: &Unit, check: &mut Check<'_>) {
    let name = unit.name();
    if unit.get("LoadState") == "masked" {
        let fix = format!("systemctl unmask {name}");
        check.fault(format!("{name} is masked, so that it can't start"), fix);
        return;
    }
    if unit.get("LoadState") != "loaded" {
        let reason = unit.get("LoadState");
        let fix = format!("systemd-analyze verify {name}; systemctl cat {name}");
        check.fault(format!("systemd can't load {name}: {reason}"), fix);
        return;
    }
    match unit.get("ActiveState") {
        "failed" => {
            let why = format!("journalctl --unit {name} --lines 20 shows why");
            let text = format!("{name} has failed ({}); clients are refused", ending(unit));
            let then = format!("systemctl reset-failed {name}; systemctl start {name}");
            check.fault(text, format!("{why}; then {then}"));
        }
        "activating" if unit.get("SubState") == "auto-restart" => {
            let text = format!("systemd starts {name} again and again ({})", ending(unit));
            check.fault(text, format!("journalctl --unit {name} --lines 20 shows why"));
        }
        "inactive" => {
            check.fix(format!("{name} is stopped"), &["systemctl", "start", name]);
        }
        other => {
            let restarts = unit.number("NRestarts").unwrap_or(0);
            check.good(format!("{name} is {other}"));
            if restarts > 0 {
                check.note(
                    format!("systemd has restarted {name} {restarts} times after failures"),
                    format!("journalctl --unit {name} shows them"),
                );
            }
        }
    }
    if unit.get("UnitFileState") == "disabled" {
        check.note(
            format!("{name} is disabled: it does not start with the machine"),
            format!("systemctl enable {name}"),
        );
    }
}

/// How the service ended, in words where its code has some.
fn ending(unit: &Unit) -> String {
    let result = unit.get("Result");
    let code = unit.number("ExecMainStatus").and_then(|code| u8::try_from(code).ok());
    let meaning = code.filter(|_| result == "exit-code").and_then(|code| {
        let meaning = exit::codes().find(|(known, _)| *known == code);
        meaning.map(|(_, meaning)| format!("exit code {code}: {}", meaning.trim_end_matches('.')))
    });
    meaning.unwrap_or_else(|| result.to_owned())
}

fn socket_state(unit: &Unit, check: &mut Check<'_>) {
    let name = unit.name();
    let places: Vec<String> =
        unit.listens_on().iter().map(|place| place.display().to_string()).collect();
    let places = places.join(", ");
    let is_on = unit.get("UnitFileState") != "disabled";
    match unit.get("ActiveState") {
        "active" => {
            check.good(format!("{name} listens on {places}"));
            socket_file(unit, check);
        }
        "failed" => check.fault(
            format!("{name} has failed ({}): nobody listens on {places}", unit.get("Result")),
            format!("systemctl reset-failed {name} phi4d.service; systemctl start {name}"),
        ),
        _ if unit.get("LoadState") == "masked" => check.note(
            format!("{name} is masked: nobody listens on {places}"),
            format!("systemctl unmask {name}"),
        ),
        _ if is_on => check.fix(
            format!("{name} is stopped: nobody listens on {places}"),
            &["systemctl", "start", name],
        ),
        _ if name == TCP_SOCKET => {
            check.good(format!("{name} is off ({places})"));
        }
        _ => check.note(
            format!("{name} is disabled: nobody listens on {places}"),
            format!("systemctl enable --now {name}"),
        ),
    }
}

/// Whether members of the socket's group can connect.
fn socket_file(unit: &Unit, check: &mut Check<'_>) {
    let mode = u32::from_str_radix(unit.get("SocketMode"), 8);
    let Some(path) = unit.listens_on().into_iter().find(|place| place.is_absolute()) else {
        return;
    };
    if path.parent().is_some_and(|folder| folder.is_dir()) && !path.exists() {
        check.fault(
            format!("{} listens on {}, which is gone", unit.name(), path.display()),
            format!("systemctl restart {}", unit.name()),
        );
    }
    if mode.is_ok_and(|mode| mode & 0o060 != 0o060) {
        check.note(
            format!(
                "{} has SocketMode={}: no group may connect",
                unit.name(),
                unit.get("SocketMode")
            ),
            format!("systemctl cat {} shows the drop-in that sets it", unit.name()),
        );
    }
}

fn reload_needed(unit: &Unit, check: &mut Check<'_>) {
    if unit.get("NeedDaemonReload") == "yes" {
        check.fix(
            format!("the files of {} changed, and systemd has not read them again", unit.name()),
            &["systemctl", "daemon-reload"],
        );
    }
}

/// Whether the unit's limits leave room for what the settings ask for.
fn limits(unit: &Unit, settings: &Settings, check: &mut Check<'_>) {
    if let Some(limit) = unit.number("LimitAS") {
        check.fault(
            format!("{} limits the address space to {}", unit.name(), bytes(limit)),
            "remove LimitAS= from its drop-ins: the KV cache reserves more than it uses; MemoryMax= \
             is the limit to set",
        );
    }
    let files = unit.number("LimitNOFILE").unwrap_or(u64::MAX);
    if files < settings.max_connections as u64 {
        check.note(
            format!(
                "{} may open {files} files, fewer than max_connections ({})",
                unit.name(),
                settings.max_connections
            ),
            "raise LimitNOFILE= in a drop-in, or lower max_connections",
        );
    }
}

/// Whether other machines can reach an address that is meant for them.
fn reach(unit: &Unit, listen: Option<&ListenAddress>, check: &mut Check<'_>) {
    let Some(address) = listen.filter(|address| !address.is_loopback()) else { return };
    // A deny of everything with an allow of localhost only, as the package's unit has it.
    let denied = unit.words("IPAddressDeny").any(|network| network.ends_with("/0"));
    let allowed = unit.words("IPAddressAllow").any(|network| !is_local(network));
    if denied && !allowed {
        check.fault(
            format!("listen is {address}, and {} lets this machine in only", unit.name()),
            "phi4d setup lan; or install the drop-in lan.conf and systemctl daemon-reload",
        );
    }
}

fn is_local(network: &str) -> bool {
    network.starts_with("127.") || network.starts_with("::1") || network == "localhost"
}

fn devices(unit: &Unit, provider: Provider, check: &mut Check<'_>) {
    let on_device = !matches!(provider, Provider::Cpu | Provider::Auto);
    if on_device && unit.get("PrivateDevices") == "yes" {
        check.note(
            format!("{} hides devices from the daemon, GPUs too", unit.name()),
            "copy the drop-in /usr/share/doc/phi4d/examples/cuda.conf to \
             /etc/systemd/system/phi4d.service.d/",
        );
    }
}

/// Notes settings that were changed after the daemon read them.
pub(super) fn settings_in_use(unit: &Unit, files: &[PathBuf], check: &mut Check<'_>) {
    let Some(read) = unit.changed().filter(|_| unit.is_active()) else { return };
    for file in files {
        let changed = std::fs::metadata(file).and_then(|metadata| metadata.modified());
        if changed.is_ok_and(|time| time > UNIX_EPOCH + Duration::from_secs(read + 1)) {
            check.note(
                format!("{} changed after {} read it", file.display(), unit.name()),
                format!("systemctl restart {}", unit.name()),
            );
        }
    }
}

/// Finds daemons of other instances that have failed.
pub(super) fn instances(check: &mut Check<'_>) {
    let listed = systemctl(&["list-units", "--all", "--plain", "--no-legend", "phi4d@*.service"]);
    for line in listed.unwrap_or_default().lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(state)) = (words.next(), words.nth(1)) else { continue };
        match state {
            "failed" => check.fault(
                format!("{name} has failed"),
                format!("journalctl --unit {name} --lines 20 shows why"),
            ),
            state => check.good(format!("{name} is {state}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::findings::Findings;
    use phi4d_settings::{Inputs, resolve};

    fn finding(name: &str, properties: &str, judge: impl Fn(&Unit, &mut Check<'_>)) -> String {
        let unit = Unit::read(name, &format!("LoadState=loaded\n{properties}"));
        let mut findings = Findings::default();
        judge(&unit, &mut findings.of("service"));
        findings.text()
    }

    #[test]
    fn the_state_of_the_service_is_reported_with_what_to_do() {
        let of = |properties| finding(SERVICE, properties, state);
        let good = of("ActiveState=active\nUnitFileState=enabled\nNRestarts=0\n");
        assert_eq!(good, "ok    service   phi4d.service is active\n");
        for (properties, level, word) in [
            ("ActiveState=active\nNRestarts=3\n", "note", "restarted phi4d.service 3 times"),
            ("ActiveState=active\nUnitFileState=disabled\n", "note", "systemctl enable"),
            ("ActiveState=inactive\n", "FAULT", "systemctl start phi4d.service"),
            (
                "ActiveState=failed\nResult=exit-code\nExecMainStatus=66\n",
                "FAULT",
                "exit code 66: The model folder",
            ),
            ("ActiveState=failed\nResult=oom-kill\n", "FAULT", "(oom-kill)"),
            (
                "ActiveState=activating\nSubState=auto-restart\nResult=exit-code\nExecMainStatus=71\n",
                "FAULT",
                "again and again (exit code 71",
            ),
        ] {
            let text = of(properties);
            assert!(text.contains(level) && text.contains(word), "{properties}: {text}");
        }
        let mut findings = Findings::default();
        let masked = Unit::read(SERVICE, "LoadState=masked\nActiveState=inactive\n");
        state(&masked, &mut findings.of("service"));
        assert!(findings.text().contains("systemctl unmask"), "{}", findings.text());
    }

    #[test]
    fn a_service_that_may_sleep_is_not_taken_for_stopped() {
        let unit =
            |name, properties: &str| Unit::read(name, &format!("LoadState=loaded\n{properties}\n"));
        let found = |idle_exit: &str, socket: &str, result: &str| {
            let flags = [("model", "m"), ("idle_exit", idle_exit)];
            let flags = flags.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
            let settings = resolve(&Inputs { flags, ..Inputs::default() }).unwrap().settings;
            let units = Units {
                service: Some(unit(SERVICE, &format!("ActiveState=inactive\nResult={result}"))),
                sockets: vec![unit(UNIX_SOCKET, &format!("ActiveState={socket}"))],
            };
            let mut findings = Findings::default();
            units.judge(&settings, &mut findings.of("service"));
            findings.text()
        };
        let stopped = "phi4d.service is stopped";
        assert!(found("60", "active", "success").contains("phi4d.service is idle"));
        assert!(!found("60", "active", "success").contains(stopped));
        assert!(found("0", "active", "success").contains(stopped));
        assert!(found("60", "inactive", "success").contains(stopped));
        assert!(found("60", "active", "signal").contains(stopped));
    }

    #[test]
    fn a_stopped_socket_is_a_fault_unless_it_is_off_by_default() {
        let listen = "Listen=/run/phi4d/phi4d.sock (Stream)\n";
        let stopped = format!("ActiveState=inactive\nUnitFileState=enabled\n{listen}");
        assert!(finding(UNIX_SOCKET, &stopped, socket_state).starts_with("FAULT"));
        let off = "ActiveState=inactive\nUnitFileState=disabled\nListen=127.0.0.1:8484 (Stream)\n";
        assert!(finding(TCP_SOCKET, off, socket_state).starts_with("ok"));
        let refused = format!("ActiveState=failed\nResult=service-start-limit-hit\n{listen}");
        assert!(finding(UNIX_SOCKET, &refused, socket_state).contains("service-start-limit-hit"));
    }

    #[test]
    fn an_open_address_behind_the_units_filter_is_a_fault() {
        let address = ListenAddress::parse("0.0.0.0:8484");
        let of = |properties: &str, address: Option<&ListenAddress>| {
            finding(SERVICE, properties, |unit, check| reach(unit, address, check))
        };
        let packaged = "IPAddressDeny=::/0 0.0.0.0/0\nIPAddressAllow=127.0.0.0/8 ::1/128\n";
        assert!(of(packaged, address.as_ref()).contains("lan.conf"));
        assert_eq!(of(packaged, None), "");
        assert_eq!(of(packaged, ListenAddress::parse("127.0.0.1:1").as_ref()), "");
        let open = "IPAddressDeny=\nIPAddressAllow=::/0 0.0.0.0/0\n";
        assert_eq!(of(open, address.as_ref()), "");
    }
}
