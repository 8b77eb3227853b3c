//! What the clients take: `phi4d chat` and `phi4d run`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

/// How to reach the daemon and what to ask of it.
#[derive(Debug, Default, Args)]
pub(crate) struct ClientArgs {
    /// The daemon's Unix socket. Default: as set, else where the daemon puts it by default
    #[arg(long, value_name = "PATH", conflicts_with = "url", value_hint = ValueHint::AnyPath)]
    pub(crate) socket: Option<PathBuf>,
    /// The daemon's TCP address, as http://HOST:PORT or https://HOST:PORT
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    pub(crate) url: Option<String>,
    /// Certificates to trust for an https URL, in PEM. Default: those that this machine trusts
    #[arg(long, value_name = "FILE", requires = "url", value_hint = ValueHint::FilePath)]
    pub(crate) ca_file: Option<PathBuf>,
    /// The daemon's API key, where it asks for one. Better given by the variable or a file: others
    /// on this machine may see the command line
    #[arg(long, value_name = "KEY", env = "PHI4D_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,
    /// File with the daemon's API key, and nothing else
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) api_key_file: Option<PathBuf>,
    /// How long to wait for a daemon that starts or loads its model; 0 fails at once. Default: 5
    /// for one that is not there, 300 for one that loads
    #[arg(long, value_name = "SECONDS")]
    pub(crate) wait: Option<u32>,
    /// The model, where several are behind one address
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// Instructions that hold for the whole conversation
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// 0 always takes the likeliest token. Default: the daemon's
    #[arg(long, value_name = "X")]
    pub(crate) temperature: Option<f64>,
    /// Choose among the likeliest tokens that make up this share. Default: the daemon's
    #[arg(long, value_name = "X")]
    pub(crate) top_p: Option<f64>,
    /// The most tokens of an answer. Default: what fits the context
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<u64>,
    /// Equal seeds give nearly always equal answers to equal conversations; always if the daemon's
    /// setting `reproducible` is on
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) seed: Option<i64>,
    /// Tell tokens and speed of each answer, on a terminal
    #[arg(long)]
    pub(crate) stats: bool,
}

/// A conversation.
#[derive(Debug, Default, Args)]
pub(crate) struct ChatArgs {
    /// Neither read nor write the file of earlier questions
    #[arg(long)]
    pub(crate) no_history: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// One question.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The question. What is piped in follows it, or is the question where this is left out
    #[arg(value_name = "PROMPT")]
    pub(crate) prompt: Option<String>,
    /// Print one JSON object: content, reasoning, finish_reason, model, usage and timings
    #[arg(long)]
    pub(crate) json: bool,
    /// File with a JSON Schema that the answer keeps to
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) schema: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}
