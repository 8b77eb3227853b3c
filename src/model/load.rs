//! Loads a model folder into a runner.

use std::path::Path;
use std::sync::Arc;

use ort::session::Session;
use ort::session::builder::SessionBuilder;
use phi4d_attention::KvType;
use phi4d_isa::{Choice, InstructionSet, VARIABLE};
use phi4d_matmul::Kernel;
use phi4d_settings::Provider;

use super::error::LoadError;
use super::genai_config::GenaiConfig;
use super::gqa::{self, Own};
use super::matmul::{self, store::Store};
use super::onnx::OnnxRunner;
use super::paged::{self, PagedRunner};
use super::plan::LoadOptions;
use super::prepare;
use super::progress::LoadStage;
use super::provider::{Chosen, Placement};
use super::runner::{Interrupt, Runner};
use super::session;
use super::source::Source;
use super::stop::LoadCancel;

/// A loaded model.
pub struct Loaded {
    /// Runs it.
    pub runner: Box<dyn Runner>,
    /// Interrupts its running step.
    pub interrupt: Arc<dyn Interrupt>,
    /// Its configuration.
    pub config: GenaiConfig,
    /// Where it runs, by the provider's name in the settings.
    pub provider: Provider,
    /// Which of its nodes run where.
    pub placement: Placement,
    /// Bytes of its weights, as [`super::Export::weight_bytes`].
    pub weight_bytes: u64,
    /// Whether a sequence's logits do not depend on the sequences that decode in the same step. True
    /// where the own kernel does all matmuls of weights.
    pub batch_invariant: bool,
    /// Differs between models, and between versions of one model's files.
    pub fingerprint: [u8; 32],
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").field("limits", self.runner.limits()).finish_non_exhaustive()
    }
}

/// Loads ONNX Runtime and the model, and checks the model against the contract.
///
/// # Errors
/// Everything that can be wrong with the library, the folder, the model or the memory.
pub fn load(options: &LoadOptions) -> Result<Loaded, LoadError> {
    load_cancellable(options, &LoadCancel::default())
}

/// As [`load`], until `cancel` is used.
///
/// # Errors
/// As [`load`]; [`LoadError::Cancelled`] if it was cancelled.
pub fn load_cancellable(options: &LoadOptions, cancel: &LoadCancel) -> Result<Loaded, LoadError> {
    load_unless_cancelled(options, cancel).map_err(|error| {
        // ONNX Runtime reports a cancelled load as a fault of the model.
        if cancel.is_cancelled() { LoadError::Cancelled } else { error }
    })
}

fn load_unless_cancelled(options: &LoadOptions, cancel: &LoadCancel) -> Result<Loaded, LoadError> {
    let source = Source::read(&options.folder)?;
    cancel.progress().enter(LoadStage::Weights);
    let Opened { session, chosen, placement, batch_invariant, own } =
        opened(&source, options, cancel)?;
    log_attention(options, &chosen, own.is_some());
    let mut fingerprint = source.fingerprint;
    let (mut runner, interrupt): (Box<dyn Runner>, _) = if let Some(own) = own {
        // Prefixes on disk are in this runner's form, which others can't read.
        fingerprint = own.fingerprint(fingerprint);
        let runner = own.runner(session, &source, batch_invariant)?;
        let interrupt = runner.interrupt();
        (Box::new(runner), interrupt)
    } else if paged::is_paged(&session, &source.config) {
        let runner = paged_runner(session, &source, options, &chosen)?;
        let interrupt = runner.interrupt();
        (Box::new(runner), interrupt)
    } else {
        let runner = rows_runner(session, &source, options, &chosen)?;
        let interrupt = runner.interrupt();
        (Box::new(runner), interrupt)
    };
    cancel.progress().enter(LoadStage::Trial);
    // Faults of the export show now and not at the first request.
    try_out(runner.as_mut(), &source.path)?;
    Ok(Loaded {
        interrupt,
        runner,
        config: source.config,
        provider: chosen.provider(),
        placement,
        weight_bytes: source.weight_bytes,
        batch_invariant,
        fingerprint,
    })
}

/// A session, and where it runs.
pub(super) struct Opened {
    pub(super) session: Session,
    pub(super) chosen: Chosen,
    pub(super) placement: Placement,
    pub(super) batch_invariant: bool,
    /// Set if its attention is phi4d's own.
    pub(super) own: Option<Own>,
}

/// A session of the model in `source`, on the provider that fits.
pub(super) fn opened(
    source: &Source,
    options: &LoadOptions,
    cancel: &LoadCancel,
) -> Result<Opened, LoadError> {
    let chosen = session::choose(source, options)?;
    let (session, batch_invariant, own) = session(source, options, &chosen, cancel)?;
    let placement = Placement::of(&session);
    // Before the runner is made: where nodes run may explain why that fails.
    placement.log(&chosen);
    Ok(Opened { session, chosen, placement, batch_invariant, own })
}

/// A runner of a session whose cache is rows of a tensor.
pub(super) fn rows_runner(
    session: Session,
    source: &Source,
    options: &LoadOptions,
    chosen: &Chosen,
) -> Result<OnnxRunner, LoadError> {
    let new_session = || chosen.register(session::exported(source, options)?);
    OnnxRunner::new(session, source, options, &new_session)?.recording(chosen.records_graphs())
}

/// A runner of a session whose cache is blocks of a pool.
pub(super) fn paged_runner(
    session: Session,
    source: &Source,
    options: &LoadOptions,
    chosen: &Chosen,
) -> Result<PagedRunner, LoadError> {
    let new_session = || chosen.register(session::exported(source, options)?);
    PagedRunner::new(session, source, options, &new_session)
}

