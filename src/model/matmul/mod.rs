//! phi4d's own operator for matmuls with int4 weights.
//!
//! [`edit`] puts it in the place of ONNX Runtime's nodes, and [`store`] keeps the weights as its
//! kernel wants them.

pub(super) mod edit;
pub(super) mod store;

use std::path::Path;
use std::sync::{Arc, Mutex};

use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput,
};
use ort::session::Session;
use ort::session::builder::SessionBuilder;
use ort::value::{DynTensorValueType, TensorElementType};

use self::edit::{DOMAIN, OPERATOR};
use self::store::{Store, Weights, lock};
use super::error::LoadError;
use super::load_options::LoadOptions;
use super::memory::forget_file_pages;
use super::provider::CPU_NAME;
use super::session;
use super::source::Source;
use super::stop::LoadCancel;
use phi4d_int4::{self as int4, BLOCK, COLUMNS, Results, Rounded};
use phi4d_telemetry as telemetry;

/// The file of laid-out weights in the folder of what was prepared.
pub(super) const LAID_OUT: &str = "int4";

/// Parts that a matmul is cut into for the threads: many more than there are threads, so that they end
/// together.
const SHARES: usize = 48;

/// The graph with the own operator in it, for the CPU; `None` if that is turned off, or no node is one
/// that it does.
pub(super) fn graph(source: &Source, options: &LoadOptions) -> Result<Option<Vec<u8>>, LoadError> {
    if !options.own_kernels || !int4::available() {
        return Ok(None);
    }
    edit::edit(&source.graph).map_err(|damage| LoadError::Invalid {
        path: source.path.clone(),
        reason: damage.to_string(),
    })
}

/// Loads `graph`, which has the own operator in it, with the weights that are `prepared`. `builder` has all
/// else that the graph takes.
pub(super) fn open(
    builder: SessionBuilder,
    source: &Source,
    graph: &[u8],
    prepared: Option<Store>,
    cancel: &LoadCancel,
) -> Result<Session, LoadError> {
    commit(builder, source, graph, &Arc::new(prepared.unwrap_or_default()), cancel)
}

/// Lays out the weights of `graph` and writes them into `folder`.
pub(super) fn lay_out(
    folder: &Path,
    source: &Source,
    graph: &[u8],
    options: &LoadOptions,
) -> Result<(), LoadError> {
    let builder = session::exported(source, options)?;
    let store = Arc::default();
    // Kernels pack their weights while the session is made; the session itself is not needed.
    drop(commit(builder, source, graph, &store, &LoadCancel::default())?);
    let path = folder.join(LAID_OUT);
    store.write(&path).map_err(|source| LoadError::Write { path, source })
}

fn commit(
    builder: SessionBuilder,
    source: &Source,
    graph: &[u8],
    store: &Arc<Store>,
    cancel: &LoadCancel,
) -> Result<Session, LoadError> {
    let operators = domain(store)?;
    let mut builder = builder.with_operators(operators)?;
    cancel.reach(builder.canceler());
    if cancel.is_cancelled() {
        return Err(LoadError::Cancelled);
    }
    builder.commit_from_memory(graph).map_err(|error| source.invalid(&error, CPU_NAME))
}

/// The operator's domain, for a session whose weights are in `store`.
fn domain(store: &Arc<Store>) -> ort::Result<OperatorDomain> {
    OperatorDomain::new(DOMAIN)?.add(Int4MatMul { store: Arc::clone(store) })
}

/// Inputs as those of `MatMulNBits`: activations, levels `[n, k / 32, 16]`, scales `[n, k / 32]`.
struct Int4MatMul {
    store: Arc<Store>,
}

impl Operator for Int4MatMul {
    type Kernel<'attr> = MatMulKernel;

