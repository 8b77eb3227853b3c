//! The rows of the KV cache and the sequences that run in them.

use super::prefix::{self, Reuse, Seen};
use phi4d_model::{Rotary, alike_positions};

/// Tokens of growth that admission leaves room for at most, so that a sequence is not admitted only
/// to be put back at once.
const GROWTH: usize = 64;

/// Fixed sizes of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Rows there are; at least `max_live`. The others keep prefixes of ended sequences.
    pub rows: usize,
    /// Sequences that may run at once.
    pub max_live: usize,
    /// Tokens that one row holds at most.
    pub row_tokens: usize,
    /// Tokens in the smallest piece of memory that a row can be given or lose.
    pub block_tokens: usize,
    /// Tokens that all rows together may hold: at least `row_tokens`.
    pub budget_tokens: usize,
    /// Tokens of a chunk of the grid that prompts are read by where answers are to be reproducible:
    /// only whole chunks of it are cached and reused. `None`: any token is.
    pub grid: Option<usize>,
    /// Whether all rows that hold something take as much as the longest, and one more is kept beside
    /// them ([`phi4d_model::KvGrowth::Alike`]); else each takes its own.
    pub alike: bool,
}

/// What is to be held beside what is.
#[derive(Debug, Clone, Copy)]
enum More {
    Nothing,
    /// Another row with so many tokens.
    Row(usize),
    /// So many tokens in a row that is there.
    Grown(usize, usize),
}

/// What the owner of the memory has to do, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Exchange the contents of two rows, which hold so many tokens.
    Swap {
        /// The rows.
        rows: [usize; 2],
        /// Tokens that each holds.
        tokens: [usize; 2],
    },
    /// Copy the first tokens of a row to the front of another.
    Copy {
        /// Whence.
        from: usize,
        /// Whither.
        to: usize,
        /// How many tokens.
        tokens: usize,
    },
    /// Give back a row's memory from a token on.
    Release {
        /// The row.
        row: usize,
        /// Tokens to keep.
        keep: usize,
    },
}

/// A row made ready for a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// The row, to be filled by [`Cache::place`].
    pub row: usize,
    /// Tokens of the prompt that it holds already.
    pub cached: usize,
}

#[derive(Debug)]
struct Row<S> {
    /// Tokens whose keys and values the row holds.
    tokens: Vec<u32>,
    /// Of these, the first that were read in whole chunks of the grid. Their keys and values are the
    /// same whatever prompt they were read for: a step's width shows in the last digits.
    on_grid: usize,
    /// Tokens that it may grow to without asking; 0 unless it is live.
    reserved: usize,
    /// Prompts of another scope may not use the tokens.
    scope: u64,
    /// When it was last of use.
    used: u64,
    sequence: Option<S>,
}

impl<S> Row<S> {
    /// Tokens that there is to be memory for.
    fn tokens(&self) -> usize {
        self.tokens.len().max(self.reserved)
    }

    /// The tokens that another prompt may begin with.
    fn reusable(&self, grid: Option<usize>) -> &[u32] {
        &self.tokens[..grid.map_or(self.tokens.len(), |_| self.on_grid)]
    }
}

/// The rows, in this order: those that decode by the short rotary table, those that decode by the
/// long one, those that prefill, and those without a sequence (cached prefixes and empty ones). So
/// one decode step covers neighbouring rows.
///
/// Invariants: rows `..live` and no others have a sequence; the tokens of all rows and what is
/// reserved for live ones, in whole blocks, stay within the budget.
#[derive(Debug)]
pub struct Cache<S> {
    sizes: Sizes,
    rows: Vec<Row<S>>,
    decoding_short: usize,
    decoding: usize,
    live: usize,
    clock: u64,
    actions: Vec<Action>,
}

impl<S> Cache<S> {
    /// An empty cache.
    #[must_use]
    pub fn new(sizes: Sizes) -> Self {
        let row = |_| Row {
            tokens: Vec::new(),
            on_grid: 0,
            reserved: 0,
            scope: 0,
            used: 0,
            sequence: None,
        };
        Self {
            rows: (0..sizes.rows.max(sizes.max_live)).map(row).collect(),
            sizes,
            decoding_short: 0,
            decoding: 0,
            live: 0,
            clock: 0,
            actions: Vec::new(),
        }
    }

    /// What is to be done with the memory since the last call.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Rows that decode by the short rotary table: `0..decoding_short()`.
    #[must_use]
    pub fn decoding_short(&self) -> usize {
        self.decoding_short
    }

