//! Facts about an installation: the model, what would run it, the memory plan, access, the machine.
//! `check`, `inspect` and `doctor` gather them here and differ in how they show and judge them.

pub(super) mod machine;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub(super) use super::sizes::{bytes, size};
use super::start;
use phi4d_generate::{TextFacts, TextLoadError, inspect_text};
use phi4d_model::{self as model, Export, LoadError, MemoryPlan, MemorySettings, Provider};
use phi4d_server::{self as server, AccessError, Environment, Rules};
use phi4d_settings::Settings;

/// Where systemd puts the service's credentials while it runs; only root can look there.
const SERVICE_CREDENTIALS: &str = "/run/credentials/phi4d.service";

/// What is known of a model's folder without loading the model.
pub(super) struct ModelReport {
    pub(super) folder: PathBuf,
    pub(super) export: Export,
    pub(super) text: Result<TextFacts, TextLoadError>,
    pub(super) runs: Runs,
    pub(super) plan: MemoryPlan,
}

impl ModelReport {
    /// Reads `folder`, for a daemon whose memory plan follows from `memory`.
    ///
    /// # Errors
    /// If it holds no export that can be read. Damaged weights and an unusable tokenizer are facts.
    pub(super) fn gather(
        settings: &Settings,
        folder: &Path,
        memory: &MemorySettings,
    ) -> Result<Self, LoadError> {
        let export = model::inspect(folder)?;
        let runs = Runs::find(settings, &export);
        // Every provider but the CPU has its KV cache in its device's memory.
        let on_device = matches!(runs.provider, Ok((provider, _)) if provider != Provider::Cpu);
        let limits = export.limits(&start::load_options(settings, folder), on_device);
        Ok(Self {
            plan: MemoryPlan::new(&limits, export.weight_bytes(), memory),
            text: inspect_text(folder),
            folder: folder.to_path_buf(),
            export,
            runs,
        })
    }

    /// Set if the tokenizer knows more tokens than the model: it is another model's.
    pub(super) fn foreign_tokenizer(&self) -> Option<String> {
        let (facts, known) = (self.text.as_ref().ok()?, self.export.model.vocabulary);
        (facts.tokens > known)
            .then(|| format!("the tokenizer knows {} tokens and the model {known}", facts.tokens))
    }
}

/// What ONNX Runtime's kernels cost where they run matmuls that phi4d's own could (benches/RESULTS.md, all
/// matmuls of a 4-layer model of Phi-4's shape).
const COST: &str = "where they run all matmuls, one answer takes 1.3 times as long, eight at once 2.3 times, \
                    prompts 1.5 times";

/// Which provider and which kernels would run an export here.
pub(super) struct Runs {
    /// The provider in the settings' words, with why; or why none can.
    pub(super) provider: Result<(Provider, String), String>,
    /// Which kernels do its matmuls with quantised weights.
    pub(super) kernels: String,
    /// The same for each kind of them.
    pub(super) forms: Vec<FormKernel>,
    /// What speaks against it.
    pub(super) warnings: Vec<String>,
}

/// What runs the matmuls with weights of one form.
pub(super) struct FormKernel {
    /// How many there are, and of which form.
    pub(super) form: String,
    /// The kernel's name.
    pub(super) kernel: String,
    /// Set if they fall back to ONNX Runtime's kernel on the CPU: why.
    pub(super) fallback: Option<String>,
}

impl FormKernel {
    /// What runs them, and why it is not phi4d's kernel.
    pub(super) fn text(&self) -> String {
        let Self { form, kernel, fallback } = self;
        match fallback {
            None => format!("{form}: {kernel}"),
            Some(reason) => format!("{form}: {kernel}, because {reason}"),
        }
    }

    /// As [`text`](Self::text), with what it costs.
    pub(super) fn with_cost(&self) -> String {
        match &self.fallback {
            None => self.text(),
            Some(_) => format!("{}; {COST}", self.text()),
        }
    }
}

impl Runs {
    fn find(settings: &Settings, export: &Export) -> Self {
        let asked = start::provider_settings(settings);
        let library = settings.runtime_library.as_deref();
        let found = model::provider_facts(&asked, &export.made_for, library);
        let provider = found.map_err(|error| error.to_string());
        let mut warnings = Vec::new();
        let mut forms = Vec::new();
        let kernels = match &provider {
            Err(_) => "none".to_owned(),
            Ok((Provider::Cpu, _)) => {
                if !export.made_for.is_empty() {
                    warnings.push(format!(
                        "it was exported for {} and would run on the CPU: an export for the CPU is \
                         faster there",
                        export.made_for.join(", ")
                    ));
                }
                forms = cpu_forms(settings, export, model::own_kernel());
                cpu_kernels(settings, export)
            }
            Ok((provider, _)) => {
                if export.made_for.is_empty() {
                    warnings.push(
                        "it was exported for the CPU: its cache is of single precision, and some of \
                         its nodes may run on the CPU; --nodes lists them"
                            .into(),
                    );
                }
                forms.extend(export.quantised.iter().map(|kind| FormKernel {
                    form: kind.to_string(),
                    kernel: format!("the kernel of {provider}"),
                    fallback: None,
                }));
                "the provider's".to_owned()
            }
        };
        Self { provider, kernels, forms, warnings }
    }
}

