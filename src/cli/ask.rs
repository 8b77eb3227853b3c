//! `phi4d run MODEL` and `phi4d serve MODEL`: from a model's name to an answer. A model that is missing
//! is downloaded, and one that no daemon serves gets a daemon of its own for as long as it is asked.

use std::io::IsTerminal as _;

use super::args::{ChatArgs, ClientArgs, RunArgs, ServeArgs};
use super::exit::Fatal;
use super::{chat, places, pull, serve};
use phi4d_fetch::KNOWN;

pub(super) fn serve(arguments: &ServeArgs) -> Result<(), Fatal> {
    match &arguments.model {
        None => serve::run(&arguments.settings),
        Some(name) => serve::run(&arguments.settings.with_model(&pull::obtain(name)?)),
    }
}

pub(super) fn run(arguments: &RunArgs) -> Result<(), Fatal> {
    let mut arguments = arguments.clone();
    let (model, prompt) = split(&arguments.words);
    arguments.prompt = prompt;
    // Lives until the answer is there.
    let _daemon = match &model {
        Some(name) => reach(name, &mut arguments.client)?,
        None => None,
    };
    if model.is_some() && arguments.prompt.is_none() && std::io::stdin().is_terminal() {
        return chat::run(&ChatArgs { no_history: false, client: arguments.client });
    }
    chat::once(&arguments)
}

/// The model and the prompt among the arguments, which are at most two.
fn split(words: &[String]) -> (Option<String>, Option<String>) {
    let is_model = |word: &str| {
        KNOWN.iter().any(|(name, _)| *name == word) || places::installed(word).is_some()
    };
    match words {
        [model, prompt] => (Some(model.clone()), Some(prompt.clone())),
        [word] if is_model(word) => (Some(word.clone()), None),
        [word] => (None, Some(word.clone())),
        _ => (None, None),
    }
}

/// Points `client` to a daemon that serves the model `name`: the one that was named, the one that a
/// client finds by itself if it serves the model, else one that is started now and returned.
fn reach(name: &str, client: &mut ClientArgs) -> Result<Option<private::Daemon>, Fatal> {
    if client.url.is_some() || client.socket.is_some() || private::is_served(name, client) {
        client.model.get_or_insert_with(|| name.to_owned());
        return Ok(None);
    }
    let daemon = private::Daemon::start(&pull::obtain(name)?)?;
    client.socket = Some(daemon.socket());
    Ok(Some(daemon))
}

#[cfg(unix)]
mod private {
    //! A daemon that one command starts for itself.

    use std::fs::{self, DirBuilder};
    use std::os::unix::fs::DirBuilderExt as _;
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    use http_body_util::BodyExt as _;
    use serde_json::Value;

    use crate::args::ClientArgs;
    use crate::client;
    use crate::exit::Fatal;
    use crate::threads::own_runtime;

    /// How long another daemon may take to say what it serves. One that loads its model takes longer,
    /// and is not waited for.
    const PATIENCE: Duration = Duration::from_secs(2);

    const TICK: Duration = Duration::from_millis(20);

    /// Whether the daemon that a client finds by itself serves `name`.
    pub(super) fn is_served(name: &str, arguments: &ClientArgs) -> bool {
        let Ok(daemon) = client::Daemon::choose(arguments) else { return false };
        let Ok(runtime) = own_runtime() else { return false };
        let ask = async {
            let response = daemon.get("/v1/models").await.ok()?;
            let body = response.into_body().collect().await.ok()?.to_bytes();
            let listed: Value = serde_json::from_slice(&body).ok()?;
            let models = listed["data"].as_array()?;
            models.iter().any(|model| model["id"] == name).then_some(())
        };
        runtime.block_on(async { tokio::time::timeout(PATIENCE, ask).await }) == Ok(Some(()))
    }

    /// The daemon, until it is dropped.
    #[derive(Debug)]
    pub(super) struct Daemon {
        child: Child,
        folder: PathBuf,
    }

    impl Daemon {
        /// Starts one that serves the model in `model` to this user only, with no settings of the
        /// machine's, and waits until it listens.
        pub(super) fn start(model: &Path) -> Result<Self, Fatal> {
            let folder = std::env::temp_dir().join(format!("phi4d-run-{}", std::process::id()));
            let failed = |source| Fatal::Write { path: folder.clone(), source };
            DirBuilder::new().mode(0o700).create(&folder).map_err(failed)?;
            let settings = folder.join("run.toml");
            let started = fs::write(&settings, "").and_then(|()| {
                let mut command = Command::new(std::env::current_exe()?);
                for (name, _) in std::env::vars_os() {
                    if name.as_encoded_bytes().starts_with(b"PHI4D_") {
                        command.env_remove(name);
                    }
                }
                command
                    .arg("serve")
                    .arg("--config")
                    .arg(&settings)
                    .arg("--model")
                    .arg(model)
                    .arg("--socket")
                    .arg(folder.join("phi4d.sock"))
                    .args(["--listen", "off", "--log-level", "error"])
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .spawn()
            });
            let child = started.map_err(|source| {
                // It holds nothing but an empty file.
                let _ = fs::remove_dir_all(&folder);
                Fatal::System { action: "start phi4d serve", source }
            })?;
            let mut daemon = Self { child, folder };
            daemon.wait()?;
            Ok(daemon)
        }

        pub(super) fn socket(&self) -> PathBuf {
            self.folder.join("phi4d.sock")
        }

        /// Waits until it listens, which it does before it loads the model.
        fn wait(&mut self) -> Result<(), Fatal> {
            while !self.socket().exists() {
                if let Ok(Some(status)) = self.child.try_wait() {
                    return Err(Fatal::Refused(format!("phi4d serve ended: {status}")));
                }
                std::thread::sleep(TICK);
            }
            Ok(())
        }
    }

    impl Drop for Daemon {
        fn drop(&mut self) {
            // It keeps nothing, so it need not end by itself.
            let _ = self.child.kill();
            let _ = self.child.wait();
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

#[cfg(not(unix))]
mod private {
    use std::path::{Path, PathBuf};

    use crate::args::ClientArgs;
    use crate::exit::Fatal;

    #[derive(Debug)]
    pub(super) enum Daemon {}

    pub(super) fn is_served(_: &str, _: &ClientArgs) -> bool {
        false
    }

    impl Daemon {
        pub(super) fn start(model: &Path) -> Result<Self, Fatal> {
            let serve = format!("phi4d serve --model {}", model.display());
            Err(Fatal::Usage(format!("start the model's daemon first: {serve}")))
        }

        pub(super) fn socket(&self) -> PathBuf {
            match *self {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_and_a_prompt_are_known_apart() {
        let split = |words: &[&str]| {
            split(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(split(&[]), (None, None));
        assert_eq!(split(&["What is 12+7?"]), (None, some("What is 12+7?")));
        assert_eq!(split(&["phi-4-mini"]), (some("phi-4-mini"), None));
        assert_eq!(split(&["mine", "phi-4"]), (some("mine"), some("phi-4")));
    }
}