    /// Rows that decode: `0..decoding()`.
    #[must_use]
    pub fn decoding(&self) -> usize {
        self.decoding
    }

    /// Rows that have a sequence: `0..live()`.
    #[must_use]
    pub fn live(&self) -> usize {
        self.live
    }

    /// Tokens that `row` holds.
    #[must_use]
    pub fn tokens(&self, row: usize) -> &[u32] {
        &self.rows[row].tokens
    }

    /// The sequence that runs in `row`.
    pub fn sequence_mut(&mut self, row: usize) -> Option<&mut S> {
        self.rows[row].sequence.as_mut()
    }

    /// The sequence that runs in `row`.
    #[must_use]
    pub fn sequence(&self, row: usize) -> Option<&S> {
        self.rows[row].sequence.as_ref()
    }

    /// Tokens held in all rows, in whole blocks.
    #[must_use]
    pub fn held_tokens(&self) -> usize {
        self.tokens_in(&self.rows)
    }

    /// Tokens held for sequences that have ended, in whole blocks.
    #[must_use]
    pub fn cached_tokens(&self) -> usize {
        self.tokens_in(&self.rows[self.live..])
    }

    /// Makes a row ready for a sequence that begins with `prompt`, with as much of its first
    /// `shared` tokens as is cached under `scope`. `None` where all places are taken or the prompt
    /// does not fit beside what runs; then it has to wait.
    pub fn admit(&mut self, prompt: &[u32], shared: usize, scope: u64) -> Option<Admission> {
        let growth = GROWTH.min(self.sizes.row_tokens / 8);
        let reserved = (prompt.len() + growth).min(self.sizes.row_tokens.max(prompt.len()));
        let running = self.rows[..self.live].iter().map(Row::tokens);
        let wanted = self.cost(running.chain([reserved]));
        if self.live == self.sizes.max_live || wanted > self.budget() {
            return None;
        }
        let rows = self.rows.iter().enumerate().filter(|(_, row)| row.scope == scope);
        let live = self.live;
        let reuse = prefix::choose(
            &prompt[..shared.min(prompt.len())],
            rows.map(|(index, row)| {
                (index, Seen { tokens: row.reusable(self.sizes.grid), live: index < live })
            }),
            self.sizes.grid.unwrap_or(1),
        );
        let (row, cached) = match reuse {
            Reuse::Take { row, tokens } => self.take_over(row, tokens),
            Reuse::Nothing => (self.empty_row(reserved, None)?, 0),
            Reuse::Copy { row: from, tokens } => match self.empty_row(reserved, Some(from)) {
                Some(to) => {
                    self.clock += 1;
                    self.rows[from].used = self.clock;
                    let copied = self.rows[from].tokens[..tokens].to_vec();
                    self.rows[to].tokens = copied;
                    self.rows[to].on_grid = self.rows[from].on_grid.min(tokens);
                    self.actions.push(Action::Copy { from, to, tokens });
                    (to, tokens)
                }
                // No room for both.
                None if from >= self.live => self.take_over(from, tokens),
                None => (self.empty_row(reserved, None)?, 0),
            },
        };
        self.rows[row].reserved = reserved;
        self.rows[row].scope = scope;
        self.evict_for(More::Nothing, None);
        self.swap(row, self.live);
        Some(Admission { row: self.live, cached })
    }

    /// Puts `sequence` into the row that [`Cache::admit`] has just made ready.
    pub fn place(&mut self, admission: Admission, sequence: S) {
        debug_assert_eq!(admission.row, self.live);
        self.rows[admission.row].sequence = Some(sequence);
        self.live += 1;
    }

    /// Makes room for `count` more tokens in the live `row`, at the cost of cached prefixes.
    /// Returns whether there is room; if not, a live sequence has to be put back first.
    pub fn grow(&mut self, row: usize, count: usize) -> bool {
        let wanted = self.rows[row].tokens.len() + count;
        if wanted <= self.rows[row].reserved {
            return true;
        }
        if !self.evict_for(More::Grown(row, wanted), None) {
            return false;
        }
        self.rows[row].reserved = wanted;
        true
    }

    /// Notes that the live `row` holds `tokens` more, for which [`Cache::grow`] made room.
    pub fn extend(&mut self, row: usize, tokens: &[u32]) {
        let grid = self.sizes.grid;
        let row = &mut self.rows[row];
        if grid == Some(tokens.len()) && row.on_grid == row.tokens.len() {
            row.on_grid += tokens.len();
        }
        row.tokens.extend_from_slice(tokens);
        debug_assert!(row.tokens.len() <= row.reserved, "grow was not asked");
    }

