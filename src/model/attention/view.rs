//! A region as the kernels read it.
#![expect(unsafe_code, reason = "reads bytes as values")]

use crate::BLOCK;
use crate::isa::Lanes;
use crate::layout::Layout;

/// Sixteen stored values.
pub(crate) type Sixteen<T> = [T; 16];

/// A stored value.
pub(crate) trait Stored: Copy + 'static {
    /// Loads sixteen in single precision.
    fn load<I: Lanes>(isa: I, values: &Sixteen<Self>) -> I::V;
}

impl Stored for f32 {
    #[inline(always)]
    fn load<I: Lanes>(isa: I, values: &Sixteen<Self>) -> I::V {
        isa.load(values)
    }
}

/// Half precision.
impl Stored for u16 {
    #[inline(always)]
    fn load<I: Lanes>(isa: I, values: &Sixteen<Self>) -> I::V {
        isa.load_f16(values)
    }
}

impl Stored for i8 {
    #[inline(always)]
    fn load<I: Lanes>(isa: I, values: &Sixteen<Self>) -> I::V {
        isa.load_i8(values)
    }
}

/// One head's keys and values of a block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a, T> {
    /// `[dimension][64 positions]`.
    pub(crate) keys: &'a [[Sixteen<T>; BLOCK / 16]],
    /// `[group][position][dimension]`.
    pub(crate) values: &'a [Sixteen<T>],
    /// Of the keys' positions; empty without scales.
    pub(crate) key_scales: &'a [Sixteen<f32>],
    /// Of the values' positions.
    pub(crate) value_scales: &'a [Sixteen<f32>],
}

impl<'a, T: Stored> View<'a, T> {
    /// The view of a region, whose values are `T`.
    ///
    /// # Panics
    /// If the region is not of this layout, or not aligned to cache lines.
    pub(crate) fn new(layout: &Layout, region: &'a [u8]) -> Self {
        assert!(region.len() == layout.region_bytes() && size_of::<T>() == layout.kind.bytes());
        let (keys, rest) = region.split_at(layout.part_bytes());
        let (values, scales) = rest.split_at(layout.part_bytes());
        let (scales, _) = cast::<f32>(scales).as_chunks();
        let (key_scales, value_scales) = scales.split_at(scales.len() / 2);
        let (keys, _) = cast::<T>(keys).as_chunks();
        let (keys, _) = keys.as_chunks();
        let (values, _) = cast::<T>(values).as_chunks();
        Self { keys, values, key_scales, value_scales }
    }
}

/// Numbers in a cache line.
const LINE: usize = 16;

/// A tile of keys and values in single precision, which many rows share.
#[derive(Debug, Default)]
pub(crate) struct Unpacked(Vec<f32>);

impl Unpacked {
    /// Converts a region.
    #[inline(always)]
    pub(crate) fn fill<I: Lanes, T: Stored>(&mut self, isa: I, view: &View<'_, T>) {
        let keys = view.keys.as_flattened();
        let size = 2 * 16 * keys.len();
        self.0.resize(size + LINE, 0.0);
        let first = self.first();
        let (vectors, _) = self.0[first..][..size].as_chunks_mut();
        for (out, stored) in vectors.iter_mut().zip(keys.iter().chain(view.values)) {
            isa.store(T::load(isa, stored), out);
        }
    }

    /// Where the first number is that begins a cache line: a vector across two takes two loads.
    fn first(&self) -> usize {
        self.0.as_ptr().align_offset(LINE * size_of::<f32>())
    }

    /// What [`Unpacked::fill`] made of `view`.
    pub(crate) fn view<'a, T>(&'a self, view: &View<'a, T>) -> View<'a, f32> {
        let size = self.0.len() - LINE;
        let (keys, values) = self.0[self.first()..][..size].split_at(size / 2);
        View {
            keys: keys.as_chunks().0.as_chunks().0,
            values: values.as_chunks().0,
            key_scales: view.key_scales,
            value_scales: view.value_scales,
        }
    }
}

/// The values of `bytes`.
fn cast<T: Stored>(bytes: &[u8]) -> &[T] {
    // SAFETY: a stored value is a number, of which any bits are one.
    let (before, values, after) = unsafe { bytes.align_to::<T>() };
    assert!(before.is_empty() && after.is_empty(), "a region is aligned and whole");
    values
}

/// The numbers that views are made for, by a layout's kind.
macro_rules! with_kind {
    ($kind:expr, $stored:ident => $body:expr) => {
        match $kind {
            $crate::KvType::F32 => {
                type $stored = f32;
                $body
            }
            $crate::KvType::F16 => {
                type $stored = u16;
                $body
            }
            $crate::KvType::Int8 => {
                type $stored = i8;
                $body
            }
        }
    };
}

pub(crate) use with_kind;
