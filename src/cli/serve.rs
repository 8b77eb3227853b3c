//! `phi4d serve`: settings, log, sockets, model, engine, server; ready; drain with a limit.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::args::SettingsArgs;
use super::confinement;
use super::embedding;
use super::exit::{Code, Fatal};
use super::fleet::{Fleet, as_loaded};
use super::loading::Loading;
use super::manager::{Manager, feed_watchdog};
use super::reload::Reloader;
use super::report::size;
use super::start::{self, Started, variable};
use super::threads;
use super::traces::Exporter;
use phi4d_generate::{Embedder, FormHost, NoForms};
use phi4d_model::{self as model, LoadCancel, MemoryPlan, Provider};
use phi4d_os::{self as os, Listener, Notifier, Signal, Signals, SocketFile, State};
use phi4d_server::{self as server, App, Ended, Environment, Models, ServerOptions};
use phi4d_settings::{Resolved, Settings, WebPage};
use phi4d_telemetry::Tracer;

/// Threads that carry connections; the model has its own.
const CONNECTION_THREADS: usize = 2;

/// How often the service manager is asked for more time while a model loads.
const LOADING_TICK: Duration = Duration::from_secs(5);

/// How much more time it is asked for: enough for a few ticks to come late.
const LOADING_EXTENSION: Duration = Duration::from_secs(30);

/// How often the engine is asked whether it lives.
const ENGINE_TICK: Duration = Duration::from_millis(250);

/// How much longer than the drain limit stopping may take.
const STOP_MARGIN: Duration = Duration::from_secs(5);

pub(super) fn run(arguments: &SettingsArgs) -> Result<(), Fatal> {
    let resolved = arguments.resolve(&["model"])?;
    check_address_space()?;
    // Before any thread, and before seccomp forbids starting programs. Each knows one vocabulary.
    let forms: Vec<_> = (0..=resolved.models.len()).map(|_| start_forms()).collect();
    start::start_log(&resolved)?;
    let or_none = |forms: std::io::Result<Arc<dyn FormHost>>| {
        forms.unwrap_or_else(|error| {
            log::error!(
                "cannot start the process that compiles forms ({error}); requests with a form get an \
                 error, all others are served"
            );
            Arc::new(NoForms)
        })
    };
    let forms = forms.into_iter().map(or_none).collect();
    let runtime = threads::warm_runtime(CONNECTION_THREADS)?;
    runtime.block_on(serve(arguments, &resolved, forms))
}

/// What the program, ONNX Runtime and the threads take of a limited address space, before any model. With less,
/// C++ and the C library end the process as they like when an allocation fails.
const LEAST_ADDRESS_SPACE: u64 = 640 << 20;

fn check_address_space() -> Result<(), Fatal> {
    match os::address_space() {
        Some(limit) if limit < LEAST_ADDRESS_SPACE => {
            let source = std::io::Error::other(format!(
                "the address space is limited to {} MiB (RLIMIT_AS), and at least {} MiB are needed beside the \
                 model's memory",
                limit >> 20,
                LEAST_ADDRESS_SPACE >> 20
            ));
            Err(Fatal::System { action: "start", source })
        }
        _ => Ok(()),
    }
}

/// Where grammars are compiled: processes forked by a helper on Unix, threads elsewhere.
#[cfg(unix)]
fn start_forms() -> std::io::Result<Arc<dyn FormHost>> {
    super::forms::start()
}

#[cfg(not(unix))]
fn start_forms() -> std::io::Result<Arc<dyn FormHost>> {
    Ok(Arc::new(phi4d_generate::ThreadForms::default()))
}

