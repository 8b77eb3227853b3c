//! How a block's keys and values lie in memory.
//!
//! A block holds [`BLOCK`] positions of all layers: `[layer][KV head][keys, values, scales]`. A head's part of
//! a layer is called a region. In it, keys are transposed, `[dimension][position]`. Values are cut into groups
//! of 64 dimensions (or of 32 or 16, if the head's size is no multiple), `[group][position][dimension]`, so that
//! both are read from front to back.

use half::f16;
use half::slice::HalfFloatSliceExt as _;

use crate::BLOCK;

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum KvType {
    /// Single precision.
    F32,
    /// Half precision.
    #[default]
    F16,
    /// 8-bit integers with a scale for each position and head.
    Int8,
}

impl KvType {
    /// Bytes of a value.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::Int8 => 1,
        }
    }

    /// The name in the settings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
        }
    }
}

/// Sizes of a model's KV cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Layout {
    /// Layers of the model.
    pub layers: usize,
    /// KV heads of a layer.
    pub kv_heads: usize,
    /// Dimensions of a head, a multiple of 16.
    pub head_size: usize,
    /// How they are stored.
    pub kind: KvType,
}

impl Layout {
    /// Bytes of the keys (or values) of a region.
    pub(crate) fn part_bytes(&self) -> usize {
        BLOCK * self.head_size * self.kind.bytes()
    }

    /// Bytes of a head's part of a layer in a block.
    #[must_use]
    pub fn region_bytes(&self) -> usize {
        let scales = if self.kind == KvType::Int8 { 2 * BLOCK * size_of::<f32>() } else { 0 };
        2 * self.part_bytes() + scales
    }

    /// Where the region of `head` in `layer` begins in a block.
    #[must_use]
    pub fn region_offset(&self, layer: usize, head: usize) -> usize {
        (layer * self.kv_heads + head) * self.region_bytes()
    }

    /// Bytes of a block, over all layers.
    #[must_use]
    pub fn block_bytes(&self) -> usize {
        self.layers * self.kv_heads * self.region_bytes()
    }

    /// Bytes that one position takes, over all layers.
    #[must_use]
    pub fn token_bytes(&self) -> usize {
        self.block_bytes() / BLOCK
    }

    /// Dimensions in a group of values.
    pub(crate) fn group(&self) -> usize {
        [64, 32].into_iter().find(|group| self.head_size.is_multiple_of(*group)).unwrap_or(16)
    }

    /// Stores `key` and `value`, of one head, as position `at` of the block whose `region` this is.
    ///
    /// # Panics
    /// If sizes or `at` do not fit the layout.
    pub fn store(&self, region: &mut [u8], at: usize, key: &[f32], value: &[f32]) {
        assert!(region.len() == self.region_bytes() && at < BLOCK);
        assert!(key.len() == self.head_size && value.len() == self.head_size);
        let (keys, rest) = region.split_at_mut(self.part_bytes());
        let (values, scales) = rest.split_at_mut(self.part_bytes());
        match self.kind {
            KvType::F32 => {
                self.scatter_keys(keys, at, key.iter().map(|value| value.to_ne_bytes()));
                self.scatter_values(values, at, value.iter().map(|value| value.to_ne_bytes()));
            }
            KvType::F16 => {
                let mut rounded = [f16::ZERO; LONGEST];
                round_to_f16(key, &mut rounded);
                self.scatter_keys(keys, at, rounded[..key.len()].iter().map(|v| v.to_ne_bytes()));
                round_to_f16(value, &mut rounded);
                self.scatter_values(
                    values,
                    at,
                    rounded[..key.len()].iter().map(|v| v.to_ne_bytes()),
                );
            }
            KvType::Int8 => {
                let (scale, levels) = round_to_int8(key);
                self.scatter_keys(keys, at, levels[..key.len()].iter().map(|v| v.to_ne_bytes()));
                put(scales, at, scale.to_ne_bytes());
                let (scale, levels) = round_to_int8(value);
                self.scatter_values(
                    values,
                    at,
                    levels[..key.len()].iter().map(|v| v.to_ne_bytes()),
                );
                put(scales, BLOCK + at, scale.to_ne_bytes());
            }
        }
    }