    /// Moves the live `row`, which has read its prompt, to those that decode by the table that it
    /// was read by. Returns its new row.
    pub fn promote(&mut self, row: usize, rotary: Rotary) -> usize {
        debug_assert!((self.decoding..self.live).contains(&row));
        let long = self.decoding;
        self.swap(row, long);
        self.decoding += 1;
        if rotary == Rotary::Long {
            return long;
        }
        self.swap(long, self.decoding_short);
        self.decoding_short += 1;
        self.decoding_short - 1
    }

    /// Drops what the live `row` holds, for its sequence to be read anew under `scope`. Rows
    /// behind it may move; those before it stay. Returns its new row.
    pub fn restart(&mut self, row: usize, scope: u64) -> usize {
        let row = self.leave_decoding(row);
        self.clear(row);
        self.rows[row].scope = scope;
        row
    }

    /// Moves the live `row`, if it decodes, to those that prefill. Returns its new row.
    fn leave_decoding(&mut self, row: usize) -> usize {
        let mut row = row;
        if row < self.decoding_short {
            self.decoding_short -= 1;
            self.swap(row, self.decoding_short);
            row = self.decoding_short;
        }
        if row < self.decoding {
            self.decoding -= 1;
            self.swap(row, self.decoding);
            row = self.decoding;
        }
        row
    }

    /// Takes the sequence out of the live `row`, and keeps the row's tokens as a cached prefix if
    /// `keep` is set. Rows behind it may move; those before it stay.
    pub fn retire(&mut self, row: usize, keep: bool) -> Option<S> {
        let row = self.leave_decoding(row);
        self.live -= 1;
        self.swap(row, self.live);
        let row = self.live;
        let sequence = self.rows[row].sequence.take();
        let held = self.rows[row].tokens.len();
        if self.blocks(self.rows[row].reserved) > self.blocks(held) {
            // A guess or a step that failed may have written there.
            self.actions.push(Action::Release { row, keep: held });
        }
        self.rows[row].reserved = 0;
        self.clock += 1;
        self.rows[row].used = self.clock;
        if keep && self.rows.len() > self.sizes.max_live {
            let reusable = self.rows[row].reusable(self.sizes.grid).len();
            self.take_over(row, reusable);
            self.drop_covered(row);
        } else {
            self.clear(row);
        }
        sequence
    }

    /// The cached prefixes, the one of most recent use first: scope and tokens of each row.
    pub fn cached_prefixes(&self) -> impl Iterator<Item = (usize, u64, &[u32])> {
        let mut rows: Vec<usize> =
            (self.live..self.rows.len()).filter(|&row| !self.rows[row].tokens.is_empty()).collect();
        rows.sort_by_key(|&row| std::cmp::Reverse(self.rows[row].used));
        rows.into_iter().map(|row| (row, self.rows[row].scope, self.rows[row].tokens.as_slice()))
    }

    /// Makes a row ready for a prefix from elsewhere; the caller fills its memory. `None` where
    /// there is no room without evicting another.
    pub fn adopt(&mut self, tokens: &[u32], scope: u64) -> Option<usize> {
        let row = (self.live..self.rows.len()).find(|&row| self.rows[row].tokens.is_empty())?;
        let fits = tokens.len() <= self.sizes.row_tokens
            && self.used_with(More::Row(tokens.len())) <= self.budget();
        if !fits || self.rows.len() == self.sizes.max_live {
            return None;
        }
        self.clock += 1;
        self.rows[row].used = self.clock;
        self.rows[row].scope = scope;
        self.rows[row].tokens = tokens.to_vec();
        self.rows[row].on_grid = self.sizes.grid.map_or(0, |grid| tokens.len() / grid * grid);
        Some(row)
    }

    /// Empties a row that was adopted and could not be filled.
    pub fn abandon(&mut self, row: usize) {
        if row >= self.live {
            self.clear(row);
        }
    }

    /// Tokens that `rows` hold, in whole blocks.
    fn tokens_in(&self, rows: &[Row<S>]) -> usize {
        let blocks: usize = rows.iter().map(|row| self.blocks(row.tokens.len())).sum();
        blocks * self.sizes.block_tokens
    }