/// What runs each kind of matmuls with quantised weights on the CPU, where `own` is the instruction set of
/// phi4d's kernel.
fn cpu_forms(settings: &Settings, export: &Export, own: Option<&str>) -> Vec<FormKernel> {
    let rule = settings.int8_activations;
    let of_kind = |kind: &model::Quantised| {
        let reason = match own {
            None => Some("this processor has no instruction set that phi4d's own uses".to_owned()),
            Some(_) if !settings.own_kernels => Some("own_kernels is off".to_owned()),
            Some(_) => kind.fallback_by(rule).map(|reason| {
                // What the setting would change is worth knowing.
                let set = kind.fallback_by(model::Int8Activations::Always).is_none();
                let hint =
                    if set { " (int8_activations = \"always\" runs it all the same)" } else { "" };
                format!("{reason}{hint}")
            }),
        };
        FormKernel {
            form: kind.to_string(),
            kernel: match (&reason, own) {
                (None, Some(name)) => format!("phi4d's kernel ({name})"),
                _ => "ONNX Runtime's kernel".to_owned(),
            },
            fallback: reason,
        }
    };
    export.quantised.iter().map(of_kind).collect()
}

/// What does the matmuls with quantised weights on the CPU, in one line.
fn cpu_kernels(settings: &Settings, export: &Export) -> String {
    let matmuls: usize = export.quantised.iter().map(|kind| kind.nodes).sum();
    let rule = settings.int8_activations;
    let own = export.quantised.iter().filter(|kind| kind.fallback_by(rule).is_none());
    let own: usize = own.map(|kind| kind.nodes).sum();
    match model::own_kernel() {
        None => {
            "ONNX Runtime's, as this processor has no instruction set that phi4d's own uses".into()
        }
        Some(_) if !settings.own_kernels => "ONNX Runtime's, as own_kernels is off".into(),
        Some(_) if matmuls == 0 => "ONNX Runtime's, as no matmul has quantised weights".into(),
        Some(name) if own == matmuls => format!("phi4d's own ({name}) for all {matmuls} matmuls"),
        Some(name) => {
            format!(
                "phi4d's own ({name}) for {own} of {matmuls} matmuls, ONNX Runtime's for the others"
            )
        }
    }
}

/// Who gets in, by the settings and the files that they name, if the service manager passes sockets at
/// the addresses `passed`.
///
/// # Errors
/// With every fault in them.
pub(super) fn access(settings: &Settings, passed: Vec<SocketAddr>) -> Result<Rules, AccessError> {
    let given = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let credentials = given.or_else(|| Some(SERVICE_CREDENTIALS.into()));
    let environment = Environment { credentials, passed, ..Environment::default() };
    server::rules_of(settings, &environment)
}

/// The memory plan as lines of a name and its value.
pub(super) fn memory_lines(plan: &MemoryPlan) -> [(&'static str, String); 4] {
    let MemoryPlan { slots, prefix_slots, .. } = plan;
    [
        ("weights", bytes(plan.weight_bytes)),
        (
            "KV cache",
            format!(
                "{} a token, {} for a context of {} tokens, {} for {slots} of them; {slots} slots and \
                 {prefix_slots} for kept prompts",
                size(plan.kv_bytes_per_token),
                size(plan.kv_bytes_per_context),
                plan.context_tokens,
                size(plan.kv_bytes_full),
            ),
        ),
        (
            "KV limit",
            format!(
                "{}, which is {} tokens over all requests, {} of one",
                size(plan.kv_budget_bytes),
                plan.kv_budget_tokens,
                plan.slot_tokens
            ),
        ),
        (
            "requests",
            format!(
                "{} of memory, {} of disk for the prefix store",
                size(plan.request_memory_bytes),
                bytes(plan.prefix_store_bytes)
            ),
        ),
    ]
}

/// Bytes of the files right in `folder`; unreadable ones count 0.
pub(super) fn folder_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.filter_map(|entry| std::fs::metadata(entry.path()).ok());
    files.filter(std::fs::Metadata::is_file).map(|metadata| metadata.len()).sum()
}