async fn serve(
    arguments: &SettingsArgs,
    resolved: &Resolved,
    forms: Vec<Arc<dyn FormHost>>,
) -> Result<(), Fatal> {
    let settings = &resolved.settings;
    let system = |action| move |source| Fatal::System { action, source };
    let mut signals = Signals::install().map_err(system("install signal handlers"))?;
    model::end_on_lost_file(Code::Io as u8).map_err(system("install signal handlers"))?;
    let notifier = Notifier::from_environment(variable);
    let manager = Arc::new(Manager::new(notifier.map_err(system("speak to the service manager"))?));
    let passed = os::activated_listeners(variable)?;
    let mut environment = access_environment(&passed);
    let rules = server::rules_of(settings, &environment)?;
    let bound = bind(settings, passed).await?;
    environment.bound = bound.listeners.iter().filter_map(Listener::tcp_address).collect();
    let name = settings.served_model_name();
    manager.send(&[State::Status(format!("loading {name}"))]);
    let fleet = Arc::new(Fleet::of(resolved, forms));
    let Some(Loaded { mut started, took, hung_up }) =
        load(settings, &fleet, &manager, &mut signals).await?
    else {
        return Ok(());
    };
    let (provider, plan) = (started.provider, started.plan);
    let embedder = started.embedder.take();
    let tracer = settings
        .otlp_endpoint
        .as_ref()
        .map_or_else(Tracer::default, |_| Tracer::recording(settings.otlp_sample_ratio));
    let exporter = settings.otlp_endpoint.as_ref();
    let exporter = exporter.map(|url| Exporter::start(url, tracer.clone())).transpose()?;
    let options = ServerOptions {
        tracer,
        request_memory_bytes: plan.request_memory_bytes,
        embeddings: embedder.clone().map(|embedder| embedding::served(settings, embedder)),
        ..server_options(settings)
    };
    let widest = fleet.provider(provider);
    let fleet = Arc::into_inner(fleet)
        .ok_or_else(|| Fatal::Internal("the models' settings are still in use".to_owned()))?;
    let models = fleet.serve(as_loaded(started, took));
    let app = App::new(models.clone(), options);
    app.enforce(rules);
    cut_on_lost_file(&app);
    let reloader = Reloader::new(arguments, environment, &app, resolved);
    // Everything that is opened once is open now, and no request has been served yet.
    confinement::confine(settings.sandbox, widest)?;
    let has_tls = settings.tls_cert_file.is_some();
    let places: Vec<String> =
        bound.listeners.iter().map(|listener| place(listener, has_tls)).collect();
    let (stop, stopped) = watch::channel(false);
    let drain = settings.drain_timeout_s;
    let mut server = tokio::spawn(server::serve(app, bound.listeners, stopped, drain));
    manager.send(&[State::Ready, State::Status(format!("serving {name}"))]);
    announce(settings, &name, provider, &plan, &places);
    feed_watchdog(&manager, models.clone());
    if hung_up {
        reloader.reload(&manager).await;
    }
    let on_hangup = async || reloader.reload(&manager).await;

    let finished = match wait_for_stop(&models, &mut server, &mut signals, on_hangup).await {
        Ok(Stop::Asked) => {
            let limit = State::ExtendTimeout(drain + STOP_MARGIN);
            let status = State::Status("finishing answers in progress".to_owned());
            manager.send(&[State::Stopping, status, limit]);
            // From here on the socket's path is free for the next daemon.
            drop(bound.files);
            stop.send_replace(true);
            finish(&models, embedder, &mut server, &mut signals).await
        }
        Ok(Stop::Idle) => {
            manager.send(&[State::Stopping, State::Status("idle".to_owned())]);
            let idle = settings.idle_exit.unwrap_or_default();
            end_idle(&models, embedder, idle).await
        }
        Err(fatal) => {
            // The first failure is the one to report.
            let _ = stop_models(&models, embedder).await;
            return Err(fatal);
        }
    };
    if let Some(exporter) = exporter {
        exporter.finish().await;
    }
    finished
}

/// What access rules depend on besides the settings.
fn access_environment(passed: &[(String, Listener)]) -> Environment {
    Environment {
        credentials: variable("CREDENTIALS_DIRECTORY").map(PathBuf::from),
        passed: passed.iter().filter_map(|(_, listener)| listener.tcp_address()).collect(),
        bound: Vec::new(),
    }
}

/// Sockets that already queue connections. Their files are removed on drop.
struct Bound {
    listeners: Vec<Listener>,
    files: Vec<SocketFile>,
}

