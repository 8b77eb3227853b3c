//! The files of a crate import each other without cycles.
//!
//! An edge leads from a file to the one that defines what it names by a path of `crate`, `super`, `self`
//! or a child module, followed through re-exports. A module and the modules inside it are one unit: what
//! they use of each other does not count. Neither do tests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use regex::{Captures, Regex};

/// A module's path in its crate; none for `lib.rs`.
type Module = Vec<String>;

/// What a file names, by full paths; and which of them it imports.
#[derive(Default)]
struct File {
    named: Vec<Module>,
    imported: Vec<Module>,
}

type Files = BTreeMap<Module, File>;

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        if stem.ends_with("tests") || path.join("Cargo.toml").exists() {
            continue;
        }
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            found.push(path);
        }
    }
}

fn read(folder: &Path) -> Files {
    let mut paths = Vec::new();
    sources(folder, &mut paths);
    let module = |file: &PathBuf| -> Module {
        let path = file.strip_prefix(folder).unwrap().with_extension("");
        let names = path.iter().map(|name| name.to_str().unwrap().to_owned());
        names.filter(|name| !["lib", "mod"].contains(&name.as_str())).collect()
    };
    let modules: BTreeSet<Module> = paths.iter().map(module).collect();
    let [comment, tests, group, import, named] = [
        "//[^\n]*",
        r"#\[cfg\(test\)\]\s*mod \w+ \{",
        r"(\w[\w:]*)::\{([^{}]*)\}",
        r"\buse\s[^;]*;",
        r"\b[a-z_]\w*(::\w+)+",
    ]
    .map(|pattern| Regex::new(pattern).unwrap());
    let file = |path: &PathBuf| {
        let (module, text) = (module(path), std::fs::read_to_string(path).unwrap());
        let text = comment.replace_all(&text, "");
        let mut text = tests.split(&text).next().unwrap().to_owned();
        // `a::{b, c}` is written out as `a::b, a::c`, the innermost groups first.
        while group.is_match(&text) {
            let written_out = |found: &Captures| {
                let parts =
                    found[2].split(',').map(|part| format!("{}::{}", &found[1], part.trim()));
                parts.collect::<Vec<_>>().join(", ")
            };
            text = group.replace_all(&text, written_out).into_owned();
        }
        let full = |path: &str| -> Option<Module> {
            let mut full = module.clone();
            let ours = ["crate::", "super::", "self::"].iter().any(|start| path.starts_with(start));
            for name in path.split("::") {
                match name {
                    "crate" => full.clear(),
                    "super" => drop(full.pop()),
                    "self" => {}
                    _ => full.push(name.to_owned()),
                }
            }
            (ours || modules.contains(full.get(..=module.len())?)).then_some(full)
        };
        let all =
            |text: &str| named.find_iter(text).filter_map(|path| full(path.as_str())).collect();
        let imports: String = import.find_iter(&text).map(|import| import.as_str()).collect();
        (module.clone(), File { named: all(&text), imported: all(&imports) })
    };
    paths.iter().map(file).collect()
}

/// The module whose file defines what `path` leads to, through `left` re-exports at most.
fn home(files: &Files, path: &[String], left: usize) -> Module {
    let length = (0..=path.len()).rev().find(|&end| files.contains_key(&path[..end])).unwrap();
    let item = path.get(length);
    let mut imports = files[&path[..length]].imported.iter();
    let from = imports.find(|from| from.last() == item && from[..] != path[..=length]);
    match from {
        Some(from) if left > 0 => {
            home(files, &[from.as_slice(), &path[length + 1..]].concat(), left - 1)
        }
        _ => path[..length].to_vec(),
    }
}

/// Each set of modules that reach each other.
fn cycles(files: &Files) -> BTreeSet<BTreeSet<Module>> {
    let edges = |(from, file): (&Module, &File)| {
        let homes = file.named.iter().map(|path| home(files, path, 6));
        let others = homes.filter(|to| !from.starts_with(to) && !to.starts_with(from));
        (from.clone(), others.collect::<BTreeSet<_>>())
    };
    let edges: BTreeMap<Module, BTreeSet<Module>> = files.iter().map(edges).collect();
    let reach = |from: &Module| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(next) = open.pop() {
            open.extend(edges[next].iter().filter(|to| seen.insert((*to).clone())));
        }
        (from.clone(), seen)
    };
    let reach: BTreeMap<Module, BTreeSet<Module>> = edges.keys().map(reach).collect();
    let cycle = |from: &Module| -> BTreeSet<Module> {
        reach[from].iter().filter(|to| reach[*to].contains(from)).cloned().collect()
    };
    edges.keys().map(cycle).filter(|cycle| !cycle.is_empty()).collect()
}

#[test]
fn files_import_each_other_without_cycles() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&root).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.is_dir() {
            continue;
        }
        for cycle in cycles(&read(&folder)) {
            let modules: Vec<String> = cycle.iter().map(|module| module.join("::")).collect();
            found.push(format!("{}: {}", folder.display(), modules.join(" ")));
        }
    }
    assert!(found.is_empty(), "cycles of imports: {found:#?}");
}
