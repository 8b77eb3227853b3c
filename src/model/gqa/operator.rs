//! The operator in the place of `GroupQueryAttention`.
#![expect(unsafe_code, reason = "threads write to parts of their own of one memory")]

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput,
};
use ort::value::TensorElementType;
use phi4d_attention::{BLOCK, Band, SPLIT, rotate};

use super::edit::{DOMAIN, LAYER, OPERATOR};
use super::runner::{Placed, Shared, Step, Task};
use crate::operator::{caught, lock, on_all};

/// The operator's domain, for a session whose keys and values are `shared`'s.
pub(super) fn domain(shared: &Arc<Shared>) -> ort::Result<OperatorDomain> {
    OperatorDomain::new(DOMAIN)?.add(Attention { shared: Arc::clone(shared) })
}

/// Inputs: packed queries, keys and values, or only queries, with keys and values as inputs of their own; then
/// rotary tables of cosines and sines.
struct Attention {
    shared: Arc<Shared>,
}

const QUERY: usize = 0;
const KEY: usize = 1;
const VALUE: usize = 2;
const COS: usize = 3;
const SIN: usize = 4;

impl Operator for Attention {
    type Kernel<'attr> = AttentionKernel;

    fn name(&self) -> &str {
        OPERATOR
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        (QUERY..=SIN).map(|index| match index {
            KEY | VALUE => OperatorInput::optional(TensorElementType::Float32),
            _ => OperatorInput::required(TensorElementType::Float32),
        })
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> ort::Result<AttentionKernel> {
        caught(OPERATOR, || {
            let size = |name: &str| {
                let size = context.get::<i64>(name).and_then(|size| usize::try_from(size).ok());
                size.ok_or_else(|| ort::Error::new(format!("{OPERATOR} has no attribute {name}")))
            };
            let (heads, layer) = (size("num_heads")?, size(LAYER)?);
            let layout = self.shared.arena.layout;
            // The edit has checked the nodes that it replaced; this holds for whatever ONNX Runtime
            // made of them.
            if heads == 0 || !heads.is_multiple_of(layout.kv_heads) || layer >= layout.layers {
                let kv_heads = layout.kv_heads;
                return Err(ort::Error::new(format!(
                    "{heads} query heads are not the same number for each of {kv_heads} KV heads"
                )));
            }
            // As in the operator that this replaces, 0 stands for the usual scale.
            let scale = context.get::<f32>("scale").filter(|scale| *scale != 0.0);
            let scale = scale.unwrap_or_else(|| 1.0 / (layout.head_size as f32).sqrt());
            // The kernels' exponentials are powers of 2.
            let factor = scale * std::f32::consts::LOG2_E;
            Ok(AttentionKernel { shared: Arc::clone(&self.shared), heads, layer, factor })
        })
    }
}

struct AttentionKernel {
    shared: Arc<Shared>,
    /// Query heads.
    heads: usize,
    layer: usize,
    /// What queries are multiplied by.
    factor: f32,
}

impl Kernel for AttentionKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        caught(OPERATOR, || self.attend(context))
    }
}

/// Rows of one tensor's heads.
#[derive(Debug, Clone, Copy)]
struct Rows<'a> {
    values: &'a [f32],
    /// Numbers of a token, and where the heads begin in them.
    width: usize,
    start: usize,
}

impl<'a> Rows<'a> {
    fn head(&self, token: usize, head: usize, size: usize) -> &'a [f32] {
        &self.values[token * self.width + self.start + head * size..][..size]
    }
}

/// What the layers' tasks read and write.
struct Layer<'a> {
    kernel: &'a AttentionKernel,
    step: &'a Step,
    queries: Rows<'a>,
    keys: Rows<'a>,
    values: Rows<'a>,
    cos: &'a [f32],
    sin: &'a [f32],
    /// Angles of a position.
    pairs: usize,
    /// `[tokens, heads, head_size]`.
    out: Disjoint,
    parts: Disjoint,
}

/// Numbers that several threads write, each to places of its own.
struct Disjoint {
    start: *mut f32,
    len: usize,
}

// SAFETY: places are used by one thread at a time, by the promise of `slice`'s callers.
unsafe impl Sync for Disjoint {}

impl Disjoint {
    fn new(values: &mut [f32]) -> Self {
        Self { start: values.as_mut_ptr(), len: values.len() }
    }