/// The session: with own operators if they do any node, else of what was prepared, else of the graph as it
/// was exported. The first two are for the CPU only. With it, whether it is batch invariant, and its own
/// attention.
fn session(
    source: &Source,
    options: &LoadOptions,
    chosen: &Chosen,
    cancel: &LoadCancel,
) -> Result<(Session, bool, Option<Own>), LoadError> {
    // Own operators are the CPU's, and what is prepared is laid out for its kernels.
    if !chosen.is_cpu() {
        return Ok((open(source, options, chosen, cancel)?, false, None));
    }
    log_instruction_set(options);
    matmul::log_kernel(source, options);
    if let Some(graph) = matmul::graph(source, options)? {
        // ONNX Runtime is loaded since the provider was chosen; the stamp names its build.
        let progress = cancel.progress();
        let prepared = prepare::laid_out(source, &graph, options.weights_memory, progress);
        let store = Arc::new(prepared.unwrap_or_else(|| Store::laying_out(&graph, progress)));
        let invariant = matmul::edit::is_whole(&graph).is_ok_and(|whole| whole);
        // After the stamp: weights that are laid out do not depend on the attention.
        let own = gqa::own(&graph, source, options)?;
        let graph = own.as_ref().map_or(&graph, |own| &own.graph);
        let builder = with_own(session::exported(source, options)?, own.as_ref())?;
        let builder = matmul::with_operator(builder, &store)?;
        let session = session::commit(builder, source, graph, chosen.name(), cancel)?;
        return Ok((session, invariant, own));
    }
    if let Some(own) = gqa::own(&source.graph, source, options)? {
        let builder = with_own(session::exported(source, options)?, Some(&own))?;
        let session = session::commit(builder, source, &own.graph, chosen.name(), cancel)?;
        return Ok((session, false, Some(own)));
    }
    // None of our kernels runs: what ONNX Runtime laid out ahead is still faster to load.
    let session = match prepare::load(source, options, cancel)? {
        Some(session) => session,
        None => open(source, options, chosen, cancel)?,
    };
    Ok((session, false, None))
}

/// Logs which instructions the own kernels use. All use the same.
fn log_instruction_set(options: &LoadOptions) {
    if let Some(name) = Choice::of_process().missing().filter(|_| options.own_kernels) {
        log::warn!("{VARIABLE} is {name}, which this processor does not have");
    }
    if let Some(set) = options.own_attention() {
        log::info!("phi4d's kernels use the instruction set {}", set.name());
        if let Some(withheld) = InstructionSet::withheld() {
            log::info!(
                "the system does not let this process use {}, which is faster",
                withheld.name()
            );
        }
        if let Some(wrong) = Kernel::rejected() {
            let kernel = Kernel::chosen().map_or("ONNX Runtime's", Kernel::name);
            log::warn!(kernel; "the matmul kernel of {wrong} fails its self-check, so another is used");
        }
    }
}

/// Logs which attention runs, and warns if it has no use for a `kv_cache_type` other than the default.
fn log_attention(options: &LoadOptions, chosen: &Chosen, is_own: bool) {
    let kind = options.kv_cache_type;
    if is_own {
        log::info!("phi4d's kernel runs attention, with a KV cache of type {}", kind.name());
        return;
    }
    let reason = match (chosen.is_cpu(), options.own_kernels, options.own_attention()) {
        (false, ..) => "the model does not run on the CPU",
        (_, false, _) => "own_kernels is off",
        (.., None) => "this processor has no instruction set of phi4d's own",
        (.., Some(_)) => "the export's attention is not of the form that phi4d's takes",
    };
    log::info!(reason; "ONNX Runtime's kernel runs attention, with a KV cache of the export's type");
    if kind != KvType::default() {
        log::warn!(reason; "kv_cache_type is {}, which has no effect", kind.name());
    }
}

/// `builder` with the operator of own attention, if there is any.
fn with_own(builder: SessionBuilder, own: Option<&Own>) -> Result<SessionBuilder, LoadError> {
    Ok(match own {
        Some(own) => own.register(builder)?,
        None => builder,
    })
}

/// Loads the exported graph.
fn open(
    source: &Source,
    options: &LoadOptions,
    chosen: &Chosen,
    cancel: &LoadCancel,
) -> Result<Session, LoadError> {
    let builder = chosen.register(session::exported(source, options)?)?;
    // The operator of `models/longrope/paged.onnx`, which ONNX Runtime has for devices only.
    #[cfg(any(test, feature = "testing"))]
    let builder = paged::stand_in::register(builder)?;
    session::commit(builder, source, &source.graph, chosen.name(), cancel)
}

/// Runs one token: some sizes, such as a head's, are open in the graph and checked by its operators
/// only when they run.
fn try_out(runner: &mut dyn Runner, path: &Path) -> Result<(), LoadError> {
    let contract = |difference: String| LoadError::Contract {
        path: path.into(),
        differences: vec![difference],
    };
    // Token 0 is in every vocabulary, whatever it means there.
    match runner.prefill(0, 0, &[0], 1) {
        Ok(logits) if logits.row(0).iter().any(|logit| logit.is_finite()) => {}
        Ok(_) => return Err(contract("a trial step gave no finite logit".into())),
        Err(error) => return Err(contract(format!("a trial step failed: {error}"))),
    }
    runner.release(0, 0);
    Ok(())
}
