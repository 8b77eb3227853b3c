//! Arguments of `phi4d setup`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

/// What to set the installed service up for.
#[derive(Debug, Subcommand)]
pub(crate) enum SetupCommand {
    /// Open TCP on this machine, for the chat page and programs, and let a user use the socket
    Desktop(DesktopArgs),
    /// Let other machines in, with an API key and TLS
    Lan(LanArgs),
    /// Let users of this machine use the socket
    Users(UsersArgs),
}

/// How the steps are carried out.
#[derive(Debug, Args)]
pub(crate) struct Steps {
    /// Show the steps and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask before the steps
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Undo what this command did
    #[arg(long)]
    pub(crate) undo: bool,
}

/// A machine that one person sits at.
#[derive(Debug, Args)]
pub(crate) struct DesktopArgs {
    /// The user who may use the socket. Default: the one who called sudo
    #[arg(long, value_name = "NAME", env = "SUDO_USER")]
    pub(crate) user: Option<String>,
    #[command(flatten)]
    pub(crate) steps: Steps,
}

/// A daemon for other machines.
#[derive(Debug, Args)]
pub(crate) struct LanArgs {
    /// Address and port to listen on
    #[arg(long, value_name = "HOST:PORT", default_value = "0.0.0.0:8484")]
    pub(crate) listen: String,
    /// Certificate chain in PEM format. Default: one that is made now and that clients have to be given
    #[arg(long, value_name = "FILE", requires = "key", value_hint = ValueHint::FilePath)]
    pub(crate) cert: Option<PathBuf>,
    /// The certificate's private key in PEM format
    #[arg(long, value_name = "FILE", requires = "cert", value_hint = ValueHint::FilePath)]
    pub(crate) key: Option<PathBuf>,
    /// Names and addresses by which clients reach this machine, for the certificate that is made.
    /// Default: its host name
    #[arg(long, value_name = "NAME", value_delimiter = ',', conflicts_with = "cert")]
    pub(crate) names: Vec<String>,
    /// No TLS: keys and answers can be read on their way
    #[arg(long, conflicts_with_all = ["cert", "names"])]
    pub(crate) no_tls: bool,
    /// Name of the API key to create
    #[arg(long, value_name = "NAME", default_value = "lan")]
    pub(crate) key_name: String,
    #[command(flatten)]
    pub(crate) steps: Steps,
}

/// Users of this machine.
#[derive(Debug, Args)]
pub(crate) struct UsersArgs {
    /// The users
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) steps: Steps,
}