    /// # Safety
    /// The memory that this was made of is still borrowed, and no other thread uses this part of it while the
    /// result lives.
    #[expect(clippy::mut_from_ref, reason = "threads write to places of their own")]
    unsafe fn slice(&self, start: usize, len: usize) -> &mut [f32] {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.len));
        // SAFETY: just checked to be within the memory.
        let start = unsafe { self.start.add(start) };
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }
}

thread_local! {
    /// Scratch memory of this thread.
    static BAND: RefCell<Band> = RefCell::default();
}

impl AttentionKernel {
    fn attend(&self, context: &ComputeContext) -> ort::Result<()> {
        let missing = || ort::Error::new(format!("{OPERATOR} lacks a tensor"));
        let shared = &*self.shared;
        // Read through the layers of one step: the runner writes it only between steps, so this
        // never waits.
        let step = shared.step.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let layout = shared.arena.layout;
        let (width, kv_width) = (self.heads * layout.head_size, layout.kv_heads * layout.head_size);
        let query = context.input(QUERY)?.ok_or_else(missing)?;
        let (_, query) = query.try_extract_tensor::<f32>()?;
        let key = context.input(KEY)?;
        let value = context.input(VALUE)?;
        let [queries, keys, values] = match (&key, &value) {
            (Some(key), Some(value)) => {
                let (_, key) = key.try_extract_tensor::<f32>()?;
                let (_, value) = value.try_extract_tensor::<f32>()?;
                let rows = |values, width| Rows { values, width, start: 0 };
                [rows(query, width), rows(key, kv_width), rows(value, kv_width)]
            }
            // Packed: a token's queries, keys and values one after another.
            _ => [0, width, width + kv_width].map(|start| Rows {
                values: query,
                width: width + 2 * kv_width,
                start,
            }),
        };
        // The tensors' sizes come from the graph and the plan's from the runner. Slices below count
        // on both being the same.
        for rows in [queries, keys, values] {
            if rows.values.len() != step.tokens * rows.width {
                return Err(ort::Error::new(format!(
                    "{OPERATOR} got {} numbers for {} tokens; expected {} for each, by a head_size of {}",
                    rows.values.len(),
                    step.tokens,
                    rows.width,
                    layout.head_size
                )));
            }
        }
        let cos = context.input(COS)?.ok_or_else(missing)?;
        let (shape, cos) = cos.try_extract_tensor::<f32>()?;
        let pairs = shape.last().and_then(|pairs| usize::try_from(*pairs).ok()).unwrap_or(0);
        let sin = context.input(SIN)?.ok_or_else(missing)?;
        let (_, sin) = sin.try_extract_tensor::<f32>()?;
        let mut out =
            context.output(0, vec![1, step.tokens as i64, width as i64])?.ok_or_else(missing)?;
        let (_, out) = out.try_extract_tensor_mut::<f32>()?;
        // One buffer for all layers, which run one after another; it grows to what the longest
        // context needed and stays.
        let mut parts = lock(&shared.parts);
        if parts.len() < step.shared {
            parts.resize(step.shared, 0.0);
        }
        let (out, parts) = (Disjoint::new(out), Disjoint::new(&mut parts));
        let layer =
            Layer { kernel: self, step: &step, queries, keys, values, cos, sin, pairs, out, parts };
        layer.run(context)
    }
}

