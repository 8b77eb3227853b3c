//! `phi4d.toml(5)`: every setting.

use clap_mangen::roff::{Roff, bold, roman};

use super::roff_text::{heading, paragraph, see_also, title};
use phi4d_settings::{DEFAULT_FILE, DEFINITIONS, DROP_INS, Definition};

pub(super) fn page() -> String {
    let mut roff = Roff::new();
    heading(&mut roff, "NAME");
    roff.text([roman("phi4d.toml - settings of phi4d")]);
    heading(&mut roff, "SYNOPSIS");
    let folder = std::path::Path::new(DEFAULT_FILE).with_file_name(DROP_INS);
    roff.text([roman(format!("{DEFAULT_FILE}, {}/*.toml", folder.display()))]);
    heading(&mut roff, "DESCRIPTION");
    roff.text([roman(
        "TOML files of lines KEY = VALUE that override the defaults. The files in conf.d are read \
         after phi4d.toml (those in NAME.conf.d after NAME.toml), in the order of their names, and \
         later files override earlier ones. Environment variables override all files, and flags \
         override those. Unknown keys and invalid values are all reported together, each with its \
         file and line.",
    )]);
    paragraph(
        &mut roff,
        "\"phi4d config show\" prints every effective setting with its source, \"phi4d config render\" \
         a file with every setting and its default.",
    );
    heading(&mut roff, "SETTINGS");
    for definition in DEFINITIONS.iter() {
        setting(&mut roff, definition);
    }
    see_also(&mut roff, &["phi4d(1)", "phi4d.service(8)"]);
    format!("{}{}", title("phi4d.toml", "5", "Settings of phi4d"), roff.render())
}

fn setting(roff: &mut Roff, definition: &Definition) {
    roff.control("TP", []);
    roff.text([bold(definition.key)]);
    let unit = definition.unit.map_or_else(String::new, |unit| format!(" Unit: {unit}."));
    roff.text([roman(format!("{}{unit} Takes {}.", definition.summary(), definition.accepted))]);
    let default = match definition.default {
        "" => "none",
        default => default,
    };
    roff.text([roman(format!(
        "Default: {default}. Variable {}, flag --{}.",
        definition.environment(),
        definition.flag
    ))]);
}
