//! Query rows of one KV head that are computed together.

use std::ops::Range;

use phi4d_isa::InstructionSet;

use crate::isa::{self, Lanes, Work};
use crate::layout::{LONGEST, Layout};
use crate::tile::{Keys, Sums, add_block};
use crate::view::{Sixteen, Stored, Unpacked, View, with_kind};
use crate::{BLOCK, SPLIT};

/// Up to so many rows read a block as it is stored; more convert it to single precision once.
pub const NARROW: usize = 8;

/// Rows of one KV head: `group` query heads of each of some tokens of one sequence.
///
/// A band is filled once, runs over splits of the context one by one, and gives the rows' outputs. It is
/// scratch memory, too: filling it again allocates nothing.
#[derive(Debug, Default)]
pub struct Band {
    layout: Layout,
    rows: Rows,
    part: State,
    total: State,
    unpacked: Unpacked,
}

/// The rows of a band.
#[derive(Debug, Default)]
struct Rows {
    /// Query heads that share the KV head.
    group: usize,
    /// Position of the first token.
    position: usize,
    /// Dimensions of a head, and of a group of values.
    size: usize,
    width: usize,
    /// Rows of each tile.
    tiles: Vec<usize>,
    /// Queries, `[tile][dimension][row]`.
    queries: Vec<f32>,
}

/// Softmax sums of rows.
#[derive(Debug, Default)]
struct State {
    /// The largest score of each row.
    most: Vec<f32>,
    /// The sum of exponentials of each row.
    sums: Vec<f32>,
    /// The same in sixteen lanes, before a split's end.
    lanes: Vec<Sixteen<f32>>,
    /// Weighted sums of values, `[tile][group][row][dimension]`.
    outs: Vec<Sixteen<f32>>,
}

impl State {
    fn reset(&mut self, rows: usize, head_size: usize) {
        self.most.clear();
        self.most.resize(rows, f32::MIN);
        self.sums.clear();
        self.sums.resize(rows, 0.0);
        self.lanes.clear();
        self.lanes.resize(rows, [0.0; 16]);
        self.outs.clear();
        self.outs.resize(rows * head_size / 16, [0.0; 16]);
    }
}

/// Rows of the next tile of `left` rows that are left of `all`. Up to six rows keep their sums in registers.
/// Converted blocks come from the second cache, whose loads six rows share better than four; a narrow band
/// waits for memory anyway.
fn tile_rows(all: usize, left: usize) -> usize {
    match left {
        6.. if all > NARROW => 6,
        5 => 3,
        4.. => 4,
        left => left,
    }
}

impl Band {
    /// Takes the queries of the tokens at `positions`, `group` rows each. `query` writes the row of a
    /// token and a query head of the group, rotated and multiplied by the scale and by log2(e).
    pub fn fill(
        &mut self,
        layout: &Layout,
        group: usize,
        positions: Range<usize>,
        mut query: impl FnMut(usize, usize, &mut [f32]),
    ) {
        let (rows, size) = (positions.len() * group, layout.head_size);
        self.layout = *layout;
        let band = &mut self.rows;
        (band.group, band.position) = (group, positions.start);
        (band.size, band.width) = (size, layout.group());
        band.tiles.clear();
        band.queries.resize(rows * size, 0.0);
        let mut row = [0.0; LONGEST];
        let mut done = 0;
        while done < rows {
            let height = tile_rows(rows, rows - done);
            let tile = &mut band.queries[done * size..][..height * size];
            for index in 0..height {
                let at = done + index;
                query(at / group, at % group, &mut row[..size]);
                for (column, value) in tile.chunks_exact_mut(height).zip(&row) {
                    column[index] = *value;
                }
            }
            band.tiles.push(height);
            done += height;
        }
        self.total.reset(rows, size);
    }

