//! Arguments of the clients, `phi4d chat` and `phi4d run`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

/// How to reach the daemon and what to ask of it.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ClientArgs {
    /// The daemon's Unix socket. Default: the one in the settings, else the daemon's default path
    #[arg(long, value_name = "PATH", conflicts_with = "url", value_hint = ValueHint::AnyPath)]
    pub(crate) socket: Option<PathBuf>,
    /// The daemon's TCP address, as http://HOST:PORT or https://HOST:PORT
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    pub(crate) url: Option<String>,
    /// CA certificates to trust for an https URL, in PEM format. Default: those of this machine
    #[arg(long, value_name = "FILE", requires = "url", value_hint = ValueHint::FilePath)]
    pub(crate) ca_file: Option<PathBuf>,
    /// The daemon's API key, if it needs one. Prefer the variable or a file: other users of this
    /// machine can see the command line
    #[arg(long, value_name = "KEY", env = "PHI4D_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,
    /// File that contains only the daemon's API key
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) api_key_file: Option<PathBuf>,
    /// How long to wait for a daemon that is starting or loading its model; 0 fails at once.
    /// Default: 5 if nothing answers, 300 while it loads
    #[arg(long, value_name = "SECONDS")]
    pub(crate) wait: Option<u32>,
    /// The model, if several are served behind one address
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// System message of the conversation
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Sampling temperature; 0 always takes the most likely token. Default: the daemon's
    #[arg(long, value_name = "X")]
    pub(crate) temperature: Option<f64>,
    /// Sample from the most likely tokens that make up this probability. Default: the daemon's
    #[arg(long, value_name = "X")]
    pub(crate) top_p: Option<f64>,
    /// Most tokens of an answer. Default: what fits the context
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<u64>,
    /// Sampling seed. The same seed and conversation give the same answer where the daemon's own
    /// kernels run the model or its setting `reproducible` is on, and nearly always elsewhere
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) seed: Option<i64>,
    /// Show tokens and speed of each answer, on a terminal
    #[arg(long)]
    pub(crate) stats: bool,
}

/// A conversation.
#[derive(Debug, Default, Args)]
pub(crate) struct ChatArgs {
    /// Neither read nor write the history file
    #[arg(long)]
    pub(crate) no_history: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// One question.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    /// The question. Piped input is appended to it, or is the question if this is omitted. A model's
    /// name before it (`phi4d run phi-4 "Hello!"`) asks that model, which is downloaded if it is
    /// missing; a name alone, on a terminal, begins a chat
    #[arg(id = "words", value_name = "[MODEL] PROMPT", num_args = 0..=2)]
    pub(crate) words: Vec<String>,
    /// The last of `words`, unless that is a model's name.
    #[arg(skip)]
    pub(crate) prompt: Option<String>,
    /// Text file to put before the question; may be repeated
    #[arg(short = 'f', long = "file", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) files: Vec<PathBuf>,
    /// Print one JSON object: content, reasoning, finish_reason, model, usage and timings
    #[arg(long)]
    pub(crate) json: bool,
    /// File with a JSON Schema that the answer must match
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) schema: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}
