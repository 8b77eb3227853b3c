//! `phi4d setup`: does to the installed service what the book's recipes describe, shows the steps
//! before, and undoes them.

mod lan;
mod steps;

use super::args::{DesktopArgs, SetupCommand, UsersArgs};
use super::exit::Fatal;
use super::output::print;
use super::service::switch::installed;
use super::service::{SERVICE, TCP_SOCKET, Unit};
use steps::{GROUP, Step, carry_out};

pub(super) fn run(command: &SetupCommand) -> Result<(), Fatal> {
    match command {
        SetupCommand::Desktop(arguments) => desktop(arguments),
        SetupCommand::Lan(arguments) => lan::run(arguments),
        SetupCommand::Users(arguments) => users(arguments),
    }
}

fn desktop(arguments: &DesktopArgs) -> Result<(), Fatal> {
    installed("setup desktop")?;
    let user = arguments.user.as_deref().filter(|user| *user != "root");
    if !carry_out(&desktop_steps(user, arguments.steps.undo), &arguments.steps)? {
        return Ok(());
    }
    if arguments.steps.undo {
        return print("TCP is closed; users stay in the group\n");
    }
    let socket = Unit::find(TCP_SOCKET).map(|unit| unit.listens_on()).unwrap_or_default();
    for address in socket {
        print(&format!("the chat page: http://{}/\n", address.display()))?;
    }
    match user {
        Some(user) => print(&format!("{user} may use the socket after the next login\n")),
        None => Ok(()),
    }
}

/// The socket can only be passed to a service that is not running yet.
fn desktop_steps(user: Option<&str>, undo: bool) -> Vec<Step> {
    if undo {
        return vec![
            Step::run(&["systemctl", "disable", "--now", TCP_SOCKET]),
            Step::run(&["systemctl", "restart", SERVICE]),
        ];
    }
    let mut steps = vec![
        Step::run(&["systemctl", "stop", SERVICE]),
        Step::run(&["systemctl", "enable", "--now", TCP_SOCKET]),
        Step::run(&["systemctl", "start", SERVICE]),
    ];
    steps.extend(user.map(add_user));
    steps
}

fn add_user(name: &str) -> Step {
    Step::run(&["usermod", "--append", "--groups", GROUP, name])
}

fn users(arguments: &UsersArgs) -> Result<(), Fatal> {
    installed("setup users")?;
    let undo = |name: &str| Step::run(&["gpasswd", "--delete", name, GROUP]);
    let step = |name: &String| if arguments.steps.undo { undo(name) } else { add_user(name) };
    let steps: Vec<Step> = arguments.names.iter().map(step).collect();
    if carry_out(&steps, &arguments.steps)? && !arguments.steps.undo {
        print("they may use the socket after their next login\n")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_desktop_gets_tcp_and_its_user_the_group() {
        let shown = |user, undo| {
            let steps = desktop_steps(user, undo);
            steps.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(
            shown(Some("ada"), false),
            "run systemctl stop phi4d.service\nrun systemctl enable --now phi4d-http.socket\n\
             run systemctl start phi4d.service\nrun usermod --append --groups phi4d ada"
        );
        assert!(!shown(None, false).contains("usermod"));
        assert!(shown(Some("ada"), true).starts_with("run systemctl disable --now"));
    }
}