impl Layer<'_> {
    fn run(&self, context: &ComputeContext) -> ort::Result<()> {
        let Step { stores, tasks, counters, .. } = self.step;
        // The plan serves every layer of the step, so counters begin at 0 in each.
        for counter in counters {
            counter.store(0, Ordering::Relaxed);
        }
        // The terminate flag is not seen within an operator, so tasks look at it.
        let terminator = &self.kernel.shared.terminator;
        let live = |work: &dyn Fn()| {
            if !terminator.is_interrupted() {
                work();
            }
        };
        // Keys and values of wide spans come first, since other tasks' rows read them.
        if !stores.is_empty() {
            on_all(context, OPERATOR, stores.len(), |index| {
                let (span, head, tokens) = &stores[index];
                live(&|| self.store(&self.step.spans[*span], *head, tokens.clone()));
            })?;
        }
        on_all(context, OPERATOR, tasks.len(), |index| live(&|| self.task(&tasks[index])))?;
        // Tasks were skipped, so the output is not complete: the step must fail rather than
        // continue with it.
        if terminator.is_interrupted() {
            return Err(ort::Error::new("the step was interrupted"));
        }
        Ok(())
    }

    /// Stores keys and values of `tokens`, tokens of the span.
    fn store(&self, span: &Placed, head: usize, tokens: Range<usize>) {
        let arena = &self.kernel.shared.arena;
        let size = arena.layout.head_size;
        // Keys are cached rotated: their positions never change, and each later step would rotate
        // them all again.
        let mut rotated = vec![0.0; size];
        for token in tokens {
            let position = span.past + token;
            let block = span.blocks[position / BLOCK];
            self.rotate(
                self.keys.head(span.first + token, head, size),
                position,
                1.0,
                &mut rotated,
            );
            let value = self.values.head(span.first + token, head, size);
            // SAFETY: the block is the sequence's own, and one task at a time has this head of it.
            let region = unsafe { arena.region_mut(block, self.kernel.layer, head) };
            arena.layout.store(region, position % BLOCK, &rotated, value);
        }
    }

    fn rotate(&self, values: &[f32], position: usize, factor: f32, out: &mut [f32]) {
        let angles = position * self.pairs..(position + 1) * self.pairs;
        rotate(values, &self.cos[angles.clone()], &self.sin[angles], factor, out);
    }

    fn task(&self, task: &Task) {
        let span = &self.step.spans[task.span];
        if span.narrow {
            // Of its tokens, those whose positions are in the split that it attends to.
            let from = (task.splits.start * SPLIT).saturating_sub(span.past);
            let to = (task.splits.end * SPLIT).saturating_sub(span.past).min(span.count);
            self.store(span, task.head, from..to);
        }
        BAND.with_borrow_mut(|band| {
            self.fill(band, span, task);
            let set = self.kernel.shared.set;
            match task.share {
                None => {
                    for split in task.splits.clone() {
                        self.attend(band, span, task.head, split);
                        band.merge(set);
                    }
                    self.finish(band, span, task);
                }
                Some(share) => {
                    self.attend(band, span, task.head, task.splits.start);
                    let part = |split: usize| share.start + split * share.len;
                    // SAFETY: this split's part is this task's until its counter says that it is done.
                    band.take_part(unsafe { self.parts.slice(part(task.splits.start), share.len) });
                    // Release, so that whoever merges sees this part, and Acquire, so that the one
                    // that merges sees all.
                    let done = self.step.counters[share.counter].fetch_add(1, Ordering::AcqRel) + 1;
                    // The last to end merges all, in their order.
                    if done == share.count {
                        for split in 0..share.count {
                            // SAFETY: all tasks have written their parts, and none reads them but this.
                            band.put_part(unsafe { self.parts.slice(part(split), share.len) });
                            band.merge(set);
                        }
                        self.finish(band, span, task);
                    }
                }
            }
        });
    }

    /// Fills `band` with the task's queries.
    fn fill(&self, band: &mut Band, span: &Placed, task: &Task) {
        let AttentionKernel { shared, heads, factor, .. } = self.kernel;
        let layout = &shared.arena.layout;
        let group = heads / layout.kv_heads;
        let first = task.tokens.start;
        let positions = span.past + first..span.past + task.tokens.end;
        band.fill(layout, group, positions, |token, head, row| {
            let at = span.first + first + token;
            let values = self.queries.head(at, task.head * group + head, layout.head_size);
            self.rotate(values, span.past + first + token, *factor, row);
        });
    }

    fn attend(&self, band: &mut Band, span: &Placed, head: usize, split: usize) {
        let AttentionKernel { shared, layer, .. } = self.kernel;
        let region = |block: &usize| {
            // SAFETY: what is written at the same time is other heads' or other sequences'; a span's own
            // tokens were stored before, by this task or before all tasks.
            unsafe { shared.arena.region(*block, *layer, head) }
        };
        let mut regions = [&[][..]; SPLIT / BLOCK];
        let blocks = &span.blocks[band.blocks(split)];
        for (region_of, block) in regions.iter_mut().zip(blocks) {
            *region_of = region(block);
        }
        band.attend(shared.set, split, &regions[..blocks.len()]);
    }

    /// Writes the rows' outputs.
    fn finish(&self, band: &Band, span: &Placed, task: &Task) {
        let AttentionKernel { shared, heads, .. } = self.kernel;
        let (size, kv_heads) = (shared.arena.layout.head_size, shared.arena.layout.kv_heads);
        let first = span.first + task.tokens.start;
        band.finish(|token, head, write| {
            let row = (first + token) * heads + task.head * (heads / kv_heads) + head;
            // SAFETY: each row is one task's.
            write(unsafe { self.out.slice(row * size, size) });
        });
    }
}
