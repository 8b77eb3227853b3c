//! The table of settings: the only place where a key is described.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use log::LevelFilter;

use super::define::{Definition, Reader, define_settings, flag_name};
use super::kind::{
    choice, listen, mode, name, number, or_model, path, positive, seconds, seconds_or_never,
    seconds_or_none, socket, switch, url, whole,
};
use super::lists::{origins, pairs, words};
use super::socket::SocketSetting;
use super::value::{
    Int8Activations, KvCacheType, ListenAddress, LogFormat, MetricsAccess, Provider, Sandbox,
    WebPage, WeightsMemory,
};

define_settings! {
    /// The model folder: an ONNX export with genai_config.json, model.onnx and tokenizer.json.
    model: Option<PathBuf> = "", path("DIR", "a folder's path");

    /// The model's name in the API. Empty: the folder's name.
    model_name: Option<String> = "", name();

    /// Further names that requests may give the model; answers repeat the name that was given.
    /// *: any name.
    model_aliases: Vec<String> = "", words("NAMES", "models' names");

    /// The folder of an embedding model for /v1/embeddings and Ollama's /api/embed: an ONNX export of
    /// a sentence-transformers model with tokenizer.json. It runs on the CPU, beside the model.
    /// Empty: none.
    embedding_model: Option<PathBuf> = "", path("DIR", "a folder's path, or empty");

    /// The embedding model's name in the API. Empty: the folder's name.
    embedding_model_name: Option<String> = "", name();

    /// Threads that run the embedding model. They take time from answers in progress. 0: a quarter of
    /// threads, at least one.
    embedding_threads: usize = "0", whole::<usize>(0, 1024), "threads";

    /// Most tokens of a text to embed, special tokens included, as far as the model takes them. The
    /// memory of a run grows with the square. 0: the model's limit, at most 2048.
    embedding_max_tokens: usize = "0", whole::<usize>(0, 1 << 20), "tokens";

    /// Where the model runs. auto: the first of cuda, directml and webgpu that works, for a
    /// model exported for GPUs, else cpu. plugin: the provider in provider_library. A named
    /// provider that can't be used is an error.
    provider: Provider = "auto", choice("PROVIDER", &Provider::NAMED);

    /// Library of an execution provider that ONNX Runtime can load. Empty: the provider's own
    /// library in ONNX Runtime's folder.
    provider_library: Option<PathBuf> = "", path("FILE", "a file's path, or empty");

    /// Options of the provider: device (its number) for all but cpu; for cuda also
    /// memory_limit_bytes, arena (next_power_of_two, same_as_requested), tf32 and graphs (true,
    /// false); for webgpu and plugin any option of the provider.
    provider_options: Vec<(String, String)> = "", pairs("OPTIONS", "options");

    /// Threads that run the model. 0: the number of physical cores that this process may use,
    /// without slow ones (E cores, LITTLE cores) if the fast ones have most of the speed.
    threads: usize = "0", whole::<usize>(0, 1024), "threads";

    /// Use phi4d's kernels on the CPU for what the published exports have: matmuls with int4 or
    /// int8 weights (see int8_activations), and attention. They need AVX2 (faster: AVX-VNNI,
    /// AVX-512 VNNI) or arm64 (faster: dotprod, i8mm). Off: ONNX Runtime's kernels, with the same
    /// results except for rounding, and a KV cache of the export's type.
    own_kernels: bool = "true", switch();

    /// Which exports phi4d's matmul kernel, which rounds activations to 8-bit integers, may run.
    /// export: those that allow it, by accuracy level 4 or as QDQ. always: exports of other
    /// accuracy levels as well, which are faster then and less accurate than they were made to be.
    int8_activations: Int8Activations = "export", choice("WHICH", &[
        ("export", Int8Activations::Export),
        ("always", Int8Activations::Always),
    ]);

    /// Where weights that `phi4d prepare` made are. copied: read into memory of the daemon's own,
    /// in huge pages, which answers faster. mapped: mapped from the file, which starts faster, and
    /// several daemons share the memory. auto: copied if the system has huge pages and enough
    /// free memory.
    weights_memory: WeightsMemory = "auto", choice("WHERE", &[
        ("auto", WeightsMemory::Auto),
        ("mapped", WeightsMemory::Mapped),
        ("copied", WeightsMemory::Copied),
    ]);

    /// ONNX Runtime's shared library. Empty: looked for in ../lib/phi4d/ beside the program, in
    /// /usr/lib/phi4d/, in .runtime/ under the current folder and the folders above the
    /// program, then by the system's loader.
    runtime_library: Option<PathBuf> = "", path("FILE", "a file's path, or empty");

    /// TCP address of the API; port 0 picks a free port. off: no TCP. An address that other
    /// machines can reach is refused unless there are API keys or allow_unauthenticated_lan is
    /// on.
    listen: Option<ListenAddress> = "127.0.0.1:8484", listen();

    /// Serve other machines without API keys: anyone who can reach the TCP address may use the
    /// API.
    allow_unauthenticated_lan: bool = "false", switch();

    /// File of API keys, one per line, as `phi4d key add` writes it; with it, TCP clients need
    /// a key. Empty: the systemd credential api-keys if there is one, else no keys.
    api_keys_file: Option<PathBuf> = "", path("FILE", "a file's path, or empty");

    /// Who may read /metrics. open: anyone who reaches a socket; use: anyone who may use the
    /// API; admin: keys with that scope and, over the Unix socket, root and the daemon's user.
    metrics_access: MetricsAccess = "use", choice("CLASS", &[
        ("open", MetricsAccess::Open),
        ("use", MetricsAccess::Use),
        ("admin", MetricsAccess::Admin),
    ]);

    /// Certificate chain for the TCP address, in PEM format; with it and its key, TCP is HTTPS.
    /// Empty: plain HTTP.
    tls_cert_file: Option<PathBuf> = "", path("FILE", "a file's path, or empty");

    /// Private key of the certificate, in PEM format.
    tls_key_file: Option<PathBuf> = "", path("FILE", "a file's path, or empty");

    /// CA certificates for client certificates, in PEM format. If set, TCP clients need a
    /// certificate signed by one of them.
    tls_client_ca_file: Option<PathBuf> = "", path("FILE", "a file's path, or empty");

    /// Further Host names accepted on the TCP address, beside localhost, IP addresses, the
    /// machine's name and the name in listen; * accepts any. With API keys any name is
    /// accepted.
    allowed_hosts: Vec<String> = "", words("NAMES", "hosts' names");

    /// Origins of web pages that may use the API from a browser, such as
    /// `https://chat.example.org`; * allows any. Empty: none.
    cors_origins: Vec<String> = "", origins();

    /// Who gets the chat page at /. auto: browsers on this machine, and on other machines if
    /// there are API keys. on: everyone who reaches the API. off: nobody.
    web_page: WebPage = "auto", choice("WHEN", &[
        ("auto", WebPage::Auto),
        ("on", WebPage::On),
        ("off", WebPage::Off),
    ]);

    /// Path of the API's Unix socket. off: none. default: phi4d.sock in $RUNTIME_DIRECTORY
    /// (under systemd), else in $XDG_RUNTIME_DIR, else /run/phi4d/phi4d.sock for root and
    /// /tmp/phi4d-UID/phi4d.sock for other users.
    socket: SocketSetting = "default", socket();

    /// Octal file mode of the Unix socket: who may connect.
    socket_mode: u32 = "0660", mode();

    /// Users who may use the Unix socket, by name or number, beside root and the daemon's user.
    /// If this and socket_allow_groups are empty: everyone whom the file mode allows.
    socket_allow_users: Vec<String> = "", words("USERS", "users' names or numbers");

    /// Groups whose members may use the Unix socket, by name or number.
    socket_allow_groups: Vec<String> = "", words("GROUPS", "groups' names or numbers");

    /// Require an API key on the Unix socket too, if there are keys.
    socket_require_key: bool = "false", switch();

    /// Requests that are answered at the same time. Memory for each one's context is allocated
    /// as it is used.
    slots: usize = "8", whole::<usize>(1, 1024), "requests";

    /// Prompts that are kept in the KV cache, so that a conversation's next message or a common
    /// beginning is not read again. Their memory is freed when it is needed.
    prefix_slots: usize = "16", whole::<usize>(0, 1024), "prompts";

    /// Memory for the KV cache. 0: half of the memory that the machine or the process's cgroup
    /// has left beside the model's weights; in a device's memory 4 GiB, or enough for two
    /// sequences of full context if that is more. phi4d inspect prints the plan.
    kv_cache_bytes: usize = "0", whole::<usize>(0, 1 << 50), "bytes";

    /// How keys and values are stored in the KV cache, where phi4d's own attention runs: half
    /// precision (Phi-4: 200 KiB a token), 8-bit integers with a scale for each token and head
    /// (103 KiB) or single precision (400 KiB). Other exports, devices and own_kernels = false
    /// store them as the export says; a log line says so.
    kv_cache_type: KvCacheType = "f16", choice("TYPE", &[
        ("f16", KvCacheType::F16),
        ("int8", KvCacheType::Int8),
        ("f32", KvCacheType::F32),
    ]);

    /// Folder that keeps cached prompts over restarts: written at shutdown, read at the next
    /// start with the same model. Empty: prefixes in $STATE_DIRECTORY, which systemd sets;
    /// without it nothing is kept.
    prefix_store: Option<PathBuf> = "", path("DIR", "a folder's path, or empty");

    /// Size limit of the prefix store. 0: nothing is kept.
    prefix_store_bytes: u64 = "2147483648", whole::<u64>(0, 1 << 50), "bytes";

    /// Maximum tokens of prompt and answer together. 0: the model's limit.
    context_tokens: usize = "0", whole::<usize>(0, 1 << 24), "tokens";

    /// Most tokens of a prompt that are read in one step. It has as many as prefill_chunk_ms
    /// allows; where reproducible has an effect, always this many.
    prefill_chunk_tokens: usize = "256", whole::<usize>(1, 65_536), "tokens";

    /// Time that one step of reading a prompt may take, by the times of earlier steps. It is
    /// raised to four times what a step takes with any number of tokens: smaller steps would read
    /// the weights more often than they compute. A prompt that is alone gets steps of up to twice
    /// the time that is set. New requests, cancellations and deadlines wait for the step in
    /// progress. Beside one long prompt, one that fits a step has its first token within three
    /// times this time: it waits for the step in progress and is read in the next. Larger values
    /// read long prompts a little faster.
    prefill_chunk_ms: u64 = "250", whole::<u64>(1, 60_000), "milliseconds";

    /// Share of the time, from 0.05 to 0.95, that goes to reading prompts while answers are
    /// being generated. The next token of an answer then takes at most prefill_chunk_ms plus the
    /// time of a step of answers divided by 1 - prefill_share, and a prompt is read at this share
    /// of the speed that it has alone.
    prefill_share: f64 = "0.5", number(0.05..=0.95);

    /// Most draft tokens per step of speculative decoding. Draft tokens come from the text so
    /// far, for an answer that runs alone, and only as many are drafted as pay off. Answers stay
    /// the same where phi4d's own kernels run all of the model. Elsewhere the number of tokens in
    /// a step changes low-order digits of logits, so close decisions may fall differently;
    /// there, answers that are drawn with a request's seed, and all with reproducible, get no
    /// draft tokens. 0: none.
    draft_tokens: usize = "7", whole::<usize>(0, 64), "tokens";

    /// Give a request with a seed or temperature 0 the same answer every time, bit for bit,
    /// whatever is cached, runs beside it or interrupts it. Where phi4d's own kernels run the
    /// attention and all matmuls, that holds anyway, and this changes nothing. Elsewhere the
    /// number of tokens in a step changes low-order digits of logits, so close decisions may
    /// fall differently; with this on, prompts are read and reused in whole chunks of
    /// prefill_chunk_tokens, without speculative decoding, and where ONNX Runtime does some of
    /// the matmuls, answers are decoded one at a time.
    reproducible: bool = "false", switch();

    /// Requests that may wait for a slot. Further ones get status 503.
    queue: usize = "128", whole::<usize>(1, 1_000_000), "requests";

    /// Waiting requests of one caller. A caller also gets no more places than it leaves free, so
    /// one caller alone gets half of the queue, the next half of the rest, and so on; a caller's
    /// first request gets any free place. Further ones get status 429.
    queue_per_caller: usize = "64", whole::<usize>(1, 1_000_000), "requests";

    /// Largest request body. Larger ones get status 413. All bodies that are being read may
    /// take 32 times as much together; beyond that, requests get status 503.
    max_body_bytes: usize = "8388608", whole::<usize>(1024, 1 << 30), "bytes";

    /// Memory budget of all requests together: bodies, parsed values, tokens and answers. One
    /// request may take up to half of it, and a caller no more than it leaves free. 0: half of
    /// the memory that is left beside the weights and the KV cache, at most 1 GiB, and at least
    /// 64 MiB and 8 times max_body_bytes.
    request_memory_bytes: usize = "0", whole::<usize>(0, 1 << 50), "bytes";

    /// Most memory for finished responses of /v1/responses, so that later requests can go on from
    /// them; the least recently used are dropped first. 0: none are kept.
    response_store_bytes: usize = "33554432", whole::<usize>(0, 1 << 40), "bytes";

    /// Open connections on all sockets together. Further ones wait to be accepted. With both
    /// TCP and a Unix socket, an eighth is reserved for the Unix socket.
    max_connections: usize = "1024", whole::<usize>(1, 1_000_000), "connections";

    /// TCP connections of one remote address (for IPv6, of one /64 network). Further ones are
    /// closed at once. 0: a quarter of the TCP connections.
    max_connections_per_address: usize = "0", whole::<usize>(0, 1_000_000), "connections";

    /// TCP connections of one loopback address, and connections of one user of the Unix socket.
    /// A reverse proxy on this machine brings everyone's connections; a value of
    /// max_connections is no limit. 0: three quarters of the TCP connections.
    max_connections_per_local: usize = "0", whole::<usize>(0, 1_000_000), "connections";

    /// Time limit for a connection's first request head, TLS handshake included, and for a
    /// later head from its first byte on. At most 2 seconds while nearly all connections are
    /// taken.
    first_head_timeout_s: Duration = "10", seconds(1, 3600), "seconds";

    /// Time limit for a request head to arrive, and how long an idle connection stays open for
    /// the next request.
    header_timeout_s: Duration = "60", seconds(1, 3600), "seconds";

    /// Time limit for a request body to arrive.
    body_timeout_s: Duration = "60", seconds(1, 3600), "seconds";

    /// Time limit of a request, from its arrival to the end of its answer. 0: none.
    request_timeout_s: Option<Duration> = "600", seconds_or_none(604_800), "seconds";

    /// How long a client may leave its answer unread before the request is cancelled.
    slow_client_timeout_s: Duration = "60", seconds(1, 86_400), "seconds";

    /// How long running answers may continue after the daemon was asked to stop.
    drain_timeout_s: Duration = "30", seconds(0, 86_400), "seconds";

    /// End the daemon, so that it takes no memory, after so long without a request; the next
    /// connection starts it again. 0: never. Only for sockets that systemd holds (phi4d.socket,
    /// phi4d-http.socket); with listen or a socket of the daemon's own it is refused. /health,
    /// /ready, /metrics and /slots do not count as requests. The packaged unit allows 15 starts a
    /// minute, so less than 5 seconds needs a larger StartLimitBurst.
    idle_exit: Option<Duration> = "0", seconds_or_never(0.01..=604_800.0), "seconds";

    /// With further models ([models.NAME]): memory for the weights and KV caches of all that are
    /// loaded. When another is asked for, the least recently used ones make room. 0: what the
    /// machine or the process's cgroup has left at the start, less the embedding model and an eighth
    /// for requests.
    models_memory_bytes: u64 = "0", whole::<u64>(0, 1 << 50), "bytes";

    /// Unload a model after so long without a request for it; the next request loads it again.
    /// 0: never. Ollama's keep_alive in a request overrides it until the next request for the model.
    idle_unload: Option<Duration> = "0", seconds_or_never(0.01..=31_536_000.0), "seconds";

    /// Drop what the daemon does not need once it has its model and sockets: running programs,
    /// other users' rights, new listeners and more (seccomp and no_new_privs). auto: if the
    /// kernel supports it. on: refuse to start without it. With a provider other than cpu, only
    /// what no part of the daemon needs is dropped.
    sandbox: Sandbox = "auto", choice("WHEN", &[
        ("auto", Sandbox::Auto),
        ("on", Sandbox::On),
        ("off", Sandbox::Off),
    ]);

    /// Temperature for requests that set none; 0 always takes the most likely token. model: what
    /// the model folder's genai_config.json says (search; 0 where do_sample is false), else 1.
    default_temperature: Option<f64> = "model",
        or_model(number(0.0..=2.0));

    /// top_p for requests that set none. model: what the model folder says, else 1.
    default_top_p: Option<f64> = "model",
        or_model(positive(1.0));

    /// top_k for requests that set none; 0 keeps all tokens. model: what the model folder says,
    /// else 0.
    default_top_k: Option<usize> = "model", or_model(whole::<usize>(0, 1_000_000));

    /// min_p for requests that set none. model: what the model folder says, else 0.
    default_min_p: Option<f64> = "model",
        or_model(number(0.0..=1.0));

    /// Whether objects in structured output and forced tool calls have only the properties that the
    /// schema lists, where it does not say what other properties may be. JSON Schema would allow any.
    close_objects: bool = "true", switch();

    /// Base URL of an OpenTelemetry collector that takes OTLP as JSON over HTTP at /v1/traces.
    /// Empty: no traces. Prompts and answers are not in them.
    otlp_endpoint: Option<String> = "", url();

    /// Share of requests that are traced, unless the request's traceparent header decides.
    otlp_sample_ratio: f64 = "1.0", number(0.0..=1.0);

    /// The least severe messages that are logged.
    log_level: LevelFilter = "info", choice("LEVEL", &[
        ("off", LevelFilter::Off),
        ("error", LevelFilter::Error),
        ("warn", LevelFilter::Warn),
        ("info", LevelFilter::Info),
        ("debug", LevelFilter::Debug),
        ("trace", LevelFilter::Trace),
    ]);

    /// Where the log goes: text or json lines to standard error, or entries with fields to the
    /// journal. auto: the journal if standard error is connected to it, else text.
    log_format: LogFormat = "auto", choice("FORMAT", &[
        ("auto", LogFormat::Auto),
        ("text", LogFormat::Text),
        ("json", LogFormat::Json),
        ("journal", LogFormat::Journal),
    ]);
}

impl Settings {
    /// The name that the API calls the model by: the one set, else the folder's.
    #[must_use]
    pub fn served_model_name(&self) -> String {
        let folder = || name_of(self.model.as_deref()?);
        self.model_name.clone().or_else(folder).unwrap_or_else(|| "phi-4".to_owned())
    }

    /// The name that the API calls the embedding model by: the one set, else the folder's.
    #[must_use]
    pub fn served_embedding_name(&self) -> String {
        let folder = || name_of(self.embedding_model.as_deref()?);
        self.embedding_model_name.clone().or_else(folder).unwrap_or_else(|| "embedding".to_owned())
    }
}

/// The name of a folder.
fn name_of(folder: &Path) -> Option<String> {
    // One that is given as "." or "models/demo/.." has its name only once resolved.
    let folder = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    Some(folder.file_name()?.to_string_lossy().into_owned())
}
