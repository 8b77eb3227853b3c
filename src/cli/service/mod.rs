//! The installed service, as systemd has it: its units' state and properties, and what its sandbox lets
//! the daemon read. `doctor`, `check`, `use` and `setup` judge and change it.

pub(super) mod sandbox;
pub(super) mod switch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use phi4d_os as os;

/// The service, and the sockets that start it.
pub(super) const SERVICE: &str = "phi4d.service";
pub(super) const UNIX_SOCKET: &str = "phi4d.socket";
pub(super) const TCP_SOCKET: &str = "phi4d-http.socket";

/// There only while systemd runs.
const RUNNING: &str = "/run/systemd/system";

/// A unit's properties, as `systemctl show` prints them.
#[derive(Debug, Clone, Default)]
pub(super) struct Unit {
    name: String,
    properties: BTreeMap<String, String>,
}

impl Unit {
    /// Asks the service manager for the unit `name`. `None` without a running systemd, or if it has no
    /// such unit.
    pub(super) fn find(name: &str) -> Option<Self> {
        if !Path::new(RUNNING).exists() {
            return None;
        }
        let text = systemctl(&["show", "--all", "--timestamp=unix", name]).ok()?;
        let unit = Self::read(name, &text);
        (unit.get("LoadState") != "not-found").then_some(unit)
    }

    /// Reads lines of `KEY=VALUE`. A key that stands on several lines gets all values, joined by line
    /// feeds.
    pub(super) fn read(name: &str, text: &str) -> Self {
        let mut properties = BTreeMap::<String, String>::new();
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            properties
                .entry(key.to_owned())
                .and_modify(|values| values.push_str(&format!("\n{value}")))
                .or_insert_with(|| value.to_owned());
        }
        Self { name: name.to_owned(), properties }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// A property's value; empty if it has none.
    pub(super) fn get(&self, key: &str) -> &str {
        self.properties.get(key).map_or("", String::as_str)
    }

    /// A property that is a number; `None` if it is unset or `infinity`.
    pub(super) fn number(&self, key: &str) -> Option<u64> {
        self.get(key).parse().ok()
    }

    /// The words of a property that is a list.
    pub(super) fn words(&self, key: &str) -> impl Iterator<Item = &str> {
        self.get(key).split_whitespace()
    }

    pub(super) fn is_active(&self) -> bool {
        matches!(self.get("ActiveState"), "active" | "reloading")
    }

    /// When it last changed its state, in seconds since 1970; a reload is such a change.
    pub(super) fn changed(&self) -> Option<u64> {
        let second = |key| self.get(key).strip_prefix('@')?.parse().ok();
        second("StateChangeTimestamp").max(second("ActiveEnterTimestamp"))
    }

    /// The variables that the unit sets for the daemon. Values with spaces are quoted as a whole.
    pub(super) fn environment(&self) -> BTreeMap<String, String> {
        let mut variables = BTreeMap::new();
        for word in split_quoted(self.get("Environment")) {
            if let Some((key, value)) = word.split_once('=') {
                variables.insert(key.to_owned(), value.to_owned());
            }
        }
        // As systemd names the folders that it makes for the service.
        for (property, variable, root) in [
            ("StateDirectory", "STATE_DIRECTORY", "/var/lib"),
            ("RuntimeDirectory", "RUNTIME_DIRECTORY", "/run"),
        ] {
            if let Some(first) = self.words(property).next() {
                let folder = Path::new(root).join(first);
                variables.insert(variable.to_owned(), folder.display().to_string());
            }
        }
        variables
    }

    /// The user and the groups that the daemon runs as, by number. `None` if the system does not know
    /// them.
    pub(super) fn identity(&self) -> Option<(u32, Vec<u32>)> {
        let user = match self.get("User") {
            "" => return Some((0, Vec::new())),
            user => os::user_id(user)?,
        };
        let mut groups = vec![os::group_id(self.get("Group"))?];
        groups.extend(self.words("SupplementaryGroups").filter_map(os::group_id));
        Some((user, groups))
    }

    /// The paths that a socket unit listens on, and its TCP addresses, as they are written there.
    pub(super) fn listens_on(&self) -> Vec<PathBuf> {
        let lines = self.get("Listen").lines();
        lines.filter_map(|line| line.split(' ').next()).map(PathBuf::from).collect()
    }
}

/// Splits words at spaces, except within double quotes, which are taken away.
fn split_quoted(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quoted) = (String::new(), false);
    for character in text.chars().chain([' ']) {
        match character {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    words
}

/// Runs `systemctl` and returns what it prints, or what it complains of.
pub(super) fn systemctl(arguments: &[&str]) -> Result<String, String> {
    run("systemctl", arguments)
}

/// Runs a program of the system and returns its standard output, or why it failed.
pub(super) fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .env("SYSTEMD_PAGER", "")
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|error| format!("cannot run {program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let said = if said.is_empty() { output.status.to_string() } else { said };
    Err(format!("{program} {}: {said}", arguments.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_read_as_systemctl_prints_them() {
        let unit = Unit::read(
            SERVICE,
            "LoadState=loaded\nActiveState=active\nMemoryMax=infinity\nLimitNOFILE=524288\n\
             Environment=A=1 \"PHI4D_MODEL=/a b\" C=x=y\nStateDirectory=phi4d other\n\
             ActiveEnterTimestamp=@1700000000\nStateChangeTimestamp=@1700000009\n\
             Listen=/run/phi4d/phi4d.sock (Stream)\nListen=127.0.0.1:8484 (Stream)\n",
        );
        assert!(unit.is_active());
        assert_eq!((unit.number("MemoryMax"), unit.number("LimitNOFILE")), (None, Some(524_288)));
        let environment = unit.environment();
        assert_eq!(environment["PHI4D_MODEL"], "/a b");
        assert_eq!(environment["C"], "x=y");
        assert_eq!(environment["STATE_DIRECTORY"], "/var/lib/phi4d");
        assert_eq!(unit.changed(), Some(1_700_000_009));
        let listens = unit.listens_on();
        assert_eq!(listens, [Path::new("/run/phi4d/phi4d.sock"), Path::new("127.0.0.1:8484")]);
        assert_eq!(unit.get("NoSuchProperty"), "");
    }
}
