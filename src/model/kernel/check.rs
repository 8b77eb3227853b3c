//! Compares a kernel with plain Rust before it is used.

use crate::{Activations, Form, Kernel, Line, Operands, Results, Weights, multiply, pack, round};

impl Kernel {
    /// Whether it gives the bits of plain Rust in small matmuls, by tiles of each kind.
    pub(crate) fn is_right(self) -> bool {
        let Some(plain) = Self::all().pop() else { return false };
        [(4, 32, false), (4, 128, true), (8, 64, false), (8, 32, true)].into_iter().all(
            |(bits, block, zero_points)| {
                // An odd number of groups, and a last block that is partly beyond K.
                let form = Form { k: 400, n: 48, bits, block, zero_points };
                [3, 40]
                    .into_iter()
                    .all(|rows| self.product(&form, rows) == plain.product(&form, rows))
            },
        )
    }

    /// The bits of a matmul of `rows` rows.
    fn product(self, form: &Form, rows: usize) -> Vec<u32> {
        // Bytes that follow no pattern (Knuth's multiplicative hashing).
        let noise =
            |index: usize| (index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes()[0];
        let bytes = |count: usize| (0..count).map(noise).collect::<Vec<u8>>();
        let floats = |count: usize| -> Vec<f32> {
            (0..count).map(|index| f32::from(noise(index + 1)) / 64.0 - 2.0).collect()
        };
        let zeros = if form.zero_points { form.n * form.column_zero_bytes() } else { 0 };
        let (levels, scales) =
            (bytes(form.n * form.column_bytes()), floats(form.n * form.blocks()));
        let weights = Weights { levels: &levels, scales: &scales, zero_points: &bytes(zeros) };
        let mut lines = vec![Line([0; 64]); form.lines()];
        let factor = pack(form, &weights, &mut lines);
        let values = floats(rows * form.k);
        let mut activations = Activations::default();
        activations.resize(self, form, rows);
        for mut tile in activations.tiles(form) {
            let values = &values[tile.rows.start * form.k..tile.rows.end * form.k];
            round(self, form, factor, values, &mut tile);
        }
        let mut results = vec![0.0; rows * form.n];
        let operands = Operands { form, lines: &lines, activations: &activations };
        let out = Results::new(&mut results, form.n);
        multiply(self, &operands, 0..form.groups(), &out);
        results.into_iter().map(f32::to_bits).collect()
    }
}