/// Takes the service manager's sockets `passed`, and binds those of the settings whose kind is not among
/// them.
///
/// # Errors
/// If a socket can't be made, if there is none, or if one of its own would go with the daemon at an
/// `idle_exit`: nothing would start it again for that socket's clients.
async fn bind(settings: &Settings, passed: Vec<(String, Listener)>) -> Result<Bound, Fatal> {
    let mut bound = Bound { listeners: Vec::new(), files: Vec::new() };
    let (mut tcp, mut unix) = (false, false);
    for (name, listener) in passed {
        log::info!("the service manager passed the socket {name}");
        match listener.tcp_address() {
            Some(_) => tcp = true,
            None => unix = true,
        }
        bound.listeners.push(listener);
    }
    let address = settings.listen.as_ref().filter(|_| !tcp);
    let path = settings.socket.path(variable, os::effective_uid()).filter(|_| !unix);
    if settings.idle_exit.is_some() {
        let listen = address.map(|address| ("listen", address.to_string()));
        let socket = || path.as_ref().map(|path| ("socket", path.display().to_string()));
        if let Some((setting, place)) = listen.or_else(socket) {
            return Err(Fatal::NotWoken { setting, place });
        }
    }
    if let Some(address) = address {
        bound.listeners.push(os::bind_tcp(&address.host, address.port).await?);
    }
    if let Some(path) = path {
        let (listener, file) = os::bind_unix(&path, settings.socket_mode)?;
        bound.listeners.push(listener);
        bound.files.push(file);
    }
    for listener in &bound.listeners {
        let place = place(listener, settings.tls_cert_file.is_some());
        match listener.tcp_address() {
            Some(address) => log::info!(tcp:% = address; "listening on {place}"),
            None => log::info!("listening on {place}"),
        }
    }
    if bound.listeners.is_empty() {
        return Err(Fatal::NothingToListenOn);
    }
    Ok(bound)
}

/// Where clients find a listener: a URL, or the path of a Unix socket.
fn place(listener: &Listener, has_tls: bool) -> String {
    let scheme = if has_tls { "https" } else { "http" };
    match (listener.tcp_address(), listener.unix_path()) {
        (Some(address), _) => format!("{scheme}://{address}"),
        (None, Some(path)) => path.display().to_string(),
        (None, None) => "a socket without a path".to_owned(),
    }
}

/// Says in one line what is served where, and in another where the chat page is.
fn announce(
    settings: &Settings,
    name: &str,
    provider: Provider,
    plan: &MemoryPlan,
    places: &[String],
) {
    log::info!(
        model = name;
        "serving {name} on {} ({}, {} slots, KV {})",
        places.join(", "),
        provider,
        plan.slots,
        size(plan.kv_budget_bytes)
    );
    let page = places.iter().find(|place| place.starts_with("http"));
    if let Some(url) = page.filter(|_| settings.web_page != WebPage::Off) {
        log::info!("the chat page is at {url}/");
    }
}

/// A model that is loaded.
struct Loaded {
    started: Started,
    took: Duration,
    /// Whether SIGHUP arrived while it loaded.
    hung_up: bool,
}

/// Loads the first model on a thread of its own; `None` if stopped meanwhile.
async fn load(
    settings: &Settings,
    fleet: &Arc<Fleet>,
    manager: &Manager,
    signals: &mut Signals,
) -> Result<Option<Loaded>, Fatal> {
    let mut progress =
        Loading::begin(&settings.served_model_name(), start::model_folder(settings)?);
    let fleet = Arc::clone(fleet);
    let mut hung_up = false;
    let begun = std::time::Instant::now();
    let cancel = LoadCancel::default();
    let cancelled = cancel.clone();
    let mut loading = tokio::task::spawn_blocking(move || {
        let started = fleet.load(0, &cancelled, None);
        drop(fleet);
        started
    });
    let mut tick = tokio::time::interval(LOADING_TICK);
    loop {
        tokio::select! {
            loaded = &mut loading => {
                // Its transient line must go before another is written.
                drop(progress);
                let started = loaded.map_err(|error| Fatal::Internal(error.to_string()))??;
                let took = begun.elapsed();
                log::info!("the model is loaded after {:.2} s", took.as_secs_f32());
                return Ok(Some(Loaded { started, took, hung_up }));
            }
            () = progress.show() => {}
            _ = tick.tick() => manager.send(&[State::ExtendTimeout(LOADING_EXTENSION)]),
            signal = signals.next() => match signal {
                // The settings of the start are in use by now; it is read again once that is over.
                Signal::Hangup => hung_up = true,
                stop => {
                    log::info!("{} while the model was loading; stopping", stop.name());
                    manager.send(&[State::Stopping]);
                    cancel.cancel();
                    // The process must not end, and run ONNX Runtime's destructors, while a
                    // thread is inside the library.
                    if let Ok(Ok(started)) = loading.await {
                        stop_started(started).await?;
                    }
                    return Ok(None);
                }
            },
        }
    }
}

/// Ends the clients' requests with an error when a model file becomes unreadable: the engine's thread
/// has stopped then, and the process is about to exit.
fn cut_on_lost_file(app: &App) {
    let app = app.clone();
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(ENGINE_TICK);
        while !model::is_file_lost() {
            tick.tick().await;
        }
        log::error!("a file of the model can't be read any more; ending all requests");
        app.cut();
    });
}

