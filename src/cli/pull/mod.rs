//! `phi4d pull`, `phi4d list` and `phi4d remove`: models from a Hugging Face compatible endpoint, a web
//! server or a folder.

mod bar;
mod forecast;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::args::{ModelsArgs, PullArgs, RemoveArgs, VariantChoice, ambient_inputs};
use super::exit::Fatal;
use super::output::{aside, note, print};
use super::places;
use super::threads::own_runtime;
use bar::{Bar, bytes};
use phi4d_fetch::{Client, Place, Proxies, Pull, Source, Trust, Variant};
use phi4d_settings::{Provider, Settings, resolve};

/// A file that NVIDIA's driver makes.
const NVIDIA_DEVICE: &str = "/dev/nvidiactl";

pub(super) fn pull(arguments: &PullArgs) -> Result<(), Fatal> {
    let folder = fetch(arguments)?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    print(&format!(
        "{}\nserve it by phi4d serve {name}, or in the installed service by phi4d use {name}\n",
        folder.display()
    ))
}

/// The folder of the model that is called `name`: a folder's path, an installed model, or one that is
/// downloaded now.
pub(super) fn obtain(name: &str) -> Result<PathBuf, Fatal> {
    let path = Path::new(name);
    if path.join("genai_config.json").exists() {
        return path
            .canonicalize()
            .map_err(|error| Fatal::File { path: path.to_owned(), reason: error.to_string() });
    }
    let arguments = PullArgs::of(name);
    let source = || Some(source(&arguments, variant(arguments.variant)).ok()?.name);
    let known = places::installed(name).or_else(|| places::installed(&source()?));
    known.map_or_else(|| fetch(&arguments), Ok)
}

/// Downloads what the arguments name, after saying what that takes.
fn fetch(arguments: &PullArgs) -> Result<PathBuf, Fatal> {
    let variant = variant(arguments.variant);
    let source = source(arguments, variant)?;
    let client = client(arguments)?;
    let models = places::models(arguments.models.models.as_deref());
    let runtime = own_runtime()?;
    let replace = arguments.replace;
    runtime.block_on(async {
        let pull = Pull { client: &client, source, models: &models, variant, replace };
        let plan = pull.plan().await?;
        let config = plan.read("genai_config.json", &mut |_| {}).await?.unwrap_or_default();
        for line in forecast::lines(&plan, &config, variant, context()) {
            aside(&line);
        }
        let mut bar = Bar::begin(&plan.from, plan.total);
        let folder = plan.run(&mut |progress| bar.show(&progress)).await;
        bar.end();
        Ok(folder?)
    })
}

/// Where the model is, by all arguments.
fn source(arguments: &PullArgs, variant: Variant) -> Result<Source, Fatal> {
    let mut source = Source::parse(&arguments.model, arguments.endpoint.as_deref(), variant)?;
    if let Some(revision) = &arguments.revision {
        let Place::Hub(repository) = &mut source.place else {
            return Err(Fatal::Usage("--revision is for repositories only".to_owned()));
        };
        repository.revision.clone_from(revision);
    }
    if let Some(name) = &arguments.name {
        source.name.clone_from(name);
    }
    Ok(source)
}

pub(super) fn list(arguments: &ModelsArgs) -> Result<(), Fatal> {
    let mut text = String::new();
    let models = places::models(arguments.models.as_deref());
    for model in models.list()? {
        let state = if model.is_whole { "" } else { "  (incomplete: pull it again)" };
        let origin = model.origin.unwrap_or_default();
        // Writing to a String can't fail.
        let _ = writeln!(text, "{:<24} {:>10}  {origin}{state}", model.name, bytes(model.bytes));
    }
    if text.is_empty() {
        let folder = models.folder("");
        note(&format!("no models in {}; phi4d pull phi-4 downloads one", folder.display()));
    }
    print(&text)
}

pub(super) fn remove(arguments: &RemoveArgs) -> Result<(), Fatal> {
    let freed = places::models(arguments.models.models.as_deref()).remove(&arguments.name)?;
    print(&format!("removed {}: {}\n", arguments.name, bytes(freed)))
}

/// The settings of the daemon that is going to serve the model. Those that can't be read are the
/// daemon's trouble.
fn settings() -> Option<Settings> {
    let inputs = ambient_inputs(std::env::var_os("PHI4D_CONFIG").map(Into::into));
    resolve(&inputs).ok().map(|resolved| resolved.settings)
}

fn context() -> usize {
    settings().map_or(0, |settings| settings.context_tokens)
}

/// What was asked for, else what the settings' provider runs.
fn variant(choice: VariantChoice) -> Variant {
    match choice {
        VariantChoice::Cpu => return Variant::Cpu,
        VariantChoice::Gpu => return Variant::Gpu,
        VariantChoice::Auto => {}
    }
    let provider = settings().map_or(Provider::Auto, |settings| settings.provider);
    if !matches!(provider, Provider::Cpu | Provider::Auto) {
        return Variant::Gpu;
    }
    if Path::new(NVIDIA_DEVICE).exists() {
        note(
            "this machine has an NVIDIA GPU and the settings say provider = \"cpu\"; \
                  --variant gpu fetches the export for GPUs",
        );
    }
    Variant::Cpu
}

/// A client with the token, the certificates and the proxies of the arguments and the environment.
fn client(arguments: &PullArgs) -> Result<Client, Fatal> {
    let proxies = Proxies::from_environment(|name| std::env::var(name).ok());
    let mut client = Client::default().with_proxies(proxies);
    if let Some(token) = token(arguments)? {
        client = client.with_token(&token)?;
    }
    if let Some(path) = &arguments.ca_file {
        let refused = |error| Fatal::Usage(format!("cannot use TLS: {error}"));
        client = client.with_trust(Trust::new(Some(path)).map_err(refused)?);
    }
    Ok(client)
}

/// The token of the file that was named, else of the environment.
fn token(arguments: &PullArgs) -> Result<Option<String>, Fatal> {
    let text = match &arguments.token_file {
        Some(path) => {
            let failed = |source| phi4d_fetch::FetchError::File {
                action: "read",
                path: path.clone(),
                source,
            };
            Some(std::fs::read_to_string(path).map_err(failed)?)
        }
        None => std::env::var("HF_TOKEN").ok(),
    };
    Ok(text.map(|text| text.trim().to_owned()).filter(|token| !token.is_empty()))
}