    /// Rows of the band.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.total.most.len()
    }

    /// Attends to the positions of split `index`, whose blocks' regions are `regions`: see [`Band::blocks`].
    ///
    /// # Panics
    /// If a region does not fit the layout, or the band was not filled.
    pub fn attend(&mut self, set: InstructionSet, index: usize, regions: &[&[u8]]) {
        let layout = self.layout;
        with_kind!(layout.kind, Kind => self.attend_to::<Kind>(set, &layout, index, regions));
    }

    /// The blocks of split `index` that the band attends to.
    #[must_use]
    pub fn blocks(&self, index: usize) -> Range<usize> {
        // The last row's position is attended to as well.
        let end = self.rows.position + self.rows() / self.rows.group.max(1);
        index * SPLIT / BLOCK..end.min((index + 1) * SPLIT).div_ceil(BLOCK)
    }

    fn attend_to<T: Stored>(
        &mut self,
        set: InstructionSet,
        layout: &Layout,
        index: usize,
        regions: &[&[u8]],
    ) {
        self.part.reset(self.rows(), layout.head_size);
        let first = self.blocks(index).start;
        let Self { rows, part: state, unpacked, .. } = self;
        let views = regions.iter().map(|region| View::<T>::new(layout, region));
        if state.most.len() <= NARROW && isa::is_direct(set) {
            let views: Vec<_> = views.collect();
            isa::run(set, Add { rows, state, first, views: &views, fetch: true });
        } else {
            for (index, view) in views.enumerate() {
                isa::run(set, Unpack { view: &view, unpacked });
                let views = &[unpacked.view(&view)];
                isa::run(set, Add { rows, state, first: first + index, views, fetch: false });
            }
        }
        for (sum, lanes) in self.part.sums.iter_mut().zip(&self.part.lanes) {
            *sum = tree(lanes);
        }
    }

    /// Adds what the last [`Band::attend`] gave to the total. Splits are merged in ascending order.
    pub fn merge(&mut self, set: InstructionSet) {
        isa::run(set, Merge { band: self });
    }

    /// Numbers of a split's result for `rows` rows.
    #[must_use]
    pub fn part_len(layout: &Layout, rows: usize) -> usize {
        rows * (layout.head_size + 2)
    }

    /// Copies out what the last [`Band::attend`] gave, for [`Band::put_part`] of another band with the same rows.
    ///
    /// # Panics
    /// If `part` is not [`Band::part_len`] long.
    pub fn take_part(&self, part: &mut [f32]) {
        let rows = self.rows();
        let (most, rest) = part.split_at_mut(rows);
        let (sums, outs) = rest.split_at_mut(rows);
        most.copy_from_slice(&self.part.most);
        sums.copy_from_slice(&self.part.sums);
        outs.copy_from_slice(self.part.outs.as_flattened());
    }

    /// Takes a split's result, to be merged.
    ///
    /// # Panics
    /// If `part` is not [`Band::part_len`] long.
    pub fn put_part(&mut self, part: &[f32]) {
        let (rows, size) = (self.rows(), self.rows.size);
        self.part.reset(rows, size);
        let (most, rest) = part.split_at(rows);
        let (sums, outs) = rest.split_at(rows);
        self.part.most.copy_from_slice(most);
        self.part.sums.copy_from_slice(sums);
        self.part.outs.as_flattened_mut().copy_from_slice(outs);
    }

    /// Gives each row's output to `write`: the token, the query head of the group, and a function that writes
    /// the row.
    pub fn finish(&self, mut write: impl FnMut(usize, usize, &dyn Fn(&mut [f32]))) {
        let Rows { group, size, width, .. } = self.rows;
        let mut first = 0;
        for &height in &self.rows.tiles {
            let outs = &self.total.outs.as_flattened()[first * size..][..height * size];
            for index in 0..height {
                let row = first + index;
                let inverse = 1.0 / self.total.sums[row];
                let copy = |to: &mut [f32]| {
                    let groups = outs.chunks_exact(height * width);
                    for (to, values) in to.chunks_exact_mut(width).zip(groups) {
                        for (to, value) in to.iter_mut().zip(&values[index * width..]) {
                            // Adding 0 makes a negative zero, which depends on the rows beside it,
                            // positive.
                            *to = value * inverse + 0.0;
                        }
                    }
                };
                write(row / group, row % group, &copy);
            }
            first += height;
        }
    }
}

/// Adds the blocks `blocks` to the sums of all rows; the regions hold `T`s.
struct Add<'b, 'a, T> {
    rows: &'b Rows,
    state: &'b mut State,
    /// The first block, and the views of it and its followers.
    first: usize,
    views: &'b [View<'a, T>],
    /// Whether they are read from memory, so that the next one is to be fetched meanwhile.
    fetch: bool,
}

impl<T: Stored> Work for Add<'_, '_, T> {
    #[inline(always)]
    fn run<I: Lanes>(self, isa: I) {
        if !I::DIRECT && size_of::<T>() != size_of::<f32>() {
            // Not compiled: blocks are converted first.
            return;
        }
        for (index, &view) in self.views.iter().enumerate() {
            // The last one fetches what follows it, whatever that is.
            let next = self.views.get(index + 1).unwrap_or(&view).keys.as_ptr().cast();
            let keys = Keys { view, group: self.rows.width / 16, next: self.fetch.then_some(next) };
            self.rows.add(isa, self.first + index, &keys, self.state);
        }
    }
}

