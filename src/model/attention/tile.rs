//! A few query rows against one block: scores, their exponentials, and the weighted sum of values.
//!
//! All functions here are inlined into the function that enables an instruction set (see [`crate::isa`]).

use crate::BLOCK;
use crate::isa::Lanes;
use crate::view::{Sixteen, Stored, View};

/// Vectors of a block's positions.
pub(crate) const VECTORS: usize = BLOCK / 16;

/// What `R` rows have summed up over the blocks of a split.
#[derive(Debug)]
pub(crate) struct Sums<'a, const R: usize> {
    /// The largest score, in base 2.
    pub(crate) most: &'a mut [f32; R],
    /// Sums of exponentials, in sixteen lanes.
    pub(crate) sums: &'a mut [Sixteen<f32>; R],
    /// Weighted sums of values: `[group][row][dimension]`.
    pub(crate) outs: &'a mut [Sixteen<f32>],
}

/// One block as a tile reads it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keys<'a, T> {
    pub(crate) view: View<'a, T>,
    /// Vectors in a group of values: 1, 2 or 4.
    pub(crate) group: usize,
    /// Where the next block's region begins, if the tile is to fetch memory ahead.
    pub(crate) next: Option<*const u8>,
}

/// Adds a block to `sums` of the rows `queries` (`[dimension][row]`, in base 2), of which each attends to the
/// first `limits` positions.
#[inline(always)]
pub(crate) fn add_block<I: Lanes, T: Stored, const R: usize>(
    isa: I,
    queries: &[[f32; R]],
    keys: &Keys<'_, T>,
    limits: &[usize; R],
    sums: &mut Sums<'_, R>,
) {
    let mut weights = [[0.0; BLOCK]; R];
    if I::WIDE {
        scores::<I, T, R, VECTORS>(isa, queries, keys, &mut weights);
    } else {
        scores::<I, T, R, 1>(isa, queries, keys, &mut weights);
    }
    let mut factors = [0.0; R];
    for row in 0..R {
        let scores = &mut weights[row];
        scale(isa, scores, keys.view.key_scales);
        let (most, sum) = (&mut sums.most[row], &mut sums.sums[row]);
        factors[row] = exponentials(isa, scores, limits[row], most, sum);
        scale(isa, scores, keys.view.value_scales);
    }
    let count = limits.iter().fold(0, |most, limit| most.max(*limit)).min(BLOCK);
    let weights = &Weights { weights: &weights, factors: &factors, count };
    match (keys.group, I::WIDE) {
        (4, true) => add_values::<I, T, R, 4, 4>(isa, keys, weights, sums.outs),
        (2, true) => add_values::<I, T, R, 2, 2>(isa, keys, weights, sums.outs),
        (4, false) => add_values::<I, T, R, 4, 1>(isa, keys, weights, sums.outs),
        (2, false) => add_values::<I, T, R, 2, 1>(isa, keys, weights, sums.outs),
        _ => add_values::<I, T, R, 1, 1>(isa, keys, weights, sums.outs),
    }
}

/// Dot products of rows and keys, `C` vectors of positions at a time: each a chain over the dimensions.
#[inline(always)]
fn scores<I: Lanes, T: Stored, const R: usize, const C: usize>(
    isa: I,
    queries: &[[f32; R]],
    keys: &Keys<'_, T>,
    scores: &mut [[f32; BLOCK]; R],
) {
    // One group of values ahead: the keys' end fetches the first values.
    let ahead = BLOCK * 16 * keys.group * size_of::<T>();
    for part in 0..VECTORS / C {
        let mut sums = [[isa.splat(0.0); C]; R];
        for (query, key) in queries.iter().zip(keys.view.keys) {
            if keys.next.is_some() && part == 0 {
                let line = key.as_ptr().cast::<u8>().wrapping_add(ahead);
                for index in 0..size_of::<T>() {
                    isa.prefetch(line.wrapping_add(64 * index));
                }
            }
            let mut loaded = [isa.splat(0.0); C];
            for column in 0..C {
                loaded[column] = T::load(isa, &key[part * C + column]);
            }
            for row in 0..R {
                let value = isa.splat(query[row]);
                for column in 0..C {
                    sums[row][column] = isa.fma(loaded[column], value, sums[row][column]);
                }
            }
        }
        for row in 0..R {
            let (places, _) = scores[row].as_chunks_mut::<16>();
            for column in 0..C {
                isa.store(sums[row][column], &mut places[part * C + column]);
            }
        }
    }
}

