//! Activations rounded to int8, laid out for the kernel's tiles.

use crate::form::Form;
use crate::isa::Kernel;

/// Adding it to a float of at most 2^22 rounds that to a whole number, ties to even, which is then in
/// the low bits of the sum.
const ROUNDER: f32 = 12_582_912.0;

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

/// As [`round`]; compiled for each instruction set, whose vectors the loops then use.
#[inline(always)]
pub(crate) fn round_tile(
    form: &Form,
    start: Start,
    factor: f32,
    activations: &[f32],
    tile: &mut TileRows<'_>,
) {
    match form.block {
        16 => round_blocks::<16>(form, start, factor, activations, tile),
        32 => round_blocks::<32>(form, start, factor, activations, tile),
        64 => round_blocks::<64>(form, start, factor, activations, tile),
        128 => round_blocks::<128>(form, start, factor, activations, tile),
        _ => round_blocks::<256>(form, start, factor, activations, tile),
    }
}

#[inline(always)]
fn round_blocks<const B: usize>(
    form: &Form,
    start: Start,
    factor: f32,
    activations: &[f32],
    tile: &mut TileRows<'_>,
) {
    let height = tile.height;
    let rows = tile.rows.len();
    if rows < height {
        tile.words.fill(0);
    }
    for (row, values) in activations.chunks_exact(form.k).enumerate() {
        let (whole, rest) = values.as_chunks::<B>();
        let blocks = tile.words.chunks_exact_mut(block_words(form, height));
        for (block, words) in blocks.enumerate() {
            if let Some(values) = whole.get(block) {
                round_block(values, start, factor, height, &mut words[row..]);
            } else {
                // K need not be whole blocks; what is beyond is 0 and counts nothing.
                let mut values = [0.0; B];
                values[..rest.len()].copy_from_slice(rest);
                round_block(&values, start, factor, height, &mut words[row..]);
            }
        }
    }
}

/// Rounds a block into every `height`th of `words`.
#[inline(always)]
fn round_block<const B: usize>(
    values: &[f32; B],
    start: Start,
    factor: f32,
    height: usize,
    words: &mut [i32],
) {
    // Sixteen maxima side by side, which vectors hold; a maximum does not depend on the order.
    let mut maxima = [0.0_f32; 16];
    for values in values.as_chunks::<16>().0 {
        for (most, value) in maxima.iter_mut().zip(values) {
            let value = value.abs();
            *most = if value > *most { value } else { *most };
        }
    }
    let most = maxima.iter().fold(0.0_f32, |most, value| if *value > most { *value } else { most });
    // Symmetric rounding to -127..=127.
    let inverse = if most > 0.0 { 127.0 / most } else { 0.0 };
    let mut levels = [0_i32; B];
    for (level, value) in levels.iter_mut().zip(values) {
        *level =
            (value * inverse + ROUNDER).to_bits().cast_signed() - ROUNDER.to_bits().cast_signed();
    }
    let sum: i32 = levels.iter().sum();
    for (quarter, four) in levels.as_chunks::<4>().0.iter().enumerate() {
        let [a, b, c, d] = four.map(|level| level & 255);
        words[quarter * height] = a | b << 8 | c << 16 | d << 24;
    }
    let scales = B / 4 * height;
    words[scales] = (most / 127.0 * factor).to_bits().cast_signed();
    words[scales + height] = match start {
        Start::Middle(middle) => -middle * sum,
        Start::Factor => -sum & 0xffff,
    };
}
