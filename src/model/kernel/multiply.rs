//! The loops around the tiles: which rows and columns a tile takes, and what stays in which cache.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::activations::Activations;
use crate::form::{COLUMNS, Form, Line};
use crate::isa::{FewRows as _, Isa, Kernel, Tiles};
use crate::tile::{Packed, Work};

/// Values along K of a panel of unpacked weights. With three vectors of columns the panel takes 27 KB,
/// which the first-level cache holds beside a tile's activations.
const PANEL_DEPTH: usize = 512;
/// Values along K that are multiplied with all columns before the next are. With [`BAND_BYTES`] it
/// weighs how often weights are read against how often partial results are.
const BAND_DEPTH: usize = 2048;
/// Bytes of a band's rounded activations, which the second-level cache holds while columns pass.
const BAND_BYTES: usize = 384 << 10;

/// Where results go: `[rows, n]`, of which each thread writes columns of its own.
#[derive(Debug)]
pub struct Results<'a> {
    start: *mut f32,
    length: usize,
    n: usize,
    /// Groups of columns that somebody writes or has written.
    taken: Vec<AtomicBool>,
    memory: PhantomData<&'a mut [f32]>,
}

// SAFETY: the memory is borrowed for as long, and threads write to places of their own: `taken` gives
// each group away once.
unsafe impl Send for Results<'_> {}
// SAFETY: as above.
unsafe impl Sync for Results<'_> {}

impl<'a> Results<'a> {
    /// Results with `n` columns.
    pub fn new(results: &'a mut [f32], n: usize) -> Self {
        Self {
            start: results.as_mut_ptr(),
            length: results.len(),
            n,
            taken: (0..n / COLUMNS).map(|_| AtomicBool::new(false)).collect(),
            memory: PhantomData,
        }
    }
}

/// What is multiplied.
#[derive(Debug, Clone, Copy)]
pub struct Operands<'a> {
    /// The form of the weights.
    pub form: &'a Form,
    /// The weights as [`pack`](crate::pack()) laid them out.
    pub lines: &'a [Line],
    /// The activations, rounded by the same kernel for this form.
    pub activations: &'a Activations,
}

/// Multiplies the activations with the columns of `groups` (sixteen columns each) of the weights:
/// `results[row, column]` is the dot product of the row of activations with the column of weights.
///
/// A result depends neither on the rows beside its own nor on how columns are split into groups.
///
/// # Panics
/// If the sizes do not fit each other, or a group was done before.
pub fn multiply(
    kernel: Kernel,
    operands: &Operands<'_>,
    groups: Range<usize>,
    results: &Results<'_>,
) {
    let Operands { form, lines, activations } = *operands;
    let rows = activations.rows();
    assert!(form.fits() && lines.len() == form.lines() && results.n == form.n);
    assert!(results.length == rows * form.n && groups.end <= form.groups());
    let shape = kernel.shape(form, rows);
    assert_eq!(activations.shape(), shape, "rounded for another kernel");
    assert!(activations.words().len() >= rows.div_ceil(shape.height) * shape.tile_words(form));
    for group in groups.clone() {
        assert!(!results.taken[group].swap(true, Ordering::Relaxed), "group {group} is done twice");
    }
    if rows > 0 {
        kernel.multiply(&Job { form, lines, activations, results: results.start }, groups);
    }
}

/// A matmul whose sizes have been checked.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    pub(crate) form: &'a Form,
    lines: &'a [Line],
    activations: &'a Activations,
    results: *mut f32,
}

impl Job<'_> {
    /// Rows of activations.
    pub(crate) fn rows(&self) -> usize {
        self.activations.rows()
    }

    /// The packed weights of a group from `block` on.
    fn packed(&self, group: usize, block: usize) -> Packed {
        let form = self.form;
        let lines = &self.lines[group * form.group_lines()..][..form.group_lines()];
        let at = |line: usize, byte: usize| lines[line..].as_ptr().cast::<u8>().wrapping_add(byte);
        Packed {
            scales: at(0, block * COLUMNS * 2),
            zeros: at(form.scale_lines(), block * COLUMNS),
            levels: at(form.levels_at(), block * form.block_lines() * 64),
        }
    }

    /// The work of tile `index` with the columns from `column` on, without its panel.
    fn work(&self, index: usize, blocks: Range<usize>, column: usize) -> Work {
        let (form, shape) = (self.form, self.activations.shape());
        let height = shape.height;
        let words = &self.activations.words()[index * shape.tile_words(form)..];
        Work {
            panel: std::ptr::null(),
            activations: words[blocks.start * shape.block_words(form)..].as_ptr(),
            blocks: blocks.len(),
            runs: (form.block / 32).max(1),
            results: self.results.wrapping_add(index * height * form.n + column),
            stride: form.n,
            rows: (self.activations.rows() - index * height).min(height),
            first: blocks.start == 0,
        }
    }
}