/// Multiplies values of positions with the positions' scales, if there are any.
#[inline(always)]
fn scale<I: Lanes>(isa: I, values: &mut [f32; BLOCK], scales: &[Sixteen<f32>]) {
    for (values, scales) in values.as_chunks_mut().0.iter_mut().zip(scales) {
        isa.store(isa.mul(isa.load(values), isa.load(scales)), values);
    }
}

/// Turns the first `limit` scores into exponentials less the largest score so far, and the others into 0.
/// Updates the largest score and the sum, and returns what earlier sums are to be multiplied by.
#[inline(always)]
fn exponentials<I: Lanes>(
    isa: I,
    scores: &mut [f32; BLOCK],
    limit: usize,
    most: &mut f32,
    sum: &mut Sixteen<f32>,
) -> f32 {
    let (vectors, _) = scores.as_chunks_mut::<16>();
    let mut largest = isa.splat(*most);
    let mut masked = [largest; VECTORS];
    for index in 0..VECTORS {
        let left = limit.saturating_sub(16 * index);
        masked[index] = isa.first(left, isa.load(&vectors[index]), isa.splat(f32::MIN));
        largest = isa.max(largest, masked[index]);
    }
    let now = isa.largest(largest);
    let factor = isa.exp2(isa.splat(*most - now));
    *most = now;
    for index in 0..VECTORS {
        let left = limit.saturating_sub(16 * index);
        let power = isa.exp2(isa.sub(masked[index], isa.splat(now)));
        masked[index] = isa.first(left, power, isa.splat(0.0));
        isa.store(masked[index], &mut vectors[index]);
    }
    let added = isa.add(isa.add(masked[0], masked[1]), isa.add(masked[2], masked[3]));
    isa.store(isa.fma(isa.load(sum), factor, added), sum);
    let mut lanes = [0.0; 16];
    isa.store(factor, &mut lanes);
    lanes[0]
}

/// What values are multiplied by.
struct Weights<'a, const R: usize> {
    weights: &'a [[f32; BLOCK]; R],
    /// Of earlier sums.
    factors: &'a [f32; R],
    /// Positions that any row attends to.
    count: usize,
}

/// Multiplies earlier sums with their factors and adds values times their weights, in groups of `W` vectors of dimensions, `C` at a time.
#[inline(always)]
fn add_values<I: Lanes, T: Stored, const R: usize, const W: usize, const C: usize>(
    isa: I,
    keys: &Keys<'_, T>,
    &Weights { weights, factors, count }: &Weights<'_, R>,
    outs: &mut [Sixteen<f32>],
) {
    let (values, _) = keys.view.values.as_chunks::<W>();
    let (groups, _) = values.as_chunks::<BLOCK>();
    let (outs, _) = outs.as_chunks_mut::<W>();
    let (outs, _) = outs.as_chunks_mut::<R>();
    for (index, (group, outs)) in groups.iter().zip(outs).enumerate() {
        let ahead =
            keys.next.map(|next| groups.get(index + 1).map_or(next, |group| group.as_ptr().cast()));
        for part in 0..W / C {
            let mut sums = [[isa.splat(0.0); C]; R];
            for row in 0..R {
                let factor = isa.splat(factors[row]);
                for column in 0..C {
                    sums[row][column] = isa.mul(isa.load(&outs[row][part * C + column]), factor);
                }
            }
            for (position, value) in group.iter().take(count).enumerate() {
                if let Some(ahead) = ahead
                    && part == 0
                {
                    let bytes = size_of::<[Sixteen<T>; W]>();
                    for line in 0..bytes.div_ceil(64) {
                        isa.prefetch(ahead.wrapping_add(position * bytes + line * 64));
                    }
                }
                let mut loaded = [isa.splat(0.0); C];
                for column in 0..C {
                    loaded[column] = T::load(isa, &value[part * C + column]);
                }
                for row in 0..R {
                    let weight = isa.splat(weights[row][position]);
                    for column in 0..C {
                        sums[row][column] = isa.fma(loaded[column], weight, sums[row][column]);
                    }
                }
            }
            for row in 0..R {
                for column in 0..C {
                    isa.store(sums[row][column], &mut outs[row][part * C + column]);
                }
            }
        }
    }
}
