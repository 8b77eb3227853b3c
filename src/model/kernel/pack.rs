//! Lays out an export's weights.

use std::sync::{Mutex, PoisonError};

use half::f16;

use crate::form::{COLUMNS, Form, Line};

/// The weights of a matmul as an export's tensors have them.
#[derive(Debug, Clone, Copy)]
pub struct Weights<'a> {
    /// `[n, blocks, block * bits / 8]`: of two weights in a byte, the first is in its low half.
    pub levels: &'a [u8],
    /// `[n, blocks]`.
    pub scales: &'a [f32],
    /// `[n, blocks * bits / 8]`, each column in whole bytes; empty if the form has none.
    pub zero_points: &'a [u8],
}

impl Weights<'_> {
    /// Whether the tensors are of the sizes that `form` has.
    #[must_use]
    pub fn are(&self, form: &Form) -> bool {
        let zeros = if form.zero_points { form.n * form.column_zero_bytes() } else { 0 };
        form.fits()
            && self.levels.len() == form.n * form.column_bytes()
            && self.scales.len() == form.n * form.blocks()
            && self.zero_points.len() == zeros
    }
}

/// Lays out `weights` in `lines`. Returns the factor of the scales: they are stored larger or smaller by
/// its inverse, and activations are rounded with it.
///
/// # Panics
/// If the tensors or `lines` are not of the sizes that `form` has.
#[must_use]
pub fn pack(form: &Form, weights: &Weights<'_>, lines: &mut [Line]) -> f32 {
    assert!(weights.are(form) && lines.len() == form.lines());
    // Half precision loses digits below 2^-14, where small scales would fall. So all are
    // multiplied by a power of two, exact and undone at the end, that brings the largest near 2^13.
    let most = weights.scales.iter().fold(0.0_f32, |most, scale| most.max(scale.abs()));
    let exponent = if most.is_normal() { 13.0 - most.log2().floor() } else { 0.0 };
    let raise = exponent.clamp(-100.0, 100.0).exp2();
    // There are gigabytes to pack, so each thread packs groups of its own.
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = form.groups().div_ceil(threads);
    let parts = lines.chunks_mut(share * form.group_lines()).map(Mutex::new);
    let parts: Vec<_> = parts.collect();
    let pack = |index: usize| {
        let mut part = parts[index].lock().unwrap_or_else(PoisonError::into_inner);
        for (group, lines) in part.chunks_mut(form.group_lines()).enumerate() {
            pack_group(form, weights, (index * share + group) * COLUMNS, lines, raise);
        }
    };
    let pack = &pack;
    std::thread::scope(|scope| {
        for index in 0..parts.len() {
            let thread = std::thread::Builder::new();
            if thread.spawn_scoped(scope, move || pack(index)).is_err() {
                // The system has no thread to give: this one does it.
                pack(index);
            }
        }
    });
    raise.recip()
}

/// Lays out the group whose first column is `first`.
fn pack_group(form: &Form, weights: &Weights<'_>, first: usize, lines: &mut [Line], raise: f32) {
    let (blocks, bytes) = (form.blocks(), form.column_bytes());
    let (head, levels) = lines.split_at_mut(form.levels_at());
    let (scales, zeros) = head.split_at_mut(form.scale_lines());
    bytes_of(scales).fill(0);
    bytes_of(zeros).fill(0);
    for column in 0..COLUMNS {
        let at = first + column;
        for (block, scale) in weights.scales[at * blocks..][..blocks].iter().enumerate() {
            let place = (block * COLUMNS + column) * 2;
            let half = f16::from_f32(scale * raise).to_le_bytes();
            scales[place / 64].0[place % 64..][..2].copy_from_slice(&half);
        }
        if form.zero_points {
            let row = &weights.zero_points[at * form.column_zero_bytes()..];
            for block in 0..blocks {
                let zero = match form.bits {
                    4 => row[block / 2] >> (block % 2 * 4) & 15,
                    _ => row[block],
                };
                let place = block * COLUMNS + column;
                zeros[place / 64].0[place % 64] = zero;
            }
        }
        pack_column(form, column, &weights.levels[at * bytes..][..bytes], levels);
    }
}

/// The bytes of lines.
fn bytes_of(lines: &mut [Line]) -> &mut [u8] {
    // SAFETY: a line is 64 bytes without gaps.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), size_of_val(lines)) }
}

fn pack_column(form: &Form, column: usize, levels: &[u8], lines: &mut [Line]) {
    // Spreads four numbers of 4 bits to four bytes, in order: one lane takes four neighbours.
    let spread = |half: u32| {
        let pairs = (half | half << 8) & 0x00ff_00ff;
        (pairs | pairs << 4) & 0x0f0f_0f0f
    };
    let place = column * 4;
    // With 4 bits a line takes eight weights of a column, with 8 bits four: both are four bytes.
    for (line, word) in lines.iter_mut().zip(levels.as_chunks::<4>().0) {
        let mut bytes = *word;
        if form.bits == 4 {
            let word = u32::from_le_bytes(bytes);
            bytes = (spread(word & 0xffff) | spread(word >> 16) << 4).to_le_bytes();
        }
        line.0[place..place + 4].copy_from_slice(&bytes);
    }
}
