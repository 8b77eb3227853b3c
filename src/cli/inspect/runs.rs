//! Which provider and which kernels would run an export here.

use crate::start;
use phi4d_model::{self as model, Export};
use phi4d_settings::Settings;

/// What would run it.
#[derive(Debug)]
pub(crate) struct Runs {
    /// The provider in the settings' words, with why; or why none can.
    pub(crate) provider: Result<(model::Provider, String), String>,
    /// Which kernels do the products there.
    pub(crate) kernels: String,
    /// What speaks against it.
    pub(crate) warnings: Vec<String>,
}

impl Runs {
    pub(crate) fn find(settings: &Settings, export: &Export) -> Self {
        let asked = start::provider_settings(settings);
        let library = settings.runtime_library.as_deref();
        let found = model::provider_facts(&asked, &export.made_for, library);
        let provider =
            found.map(|facts| (facts.provider, facts.reason)).map_err(|error| error.to_string());
        let on_cpu = matches!(provider, Ok((model::Provider::Cpu, _)));
        let own = settings.own_kernels && model::has_own_kernel() && on_cpu;
        let mut warnings = Vec::new();
        if on_cpu && !export.made_for.is_empty() {
            warnings.push(format!(
                "it was exported for {} and would run on the CPU: an export for the CPU is faster \
                 there",
                export.made_for.join(", ")
            ));
        }
        if matches!(provider, Ok((other, _)) if other != model::Provider::Cpu)
            && export.made_for.is_empty()
        {
            warnings.push(
                "it was exported for the CPU: its cache is of single precision, and some of its \
                 nodes may run on the CPU; --nodes tells which"
                    .into(),
            );
        }
        let kernels =
            if provider.is_ok() { kernels(export, own, on_cpu) } else { "none".to_owned() };
        Self { provider, kernels, warnings }
    }
}

/// What does the products with the weights.
fn kernels(export: &Export, own: bool, on_cpu: bool) -> String {
    let products: usize = export.quantised.iter().map(|kind| kind.nodes).sum();
    if !on_cpu {
        return "the provider's".into();
    }
    if own && export.own_products > 0 {
        return format!("phi4d's own for {} of {products} products", export.own_products);
    }
    let why = if export.own_products == 0 {
        "the export is not one that phi4d's own take"
    } else if model::has_own_kernel() {
        "own_kernels is off"
    } else {
        "the processor has no AVX-512 VNNI for phi4d's own"
    };
    format!("ONNX Runtime's, as {why}")
}
