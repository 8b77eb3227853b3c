//! A step of own attention: its sequences, and how its work is cut into tasks.

use std::ops::Range;
use std::sync::atomic::AtomicUsize;

use phi4d_attention::{BLOCK, Band, Layout, NARROW, SPLIT};

/// Query rows of a task, roughly: a block that was converted to single precision serves so many.
const ROWS: usize = 128;

/// Tokens of one sequence that a step reads.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    /// Its first token among all of the step.
    pub(super) first: usize,
    pub(super) count: usize,
    /// Positions that are cached before the first.
    pub(super) past: usize,
    /// The sequence's blocks.
    pub(super) blocks: Vec<usize>,
    /// Whether it has so few rows that its tasks store its keys and values themselves.
    pub(super) narrow: bool,
}

/// Query rows of one KV head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Task {
    /// Which of the step's sequences.
    pub(super) span: usize,
    pub(super) head: usize,
    /// Tokens of the span.
    pub(super) tokens: Range<usize>,
    /// Splits of the context.
    pub(super) splits: Range<usize>,
    /// Where the result of its one split goes if others have the other splits.
    pub(super) share: Option<Share>,
}

/// Some tasks share rows, each with a split of its own. The last to end merges them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// Number of the rows' counter of tasks that ended.
    pub(super) counter: usize,
    /// Where the result of split 0 begins; the others' follow.
    pub(super) start: usize,
    /// Numbers of one result.
    pub(super) len: usize,
    /// How many tasks there are.
    pub(super) count: usize,
}

/// The step that runs.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) spans: Vec<Placed>,
    /// Tokens of all spans.
    pub(super) tokens: usize,
    /// Keys and values to store before tasks run: the span, the head, and tokens of the span that lie in one
    /// block. Narrow spans are not here: their tasks store their own.
    pub(super) stores: Vec<(usize, usize, Range<usize>)>,
    pub(super) tasks: Vec<Task>,
    pub(super) counters: Vec<AtomicUsize>,
    /// Numbers of all shared results.
    pub(super) shared: usize,
}

impl Step {
    /// Plans a step for a model with `heads` query heads.
    pub(super) fn plan(mut spans: Vec<Placed>, layout: &Layout, heads: usize) -> Self {
        let tokens = spans.iter().map(|span| span.count).sum();
        let mut step = Self { tokens, ..Self::default() };
        // Query heads that share a KV head are rows of one task, so that a block's keys are read
        // once for all of them.
        let group = heads / layout.kv_heads;
        for (index, span) in spans.iter_mut().enumerate() {
            // A decode step has too few rows to keep all threads busy by rows alone; a chunk of a
            // prompt has enough. Both ways merge the same splits in the same order, so a result
            // does not depend on which one it is.
            span.narrow = span.count * group <= NARROW;
            if span.narrow {
                step.plan_narrow(index, span, layout, group);
            } else {
                step.plan_wide(index, span, layout, group);
            }
        }
        // The longest first, so that all threads end together.
        step.tasks.sort_by_key(|task| std::cmp::Reverse(task.splits.len() * task.tokens.len()));
        step.spans = spans;
        step
    }

    /// Few rows: each split of the context is a task of its own.
    fn plan_narrow(&mut self, span: usize, placed: &Placed, layout: &Layout, group: usize) {
        // Splits begin at fixed positions of the context, not at a share of it: a token's result
        // must not depend on how long the sequence becomes or how many threads there are.
        let splits = (placed.past + placed.count).div_ceil(SPLIT);
        let len = Band::part_len(layout, placed.count * group);
        for head in 0..layout.kv_heads {
            // One split alone is finished by its own task, without a counter and without a copy of
            // its result.
            let share = (splits > 1).then(|| {
                self.counters.push(AtomicUsize::new(0));
                let counter = self.counters.len() - 1;
                let start = self.shared;
                self.shared += splits * len;
                Share { counter, start, len, count: splits }
            });
            let tokens = 0..placed.count;
            self.tasks.extend((0..splits).map(|split| Task {
                span,
                head,
                tokens: tokens.clone(),
                splits: split..split + 1,
                share,
            }));
        }
    }

    /// Many rows: bands of them, over the whole context each.
    fn plan_wide(&mut self, span: usize, placed: &Placed, layout: &Layout, group: usize) {
        // At least one token: models with more than 128 query heads to a KV head must get on, too.
        let band = (ROWS / group).max(1);
        for head in 0..layout.kv_heads {
            for first in (0..placed.count).step_by(band) {
                let tokens = first..placed.count.min(first + band);
                // Causal attention: a band does not look at positions after its last token.
                let splits = 0..(placed.past + tokens.end).div_ceil(SPLIT);
                self.tasks.push(Task { span, head, tokens, splits, share: None });
            }
            let mut first = 0;
            while first < placed.count {
                // Cut where blocks end, so that no two tasks write to one region at the same time.
                let room = BLOCK - (placed.past + first) % BLOCK;
                let end = placed.count.min(first + room);
                self.stores.push((span, head, first..end));
                first = end;
            }
        }
    }
}
