//! phi4d's own operator for matmuls with int4 and int8 weights.
//!
//! [`edit`] puts it in the place of ONNX Runtime's nodes, and [`store`] keeps the weights as its
//! kernel wants them.

pub(super) mod edit;
#[cfg(test)]
mod exports_tests;
#[cfg(test)]
mod forms_tests;
mod grid;
mod qdq;
pub(super) mod quantised;
pub(super) mod store;
pub(super) mod tensors;
mod tied;

use std::path::Path;
use std::sync::{Arc, Mutex};

use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput,
};
use ort::session::builder::SessionBuilder;
use ort::value::{DynTensorValueType, TensorElementType};

use self::grid::Grid;
use self::qdq::{BY_COLUMN, SIGNED, SOURCE_BLOCK};
use self::quantised::{DOMAIN, OPERATOR};
use self::store::{Packed, Store, Weights};
use super::error::LoadError;
use super::inspect::{self, Quantised};
use super::memory::forget_file_pages;
use super::operator::{caught, lock, on_all};
use super::plan::LoadOptions;
use super::provider::CPU_NAME;
use super::session;
use super::source::Source;
use super::stop::LoadCancel;
use phi4d_matmul::{self as kernel, Activations, Form, Kernel as Kernels, Results, TileRows};

/// The file of laid-out weights in the folder of what was prepared.
pub(super) const LAID_OUT: &str = "weights";

/// Names the layout of packed weights, which is the same on all processors. A change of
/// [`phi4d_matmul::Form`]'s layout or of the file's needs another name.
pub(super) const LAYOUT: &str = "packed weights 1";

/// Parts that a matmul is cut into for the threads: many more than there are threads, so that they end
/// together.
const SHARES: usize = 48;

/// The graph with the own operator in it, for the CPU; `None` if that is turned off, or no node is one
/// that it does.
pub(super) fn graph(source: &Source, options: &LoadOptions) -> Result<Option<Vec<u8>>, LoadError> {
    if !options.own_kernels || Kernels::chosen().is_none() {
        return Ok(None);
    }
    edit::edit(&source.graph, options.int8_activations).map_err(|damage| LoadError::Invalid {
        path: source.path.clone(),
        reason: damage.to_string(),
    })
}

/// Logs which kernel runs the matmuls with quantised weights, and why some fall back to ONNX Runtime's.
pub(super) fn log_kernel(source: &Source, options: &LoadOptions) {
    let matmuls = inspect::quantised(&source.graph);
    let total: usize = matmuls.iter().map(|kind| kind.nodes).sum();
    if !options.own_kernels || Kernels::chosen().is_none() {
        let reason = match options.own_kernels {
            true => "this processor has no instruction set of phi4d's own",
            false => "own_kernels is off",
        };
        log::info!(reason; "ONNX Runtime's kernels run all {total} matmuls with quantised weights");
        return;
    }
    let fallbacks: Vec<(&Quantised, &str)> = matmuls
        .iter()
        .filter_map(|kind| kind.fallback_by(options.int8_activations).map(|why| (kind, why)))
        .collect();
    let others: usize = fallbacks.iter().map(|(kind, _)| kind.nodes).sum();
    let own = total - others;
    if fallbacks.is_empty() {
        log::info!("phi4d's kernel runs {own} of {total} matmuls with quantised weights");
        return;
    }
    let reasons: Vec<String> =
        fallbacks.iter().map(|(kind, why)| format!("{kind}: {why}")).collect();
    log::info!(
        "phi4d's kernel runs {own} of {total} matmuls with quantised weights, and ONNX Runtime's the \
         others, which takes longer ({})",
        reasons.join("; ")
    );
}

