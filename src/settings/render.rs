//! The settings as text: the commented file, and what is in force.

use std::fmt::Write as _;

use super::define::{Definition, Entry};
use super::models::{KEYS, TABLE};
use super::resolve::Resolved;
use super::table::DEFINITIONS;

const HEAD: &str = "\
# Settings of phi4d, printed by `phi4d config render`. Each line that begins with
# #KEY shows a default, so this file changes nothing as it stands.
#
# Files conf.d/*.toml beside phi4d.toml (for NAME.toml: NAME.conf.d/*.toml)
# override this file, in the order of their names; environment variables (PHI4D_
# and the key in capitals) override all files, and flags (-- and the key with
# dashes) override those. `phi4d config show` prints every effective setting
# with its source.
";

const MODELS: &str = "
# Further models, each in a table of its own at the end of this file. The daemon
# loads one at the first request for its name and keeps those loaded that fit
# models_memory_bytes. For example:
#
#   [models.phi-4-mini]
#   model = \"/var/lib/phi4d/models/phi-4-mini\"
#   load = \"start\"
#   slots = 2
#
# model is a folder or a pulled model's name. load is request (the default) or
# start. A table may also have
";

/// `config/phi4d.toml`: every key with its text, unit, range and default.
#[must_use]
pub fn render_file() -> String {
    let mut text = HEAD.to_owned();
    for definition in DEFINITIONS.iter() {
        text.push('\n');
        for line in definition.doc.lines() {
            text.push('#');
            text.push_str(line.trim_end());
            text.push('\n');
        }
        let unit = definition.unit.map_or_else(String::new, |unit| format!("Unit: {unit}. "));
        // Writing to a String can't fail.
        let _ = writeln!(text, "# {unit}Takes {}.", definition.accepted);
        let _ =
            writeln!(text, "#{} = {}", definition.key, toml_value(definition, definition.default));
    }
    text.push_str(MODELS);
    let mut line = String::from("#");
    for (index, key) in KEYS.iter().skip(1).enumerate() {
        let end = if index + 2 < KEYS.len() { "," } else { "; others are as above." };
        if line.len() + key.len() + end.len() > 78 {
            let _ = writeln!(text, "{line}");
            line = String::from("#");
        }
        let _ = write!(line, " {key}{end}");
    }
    let _ = writeln!(text, "{line}");
    text
}

/// The settings in force as TOML, each with its origin.
#[must_use]
pub fn render_resolved(resolved: &Resolved) -> String {
    let line = |entry: &Entry| {
        let definition = DEFINITIONS.iter().find(|definition| definition.key == entry.key);
        let value = definition.map_or_else(String::new, |known| toml_value(known, &entry.value));
        let setting = format!("{} = {value}", entry.key);
        format!("{setting:<48} # {}\n", entry.origin)
    };
    let mut text: String = resolved.entries.iter().map(line).collect();
    for model in &resolved.models {
        let when = if model.at_start { "start" } else { "request" };
        let _ = writeln!(text, "\n[{TABLE}.\"{}\"]\nload = \"{when}\"", model.name);
        text.extend(model.entries.iter().map(line));
    }
    text
}

fn toml_value(definition: &Definition, value: &str) -> String {
    if !definition.is_text {
        return value.to_owned();
    }
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('"');
    for character in value.chars() {
        match character {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(character);
            }
            control if control.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(control));
            }
            plain => quoted.push(plain),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::super::resolve::{Inputs, resolve};
    use super::*;

    fn load(text: &str) -> Resolved {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        resolve(&Inputs { file: Some(file.path().to_owned()), ..Inputs::default() }).unwrap()
    }

    #[test]
    fn the_committed_file_is_the_rendered_one() {
        let committed = std::fs::read_to_string(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../config/phi4d.toml"
        ))
        .unwrap();
        assert!(
            committed == render_file(),
            "config/phi4d.toml is not what the table renders; render it again by \
             `phi4d config render > config/phi4d.toml`"
        );
    }

    #[test]
    fn the_file_changes_nothing_as_it_stands_or_with_every_key_uncommented() {
        let defaults = resolve(&Inputs::default()).unwrap().settings;
        assert_eq!(load(&render_file()).settings, defaults);
        let text = render_file();
        let uncommented: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix('#'))
            .filter(|line| !line.is_empty() && !line.starts_with(' '))
            .collect();
        assert_eq!(uncommented.len(), DEFINITIONS.len());
        assert_eq!(load(&uncommented.join("\n")).settings, defaults);
    }

    #[test]
    fn what_show_prints_loads_again() {
        let resolved = load("model = 'a\"b\\c'\nslots = 3\nlisten = \"off\"\n");
        let again = load(&render_resolved(&resolved));
        assert_eq!(again.settings, resolved.settings);
    }

    #[test]
    fn what_show_prints_of_further_models_loads_again() {
        let text = "model = 'a'\nslots = 3\n[models.b]\nmodel = '/b'\nslots = 2\nload = 'start'\n\
                    [models.'C.1']\nmodel = 'c'\nmodel_aliases = ['d', 'e']\n";
        let resolved = load(text);
        let again = load(&render_resolved(&resolved));
        let named = |resolved: &Resolved| {
            let models = resolved.models.iter();
            models.map(|m| (m.name.clone(), m.at_start, m.settings.clone())).collect::<Vec<_>>()
        };
        assert_eq!(resolved.models.len(), 2);
        assert_eq!(named(&again), named(&resolved));
    }

    #[test]
    fn what_show_prints_of_numbers_is_toml_however_they_were_typed() {
        let flags = [("slots", "03"), ("prefill_share", ".5"), ("otlp_sample_ratio", "+1.")];
        let flags = flags.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
        let resolved = resolve(&Inputs { flags, ..Inputs::default() }).unwrap();
        let shown = render_resolved(&resolved);
        assert!(shown.contains("slots = 3 "), "{shown}");
        assert!(shown.contains("prefill_share = 0.5 "), "{shown}");
        assert!(shown.contains("otlp_sample_ratio = 1.0 "), "{shown}");
        assert_eq!(load(&shown).settings, resolved.settings);
    }
}
