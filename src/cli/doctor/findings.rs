//! What the checks found.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// How grave a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// As it should be.
    Good,
    /// Worth knowing.
    Note,
    /// To be mended.
    Fault,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Note => "note",
            Self::Fault => "FAULT",
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    check: &'static str,
    level: Level,
    text: String,
    /// What to do about it; empty where there is nothing to do.
    mend: String,
    /// The command that does it, if that harms nothing whatever the cause is.
    fix: Vec<String>,
}

/// All findings, in the order of the checks, with figures for programs.
#[derive(Debug, Default)]
pub(super) struct Findings {
    list: Vec<Finding>,
    figures: serde_json::Map<String, Value>,
}

impl Findings {
    /// The check `name`, to add what it finds.
    pub(super) fn of(&mut self, name: &'static str) -> Check<'_> {
        Check { name, findings: self }
    }

    /// The commands that mend faults and harm nothing, each once.
    pub(super) fn fixes(&self) -> Vec<Vec<String>> {
        let mut fixes: Vec<Vec<String>> = Vec::new();
        for fix in self.list.iter().map(|finding| &finding.fix) {
            if !fix.is_empty() && !fixes.contains(fix) {
                fixes.push(fix.clone());
            }
        }
        fixes
    }

    pub(super) fn faults(&self) -> usize {
        self.list.iter().filter(|finding| finding.level == Level::Fault).count()
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for finding in &self.list {
            let level = finding.level.as_str();
            // Writing to a String can't fail.
            let _ = writeln!(text, "{level:<6}{:<10}{}", finding.check, finding.text);
            if !finding.mend.is_empty() {
                let _ = writeln!(text, "{:16}-> {}", "", finding.mend);
            }
        }
        text
    }

    pub(super) fn json(&self) -> String {
        let list: Vec<Value> = self
            .list
            .iter()
            .map(|finding| {
                json!({
                    "check": finding.check,
                    "level": finding.level.as_str().to_lowercase(),
                    "text": finding.text,
                    "mend": finding.mend,
                    "fix": finding.fix,
                })
            })
            .collect();
        let value = json!({ "faults": self.faults(), "findings": list, "figures": self.figures });
        format!("{value:#}\n")
    }
}

/// One check.
pub(super) struct Check<'f> {
    name: &'static str,
    findings: &'f mut Findings,
}

impl Check<'_> {
    /// Adds what is as it should be.
    pub(super) fn good(&mut self, text: impl Into<String>) {
        self.add(Level::Good, text.into(), String::new(), &[]);
    }

    /// Adds what is worth knowing, and what could be done.
    pub(super) fn note(&mut self, text: impl Into<String>, mend: impl Into<String>) {
        self.add(Level::Note, text.into(), mend.into(), &[]);
    }

    /// Adds what is to be mended, and how.
    pub(super) fn fault(&mut self, text: impl Into<String>, mend: impl Into<String>) {
        self.add(Level::Fault, text.into(), mend.into(), &[]);
    }

    /// Adds what is to be mended, by a command that harms nothing.
    pub(super) fn fix(&mut self, text: impl Into<String>, command: &[&str]) {
        self.add(Level::Fault, text.into(), command.join(" "), command);
    }

    /// Adds a figure for the JSON output only.
    pub(super) fn figure(&mut self, name: &str, value: Value) {
        self.findings.figures.insert(name.to_owned(), value);
    }

    fn add(&mut self, level: Level, text: String, mend: String, fix: &[&str]) {
        let fix = fix.iter().map(|word| (*word).to_owned()).collect();
        self.findings.list.push(Finding { check: self.name, level, text, mend, fix });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_counted_and_reported_with_what_to_do() {
        let mut findings = Findings::default();
        findings.of("memory").good("enough");
        findings.of("state").fault("not there", "make it");
        findings.of("speed").note("slow", "");
        findings.of("hardware").figure("cores", json!(2));
        assert_eq!(findings.faults(), 1);
        assert!(findings.fixes().is_empty());
        assert_eq!(
            findings.text(),
            "ok    memory    enough\nFAULT state     not there\n                -> make it\nnote  \
             speed     slow\n"
        );
        let value: Value = serde_json::from_str(&findings.json()).unwrap();
        assert_eq!(value["findings"][1]["level"], "fault");
        assert_eq!(value["figures"]["cores"], 2);
    }

    #[test]
    fn what_harms_nothing_is_done_once() {
        let mut findings = Findings::default();
        findings.of("service").fix("changed", &["systemctl", "daemon-reload"]);
        findings.of("service").fix("changed, too", &["systemctl", "daemon-reload"]);
        assert_eq!(findings.faults(), 2);
        assert_eq!(findings.fixes(), [["systemctl", "daemon-reload"]]);
        assert!(findings.text().contains("-> systemctl daemon-reload"));
    }
}