/// Lays out the weights of `graph` and writes them into `folder`.
pub(super) fn lay_out(
    folder: &Path,
    source: &Source,
    graph: &[u8],
    options: &LoadOptions,
) -> Result<(), LoadError> {
    // Empty: what is prepared already would be written again, and may be of another graph.
    let store = Arc::default();
    let builder = with_operator(session::exported(source, options)?, &store)?;
    // Kernels pack their weights while the session is made; the session itself is not needed.
    drop(session::commit(builder, source, graph, CPU_NAME, &LoadCancel::default())?);
    let path = folder.join(LAID_OUT);
    store.write(&path).map_err(|source| LoadError::Write { path, source })
}

/// Adds the operator to a session whose weights are in `store`.
pub(super) fn with_operator(
    builder: SessionBuilder,
    store: &Arc<Store>,
) -> ort::Result<SessionBuilder> {
    let operator = PackedMatMul { store: Arc::clone(store) };
    Ok(builder.with_operators(OperatorDomain::new(DOMAIN)?.add(operator)?)?)
}

/// Inputs as those of `MatMulNBits`: activations, levels `[n, blocks, block * bits / 8]`, scales
/// `[n, blocks]`, zero points `[n, blocks * bits / 8]` if there are some. With the attribute
/// [`SOURCE_BLOCK`] the weights are as [`Grid`] has them.
struct PackedMatMul {
    store: Arc<Store>,
}

impl Operator for PackedMatMul {
    type Kernel<'attr> = MatMulKernel;

    fn name(&self) -> &str {
        OPERATOR
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [
            OperatorInput::required(TensorElementType::Float32),
            OperatorInput::required(TensorElementType::Uint8),
            OperatorInput::required(TensorElementType::Float32),
            OperatorInput::optional(TensorElementType::Uint8),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> ort::Result<MatMulKernel> {
        caught(OPERATOR, || self.kernel(context))
    }
}

impl PackedMatMul {
    fn kernel(&self, context: &KernelContext<'_>) -> ort::Result<MatMulKernel> {
        let size = |name: &str| {
            let size = context.get::<i64>(name).and_then(|size| usize::try_from(size).ok());
            size.ok_or_else(|| ort::Error::new(format!("{OPERATOR} has no size {name}")))
        };
        let inputs = context.inputs()?;
        let stored = match context.get::<i64>(SOURCE_BLOCK) {
            None => None,
            Some(_) => Some(Stored {
                block: size(SOURCE_BLOCK)?,
                by_column: size(BY_COLUMN)? != 0,
                signed: size(SIGNED)? != 0,
            }),
        };
        let form = Form {
            k: size("K")?,
            n: size("N")?,
            bits: size("bits")?,
            block: size("block_size")?,
            zero_points: inputs.len() > 3 || stored.is_some_and(|stored| !stored.signed),
        };
        // The edit has checked the form; this holds for graphs that others wrote with our operator.
        let kernel = Kernels::chosen().filter(|_| form.fits());
        let kernel =
            kernel.ok_or_else(|| ort::Error::new(format!("{OPERATOR} takes no {form:?}")))?;
        // The weights' tensor names them in the store and in the prepared file.
        let name = inputs.get(1).map_or("", |input| input.name());
        // Inputs that are left out are not in the edited node at all.
        let has_zeros = inputs.len() > 3;
        let pack = || pack(context, name, &form, stored, has_zeros);
        let weights = self.store.weights(name, form.lines(), pack)?;
        Ok(MatMulKernel { store: Arc::clone(&self.store), weights, kernel, form })
    }
}

/// How an export stores weights that are not as `MatMulNBits` has them: the fields of [`Grid`].
#[derive(Debug, Clone, Copy)]
struct Stored {
    block: usize,
    by_column: bool,
    signed: bool,
}

/// Lays out the weights of `form` that a node has as constants, `stored` otherwise than `MatMulNBits` has them.
fn pack(
    context: &KernelContext<'_>,
    name: &str,
    form: &Form,
    stored: Option<Stored>,
    has_zeros: bool,
) -> ort::Result<Packed> {
    let levels = context.constant_input::<DynTensorValueType>(1)?;
    let scales = context.constant_input::<DynTensorValueType>(2)?;
    let (_, levels) = levels.try_extract_tensor::<u8>()?;
    let (_, scales) = scales.try_extract_tensor::<f32>()?;
    let zeros = has_zeros.then(|| context.constant_input::<DynTensorValueType>(3));
    let zeros = zeros.transpose()?;
    let zero_points = match &zeros {
        Some(zeros) => zeros.try_extract_tensor::<u8>()?.1,
        None => &[],
    };
    let sizes = || ort::Error::new(format!("{name} does not have the sizes of {form:?}"));
    let turned;
    let mut weights = kernel::Weights { levels, scales, zero_points };
    if let Some(Stored { block, by_column, signed }) = stored {
        let grid = Grid { levels, scales, zero_points, block, by_column, signed };
        turned = grid.are(form).then(|| grid.turned(form)).ok_or_else(sizes)?;
        let (levels, scales) = (&turned.levels[..], &turned.scales[..]);
        weights = kernel::Weights { levels, scales, zero_points: &turned.zero_points };
    }
    if !weights.are(form) {
        return Err(sizes());
    }
    let packed = Packed::new(form.lines(), |lines| kernel::pack(form, &weights, lines));
    let packed = packed.map_err(|error| {
        ort::Error::new(format!("no memory for the {} lines of {name}: {error}", form.lines()))
    })?;
    // The exported weights are not read again, and would stay in the page cache beside ours.
    forget_file_pages(levels);
    forget_file_pages(scales);
    Ok(packed)
}

struct MatMulKernel {
    store: Arc<Store>,
    weights: Weights,
    kernel: Kernels,
    form: Form,
}

impl Kernel for MatMulKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        caught(OPERATOR, || self.multiply(context))
    }
}

