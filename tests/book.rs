//! The book (README.md and docs/): every page is in it, every link leads somewhere, and every block of
//! commands is run. CONTRIBUTING.md lists the markers by which a block says that it is not run here.
//!
//! Each page has a daemon of its own with the demo model. What a page says of an installed system is
//! led to that daemon by [`Reader::text`]: addresses, paths, and `phi4d` itself.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may stop where something is wrong"
)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::{Daemon, demo_folder};
use crate::markdown::{Block, Fate, Page, pages, root};

/// Languages of blocks that are only shown.
const SHOWN: [&str; 1] = ["text"];
/// Those that this test runs or reads.
const RUN: [&str; 5] = ["sh", "python", "js", "json", "toml"];

fn blocks(page: &Page) -> Vec<Block> {
    page.blocks().unwrap_or_else(|error| panic!("{error}"))
}

/// Blocks of a page that nobody runs and that do not say why.
fn unexplained(page: &Page) -> Vec<String> {
    let blocks = match page.blocks() {
        Ok(blocks) => blocks,
        Err(error) => return vec![error],
    };
    let mut faults = Vec::new();
    for line in page.indented_code() {
        faults.push(format!("{}: fence this code, so that it is run", page.at(line)));
    }
    for block in blocks {
        let (at, language) = (page.at(block.line), block.language.as_str());
        let known = SHOWN.contains(&language) || RUN.contains(&language);
        if block.fate == Fate::Run && !known {
            faults.push(format!("{at}: a block of `{language}` needs `<!-- not run: WHY -->`"));
        }
        if block.fate == Fate::AsRoot && language != "sh" {
            faults.push(format!("{at}: only sh is run as root"));
        }
    }
    faults
}