    fn name(&self) -> &str {
        OPERATOR
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [TensorElementType::Float32, TensorElementType::Uint8, TensorElementType::Float32]
            .map(OperatorInput::required)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> ort::Result<MatMulKernel> {
        caught(|| self.kernel(context))
    }
}

impl Int4MatMul {
    fn kernel(&self, context: &KernelContext<'_>) -> ort::Result<MatMulKernel> {
        let size = |name: &str| {
            let size = context.get::<i64>(name).and_then(|size| usize::try_from(size).ok());
            size.ok_or_else(|| ort::Error::new(format!("{OPERATOR} has no size {name}")))
        };
        let (k, n) = (size("K")?, size("N")?);
        let inputs = context.inputs()?;
        // The weights' tensor names them in the store and in the prepared file.
        let name = inputs.get(1).map_or("", |input| input.name());
        let weights = self.store.weights(name, int4::units(k, n), || {
            let levels = context.constant_input::<DynTensorValueType>(1)?;
            let scales = context.constant_input::<DynTensorValueType>(2)?;
            let (_, levels) = levels.try_extract_tensor::<u8>()?;
            let (_, scales) = scales.try_extract_tensor::<f32>()?;
            if !int4::fits(k, n) || levels.len() * 2 != k * n || scales.len() * BLOCK != k * n {
                return Err(ort::Error::new(format!("{name} is not of {n} columns by {k} rows")));
            }
            let packed = int4::pack(levels, scales, k, n);
            // The exported weights are not read again, and would stay in the page cache beside ours.
            forget_file_pages(levels);
            forget_file_pages(scales);
            Ok(packed)
        })?;
        Ok(MatMulKernel { store: Arc::clone(&self.store), weights, k, n })
    }
}

struct MatMulKernel {
    store: Arc<Store>,
    weights: Weights,
    k: usize,
    n: usize,
}

impl Kernel for MatMulKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        caught(|| self.multiply(context))
    }
}

/// Does `work` and turns its panic into an error. ONNX Runtime calls this from C++, through which a
/// panic must not unwind.
fn caught<T>(work: impl FnOnce() -> ort::Result<T>) -> ort::Result<T> {
    telemetry::catch_panic(work).unwrap_or_else(|panic| Err(failed(&panic)))
}

fn failed(panic: &str) -> ort::Error {
    ort::Error::new(format!("{OPERATOR} failed in an unexpected way: {panic}"))
}

/// Does `work` for each index below `count` on ONNX Runtime's threads, through which a panic must not
/// unwind either.
fn on_all(context: &ComputeContext, count: usize, work: impl Fn(usize) + Sync) -> ort::Result<()> {
    // One message suffices; the other parts run on, since ONNX Runtime cannot end them early.
    let first: Mutex<Option<String>> = Mutex::new(None);
    context.par_for(count, count, |index| {
        if let Err(panic) = telemetry::catch_panic(|| work(index)) {
            lock(&first).get_or_insert(panic);
        }
    })?;
    let panic = lock(&first).take();
    panic.map_or(Ok(()), |panic| Err(failed(&panic)))
}

impl MatMulKernel {
    fn multiply(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let missing = || ort::Error::new(format!("{OPERATOR} has no tensor"));
        let input = context.input(0)?.ok_or_else(missing)?;
        let (shape, activations) = input.try_extract_tensor::<f32>()?;
        let mut shape = shape.to_vec();
        let (k, n) = (self.k, self.n);
        match shape.last_mut() {
            Some(last) if *last == k as i64 => *last = n as i64,
            _ => return Err(ort::Error::new(format!("{OPERATOR} takes rows of {k}"))),
        }
        let mut output = context.output(0, shape)?.ok_or_else(missing)?;
        let (_, results) = output.try_extract_tensor_mut::<f32>()?;
        // One buffer for all matmuls of the session: they run one after another, and a buffer for each
        // would take as much memory as the largest activations times their number.
        let mut rounded = lock(&self.store.rounded);
        self.round(context, activations, &mut rounded)?;
        let (rounded, units) = (&rounded[..], self.weights.units());
        let results = Results::new(results, n);
        // Threads share columns, not rows: each then streams weights of its own through its cache, and
        // a decode step, which has few rows, still keeps all threads busy.
        let groups = n / COLUMNS;
        let share = groups.div_ceil(SHARES);
        let shares = groups.div_ceil(share);
        on_all(context, shares, |index| {
            let first = index * share;
            int4::product(units, rounded, k, first..(first + share).min(groups), &results);
        })
    }

    /// Rounds the activations, on all threads where there are many.
    fn round(
        &self,
        context: &ComputeContext,
        activations: &[f32],
        rounded: &mut Vec<Rounded>,
    ) -> ort::Result<()> {
        const ROWS: usize = 8;
        rounded.clear();
        rounded.resize(activations.len() / BLOCK, Rounded::default());
        let factor = self.weights.factor();
        let rows = activations.len() / self.k;
        // A few rows are rounded faster than threads are woken.
        if rows <= ROWS {
            int4::round(activations, factor, rounded);
            return Ok(());
        }
        let parts: Vec<_> = activations
            .chunks(ROWS * self.k)
            .zip(rounded.chunks_mut(ROWS * self.k / BLOCK))
            .map(Mutex::new)
            .collect();
        on_all(context, parts.len(), |index| {
            let mut part = lock(&parts[index]);
            let (activations, rounded) = &mut *part;
            int4::round(activations, factor, rounded);
        })
    }
}