impl MatMulKernel {
    fn multiply(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let missing = || ort::Error::new(format!("{OPERATOR} has no tensor"));
        let input = context.input(0)?.ok_or_else(missing)?;
        let (shape, activations) = input.try_extract_tensor::<f32>()?;
        let mut shape = shape.to_vec();
        let Form { k, n, .. } = self.form;
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
        let operands = kernel::Operands {
            form: &self.form,
            lines: self.weights.lines(),
            activations: &rounded,
        };
        let results = Results::new(results, n);
        // Threads share columns, not rows: each then streams weights of its own through its cache, and
        // a decode step, which has few rows, still keeps all threads busy.
        let groups = self.form.groups();
        let share = groups.div_ceil(SHARES).next_multiple_of(self.kernel.panel_groups(&self.form));
        let shares = groups.div_ceil(share);
        on_all(context, OPERATOR, shares, |index| {
            let first = index * share;
            let groups = first..(first + share).min(groups);
            kernel::multiply(self.kernel, &operands, groups, &results);
        })
    }

    /// Rounds the activations, on all threads where there are many.
    fn round(
        &self,
        context: &ComputeContext,
        activations: &[f32],
        rounded: &mut Activations,
    ) -> ort::Result<()> {
        const ROWS: usize = 8;
        let (kernel, form, factor) = (self.kernel, &self.form, self.weights.factor());
        let rows = activations.len() / form.k;
        rounded.resize(kernel, form, rows);
        let round = |tile: &mut TileRows<'_>| {
            let rows = &activations[tile.rows.start * form.k..tile.rows.end * form.k];
            kernel::round(kernel, form, factor, rows, tile);
        };
        // A few rows are rounded faster than threads are woken.
        if rows <= ROWS {
            rounded.tiles(form).for_each(|mut tile| round(&mut tile));
            return Ok(());
        }
        let tiles: Vec<_> = rounded.tiles(form).map(Mutex::new).collect();
        on_all(context, OPERATOR, tiles.len(), |index| round(&mut lock(&tiles[index])))
    }
}