    fn blocks(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.sizes.block_tokens)
    }

    fn budget(&self) -> usize {
        self.blocks(self.sizes.budget_tokens)
    }

    /// Blocks of memory for rows that hold so many tokens each.
    fn cost(&self, rows: impl Iterator<Item = usize>) -> usize {
        if !self.sizes.alike {
            return rows.map(|tokens| self.blocks(tokens)).sum();
        }
        let (mut count, mut longest) = (1, 0);
        for tokens in rows.filter(|&tokens| tokens > 0) {
            count += 1;
            longest = longest.max(tokens);
        }
        self.blocks(count * alike_positions(longest, self.sizes.row_tokens))
    }

    fn used_with(&self, more: More) -> usize {
        let grown = |index| match more {
            More::Grown(row, tokens) if row == index => tokens,
            _ => 0,
        };
        let another = match more {
            More::Row(tokens) => tokens,
            _ => 0,
        };
        let rows = self.rows.iter().enumerate().map(|(index, row)| row.tokens().max(grown(index)));
        self.cost(rows.chain([another]))
    }

    /// Keeps the first `tokens` of the cached `row`.
    fn take_over(&mut self, row: usize, tokens: usize) -> (usize, usize) {
        if self.rows[row].tokens.len() > tokens {
            self.rows[row].tokens.truncate(tokens);
            self.rows[row].on_grid = self.rows[row].on_grid.min(tokens);
            self.actions.push(Action::Release { row, keep: tokens });
        }
        (row, tokens)
    }

    /// An empty row beside the live ones and room for `wanted` tokens in it, evicting what was not used
    /// for longest except `spared`.
    fn empty_row(&mut self, wanted: usize, spared: Option<usize>) -> Option<usize> {
        if !self.evict_for(More::Row(wanted), spared) {
            return None;
        }
        let empty = |cache: &Self| {
            (cache.live..cache.rows.len()).find(|&row| cache.rows[row].tokens.is_empty())
        };
        empty(self).or_else(|| {
            let row = self.least_used(spared)?;
            self.clear(row);
            Some(row)
        })
    }

    /// Evicts cached prefixes except `spared` until `more` fits. Returns whether it does.
    fn evict_for(&mut self, more: More, spared: Option<usize>) -> bool {
        while self.used_with(more) > self.budget() {
            let Some(row) = self.least_used(spared) else { return false };
            self.clear(row);
        }
        true
    }

    fn least_used(&self, spared: Option<usize>) -> Option<usize> {
        (self.live..self.rows.len())
            .filter(|&row| !self.rows[row].tokens.is_empty() && Some(row) != spared)
            // A row that is being made ready has a reservation.
            .filter(|&row| self.rows[row].reserved == 0)
            .min_by_key(|&row| self.rows[row].used)
    }

    /// Drops cached prefixes that the cached `row` begins with, or `row` if another begins with it.
    fn drop_covered(&mut self, row: usize) {
        for other in self.live..self.rows.len() {
            let (this, that) = (&self.rows[row], &self.rows[other]);
            if other == row || this.scope != that.scope {
                continue;
            }
            let common = prefix::common(&this.tokens, &that.tokens);
            if common == this.tokens.len() {
                self.rows[other].used = self.clock;
                self.clear(row);
                return;
            }
            if common == that.tokens.len() {
                self.clear(other);
            }
        }
    }

    fn clear(&mut self, row: usize) {
        if !self.rows[row].tokens.is_empty() {
            self.rows[row].tokens = Vec::new();
            self.rows[row].on_grid = 0;
            self.actions.push(Action::Release { row, keep: 0 });
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        let tokens = [self.rows[a].tokens.len(), self.rows[b].tokens.len()];
        if a != b {
            self.rows.swap(a, b);
            if tokens != [0, 0] {
                self.actions.push(Action::Swap { rows: [a, b], tokens });
            }
        }
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        for (index, row) in self.rows.iter().enumerate() {
            assert_eq!(row.sequence.is_some(), index < self.live, "row {index}");
            assert!(index < self.live || row.reserved == 0, "row {index} keeps a reservation");
            assert!(row.tokens.len() <= self.sizes.row_tokens, "row {index} overflows");
            assert!(row.on_grid <= row.tokens.len(), "row {index} reuses what it has not");
            assert!(row.on_grid.is_multiple_of(self.sizes.grid.unwrap_or(1)), "row {index}");
        }
        assert!(self.decoding_short <= self.decoding);
        assert!(self.decoding <= self.live && self.live <= self.sizes.max_live);
        let used = self.used_with(More::Nothing);
        assert!(used <= self.budget(), "{used} of {} blocks", self.budget());
    }
}
