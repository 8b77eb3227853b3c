//! Activations rounded to int8, laid out for the kernel's tiles.

use crate::form::Form;
use crate::isa::{Isa, Kernel};

/// Rows of activations, each block of them rounded to int8 with a scale of its own, as ONNX Runtime's
/// kernels do it at accuracy level 4.
///
/// Rows lie in tiles of equal height; the last is padded with rows of zeros. A tile has for each block
/// its quarters `[block / 4][row, 4]`, then the rows' scales and the rows' starts: a tile of the kernel
/// reads it from front to back.
#[derive(Debug, Default)]
pub struct Activations {
    words: Vec<i32>,
    rows: usize,
    height: usize,
}

/// One tile of [`Activations`] to be filled by [`round`].
#[derive(Debug)]
pub struct TileRows<'a> {
    words: &'a mut [i32],
    /// The rows that it takes.
    pub rows: std::ops::Range<usize>,
    height: usize,
}

impl Activations {
    /// Makes room for `rows` rows of `form.k` values. What was there before is lost.
    pub fn resize(&mut self, kernel: Kernel, form: &Form, rows: usize) {
        self.rows = rows;
        self.height = kernel.height(rows);
        let words = rows.div_ceil(self.height) * tile_words(form, self.height);
        if self.words.len() < words {
            self.words.resize(words, 0);
        } else {
            self.words.truncate(words);
        }
    }

    /// Rows that were asked for.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The tiles, each to be rounded on any thread.
    pub fn tiles(&mut self, form: &Form) -> impl Iterator<Item = TileRows<'_>> {
        let (rows, height) = (self.rows, self.height);
        let tiles = self.words.chunks_exact_mut(tile_words(form, height).max(1)).enumerate();
        tiles.map(move |(index, words)| TileRows {
            words,
            rows: index * height..rows.min((index + 1) * height),
            height,
        })
    }

    pub(crate) fn height(&self) -> usize {
        self.height
    }

    pub(crate) fn words(&self) -> &[i32] {
        &self.words
    }
}

/// Words of a tile of `height` rows.
pub(crate) fn tile_words(form: &Form, height: usize) -> usize {
    form.blocks() * block_words(form, height)
}

/// Words of a block of a tile of `height` rows: levels, scales and starts.
pub(crate) fn block_words(form: &Form, height: usize) -> usize {
    (form.block / 4 + 2) * height
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
    assert_eq!(tile.words.len(), tile_words(form, tile.height), "a tile's words");
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
    let (block, height) = (form.block, tile.height);
    if tile.rows.len() < height {
        tile.words.fill(0);
    }
    for (row, values) in activations.chunks_exact(form.k).enumerate() {
        let words = tile.words.chunks_exact_mut(block_words(form, height));
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
            unsafe { round_block::<I>(values, start, factor, height, &mut words[row..]) };
        }
    }
}

/// Rounds a block of whole vectors into every `height`th of `words`.
///
/// # Safety
/// The processor has `I`'s features.
#[inline(always)]
#[expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "instructions that have one condition, the caller's promise"
)]
unsafe fn round_block<I: Isa>(
    values: &[f32],
    start: Start,
    factor: f32,
    height: usize,
    words: &mut [i32],
) {
    // SAFETY: the caller's promise; each chunk is a whole vector.
    let sum = unsafe {
        let mut most = I::splat_float(0.0);
        for values in values.chunks_exact(I::LANES) {
            most = I::larger_size(I::load_float(values.as_ptr()), most);
        }
        let most = I::largest(most);
        // Symmetric rounding to -127..=127.
        let inverse = I::splat_float(if most > 0.0 { 127.0 / most } else { 0.0 });
        let mut sum = I::splat(0);
        let quarters = words.chunks_mut(height * I::LANES / 4);
        for (values, words) in values.chunks_exact(I::LANES).zip(quarters) {
            let levels = I::levels(I::load_float(values.as_ptr()), inverse);
            sum = I::add(sum, levels);
            for (quarter, word) in I::words(levels).iter().take(I::LANES / 4).enumerate() {
                words[quarter * height] = *word;
            }
        }
        words[values.len() / 4 * height] = (most / 127.0 * factor).to_bits().cast_signed();
        I::total(sum)
    };
    words[(values.len() / 4 + 1) * height] = match start {
        Start::Middle(middle) => -middle * sum,
        Start::Factor => -sum & 0xffff,
    };
}
