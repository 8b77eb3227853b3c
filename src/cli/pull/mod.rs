//! `phi4d pull`, `phi4d list` and `phi4d remove`: models from a Hugging Face compatible endpoint, a web
//! server or a folder.

mod bar;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::args::{ModelsArgs, PullArgs, RemoveArgs, VariantChoice, ambient_inputs};
use super::exit::Fatal;
use super::output::{note, print};
use bar::{Bar, bytes};
use phi4d_fetch::{Client, Models, Place, Proxies, Pull, Source, Trust, Variant};
use phi4d_os::effective_uid;
use phi4d_settings::{Provider, resolve};

/// Where packages let models live.
const SYSTEM_MODELS: &str = "/var/lib/phi4d/models";

/// A file that NVIDIA's driver makes.
const NVIDIA_DEVICE: &str = "/dev/nvidiactl";

pub(super) fn pull(arguments: &PullArgs) -> Result<(), Fatal> {
    let variant = variant(arguments.variant);
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
    let client = client(arguments)?;
    let models = models(&arguments.models);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Fatal::System { action: "start the network", source })?;
    let replace = arguments.replace;
    let folder = runtime.block_on(async {
        let pull = Pull { client: &client, source, models: &models, variant, replace };
        let plan = pull.plan().await?;
        let mut bar = Bar::begin(&plan.from, plan.total);
        let folder = plan.run(&mut |progress| bar.show(&progress)).await;
        bar.end();
        folder
    })?;
    print(&format!(
        "{}\nserve it by model = {:?} in the settings, or --model\n",
        folder.display(),
        folder.display().to_string()
    ))
}

pub(super) fn list(arguments: &ModelsArgs) -> Result<(), Fatal> {
    let mut text = String::new();
    for model in models(arguments).list()? {
        let state = if model.is_whole { "" } else { "  (incomplete: pull it again)" };
        let origin = model.origin.unwrap_or_default();
        // Writing to a String can't fail.
        let _ = writeln!(text, "{:<24} {:>10}  {origin}{state}", model.name, bytes(model.bytes));
    }
    print(&text)
}

pub(super) fn remove(arguments: &RemoveArgs) -> Result<(), Fatal> {
    let freed = models(&arguments.models).remove(&arguments.name)?;
    print(&format!("removed {}: {}\n", arguments.name, bytes(freed)))
}

/// The folder that was named, else the packages' one for root and one's own for others.
fn models(arguments: &ModelsArgs) -> Models {
    let own = || {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let data = set("XDG_DATA_HOME").or_else(|| set("LOCALAPPDATA").filter(|_| cfg!(windows)));
        let data = data.map(PathBuf::from);
        let data = data.or_else(|| Some(Path::new(&set("HOME")?).join(".local/share")));
        data.filter(|_| effective_uid() != 0).map(|data| data.join("phi4d/models"))
    };
    let folder = arguments.models.clone().or_else(own);
    Models::new(folder.unwrap_or_else(|| PathBuf::from(SYSTEM_MODELS)))
}

/// What was asked for, else what the settings' provider runs. Settings that can't be read are the
/// daemon's trouble.
fn variant(choice: VariantChoice) -> Variant {
    match choice {
        VariantChoice::Cpu => return Variant::Cpu,
        VariantChoice::Gpu => return Variant::Gpu,
        VariantChoice::Auto => {}
    }
    let settings = resolve(&ambient_inputs(std::env::var_os("PHI4D_CONFIG").map(Into::into)));
    let provider = settings.map_or(Provider::Auto, |resolved| resolved.settings.provider);
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