/// Multiplies by tiles that read packed weights: for the few rows of a decode step.
///
/// # Safety
/// The processor has `I`'s features, and the groups' results are this call's alone.
pub(crate) unsafe fn narrow<I: Tiles>(job: &Job<'_>, groups: Range<usize>) {
    let height = job.activations.shape().height;
    for group in groups {
        for index in 0..job.activations.rows().div_ceil(height) {
            let work = job.work(index, 0..job.form.blocks(), group * COLUMNS);
            // SAFETY: sizes were checked by `multiply`, and the rest is the caller's promise.
            unsafe { I::Isa::direct(job.form, height, &work, job.packed(group, 0)) };
        }
    }
}

/// Multiplies by tiles that read panels of unpacked weights: for the many rows of a prefill step.
///
/// # Safety
/// As [`narrow`].
pub(crate) unsafe fn wide<I: Tiles>(job: &Job<'_>, groups: Range<usize>) {
    let (form, shape) = (job.form, job.activations.shape());
    let tiles = job.activations.rows().div_ceil(shape.height);
    let of_depth = |depth: usize| (depth / form.block).max(1);
    let (deep, shallow) = (of_depth(BAND_DEPTH), of_depth(PANEL_DEPTH));
    let band_bytes = deep.min(form.blocks()) * shape.block_words(form) * 4;
    let band = (BAND_BYTES / band_bytes).max(1);
    let mut panel = Panel::new::<I>(form, shallow);
    // SAFETY: the caller's promise.
    let _ready = unsafe { I::set_up(form) };
    for first in (0..tiles).step_by(band) {
        let tiles = first..tiles.min(first + band);
        for depth in (0..form.blocks()).step_by(deep) {
            let end = form.blocks().min(depth + deep);
            let mut group = groups.start;
            while group < groups.end {
                // The widest panel that fits, in groups.
                let width = if groups.end - group >= I::WIDE { I::WIDE } else { 1 };
                for block in (depth..end).step_by(shallow) {
                    let blocks = block..end.min(block + shallow);
                    // SAFETY: the panel is for so many blocks; the rest is the caller's promise.
                    unsafe { panel.fill::<I>(job, group..group + width, blocks.clone()) };
                    for index in tiles.clone() {
                        let work = job.work(index, blocks.clone(), group * COLUMNS);
                        let work = Work { panel: panel.start(), ..work };
                        // SAFETY: sizes were checked by `multiply`, and the panel is filled.
                        unsafe { I::tile(form, width, &work) };
                    }
                }
                group += width;
            }
        }
    }
}

/// Unpacked weights of a few columns.
struct Panel {
    lines: Vec<Line>,
}

impl Panel {
    /// Room for `blocks` blocks of the widest panel.
    fn new<I: Tiles>(form: &Form, blocks: usize) -> Self {
        // A block's scales, zero points and quarters, a line for each group.
        let lines = blocks * (form.block / 4 + 2) * I::WIDE;
        Self { lines: Vec::with_capacity(lines) }
    }

    fn start(&self) -> *const u8 {
        self.lines.as_ptr().cast()
    }

    /// # Safety
    /// As [`narrow`]; there is room for the blocks.
    unsafe fn fill<I: Tiles>(&mut self, job: &Job<'_>, groups: Range<usize>, blocks: Range<usize>) {
        let vector = I::Isa::LANES * 4;
        let per_group = COLUMNS / I::Isa::LANES;
        let vectors = groups.len() * per_group;
        let start = self.lines.as_mut_ptr().cast::<u8>();
        for (index, group) in groups.enumerate() {
            let Packed { scales, zeros, levels } = job.packed(group, blocks.start);
            for part in 0..per_group {
                let packed = Packed {
                    scales: scales.wrapping_add(part * I::Isa::LANES * 2),
                    zeros: zeros.wrapping_add(part * I::Isa::LANES),
                    levels: levels.wrapping_add(part * vector),
                };
                let to = start.wrapping_add((index * per_group + part) * vector);
                // SAFETY: a vector of `vectors`, from blocks that were checked to be there.
                unsafe { I::unpack(job.form, packed, blocks.len(), vectors, to) };
            }
        }
    }
}
