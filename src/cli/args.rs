//! The command line: the one source of its parser and its help. Flags of settings are made from
//! the settings' table.

mod chat;
mod settings;
mod setup;

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

pub(super) use chat::{ChatArgs, ClientArgs, RunArgs};
pub(super) use settings::{SettingsArgs, ambient_inputs};
pub(super) use setup::{DesktopArgs, LanArgs, SetupCommand, Steps, UsersArgs};

/// Serves Microsoft Phi-4 through ONNX Runtime, with an OpenAI-compatible API.
#[derive(Debug, Parser)]
#[command(name = "phi4d", version, after_help = "`phi4d exit-codes` lists the exit codes.")]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Serve a model
    Serve(ServeArgs),
    /// Check the settings and the model without serving
    Check(SettingsArgs),
    /// Show what a model folder contains, what would run it and how much memory it needs
    Inspect(InspectArgs),
    /// Check hardware, settings, model and installation, and suggest a fix for each problem
    Doctor(DoctorArgs),
    /// Chat with the daemon in the terminal; in a pipe, answer each line of input
    Chat(ChatArgs),
    /// Ask one question, of the daemon or of a model that is downloaded if it is missing; only the
    /// answer goes to standard output
    Run(RunArgs),
    /// Lay out a model's weights ahead of time, for faster starts and less memory
    Prepare(SettingsArgs),
    /// Measure a model, in a bare session and through the daemon
    Bench(BenchArgs),
    /// Create, list and remove API keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Download a model
    Pull(PullArgs),
    /// List downloaded models
    List(ModelsArgs),
    /// Remove a downloaded model
    Remove(RemoveArgs),
    /// Let the installed service serve another model, which is downloaded if it is missing
    Use(UseArgs),
    /// Set the installed service up for a desktop, a network or more users
    #[command(subcommand)]
    Setup(SetupCommand),
    /// Show the settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Write the manual pages
    Man(ManArgs),
    /// Print shell completions
    Completions(CompletionsArgs),
    /// List the exit codes
    #[command(after_help = super::exit::table())]
    ExitCodes,
}

/// What to serve.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// A model's name, as `phi4d list` prints it or as `phi4d pull` takes it (it is downloaded if it
    /// is missing), or its folder. Default: the setting `model`
    #[arg(id = "served", value_name = "MODEL")]
    pub(super) model: Option<String>,
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

/// The model to switch to.
#[derive(Debug, Args)]
pub(super) struct UseArgs {
    /// A model's name, as `phi4d list` prints it or as `phi4d pull` takes it (it is downloaded if it
    /// is missing), or its folder
    #[arg(value_name = "MODEL")]
    pub(super) model: String,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print every effective setting with its source
    Show(SettingsArgs),
    /// Print a settings file with every key, its description and its default
    Render,
}

/// Where downloaded models are.
#[derive(Debug, Args)]
pub(super) struct ModelsArgs {
    /// Folder of the models. Default: /var/lib/phi4d/models for root, else phi4d/models in the
    /// user's data folder
    #[arg(long, value_name = "DIR", env = "PHI4D_MODELS", value_hint = ValueHint::DirPath)]
    pub(super) models: Option<PathBuf>,
}

/// Which export of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum VariantChoice {
    /// The one for the provider in the settings
    Auto,
    /// For CPUs
    Cpu,
    /// For GPUs
    Gpu,
}

/// What to download.
#[derive(Debug, Args)]
#[command(
    after_help = "Connects through the http or https proxy in HTTPS_PROXY, HTTP_PROXY or ALL_PROXY \
    (http://USER:PASSWORD@HOST:PORT), except to the hosts in NO_PROXY."
)]
pub(super) struct PullArgs {
    /// phi-4, phi-4-mini, phi-4-mini-reasoning, phi-4-reasoning, phi-4-reasoning-plus,
    /// OWNER/REPOSITORY with or without /FOLDER, a repository's URL, the URL of a folder on a web
    /// server (with a file SHA256SUMS), or a folder's path that begins with / or .
    #[arg(value_name = "MODEL")]
    pub(super) model: String,
    /// Which export to take where a repository has several
    #[arg(long, value_enum, default_value_t = VariantChoice::Auto)]
    pub(super) variant: VariantChoice,
    /// A branch, tag or commit. Default: the URL's, else main
    #[arg(long, value_name = "REVISION")]
    pub(super) revision: Option<String>,
    /// Name of the model here. Default: from its repository
    #[arg(long, value_name = "NAME", value_parser = model_name)]
    pub(super) name: Option<String>,
    /// Hugging Face compatible endpoint, unless MODEL is a URL. Default: `https://huggingface.co`
    #[arg(long, value_name = "URL", env = "HF_ENDPOINT", value_hint = ValueHint::Url)]
    pub(super) endpoint: Option<String>,
    /// File with an access token. Default: the token in HF_TOKEN, if there is one
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) token_file: Option<PathBuf>,
    /// CA certificates to trust for https, in PEM format, such as those of a proxy that inspects TLS.
    /// Default: those in SSL_CERT_FILE, else those of this machine
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) ca_file: Option<PathBuf>,
    /// Replace a model that is already there
    #[arg(long)]
    pub(super) replace: bool,
    /// The destination
    #[command(flatten)]
    pub(super) models: ModelsArgs,
}

