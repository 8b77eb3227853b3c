//! Activations rounded to int8, laid out for the kernel's tiles.

use crate::form::{Form, Line};
use crate::isa::{Isa, Kernel};

/// Rows of activations, each block of them rounded to int8 with a scale of its own, as ONNX Runtime's
/// kernels do it at accuracy level 4.
///
/// Rows lie in tiles of equal height; the last is padded with rows of zeros. A tile has for each block
/// its quarters, in the order that [`Shape`] says, then the rows' scales and the rows' starts: a tile of
/// the kernel reads it from front to back.
#[derive(Debug, Default)]
pub struct Activations {
    lines: Vec<Line>,
    rows: usize,
    shape: Shape,
}

/// How the rows of a tile lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Shape {
    /// Rows of a tile.
    pub(crate) height: usize,
    /// Whether a block's quarters are `[row][block / 4]`, as a matrix unit loads them, and not
    /// `[block / 4][row]`. Then blocks begin at cache lines.
    pub(crate) by_row: bool,
}

impl Shape {
    /// Words of a tile.
    pub(crate) fn tile_words(self, form: &Form) -> usize {
        form.blocks() * self.block_words(form)
    }

    /// Words of a block of a tile: levels, scales and starts.
    pub(crate) fn block_words(self, form: &Form) -> usize {
        form.block / 4 * self.height + 2 * self.tail_step()
    }

    /// Words from the first row's scale to its start.
    fn tail_step(self) -> usize {
        if self.by_row { LINE_WORDS } else { self.height }
    }

    /// Where a row's first quarter of a block is, and the words from one to the next.
    fn quarters(self, form: &Form, row: usize) -> (usize, usize) {
        if self.by_row { (row * form.block / 4, 1) } else { (row, self.height) }
    }
}

/// Words of a cache line.
const LINE_WORDS: usize = 16;

/// One tile of [`Activations`] to be filled by [`round`].
#[derive(Debug)]
pub struct TileRows<'a> {
    words: &'a mut [i32],
    /// The rows that it takes.
    pub rows: std::ops::Range<usize>,
    pub(crate) shape: Shape,
}

impl Activations {
    /// Makes room for `rows` rows of `form.k` values. What was there before is lost.
    pub fn resize(&mut self, kernel: Kernel, form: &Form, rows: usize) {
        self.rows = rows;
        self.shape = kernel.shape(form, rows);
        let words = rows.div_ceil(self.shape.height) * self.shape.tile_words(form);
        self.lines.resize(words.div_ceil(LINE_WORDS), Line([0; 64]));
    }

    /// Rows that were asked for.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The tiles, each to be rounded on any thread.
    pub fn tiles(&mut self, form: &Form) -> impl Iterator<Item = TileRows<'_>> {
        let (rows, shape) = (self.rows, self.shape);
        // SAFETY: a line is sixteen words without gaps, more strictly aligned.
        let words = unsafe {
            let words = self.lines.len() * LINE_WORDS;
            std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast::<i32>(), words)
        };
        let tiles = words.chunks_exact_mut(shape.tile_words(form).max(1));
        let count = rows.div_ceil(shape.height.max(1));
        tiles.take(count).enumerate().map(move |(index, words)| TileRows {
            words,
            rows: index * shape.height..rows.min((index + 1) * shape.height),
            shape,
        })
    }

    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    pub(crate) fn words(&self) -> &[i32] {
        // SAFETY: a line is sixteen words without gaps, more strictly aligned.
        unsafe {
            let words = self.lines.len() * LINE_WORDS;
            std::slice::from_raw_parts(self.lines.as_ptr().cast::<i32>(), words)
        }
    }
}

/// Rounds a tile's rows, which `activations` has, each scale times `factor`.
///
/// # Panics
/// If `activations` is not the tile's rows of `form.k` values.
pub fn round(
    kernel: Kernel,
    form: &Form,
    factor: f32,
    activations: &[f32],
    tile: &mut TileRows<'_>,
) {
    assert_eq!(activations.len(), tile.rows.len() * form.k, "a tile's rows");
    assert_eq!(tile.words.len(), tile.shape.tile_words(form), "a tile's words");
    kernel.round(form, factor, activations, tile);
}

/// What a block's sums of products begin with. Weights are stored too large by their zero point, which
/// all of a block's activations multiply.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Start {
    /// The zero point of all blocks: minus it times the sum of the activations.
    Middle(i32),
    /// Blocks have zero points: minus the sum of the activations, in 16 bits, which the kernel
    /// multiplies with them.
    Factor,
}

/// As [`round`]; compiled for each instruction set.
///
/// # Safety
/// The processor has `I`'s features.
#[inline(always)]
pub(crate) unsafe fn round_tile<I: Isa>(
    form: &Form,
    start: Start,
    factor: f32,
    activations: &[f32],
    tile: &mut TileRows<'_>,
) {
    let (block, shape) = (form.block, tile.shape);
    if tile.rows.len() < shape.height {
        tile.words.fill(0);
    }
    for (row, values) in activations.chunks_exact(form.k).enumerate() {
        let words = tile.words.chunks_exact_mut(shape.block_words(form));
        let (first, step) = shape.quarters(form, row);
        let tail = block / 4 * shape.height + row;
        for (values, words) in values.chunks(block).zip(words) {
            let mut padded = [0.0; 256];
            let values = if values.len() == block {
                values
            } else {
                // K need not be whole blocks; what is beyond is 0 and counts nothing.
                padded[..values.len()].copy_from_slice(values);
                &padded[..block]
            };
            // SAFETY: by the caller's promise.
            let (scale, sum) = unsafe { round_block::<I>(values, &mut words[first..], step) };
            words[tail] = (scale * factor).to_bits().cast_signed();
            words[tail + shape.tail_step()] = match start {
                Start::Middle(middle) => -middle * sum,
                Start::Factor => -sum & 0xffff,
            };
        }
    }
}

/// Rounds a block of whole vectors into every `step`th of `words`. Returns its scale, and the sum of what it
/// was rounded to.
///
/// # Safety
/// The processor has `I`'s features.
#[inline(always)]
#[expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "instructions that have one condition, the caller's promise"
)]
unsafe fn round_block<I: Isa>(values: &[f32], words: &mut [i32], step: usize) -> (f32, i32) {
    // SAFETY: the caller's promise; each chunk is a whole vector.
    unsafe {
        let mut most = I::splat_float(0.0);
        for values in values.chunks_exact(I::LANES) {
            most = I::larger_size(I::load_float(values.as_ptr()), most);
        }
        let most = I::largest(most);
        // Symmetric rounding to -127..=127.
        let inverse = I::splat_float(if most > 0.0 { 127.0 / most } else { 0.0 });
        let mut sum = I::splat(0);
        let quarters = words.chunks_mut(step * I::LANES / 4);
        for (values, words) in values.chunks_exact(I::LANES).zip(quarters) {
            let levels = I::levels(I::load_float(values.as_ptr()), inverse);
            sum = I::add(sum, levels);
            for (quarter, word) in I::words(levels).iter().take(I::LANES / 4).enumerate() {
                words[quarter * step] = *word;
            }
        }
        (most / 127.0, I::total(sum))
    }
}
