//! Weights as `DequantizeLinear` takes them.

use std::sync::Mutex;

use crate::operator::lock;
use phi4d_matmul::Form;

/// Columns that are turned together: the levels of a row that lie in a cache line, or half of one.
const TILE: usize = 64;

/// Quantised weights as a matrix of levels with a matrix of scales.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid<'a> {
    /// `[k, n]`, or `[n, k]` if `by_column`: of two weights in a byte, the first is in its low half.
    pub(super) levels: &'a [u8],
    /// `[blocks, n]`, or `[n, blocks]` if `by_column`; or a single one.
    pub(super) scales: &'a [f32],
    /// As `scales`, of the bits that `levels` have; empty if there are none.
    pub(super) zero_points: &'a [u8],
    /// Weights along K that share a scale.
    pub(super) block: usize,
    pub(super) by_column: bool,
    /// Whether levels and zero points are numbers with a sign.
    pub(super) signed: bool,
}

/// Weights as `MatMulNBits` has them ([`phi4d_matmul::Weights`]).
#[derive(Debug, Default)]
pub(super) struct Blocks {
    pub(super) levels: Vec<u8>,
    pub(super) scales: Vec<f32>,
    pub(super) zero_points: Vec<u8>,
}

impl Grid<'_> {
    fn blocks(&self, form: &Form) -> usize {
        form.k.div_ceil(self.block)
    }

    /// What 0 becomes, as a number without a sign.
    fn middle(&self, bits: usize) -> u8 {
        if self.signed { 1 << (bits - 1) } else { 0 }
    }

    /// Whether the tensors are of the sizes that `form` has.
    pub(super) fn are(&self, form: &Form) -> bool {
        let bytes = |numbers: usize| (numbers * form.bits).div_ceil(8);
        self.block > 0
            && (self.block >= form.k || self.block.is_multiple_of(form.block))
            && self.levels.len() == bytes(form.k * form.n)
            && [1, form.n * self.blocks(form)].contains(&self.scales.len())
            && [0, bytes(self.scales.len())].contains(&self.zero_points.len())
            // Without zero points the kernel takes the middle for 0, as numbers with a sign do.
            && (form.zero_points || (self.signed && self.zero_points.is_empty()))
    }

    /// Number `at` of levels or zero points, as a number without a sign.
    fn number(&self, numbers: &[u8], bits: usize, at: usize) -> u8 {
        let number = if bits == 4 { numbers[at / 2] >> (at % 2 * 4) & 15 } else { numbers[at] };
        // Flipping the highest bit adds the middle: a number with a sign becomes one without.
        number ^ self.middle(bits)
    }

    /// The same weights for `form`.
    ///
    /// # Panics
    /// If they are not of the sizes that `form` has.
    pub(super) fn turned(&self, form: &Form) -> Blocks {
        assert!(self.are(form), "weights of the form's sizes");
        let mut blocks =
            Blocks { levels: vec![0; form.n * form.column_bytes()], ..Blocks::default() };
        // There may be gigabytes to turn, so each thread turns columns of its own.
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        // Whole tiles for each thread: two threads then never write to one cache line.
        let share = form.n.div_ceil(threads).next_multiple_of(TILE);
        let parts = blocks.levels.chunks_mut(share * form.column_bytes()).map(Mutex::new);
        let parts: Vec<_> = parts.collect();
        let turn = |index: usize| self.turn(form, index * share, &mut lock(&parts[index]));
        let turn = &turn;
        std::thread::scope(|scope| {
            for index in 0..parts.len() {
                let thread = std::thread::Builder::new();
                if thread.spawn_scoped(scope, move || turn(index)).is_err() {
                    // The system has no thread to give: this one does it.
                    turn(index);
                }
            }
        });
        drop(parts);
        for column in 0..form.n {
            // The kernel's blocks may be parts of longer ones, which then share a scale.
            let place = |block: usize| self.place(form, column, block * form.block / self.block);
            blocks.scales.extend((0..form.blocks()).map(|block| self.scales[place(block)]));
            if form.zero_points {
                let zero = |block| match self.zero_points {
                    [] => self.middle(form.bits),
                    zeros => self.number(zeros, form.bits, place(block)),
                };
                let zeros: Vec<u8> = (0..form.blocks()).map(zero).collect();
                match form.bits {
                    // Two zero points in a byte, each column's on their own bytes: an odd last one
                    // has no neighbour.
                    4 => blocks
                        .zero_points
                        .extend(zeros.chunks(2).map(|two| two[0] | two.get(1).unwrap_or(&0) << 4)),
                    _ => blocks.zero_points.extend(zeros),
                }
            }
        }
        blocks
    }

    /// Where the scale of a column's `block` is.
    fn place(&self, form: &Form, column: usize, block: usize) -> usize {
        match self.scales.len() {
            1 => 0,
            _ if self.by_column => column * self.blocks(form) + block,
            _ => block * form.n + column,
        }
    }

    /// Writes the levels of the columns from `first` on into `part`.
    fn turn(&self, form: &Form, first: usize, part: &mut [u8]) {
        let bytes = form.column_bytes();
        // Rows of a few columns: what is read and what is written both stay in the cache.
        for (tile, part) in part.chunks_mut(TILE * bytes).enumerate() {
            let first = first + tile * TILE;
            for row in 0..form.k {
                for (column, levels) in part.chunks_mut(bytes).enumerate() {
                    let column = first + column;
                    let at =
                        if self.by_column { column * form.k + row } else { row * form.n + column };
                    let level = self.number(self.levels, form.bits, at);
                    match form.bits {
                        4 => levels[row / 2] |= level << (row % 2 * 4),
                        _ => levels[row] = level,
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packed(numbers: &[u8], bits: usize) -> Vec<u8> {
        match bits {
            4 => numbers.chunks(2).map(|two| two[0] & 15 | two.get(1).unwrap_or(&0) << 4).collect(),
            _ => numbers.to_vec(),
        }
    }

    proptest! {
        #[test]
        fn a_turned_weight_has_the_value_that_dequantize_linear_gives(
            (k, groups, eight, block, by_column, signed, zeros, single) in
                (1usize..80, 1usize..6, any::<bool>(), 0usize..4, any::<bool>(), any::<bool>(),
                    any::<bool>(), any::<bool>()),
            seed in any::<u64>(),
        ) {
            let (n, bits) = (groups * 16, if eight { 8 } else { 4 });
            let source = [16, 32, 64, k][block];
            let form = Form { k, n, bits, block: 16, zero_points: zeros || !signed };
            let count = if single { 1 } else { n * k.div_ceil(source) };
            let mut state = seed | 1;
            let mut drawn = |count: usize| -> Vec<u8> {
                let mut draw = || {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    state.to_be_bytes()[2]
                };
                (0..count).map(|_| draw()).collect()
            };
            let (levels, zero_points) = (drawn(k * n), drawn(count));
            let scales: Vec<f32> = drawn(count).iter().map(|scale| f32::from(*scale) + 1.0).collect();
            let grid = Grid {
                levels: &packed(&levels, bits),
                scales: &scales,
                zero_points: &if zeros { packed(&zero_points, bits) } else { Vec::new() },
                block: source,
                by_column,
                signed,
            };
            prop_assert!(grid.are(&form));
            let turned = grid.turned(&form);
            let signed_number = |number: u8| match (bits, signed) {
                (4, true) => i32::from((number << 4).cast_signed() >> 4),
                (4, false) => i32::from(number & 15),
                (_, true) => i32::from(number.cast_signed()),
                _ => i32::from(number),
            };
            let number = |numbers: &[u8], at: usize| match bits {
                4 => i32::from(numbers[at / 2] >> (at % 2 * 4) & 15),
                _ => i32::from(numbers[at]),
            };
            for row in 0..k {
                for column in 0..n {
                    let at = if by_column { column * k + row } else { row * n + column };
                    let blocks = k.div_ceil(source);
                    let place = match (single, by_column) {
                        (true, _) => 0,
                        (_, true) => column * blocks + row / source,
                        _ => row / source * n + column,
                    };
                    let zero = if zeros { signed_number(zero_points[place]) } else { 0 };
                    let expected = (signed_number(levels[at]) - zero, scales[place]);
                    let block = column * form.blocks() + row / 16;
                    let level = number(&turned.levels[column * form.column_bytes()..], row);
                    let zero = match form.zero_points {
                        true => number(&turned.zero_points[column * form.column_zero_bytes()..], row / 16),
                        false => 1 << (bits - 1),
                    };
                    prop_assert_eq!((level - zero, turned.scales[block]), expected);
                }
            }
        }
    }
}
