//! What weights a matmul has, and how they are laid out in memory.

/// Columns whose weights lie together.
pub const COLUMNS: usize = 16;

/// A cache line of laid-out weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Line(pub [u8; 64]);

/// The form of a matmul's weights, as `MatMulNBits` describes it.
///
/// Laid out, each group of [`COLUMNS`] columns has three parts, each of whole [`Line`]s: scales in half
/// precision `[block][column]`, zero points `[block][column]` if there are any, and levels. A line of
/// levels holds four neighbours along K of each column, which is what one dot-product instruction of
/// every instruction set takes; with 4 bits, the high halves of the bytes hold the next four. So one
/// layout serves all instruction sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// Rows of the weights: values of an activation row.
    pub k: usize,
    /// Columns of the weights: values of a result row.
    pub n: usize,
    /// Bits of a weight: 4 or 8.
    pub bits: usize,
    /// Weights along K that share a scale.
    pub block: usize,
    /// Whether each block has a zero point; otherwise it is the middle, 8 or 128.
    pub zero_points: bool,
}

impl Form {
    /// Whether the kernel takes such weights.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.k > 0
            && self.n > 0
            && self.n.is_multiple_of(COLUMNS)
            && matches!(self.bits, 4 | 8)
            && matches!(self.block, 16 | 32 | 64 | 128 | 256)
            // Far beyond any model, and sizes in bytes can't overflow.
            && self.k < 1 << 28
            && self.n < 1 << 28
    }

    /// Blocks of a column; the last may be partly beyond K.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.k.div_ceil(self.block)
    }

    /// Bytes of a column's levels in an export's tensor.
    #[must_use]
    pub fn column_bytes(&self) -> usize {
        self.blocks() * self.block * self.bits / 8
    }

    /// Bytes of a column's zero points in an export's tensor.
    #[must_use]
    pub fn column_zero_bytes(&self) -> usize {
        (self.blocks() * self.bits).div_ceil(8)
    }

    /// Groups of columns.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.n / COLUMNS
    }

    /// Lines of all laid-out weights.
    #[must_use]
    pub fn lines(&self) -> usize {
        self.groups() * self.group_lines()
    }

    pub(crate) fn group_lines(&self) -> usize {
        self.levels_at() + self.blocks() * self.block_lines()
    }

    /// Lines of a group's scales, which come first.
    pub(crate) fn scale_lines(&self) -> usize {
        (self.blocks() * COLUMNS * 2).div_ceil(64)
    }

    /// Where a group's levels begin, in lines.
    pub(crate) fn levels_at(&self) -> usize {
        let zeros = if self.zero_points { (self.blocks() * COLUMNS).div_ceil(64) } else { 0 };
        self.scale_lines() + zeros
    }

    /// Lines of a block's levels.
    pub(crate) fn block_lines(&self) -> usize {
        self.block * self.bits / 32
    }

    /// What a weight of value 0 is stored as where blocks have no zero points.
    pub(crate) fn middle(&self) -> i32 {
        if self.bits == 4 { 8 } else { 128 }
    }
}

/// The bytes of `lines`.
#[must_use]
pub fn bytes(lines: &[Line]) -> &[u8] {
    // SAFETY: a line is 64 bytes without gaps.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), size_of_val(lines)) }
}
