//! Finds and loads ONNX Runtime's shared library, once in a process.
#![expect(unsafe_code, reason = "the library takes a setting by the environment")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ort::environment::Environment;
use ort::logging::LogLevel;

use super::error::LoadError;
use phi4d_telemetry as telemetry;

/// The library's file name.
pub const LIBRARY_NAME: &str = if cfg!(windows) { "onnxruntime.dll" } else { "libonnxruntime.so" };

/// Where a packaged library lies, beside the places found from the executable.
#[cfg(unix)]
const PACKAGED: &[&str] = &["/usr/lib/phi4d", "/usr/local/lib/phi4d"];
/// Windows has no place for it but the program's own folder. The system's own library, which its
/// loader would find, is an old one.
#[cfg(windows)]
const PACKAGED: &[&str] = &[];

const HINT: &str = "install ONNX Runtime 1.24 or newer by packaging/get-onnxruntime, or name the \
                    library by the setting runtime_library";

static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();

/// Where the loaded library lies; only its name if the system's loader found it.
static LOADED: OnceLock<PathBuf> = OnceLock::new();

/// Held while the environment is made: ONNX Runtime keeps the first one's logger for good, so a
/// second one must never be made and dropped.
static MAKING: Mutex<()> = Mutex::new(());

/// The published library reports to its maker and writes into the home folder unless this variable
/// is 1 when it is loaded.
const TELEMETRY: &str = "ORT_DISABLE_TELEMETRY";

/// Disables the library's telemetry. To be called first thing in the program: if other threads
/// run already it does nothing, and loading the library is refused unless the environment has it.
pub fn disable_telemetry() {
    // The environment is shared memory without a lock of its own: changing it beside a reader is
    // unsound.
    let alone = || std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1);
    if cfg!(windows) || alone() {
        // SAFETY: this is the process's only thread, so that no other reads the environment
        // meanwhile; Windows keeps readers and writers apart by itself.
        unsafe { std::env::set_var(TELEMETRY, "1") };
    }
}

/// The places looked at for the library, in order: on Windows beside the executable; `../lib/phi4d`
/// from it, the packaged folders, and `.runtime` in the current folder and above the executable (a
/// source checkout).
#[must_use]
pub fn search_path() -> Vec<PathBuf> {
    let executable = std::env::current_exe().ok();
    let folder = executable.as_deref().and_then(Path::parent);
    let mut places = Vec::new();
    places.extend(folder.filter(|_| cfg!(windows)).map(Path::to_path_buf));
    places.extend(folder.and_then(Path::parent).map(|prefix| prefix.join("lib/phi4d")));
    places.extend(PACKAGED.iter().map(PathBuf::from));
    places.extend(std::env::current_dir().ok().map(|current| current.join(".runtime")));
    places.extend(folder.into_iter().flat_map(Path::ancestors).map(|up| up.join(".runtime")));
    places.into_iter().map(|place| place.join(LIBRARY_NAME)).collect()
}

/// Loads the library named by `explicit`, else the first on [`search_path`], else whatever the
/// system's loader finds by name. A library that is loaded already stays.
///
/// # Errors
/// [`LoadError::Runtime`], saying what to install.
pub(super) fn load(explicit: Option<&Path>) -> Result<&'static Environment, LoadError> {
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(environment) = ENVIRONMENT.get() {
        return Ok(environment);
    }
    if std::env::var_os(TELEMETRY).is_none_or(|value| value != "1") {
        return Err(LoadError::Runtime {
            reason: "its telemetry is not turned off".into(),
            hint: format!("set {TELEMETRY}=1 in the environment"),
        });
    }
    let path = match explicit {
        Some(path) => path.to_path_buf(),
        None => search_path()
            .into_iter()
            .find(|path| path.is_file())
            .unwrap_or_else(|| LIBRARY_NAME.into()),
    };
    let runtime = |reason: String| LoadError::Runtime { reason, hint: HINT.into() };
    let environment = ort::init_from(&path)
        .map_err(|error| runtime(error.to_string()))?
        .with_name("phi4d")
        // Beside the variable, for builds of the library that do not know it.
        .with_telemetry(false)
        .with_logger(Arc::new(forward_log))
        .build()
        .map_err(|error| runtime(error.to_string()))?;
    environment.set_log_level(LogLevel::Warning);
    log::info!(library:% = path.display(), version = version_of(&path); "loaded ONNX Runtime");
    // Provider libraries are beside the real file, so the folder is kept after links.
    let path = std::path::absolute(&path).ok().filter(|path| path.is_file()).unwrap_or(path);
    LOADED.get_or_init(|| path.canonicalize().unwrap_or(path));
    Ok(ENVIRONMENT.get_or_init(|| environment))
}

/// The loaded library, links followed; only its name if the system's loader found it.
pub(super) fn library() -> PathBuf {
    LOADED.get().cloned().unwrap_or_default()
}

/// The folder of the loaded library, links followed: where its provider libraries are.
pub(super) fn folder() -> &'static Path {
    LOADED.get().and_then(|path| path.parent()).unwrap_or(Path::new(""))
}

/// The file `name` in the loaded library's folder, if it is there.
pub(super) fn beside(name: &str) -> Option<PathBuf> {
    Some(folder().join(name)).filter(|path| path.is_file())
}

/// The loaded library's version, such as 1.32.
pub(super) fn version() -> String {
    LOADED.get().map_or_else(|| "unknown version".into(), |path| version_of(path))
}

/// The version of the library at `path`. Loads it.
fn version_of(path: &Path) -> String {
    let minor = ort::util::probe(path);
    minor.map_or_else(|| "unknown version".into(), |minor| format!("1.{minor}"))
}

/// The library's environment, once it is loaded.
pub(super) fn loaded() -> Option<&'static Environment> {
    ENVIRONMENT.get()
}

/// Hands ONNX Runtime's messages to our log.
fn forward_log(level: LogLevel, category: &str, _id: &str, place: &str, message: &str) {
    let level = match level {
        LogLevel::Verbose => log::Level::Trace,
        LogLevel::Warning => log::Level::Warn,
        // What ONNX Runtime logs as an error it returns as one too, and we report that.
        LogLevel::Info | LogLevel::Error | LogLevel::Fatal => log::Level::Debug,
    };
    // The library calls this from its own code, which a panic must not reach.
    let _ = telemetry::catch_panic(|| {
        log::log!(target: "onnxruntime", level, category, place; "{message}");
    });
}
