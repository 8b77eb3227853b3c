//! Reads the book's pages: their fenced blocks with what is said of them, headings and links.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    missing_debug_implementations,
    reason = "tests may stop where something is wrong"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A page as it stands.
pub struct Page {
    /// Path below the repository, such as `docs/install.md`.
    pub path: PathBuf,
    pub text: String,
}

/// What happens to a block.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    /// This test runs it.
    Run,
    /// `tests/packages/guest/book` runs it as root where the package is installed.
    AsRoot,
    /// Nothing does, for the reason that is given.
    NotRun(String),
}

/// A fenced block.
#[derive(Debug)]
pub struct Block {
    pub line: usize,
    pub language: String,
    pub text: String,
    pub fate: Fate,
    /// What its output must have in it.
    pub prints: Vec<String>,
}

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README.md and all pages of docs/.
pub fn pages() -> Vec<Page> {
    let mut paths = vec![PathBuf::from("README.md")];
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name();
        if Path::new(&name).extension().is_some_and(|kind| kind == "md") {
            paths.push(Path::new("docs").join(name));
        }
    }
    paths.sort();
    paths
        .into_iter()
        .map(|path| Page { text: fs::read_to_string(root().join(&path)).unwrap(), path })
        .collect()
}

impl Page {
    /// Where a line is, for messages.
    pub fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.path.display())
    }

    /// The fenced blocks in order; what is wrong with their markers as an error.
    pub fn blocks(&self) -> Result<Vec<Block>, String> {
        let mut blocks = Vec::new();
        let mut markers: Vec<&str> = Vec::new();
        let mut lines = self.text.lines().enumerate();
        while let Some((number, line)) = lines.next() {
            let at = number + 1;
            let text = line.trim();
            if let Some(language) = text.strip_prefix("```") {
                let indent = line.len() - line.trim_start().len();
                let inside: Vec<&str> = lines
                    .by_ref()
                    .map(|(_, line)| line.get(indent..).unwrap_or_default())
                    .take_while(|line| !line.starts_with("```"))
                    .collect();
                let (fate, prints) =
                    read_markers(&markers).map_err(|error| format!("{}: {error}", self.at(at)))?;
                blocks.push(Block {
                    line: at,
                    language: language.to_owned(),
                    text: inside.join("\n") + "\n",
                    fate,
                    prints,
                });
                markers.clear();
            } else if let Some(marker) = comment(text) {
                markers.push(marker);
            } else if !text.is_empty()
                && let Some(marker) = markers.first()
            {
                return Err(format!("{}: no block follows `{marker}`", self.at(at)));
            }
        }
        Ok(blocks)
    }

    /// The page without its fenced blocks and inline code, with the number of each line.
    pub fn prose(&self) -> Vec<(usize, String)> {
        let mut inside = false;
        let mut prose = Vec::new();
        for (number, line) in self.text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                inside = !inside;
            } else if !inside {
                let plain: Vec<&str> = line.split('`').step_by(2).collect();
                prose.push((number + 1, plain.join("")));
            }
        }
        prose
    }

    /// Lines of code that are set in by spaces alone, outside lists: no marker reaches them.
    pub fn indented_code(&self) -> Vec<usize> {
        let mut found = Vec::new();
        let (mut blank, mut list) = (true, false);
        for (number, line) in self.prose() {
            if line.trim().is_empty() {
                blank = true;
                continue;
            }
            if line.starts_with("    ") && blank && !list {
                found.push(number);
            }
            if !line.starts_with(' ') {
                let first = line.trim_start_matches(|c: char| c.is_ascii_digit());
                list =
                    first.starts_with("- ") || first.starts_with(". ") || first.starts_with("* ");
            }
            blank = false;
        }
        found
    }

    /// What links of this page lead to, as written, with their lines.
    pub fn links(&self) -> Vec<(usize, String)> {
        let mut links = Vec::new();
        for (line, text) in self.prose() {
            for part in text.split("](").skip(1) {
                links.push((line, part.split(')').next().unwrap().to_owned()));
            }
        }
        links
    }

    /// The names by which headings can be linked to.
    pub fn anchors(&self) -> BTreeSet<String> {
        let heading = |line: &str| {
            let title = line.trim_start_matches('#').trim();
            let kept = title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.collect::<String>().to_lowercase().replace(' ', "-")
        };
        let mut inside = false;
        let mut anchors = BTreeSet::new();
        for line in self.text.lines() {
            if line.trim_start().starts_with("```") {
                inside = !inside;
            } else if line.starts_with('#') && !inside {
                anchors.insert(heading(line));
            }
        }
        anchors
    }
}

/// The text of a line that is a comment of one of our kinds.
fn comment(line: &str) -> Option<&str> {
    let text = line.strip_prefix("<!--")?.strip_suffix("-->")?.trim();
    let ours = text == "as root" || text.starts_with("not run") || text.starts_with("prints");
    ours.then_some(text)
}

fn read_markers(markers: &[&str]) -> Result<(Fate, Vec<String>), String> {
    let mut fate = Fate::Run;
    let mut prints = Vec::new();
    for marker in markers {
        if *marker == "as root" {
            fate = Fate::AsRoot;
        } else if let Some(text) = marker.strip_prefix("prints:") {
            prints.push(text.trim().to_owned());
        } else if let Some(reason) = marker.strip_prefix("not run:") {
            if reason.split_whitespace().count() < 3 {
                return Err(format!("`{marker}` gives no reason"));
            }
            fate = Fate::NotRun(reason.trim().to_owned());
        } else {
            return Err(format!("`{marker}` is no marker"));
        }
    }
    if !prints.is_empty() && fate != Fate::Run {
        return Err("what is not run here prints nothing".to_owned());
    }
    Ok((fate, prints))
}
