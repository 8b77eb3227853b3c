//! Section 1: a page for the program and one for each of its subcommands.

use clap_mangen::Man;
use clap_mangen::roff::Roff;

use super::Page;
use super::roff_text::{entry, exit_status, heading, see_also, title};
use phi4d_settings::{DEFAULT_FILE, DROP_INS};

pub(super) fn pages(command: clap::Command) -> Vec<Page> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    collect(&command, true, &mut pages);
    pages
}

fn collect(command: &clap::Command, is_program: bool, pages: &mut Vec<Page>) {
    pages.push(page(command, is_program));
    for sub in command.get_subcommands() {
        collect(sub, false, pages);
    }
}

fn page(command: &clap::Command, is_program: bool) -> Page {
    let usage = usage(command);
    let man = Man::new(command.clone().override_usage(usage));
    let name = command.get_display_name().unwrap_or(command.get_name());
    let mut text = title(name, "1", "Commands of phi4d").into_bytes();
    let rendered = [
        man.render_name_section(&mut text),
        man.render_synopsis_section(&mut text),
        man.render_description_section(&mut text),
        man.render_options_section(&mut text),
    ];
    debug_assert!(rendered.iter().all(Result::is_ok), "writing to memory does not fail");
    if command.has_subcommands() {
        // As above.
        let _ = man.render_subcommands_section(&mut text);
    }
    let mut end = Roff::new();
    if is_program {
        environment_and_files(&mut end);
    }
    exit_status(&mut end);
    see_also(&mut end, &["phi4d(1)", "phi4d.toml(5)", "phi4d.service(8)"]);
    text.extend(end.render().into_bytes());
    Page { name: man.get_filename(), text: String::from_utf8_lossy(&text).into_owned() }
}

/// The command's call without each of its options: there are some forty settings.
fn usage(command: &clap::Command) -> String {
    let mut usage = command.get_bin_name().unwrap_or(command.get_name()).to_owned();
    usage.push_str(" [OPTIONS]");
    for argument in command.get_positionals() {
        let name = argument.get_value_names().and_then(<[_]>::first);
        let name = name.map_or_else(|| argument.get_id().as_str(), |name| name.as_str());
        let shown =
            if argument.is_required_set() { format!(" {name}") } else { format!(" [{name}]") };
        usage.push_str(&shown);
    }
    if command.has_subcommands() {
        usage.push_str(" COMMAND");
    }
    usage
}

fn environment_and_files(roff: &mut Roff) {
    heading(roff, "ENVIRONMENT");
    entry(roff, "PHI4D_*", "Each setting has a variable: PHI4D_ and its key in capitals.");
    entry(roff, "PHI4D_CONFIG", "The settings file, like --config.");
    heading(roff, "FILES");
    entry(roff, DEFAULT_FILE, "The settings file, used if it exists and no other is given.");
    let folder = std::path::Path::new(DEFAULT_FILE).with_file_name(DROP_INS);
    entry(
        roff,
        &format!("{}/*.toml", folder.display()),
        "Further settings, read after the file in the order of their names. A file NAME.toml given \
         by --config has its own in NAME.conf.d beside it.",
    );
}
