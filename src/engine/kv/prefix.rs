//! Which cached tokens a prompt can begin with.
//!
//! A cached prefix is a whole row, so there are at most as many as rows: tens. They are compared
//! one by one; a tree over their tokens would save nothing that could be measured beside a step.

/// Fewer common tokens than this are not worth a row's moving.
pub(super) const MIN_MATCH: usize = 8;

/// How many tokens `left` and `right` have in common at their fronts.
pub(super) fn common(left: &[u32], right: &[u32]) -> usize {
    left.iter().zip(right).take_while(|(a, b)| a == b).count()
}

/// What to do with a row that has tokens in common with a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reuse {
    /// Nothing: start in an empty row.
    Nothing,
    /// Go on in the row itself, whose tokens past the common ones are lost.
    Take {
        /// The row.
        row: usize,
        /// Common tokens.
        tokens: usize,
    },
    /// Copy the common tokens into another row.
    Copy {
        /// The row.
        row: usize,
        /// Common tokens.
        tokens: usize,
    },
}

/// A row as the choice sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    /// Tokens it holds.
    pub(super) tokens: &'a [u32],
    /// Whether a sequence runs in it.
    pub(super) live: bool,
}

/// Chooses the row with the most in common with `prompt`, of those in `rows`.
///
/// At least the prompt's last token is left for the model to read, since its logits are needed.
/// Common tokens count in whole units of `grid` only. A
/// row that loses little by it is taken (the next turn of a conversation); one that many prompts
/// may share, or that runs, is copied.
pub(super) fn choose<'a>(
    prompt: &[u32],
    rows: impl Iterator<Item = (usize, Seen<'a>)>,
    grid: usize,
) -> Reuse {
    let usable = &prompt[..prompt.len().saturating_sub(1)];
    let best = rows
        .map(|(row, seen)| (row, common(usable, seen.tokens) / grid * grid, seen))
        // Of equals the one that is not running, since it may be taken.
        .max_by_key(|&(_, tokens, seen)| (tokens, !seen.live));
    match best {
        Some((row, tokens, seen)) if tokens >= MIN_MATCH => {
            let lost = seen.tokens.len() - tokens;
            if !seen.live && lost <= tokens / 4 {
                Reuse::Take { row, tokens }
            } else {
                Reuse::Copy { row, tokens }
            }
        }
        _ => Reuse::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(tokens: &[u32], live: bool) -> Seen<'_> {
        Seen { tokens, live }
    }

    #[test]
    fn the_next_turn_takes_its_row_and_a_shared_beginning_is_copied() {
        let turn: Vec<u32> = (0..40).collect();
        let next: Vec<u32> = (0..60).collect();
        let row = [(3, seen(&turn, false))];
        assert_eq!(choose(&next, row.into_iter(), 1), Reuse::Take { row: 3, tokens: 40 });
        let live = [(3, seen(&turn, true))];
        assert_eq!(choose(&next, live.into_iter(), 1), Reuse::Copy { row: 3, tokens: 40 });
        let other: Vec<u32> = (0..10).chain(90..99).collect();
        assert_eq!(choose(&other, row.into_iter(), 1), Reuse::Copy { row: 3, tokens: 10 });
        assert_eq!(choose(&[1, 2, 3], row.into_iter(), 1), Reuse::Nothing);
    }

    #[test]
    fn on_a_grid_whole_chunks_are_reused_only() {
        let tokens: Vec<u32> = (0..40).collect();
        let rows = [(1, seen(&tokens, false))];
        let next: Vec<u32> = (0..35).chain(90..99).collect();
        assert_eq!(choose(&next, rows.into_iter(), 16), Reuse::Take { row: 1, tokens: 32 });
        assert_eq!(choose(&tokens[..33], rows.into_iter(), 16), Reuse::Take { row: 1, tokens: 32 });
        // The last token is to be read, and with it the chunk that it is in.
        assert_eq!(choose(&tokens[..32], rows.into_iter(), 16), Reuse::Copy { row: 1, tokens: 16 });
        assert_eq!(choose(&tokens[..16], rows.into_iter(), 16), Reuse::Nothing);
    }

    #[test]
    fn the_last_token_of_a_prompt_is_always_left() {
        let tokens: Vec<u32> = (0..20).collect();
        let rows = [(0, seen(&tokens, false))];
        assert_eq!(choose(&tokens, rows.into_iter(), 1), Reuse::Take { row: 0, tokens: 19 });
        assert_eq!(choose(&[], rows.into_iter(), 1), Reuse::Nothing);
    }
}