/// Converts a region.
struct Unpack<'b, 'a, T> {
    view: &'b View<'a, T>,
    unpacked: &'b mut Unpacked,
}

impl<T: Stored> Work for Unpack<'_, '_, T> {
    #[inline(always)]
    fn run<I: Lanes>(self, isa: I) {
        self.unpacked.fill(isa, self.view);
    }
}

impl Rows {
    /// Adds `block` to the sums of all tiles.
    #[inline(always)]
    fn add<I: Lanes, T: Stored>(
        &self,
        isa: I,
        block: usize,
        keys: &Keys<'_, T>,
        state: &mut State,
    ) {
        let mut first = 0;
        for &height in &self.tiles {
            let end = first + height;
            // The last row of a tile sees most; none sees anything of a block that begins after it.
            if self.limit(end - 1, block) > 0 {
                match height {
                    // Only where blocks are converted.
                    6 if size_of::<T>() == size_of::<f32>() => {
                        self.add_tile::<I, T, 6>(isa, [first, block], keys, state);
                    }
                    4 => self.add_tile::<I, T, 4>(isa, [first, block], keys, state),
                    3 => self.add_tile::<I, T, 3>(isa, [first, block], keys, state),
                    2 => self.add_tile::<I, T, 2>(isa, [first, block], keys, state),
                    _ => self.add_tile::<I, T, 1>(isa, [first, block], keys, state),
                }
            }
            first = end;
        }
    }

    /// How many positions of `block` a row attends to: those up to its own.
    #[inline(always)]
    fn limit(&self, row: usize, block: usize) -> usize {
        let end = self.position + row / self.group + 1;
        end.saturating_sub(block * BLOCK).min(BLOCK)
    }

    #[inline(always)]
    fn add_tile<I: Lanes, T: Stored, const R: usize>(
        &self,
        isa: I,
        [first, block]: [usize; 2],
        keys: &Keys<'_, T>,
        state: &mut State,
    ) {
        let size = self.size;
        let (queries, _) = self.queries[first * size..][..R * size].as_chunks::<R>();
        let mut limits = [0; R];
        for (index, limit) in limits.iter_mut().enumerate() {
            *limit = self.limit(first + index, block);
        }
        let vectors = size / 16;
        let most = state.most[first..].first_chunk_mut::<R>();
        let lanes = state.lanes[first..].first_chunk_mut::<R>();
        if let (Some(most), Some(sums)) = (most, lanes) {
            let outs = &mut state.outs[first * vectors..][..R * vectors];
            add_block(isa, queries, keys, &limits, &mut Sums { most, sums, outs });
        }
    }
}

/// The sum of sixteen lanes, by halves.
fn tree(lanes: &Sixteen<f32>) -> f32 {
    let mut lanes = *lanes;
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}

/// Merges a split into the total.
struct Merge<'b> {
    band: &'b mut Band,
}

impl Work for Merge<'_> {
    #[inline(always)]
    fn run<I: Lanes>(self, isa: I) {
        let Band { rows, part, total, .. } = self.band;
        let vectors = rows.size / 16;
        let mut first = 0;
        for &height in &rows.tiles {
            for index in 0..height {
                let row = first + index;
                let most = total.most[row].max(part.most[row]);
                let kept = isa.exp2(isa.splat(total.most[row] - most));
                let added = isa.exp2(isa.splat(part.most[row] - most));
                let sum = isa.mul(isa.splat(total.sums[row]), kept);
                let sum = isa.fma(isa.splat(part.sums[row]), added, sum);
                let mut lanes = [0.0; 16];
                isa.store(sum, &mut lanes);
                total.sums[row] = lanes[0];
                total.most[row] = most;
                // A tile's outputs are `[group][row][dimension]`.
                let width = rows.width / 16;
                for group in 0..vectors / width {
                    let start = first * vectors + (group * height + index) * width;
                    let from = &part.outs[start..][..width];
                    for (total, part) in total.outs[start..][..width].iter_mut().zip(from) {
                        let scaled = isa.mul(isa.load(total), kept);
                        isa.store(isa.fma(isa.load(part), added, scaled), total);
                    }
                }
            }
            first += height;
        }
    }
}