impl PullArgs {
    /// What `phi4d pull NAME` would be, with the environment's endpoint.
    pub(super) fn of(name: &str) -> Self {
        Self {
            model: name.to_owned(),
            variant: VariantChoice::Auto,
            revision: None,
            name: None,
            endpoint: std::env::var("HF_ENDPOINT").ok().filter(|url| !url.is_empty()),
            token_file: None,
            ca_file: None,
            replace: false,
            models: ModelsArgs { models: None },
        }
    }
}

/// What to remove.
#[derive(Debug, Args)]
pub(super) struct RemoveArgs {
    /// The model's name, as `phi4d list` prints it
    #[arg(value_name = "NAME")]
    pub(super) name: String,
    /// The folder that it is in
    #[command(flatten)]
    pub(super) models: ModelsArgs,
}

fn model_name(text: &str) -> Result<String, String> {
    let expected = "expected at most 100 letters, digits, dashes, dots and underscores";
    if phi4d_fetch::is_model_name(text) { Ok(text.to_owned()) } else { Err(expected.to_owned()) }
}

/// Where to write the manual pages.
#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Folder for phi4d.1, phi4d.toml.5 and the other pages; created if missing
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) folder: PathBuf,
}

/// Which shell's completions to print.
#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub(super) shell: clap_complete::Shell,
}

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Create a key and print it, this once
    Add(KeyAdd),
    /// List the keys by name, with their scopes and limits
    List(KeyFileArgs),
    /// Remove a key
    Remove {
        /// The key's name
        name: String,
        #[command(flatten)]
        file: KeyFileArgs,
    },
}

/// The key to create.
#[derive(Debug, Args)]
pub(super) struct KeyAdd {
    /// Name of the key's holder, as shown in the log
    pub(super) name: String,
    /// Let the holder see other callers' requests (/slots)
    #[arg(long)]
    pub(super) admin: bool,
    /// Most concurrent answers. Default: no limit
    #[arg(long, value_name = "N")]
    pub(super) max_in_flight: Option<NonZeroU32>,
    /// Most tokens of prompts and answers in any 60 seconds. Default: no limit
    #[arg(long, value_name = "N")]
    pub(super) tokens_per_minute: Option<NonZeroU32>,
    #[command(flatten)]
    pub(super) file: KeyFileArgs,
}

/// Where the keys are.
#[derive(Debug, Args)]
pub(super) struct KeyFileArgs {
    /// Settings file whose api_keys_file is used
    #[arg(long, value_name = "FILE", env = "PHI4D_CONFIG")]
    pub(super) config: Option<PathBuf>,
    /// The keys file, instead of the one in the settings
    #[arg(long, value_name = "FILE")]
    pub(super) api_keys_file: Option<PathBuf>,
}

/// The folder to inspect, and how.
#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// The model folder. Default: the models in the settings
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) folder: Option<PathBuf>,
    /// Also load the model, and show how many of its nodes each provider runs
    #[arg(long)]
    pub(super) nodes: bool,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    /// The settings under which it would run
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

/// How to check the installation.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Skip the measurement of memory bandwidth
    #[arg(long)]
    pub(super) no_speed: bool,
    /// Run the commands that fix problems and harm nothing, such as systemctl daemon-reload, and check
    /// again
    #[arg(long)]
    pub(super) fix: bool,
    /// The settings to check
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

/// What to measure.
#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// The daemon's settings; model is required
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
    /// Prompt lengths whose prefill is measured, in tokens, as far as the context goes
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "512,4096,16000")]
    pub(super) prompts: Vec<usize>,
    /// Tokens of each answer
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(2..=4096))]
    pub(super) tokens: u32,
    /// Tokens already in each sequence's context when decode steps begin, as far as the context goes
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "64,1024,4096,16000")]
    pub(super) contexts: Vec<usize>,
    /// Largest batch of decode steps: 1, 2, 4 or 8
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(super) widest: usize,
    /// Rounds of each measurement, of which the median is reported. A measurement that has taken a
    /// minute has no further round
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) rounds: u32,
    /// Tokens of the conversation whose next message is measured
    #[arg(long, value_name = "N", default_value_t = 2000)]
    pub(super) conversation: usize,
    /// Duration of a load test with requests at random times, in seconds; 0 skips it
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub(super) load_seconds: u64,
    /// Requests per second of the load test
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub(super) load_rate: f64,
    /// Longest prompt of the load test, in tokens
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub(super) load_prompt: usize,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;
    use phi4d_settings::DEFINITIONS;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_setting_has_a_flag_that_reaches_it() {
        for definition in DEFINITIONS.iter() {
            let flag = format!("--{}", definition.flag);
            let cli = Cli::try_parse_from(["phi4d", "check", &flag, "-1"]).unwrap();
            let Command::Check(settings) = cli.command else { panic!("not check") };
            assert_eq!(settings.values, [(definition.key.to_owned(), "-1".to_owned())]);
        }
    }

    #[test]
    fn chat_takes_a_socket_or_a_url() {
        let both = ["phi4d", "chat", "--socket", "/s", "--url", "http://h:1"];
        assert!(Cli::try_parse_from(both).is_err());
    }
}