#[test]
fn every_block_is_run_or_says_why_not() {
    let faults: Vec<String> = pages().iter().flat_map(unexplained).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_block_without_its_reason_is_found() {
    let page = |text: &str| Page { path: "page.md".into(), text: text.to_owned() };
    let faults = |text: &str| unexplained(&page(text));
    let yaml = "```yaml\na: b\n```\n";
    assert_eq!(faults(yaml).len(), 1);
    assert_eq!(faults(&format!("<!-- not run: it is shown only -->\n{yaml}")), [""; 0]);
    assert_eq!(faults(&format!("<!-- not run: -->\n{yaml}")).len(), 1);
    assert_eq!(faults(&format!("<!-- as root -->\n{yaml}")).len(), 1);
    assert_eq!(faults("Do this:\n\n    rm -r x\n").len(), 1);
    assert_eq!(faults("<!-- as root -->\n\nText.\n").len(), 1);
    let marked = page("<!-- prints: 19 -->\n```sh\n# Not a heading\nexpr 12 + 7\n```\n");
    let blocks = blocks(&marked);
    assert_eq!((blocks[0].prints.as_slice(), blocks[0].line), (&["19".to_owned()][..], 2));
    assert_eq!(marked.anchors().len(), 0);
}

#[test]
fn every_page_is_in_the_summary() {
    let summary = fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap();
    for page in pages() {
        let name = page.path.file_name().unwrap().to_str().unwrap();
        if page.path.starts_with("docs") && name != "SUMMARY.md" {
            let listed = summary.matches(&format!("]({name})")).count();
            assert_eq!(listed, 1, "{name} is {listed} times in docs/SUMMARY.md");
        }
    }
}

#[test]
fn links_lead_somewhere() {
    let all = pages();
    let mut faults = Vec::new();
    for page in &all {
        for (line, link) in page.links() {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let folder = page.path.parent().unwrap();
            let target = if file.is_empty() { page.path.clone() } else { folder.join(file) };
            let found = all.iter().find(|other| other.path == target);
            let fault = if !root().join(&target).exists() {
                "there is no such file"
            } else if folder == Path::new("docs") && !target.starts_with("docs/")
                || file.contains("..")
            {
                "the book has only what is in docs/"
            } else if !anchor.is_empty() && !found.is_some_and(|to| to.anchors().contains(anchor)) {
                "there is no such heading"
            } else {
                continue;
            };
            faults.push(format!("{}: {link}: {fault}", page.at(line)));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What a page of HTML leads to below the book's folder: page, and heading or nothing.
fn local_links(html: &str) -> Vec<(String, String)> {
    let links = html.split("href=\"").skip(1).filter_map(|part| part.split('"').next());
    links
        .filter(|link| !link.contains("://") && !link.starts_with("mailto:"))
        .map(|link| link.split_once('#').unwrap_or((link, "")))
        .map(|(page, heading)| (page.to_owned(), heading.to_owned()))
        .collect()
}

/// Where `tests/clients/setup` puts programs.
fn clients() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("clients")
}

#[test]
fn mdbook_builds_it() {
    let folder = tempfile::tempdir().unwrap();
    let book = folder.path().join("book");
    let mut command = Command::new(clients().join("venv/bin/mdbook"));
    command.arg("build").arg(root().join("docs")).arg("--dest-dir").arg(&book);
    let output = command.output().expect("run tests/clients/setup");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("WARN"), "{said}");

    let read = |page: &str| fs::read_to_string(book.join(page)).unwrap();
    assert!(read("architecture.html").contains("id=\"birds-eye\""), "it is not included");
    let mut faults = Vec::new();
    for page in pages().iter().filter(|page| page.path.starts_with("docs")) {
        let name = page.path.file_stem().unwrap().to_str().unwrap();
        if name == "SUMMARY" {
            continue;
        }
        let this = format!("{name}.html");
        for (target, heading) in local_links(&read(&this)) {
            let target = if target.is_empty() { &this } else { &target };
            let there = book.join(target).is_file()
                && (heading.is_empty() || read(target).contains(&format!("id=\"{heading}\"")));
            if !there {
                faults.push(format!("{this}: {target}#{heading}"));
            }
        }
    }
    assert!(faults.is_empty(), "links that lead nowhere:\n{}", faults.join("\n"));
}

/// Who follows a page: a daemon, and a folder that stands for the machine.
struct Reader {
    daemon: Daemon,
    home: PathBuf,
    clients: PathBuf,
}

impl Reader {
    fn new() -> Self {
        let clients = clients();
        assert!(clients.join("venv").exists(), "run tests/clients/setup");
        let daemon = Daemon::start();
        let home = daemon.setup.folder.path().join("reader");
        for folder in ["bin", "etc/conf.d", "var/models", "work", "tmp"] {
            fs::create_dir_all(home.join(folder)).unwrap();
        }
        symlink(env!("CARGO_BIN_EXE_phi4d"), home.join("bin/phi4d")).unwrap();
        symlink(clients.join("node_modules"), home.join("work/node_modules")).unwrap();
        symlink(demo_folder(), home.join("var/models/phi-4")).unwrap();
        // Refused requests are failures, and nothing hangs.
        let options = "fail-with-body\nsilent\nshow-error\nmax-time = 60\n";
        fs::write(home.join(".curlrc"), options).unwrap();
        let reader = Self { daemon, home, clients };
        let settings = reader.text("model = \"/usr/share/phi4d/demo\"\n");
        fs::write(reader.home.join("etc/phi4d.toml"), settings).unwrap();
        reader
    }

    /// The page's text for this daemon and folder.
    fn text(&self, text: &str) -> String {
        let socket = self.daemon.socket();
        let address = self.daemon.address().to_string();
        let replaced = [
            ("/run/phi4d/phi4d.sock", socket.to_str().unwrap()),
            ("127.0.0.1:8484", &address),
            ("localhost:8484", &address),
            ("/usr/share/phi4d/demo", demo_folder().to_str().unwrap()),
            ("/var/lib/phi4d", self.home.join("var").to_str().unwrap()),
            ("/etc/phi4d", self.home.join("etc").to_str().unwrap()),
        ]
        .map(|(from, to)| (from.to_owned(), to.to_owned()));
        replaced.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
    }

    /// Runs or reads a block; what went wrong as an error.
    fn follow(&self, block: &Block) -> Result<(), String> {
        let text = self.text(&block.text);
        let work = self.home.join("work");
        let mut command = match block.language.as_str() {
            "json" => {
                let read = serde_json::from_str::<serde_json::Value>(&text);
                return read.map(drop).map_err(|error| error.to_string());
            }
            "toml" => {
                fs::write(work.join("settings.toml"), &text).unwrap();
                let mut command = Command::new(env!("CARGO_BIN_EXE_phi4d"));
                command.args(["config", "show", "--config", "settings.toml"]);
                command
            }
            "python" => {
                let mut command = Command::new("python");
                command.args(["-c", &text]);
                command
            }
            "js" => {
                fs::write(work.join("block.mjs"), &text).unwrap();
                let mut command = Command::new("node");
                command.arg("block.mjs");
                command
            }
            _ => {
                let mut command = Command::new("bash");
                command.args(["-euo", "pipefail", "-c", &text]);
                command
            }
        };
        let path = std::env::var("PATH").unwrap();
        let tools = self.clients.join("venv/bin");
        let path = format!("{}:{}:{path}", self.home.join("bin").display(), tools.display());
        let output = command
            .env_clear()
            .envs(crate::common::isa())
            .env("PATH", path)
            .env("HOME", &self.home)
            .env("CURL_HOME", &self.home)
            .env("TMPDIR", self.home.join("tmp"))
            .env("XDG_RUNTIME_DIR", self.daemon.setup.folder.path())
            .env("PHI4D_CONFIG", self.home.join("etc/phi4d.toml"))
            .env("LITELLM_LOCAL_MODEL_COST_MAP", "True")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .current_dir(&work)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("{command:?}: {error}"))?;
        let printed = String::from_utf8_lossy(&output.stdout);
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(format!("{}\n{printed}{said}", output.status));
        }
        match block.prints.iter().find(|text| !printed.contains(text.as_str())) {
            Some(text) => Err(format!("it does not print `{text}`, but:\n{printed}{said}")),
            None => Ok(()),
        }
    }
}

/// What goes wrong for who does what a page says, from its first block to its last.
fn follow(page: &Page) -> Vec<String> {
    let blocks = blocks(page);
    let mine = |block: &&Block| block.fate == Fate::Run && RUN.contains(&block.language.as_str());
    if !blocks.iter().any(|block| mine(&block)) {
        return Vec::new();
    }
    let reader = Reader::new();
    let marked = |block: &Block| {
        let fault = reader.follow(block).err()?;
        Some(format!("{}: {fault}", page.at(block.line)))
    };
    blocks.iter().filter(mine).filter_map(marked).collect()
}

#[test]
fn what_the_pages_say_works() {
    // Two at a time: each has its daemon.
    let pages = pages();
    let (even, odd): (Vec<_>, Vec<_>) =
        pages.iter().enumerate().partition(|(index, _)| index % 2 == 0);
    let faults: Vec<String> = std::thread::scope(|scope| {
        let halves = [even, odd].map(|half| {
            scope.spawn(move || {
                half.into_iter().flat_map(|(_, page)| follow(page)).collect::<Vec<_>>()
            })
        });
        halves.into_iter().flat_map(|half| half.join().expect("a page's reader stopped")).collect()
    });
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}