/// The settings' number of connections, or fewer if the process may not open so many descriptors.
fn most_connections(settings: &Settings) -> usize {
    match os::room_for_connections() {
        Ok(room) if room < settings.max_connections => {
            log::warn!(
                "max_connections = {} is more than the limit of open files (RLIMIT_NOFILE) has room \
                 for; taking {room} at once",
                settings.max_connections
            );
            room
        }
        Ok(_) => settings.max_connections,
        Err(error) => {
            log::warn!("cannot read the limit of open files: {error}");
            settings.max_connections
        }
    }
}

fn server_options(settings: &Settings) -> ServerOptions {
    ServerOptions {
        max_body_bytes: settings.max_body_bytes,
        response_store_bytes: settings.response_store_bytes,
        max_connections: most_connections(settings),
        connections_per_address: settings.max_connections_per_address,
        connections_per_local: settings.max_connections_per_local,
        first_head_timeout: settings.first_head_timeout_s,
        header_timeout: settings.header_timeout_s,
        body_timeout: settings.body_timeout_s,
        write_timeout: settings.slow_client_timeout_s,
        idle_exit: settings.idle_exit,
        ..ServerOptions::default()
    }
}

/// Why the daemon stops.
enum Stop {
    /// A signal asked for it.
    Asked,
    /// It had no request for `idle_exit`; the server has ended.
    Idle,
}

/// Returns when asked to stop, or when idle.
///
/// # Errors
/// If an engine or the server ended by itself.
async fn wait_for_stop(
    models: &Models,
    server: &mut JoinHandle<Ended>,
    signals: &mut Signals,
    on_hangup: impl AsyncFn(),
) -> Result<Stop, Fatal> {
    let mut tick = tokio::time::interval(ENGINE_TICK);
    loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Hangup => on_hangup().await,
                stop => {
                    log::info!("{}: finishing answers in progress", stop.name());
                    return Ok(Stop::Asked);
                }
            },
            _ = tick.tick() => {
                if models.have_crashed() {
                    return Err(phi4d_engine::Crashed.into());
                }
            }
            ended = &mut *server => {
                let why = match ended {
                    Ok(Ended::Idle) => return Ok(Stop::Idle),
                    Ok(Ended::Drained(_)) => "the server stopped by itself".to_owned(),
                    Err(error) => format!("the server failed: {error}"),
                };
                return Err(Fatal::Internal(why));
            }
        }
    }
}

/// Waits for the server to drain, at most until its limit or a second signal, then ends the models.
async fn finish(
    models: &Models,
    embedder: Option<Embedder>,
    server: &mut JoinHandle<Ended>,
    signals: &mut Signals,
) -> Result<(), Fatal> {
    tokio::select! {
        ended = &mut *server => match ended {
            Ok(Ended::Drained(outcome)) if !outcome.is_clean() => log::warn!(
                cut_connections = outcome.cut_connections;
                "the drain limit passed before all answers were complete"
            ),
            Ok(_) => log::info!("all answers are complete"),
            Err(error) => log::error!("the server failed while draining: {error}"),
        },
        signal = signals.stop() => {
            log::warn!("{} again; stopping at once", signal.name());
            server.abort();
        }
    }
    stop_models(models, embedder).await?;
    log::info!("stopped");
    Ok(())
}

/// Ends the models of a daemon whose server has ended, as it had no request for `idle`.
async fn end_idle(
    models: &Models,
    embedder: Option<Embedder>,
    idle: Duration,
) -> Result<(), Fatal> {
    log::info!(
        "no request for {} s: ending; the next connection starts the daemon",
        idle.as_secs_f64()
    );
    stop_models(models, embedder).await?;
    log::info!("stopped");
    Ok(())
}

/// Aborts the running steps and waits for the models' threads, of which the engines' may save cached
/// prompts first.
async fn stop_models(models: &Models, embedder: Option<Embedder>) -> Result<(), Fatal> {
    stop_embedder(embedder).await?;
    Ok(models.stop().await?)
}

async fn stop_embedder(embedder: Option<Embedder>) -> Result<(), Fatal> {
    let stop = move || {
        if let Some(embedder) = embedder {
            embedder.stop();
        }
    };
    tokio::task::spawn_blocking(stop).await.map_err(|error| Fatal::Internal(error.to_string()))
}

/// As [`stop_models`], of a model that is not served yet.
async fn stop_started(started: Started) -> Result<(), Fatal> {
    stop_embedder(started.embedder).await?;
    let stopping = tokio::task::spawn_blocking(move || started.engine.stop());
    stopping.await.map_err(|error| Fatal::Internal(error.to_string()))??;
    Ok(())
}