    fn scatter_keys<const N: usize>(
        &self,
        keys: &mut [u8],
        at: usize,
        values: impl Iterator<Item = [u8; N]>,
    ) {
        let (elements, _) = keys.as_chunks_mut::<N>();
        for (row, value) in elements.chunks_exact_mut(BLOCK).zip(values) {
            row[at] = value;
        }
    }

    fn scatter_values<const N: usize>(
        &self,
        region: &mut [u8],
        at: usize,
        mut values: impl Iterator<Item = [u8; N]>,
    ) {
        let group = self.group();
        let (elements, _) = region.as_chunks_mut::<N>();
        for rows in elements.chunks_exact_mut(BLOCK * group) {
            for (place, value) in rows[at * group..][..group].iter_mut().zip(&mut values) {
                *place = value;
            }
        }
    }

    /// Writes what the first `count` positions of a region take, in a form that [`Layout::unpack`] reads:
    /// `region_bytes / 64 * count` bytes.
    ///
    /// # Errors
    /// The sink's.
    pub fn pack(
        &self,
        region: &[u8],
        count: usize,
        sink: &mut dyn std::io::Write,
    ) -> std::io::Result<()> {
        for range in self.runs(count) {
            sink.write_all(&region[range])?;
        }
        Ok(())
    }

    /// Fills the first `count` positions of a region with what [`Layout::pack`] wrote.
    ///
    /// # Errors
    /// The source's.
    pub fn unpack(
        &self,
        region: &mut [u8],
        count: usize,
        source: &mut dyn std::io::Read,
    ) -> std::io::Result<()> {
        for range in self.runs(count) {
            source.read_exact(&mut region[range])?;
        }
        Ok(())
    }

    /// The bytes of the first `count` positions of a region, in runs.
    fn runs(&self, count: usize) -> Vec<std::ops::Range<usize>> {
        if count == BLOCK {
            return std::iter::once(0..self.region_bytes()).collect();
        }
        let size = self.kind.bytes();
        let (part, group) = (self.part_bytes(), self.group());
        let keys = (0..self.head_size).map(|row| row * BLOCK * size..(row * BLOCK + count) * size);
        let values = (0..self.head_size / group).map(|index| {
            let start = part + index * BLOCK * group * size;
            start..start + count * group * size
        });
        let scales = (2 * part..self.region_bytes()).step_by(BLOCK * size_of::<f32>());
        let scales = scales.map(|start| start..start + count * size_of::<f32>());
        keys.chain(values).chain(scales).collect()
    }
}

/// Dimensions of the largest head that is supported.
pub const LONGEST: usize = 512;

/// Rounds to half precision, to the nearest even. Values beyond its range become its largest: an infinity
/// would make scores that are no numbers.
fn round_to_f16(values: &[f32], rounded: &mut [f16; LONGEST]) {
    let mut clamped = [0.0; LONGEST];
    for (clamped, value) in clamped.iter_mut().zip(values) {
        *clamped = value.clamp(f16::MIN.to_f32_const(), f16::MAX.to_f32_const());
    }
    rounded[..values.len()].convert_from_f32_slice(&clamped[..values.len()]);
}

/// Rounds to -127..=127 times a scale.
fn round_to_int8(values: &[f32]) -> (f32, [i8; LONGEST]) {
    let most = values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    let inverse = if most > 0.0 { 127.0 / most } else { 0.0 };
    let mut levels = [0; LONGEST];
    for (level, value) in levels.iter_mut().zip(values) {
        #[expect(clippy::cast_possible_truncation, reason = "at most 127")]
        let rounded = (value * inverse).round_ties_even() as i8;
        *level = rounded;
    }
    (most / 127.0, levels)
}

fn put(scales: &mut [u8], at: usize, value: [u8; 4]) {
    scales.as_chunks_mut().0[at] = value;
}
