//! The table of settings: the only place where a key is described.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use log::LevelFilter;

use super::define::{Definition, Reader, define_settings, flag_name};
use super::kind::{
    Choice, Kind, Listen, Mode, Number, OptionalName, OptionalPath, OptionalUrl, Seconds,
    SecondsOrNone, Socket, Switch, whole,
};
use super::lists::Pairs;
use super::lists::Words;
use super::socket::SocketSetting;
use super::value::{ListenAddress, LogFormat, MetricsAccess, Provider, Sandbox, WebPage};

define_settings! {
    /// The model's folder: an ONNX export with genai_config.json, model.onnx and
    /// tokenizer.json in it.
    model: Option<PathBuf> = "", OptionalPath { placeholder: "DIR", accepted: "a folder's path" };

    /// The name that the API calls the model by. Empty: the folder's name.
    model_name: Option<String> = "", OptionalName;

    /// Where the model runs. auto: of cuda, directml and webgpu the first that can be used,
    /// for a model that was exported for GPUs; else the cpu. plugin: what provider_library
    /// brings. One that is named and can't be used is an error.
    provider: Provider = "auto", Choice {
        placeholder: "PROVIDER",
        options: &[
            ("auto", Provider::Auto),
            ("cpu", Provider::Cpu),
            ("cuda", Provider::Cuda),
            ("directml", Provider::DirectMl),
            ("webgpu", Provider::WebGpu),
            ("plugin", Provider::Plugin),
        ],
    };

    /// Library of an execution provider that ONNX Runtime can load. Empty: the provider's
    /// own, from ONNX Runtime's folder.
    provider_library: Option<PathBuf> = "",
        OptionalPath { placeholder: "FILE", accepted: "a file's path, or empty" };

    /// Options of the provider: device (its number) for all but cpu; for cuda also
    /// memory_limit_bytes, arena (next_power_of_two, same_as_requested), tf32 and graphs
    /// (true, false); for webgpu and plugin whatever they know by themselves.
    provider_options: Vec<(String, String)> = "", Pairs {
        placeholder: "OPTIONS", accepted: "options",
    };

    /// Threads that run the model. 0: as many as there are physical cores that this
    /// process may use.
    threads: usize = "0", whole::<usize>(0, 1024), "threads";

    /// Multiply int4 weights by phi4d's own kernel, where the processor has AVX-512 VNNI and
    /// the export is of blocks of 32 at accuracy level 4, as the published ones are. Off:
    /// ONNX Runtime's kernels, which give the same but for rounding.
    own_kernels: bool = "true", Switch;

    /// ONNX Runtime's shared library. Empty: searched for in ../lib/phi4d/ beside the
    /// program, in /usr/lib/phi4d/, in .runtime/ under the current folder and the
    /// folders above the program, then by the system's loader.
    runtime_library: Option<PathBuf> = "",
        OptionalPath { placeholder: "FILE", accepted: "a file's path, or empty" };

    /// TCP address of the API; port 0 lets the system choose. off: no TCP. Addresses
    /// that other machines can reach are refused unless there are API keys or
    /// allow_unauthenticated_lan is on.
    listen: Option<ListenAddress> = "127.0.0.1:8484", Listen;

    /// Let anyone who can reach the TCP address use the API where there are no API keys:
    /// everyone on the network.
    allow_unauthenticated_lan: bool = "false", Switch;

    /// File of the API keys, one a line, as `phi4d key add` writes it; with it, TCP needs a
    /// key. Empty: the credential api-keys, if systemd passes one, else no keys.
    api_keys_file: Option<PathBuf> = "",
        OptionalPath { placeholder: "FILE", accepted: "a file's path, or empty" };

    /// Who may read /metrics: open is anyone who reaches a socket, use anyone who may use the
    /// API, admin keys with that scope and, by the Unix socket, root and the daemon's user.
    metrics_access: MetricsAccess = "use", Choice {
        placeholder: "CLASS",
        options: &[
            ("open", MetricsAccess::Open),
            ("use", MetricsAccess::Use),
            ("admin", MetricsAccess::Admin),
        ],
    };

    /// Certificate chain of the TCP address, in PEM's format; with it and its key, TCP is
    /// HTTPS. Empty: plain HTTP.
    tls_cert_file: Option<PathBuf> = "",
        OptionalPath { placeholder: "FILE", accepted: "a file's path, or empty" };

    /// The certificate's private key, in PEM's format.
    tls_key_file: Option<PathBuf> = "",
        OptionalPath { placeholder: "FILE", accepted: "a file's path, or empty" };

    /// Certificates of those who sign clients' certificates. With it, no client without one
    /// gets in by TCP.
    tls_client_ca_file: Option<PathBuf> = "",
        OptionalPath { placeholder: "FILE", accepted: "a file's path, or empty" };

    /// Further names by which the TCP address may be called, beside localhost, addresses,
    /// the machine's name and that in listen; * is any. Where there are API keys, any name may.
    allowed_hosts: Vec<String> = "", Words { placeholder: "NAMES", accepted: "hosts' names" };

    /// Web pages that may use the API from a browser, by their origin, such as
    /// `https://chat.example.org`; * is any. Empty: none.
    cors_origins: Vec<String> = "", Words { placeholder: "ORIGINS", accepted: "origins" };

    /// Whether there is a web page to chat by, at /. auto: for browsers on this machine, and on
    /// others where there are API keys. on: for everyone who reaches the API. off: for nobody.
    web_page: WebPage = "auto", Choice {
        placeholder: "WHEN",
        options: &[("auto", WebPage::Auto), ("on", WebPage::On), ("off", WebPage::Off)],
    };

    /// Path of the API's Unix socket. off: none. default: phi4d.sock in
    /// $RUNTIME_DIRECTORY (under systemd), else in $XDG_RUNTIME_DIR, else
    /// /run/phi4d/phi4d.sock for root and /tmp/phi4d-UID/phi4d.sock for others.
    socket: SocketSetting = "default", Socket;

    /// Who may use the Unix socket, as the octal mode of its file.
    socket_mode: u32 = "0660", Mode;

    /// Users that may use the Unix socket, by name or number, beside root and the daemon's own.
    /// Empty, here and for groups: everyone whom its mode lets connect.
    socket_allow_users: Vec<String> = "", Words {
        placeholder: "USERS", accepted: "users' names or numbers",
    };

    /// Groups whose members may use the Unix socket, by name or number.
    socket_allow_groups: Vec<String> = "", Words {
        placeholder: "GROUPS", accepted: "groups' names or numbers",
    };

    /// Where there are API keys, ask for one on the Unix socket, too.
    socket_require_key: bool = "false", Switch;

    /// Requests that are answered at the same time. Memory for the context of each is
    /// taken as it is used, not before.
    slots: usize = "8", whole::<usize>(1, 1024), "requests";

    /// Answered prompts that are kept in the KV cache, so that a conversation's next turn
    /// or a common beginning is not read again. Their memory is given up when it is wanted.
    prefix_slots: usize = "16", whole::<usize>(0, 1024), "prompts";

    /// Memory for the KV cache. 0: half of what the machine or the cgroup of the process
    /// has to spare once the model is loaded; in a device's memory 4 GiB, or what two
    /// sequences of the whole context take if that is more.
    kv_cache_bytes: usize = "0", whole::<usize>(0, 1 << 50), "bytes";

    /// Folder in which cached prompts outlive a restart: written when the daemon stops,
    /// read when it starts with the same model. Empty: prefixes in $STATE_DIRECTORY, which
    /// systemd sets; without that they are not kept.
    prefix_store: Option<PathBuf> = "",
        OptionalPath { placeholder: "DIR", accepted: "a folder's path, or empty" };

    /// The most that is written there. 0: nothing is kept.
    prefix_store_bytes: u64 = "2147483648", whole::<u64>(0, 1 << 50), "bytes";

    /// Longest prompt and answer together. 0: as long as the model allows.
    context_tokens: usize = "0", whole::<usize>(0, 1 << 24), "tokens";

    /// Part of a prompt that is read in one step. Larger reads long prompts faster;
    /// smaller lets other answers go on sooner in between.
    prefill_chunk_tokens: usize = "256", whole::<usize>(1, 65_536), "tokens";

    /// Share of the time that is given to reading prompts while other answers go on, from
    /// 0.05 to 0.95. At 0.5 an answer's next token takes up to twice as long while a prompt
    /// is read.
    prefill_share: f64 = "0.5", Number { min: 0.05, min_included: true, max: 0.95 };

    /// Most draft tokens of speculative decoding, taken from the text so far, for an answer that
    /// runs alone without a seed. The model checks each; as many are drafted as pays. A step's width
    /// moves the last digits of its log-probabilities, so close decisions may fall differently;
    /// reproducible turns it off. 0: none.
    draft_tokens: usize = "7", whole::<usize>(0, 64), "tokens";

    /// Answer a request that gives a seed, or temperature 0, the same each time, bit for bit:
    /// whatever is cached, runs beside it or interrupts it. Prompts are then read and reused in whole
    /// chunks of prefill_chunk_tokens, and nothing is speculated. Off, a step's width moves the last
    /// digits of log-probabilities, so close decisions may fall differently.
    reproducible: bool = "false", Switch;

    /// Requests that may wait for a slot. Further ones are answered with status 503.
    queue: usize = "128", whole::<usize>(1, 1_000_000), "requests";

    /// Of these, the most of one caller. Further ones of it are answered with status 429.
    queue_per_caller: usize = "64", whole::<usize>(1, 1_000_000), "requests";

    /// Largest request body. Larger ones are answered with status 413. All bodies that are being
    /// read at once may take 32 times as much; what goes beyond is answered with status 503.
    max_body_bytes: usize = "8388608", whole::<usize>(1024, 1 << 30), "bytes";

    /// Memory for all requests together: their bodies, what these are parsed into, tokens and
    /// answers. One request may take up to half of it, and a caller no more than it leaves free. 0: half
    /// of what is to spare beside the KV cache when the model is loaded, 1 GiB at most; at least
    /// 64 MiB and 8 times max_body_bytes.
    request_memory_bytes: usize = "0", whole::<usize>(0, 1 << 50), "bytes";

    /// Open connections over all sockets. Further ones wait to be accepted. Where there is TCP
    /// and a Unix socket, an eighth is the Unix socket's alone.
    max_connections: usize = "1024", whole::<usize>(1, 1_000_000), "connections";

    /// Of the TCP connections, the most of one remote address (of IPv6 a /64 network). Further ones
    /// are closed at once. 0: a quarter.
    max_connections_per_address: usize = "0", whole::<usize>(0, 1_000_000), "connections";

    /// Of the TCP connections, the most of one loopback address, and of all the most of one user of
    /// the Unix socket. A reverse proxy on this machine brings everyone's connections; as many as
    /// max_connections is no bound. 0: three quarters of TCP's.
    max_connections_per_local: usize = "0", whole::<usize>(0, 1_000_000), "connections";

    /// How long a connection's first head may take to arrive, TLS handshake included, and a later one
    /// from its first byte on. While nearly all connections are taken it is 2 seconds at most.
    first_head_timeout_s: Duration = "10", Seconds { min: 1, max: 3600 }, "seconds";

    /// How long a connection may take until a request's head has arrived. This is also
    /// how long an idle connection is kept open for the next request.
    header_timeout_s: Duration = "60", Seconds { min: 1, max: 3600 }, "seconds";

    /// How long a client may take to send a request's body.
    body_timeout_s: Duration = "60", Seconds { min: 1, max: 3600 }, "seconds";

    /// The longest that a request may take from its arrival to the end of its answer.
    /// 0: no limit.
    request_timeout_s: Option<Duration> = "600", SecondsOrNone { max: 604_800 }, "seconds";

    /// How long a client may leave its answer unread before it is given up.
    slow_client_timeout_s: Duration = "60", Seconds { min: 1, max: 86_400 }, "seconds";

    /// How long answers in progress may go on after the daemon was told to stop.
    drain_timeout_s: Duration = "30", Seconds { min: 0, max: 86_400 }, "seconds";

    /// Whether the daemon, once it has its model and sockets, gives up what it does not need of the
    /// system: running programs, other users' rights, new listeners and more (seccomp and
    /// no_new_privs). auto: where the kernel can. on: else it does not start. With another provider
    /// than cpu only what no part of it needs is given up.
    sandbox: Sandbox = "auto", Choice {
        placeholder: "WHEN",
        options: &[("auto", Sandbox::Auto), ("on", Sandbox::On), ("off", Sandbox::Off)],
    };

    /// Temperature of requests that give none; 0 always takes the likeliest token.
    default_temperature: f64 = "1.0", Number { min: 0.0, min_included: true, max: 2.0 };

    /// top_p of requests that give none.
    default_top_p: f64 = "1.0", Number { min: 0.0, min_included: false, max: 1.0 };

    /// Collector of OpenTelemetry traces, which takes OTLP as JSON over HTTP at /v1/traces
    /// below this. Empty: no traces. Prompts and answers are not in them.
    otlp_endpoint: Option<String> = "", OptionalUrl;

    /// Share of the requests that are traced, unless the request says by its traceparent
    /// header that it is or is not.
    otlp_sample_ratio: f64 = "1.0", Number { min: 0.0, min_included: true, max: 1.0 };

    /// The least severe messages that are logged.
    log_level: LevelFilter = "info", Choice {
        placeholder: "LEVEL",
        options: &[
            ("off", LevelFilter::Off),
            ("error", LevelFilter::Error),
            ("warn", LevelFilter::Warn),
            ("info", LevelFilter::Info),
            ("debug", LevelFilter::Debug),
            ("trace", LevelFilter::Trace),
        ],
    };

    /// Where the log goes: text or json lines to standard error, or entries with fields
    /// to the journal. auto: the journal if standard error leads there, else text.
    log_format: LogFormat = "auto", Choice {
        placeholder: "FORMAT",
        options: &[
            ("auto", LogFormat::Auto),
            ("text", LogFormat::Text),
            ("json", LogFormat::Json),
            ("journal", LogFormat::Journal),
        ],
    };
}

impl Settings {
    /// The name that the API calls the model by: the one set, else the folder's.
    #[must_use]
    pub fn served_model_name(&self) -> String {
        let folder = || {
            let path = self.model.as_ref()?;
            // A folder given as "." or "models/demo/.." has its name only once resolved.
            let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.clone());
            Some(path.file_name()?.to_string_lossy().into_owned())
        };
        self.model_name.clone().or_else(folder).unwrap_or_else(|| "phi-4".to_owned())
    }
}
