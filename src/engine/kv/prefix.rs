//! Chooses the cached tokens that a prompt can reuse.
//!
//! A cached prefix is a slot, so there are at most as many as slots, which is tens. They are compared one
//! by one; a tree over their tokens would save nothing that shows beside a step.

/// Fewer common tokens than this are read again: moving a slot costs as much.
pub(super) const MIN_MATCH: usize = 8;

/// The number of first tokens that `left` and `right` have in common.
pub(super) fn common(left: &[u32], right: &[u32]) -> usize {
    left.iter().zip(right).take_while(|(a, b)| a == b).count()
}

/// How a prompt reuses a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reuse {
    /// It reuses nothing and starts in an empty slot.
    Nothing,
    /// It continues in the slot itself, whose tokens behind the common ones are lost.
    Take {
        /// The slot.
        slot: usize,
        /// The number of common tokens.
        tokens: usize,
    },
    /// It copies the common tokens into another slot.
    Copy {
        /// The slot.
        slot: usize,
        /// The number of common tokens.
        tokens: usize,
    },
}

/// What the choice depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    /// The tokens that a prompt may reuse.
    pub(super) tokens: &'a [u32],
    /// Whether a sequence runs in the slot.
    pub(super) live: bool,
}

/// Chooses the slot of `slots` that has the most tokens in common with `prompt`, in multiples of `grid`.
///
/// At least the prompt's last token is left for the model to read, since its logits are needed. A slot
/// that loses little by it is taken, as with the next message of a conversation. One that many prompts may
/// share (a system prompt), or that runs, is copied.
pub(super) fn choose<'a>(
    prompt: &[u32],
    slots: impl Iterator<Item = (usize, Seen<'a>)>,
    grid: usize,
) -> Reuse {
    // Without the last token: it is read in any case.
    let usable = &prompt[..prompt.len().saturating_sub(1)];
    let best = slots
        .map(|(slot, seen)| (slot, common(usable, seen.tokens) / grid * grid, seen))
        // Of equals one that does not run, since it can be taken without a copy.
        .max_by_key(|&(_, tokens, seen)| (tokens, !seen.live));
    match best {
        Some((slot, tokens, seen)) if tokens >= MIN_MATCH => {
            // Up to a quarter of what is reused may be lost: an answer that the client did not send back,
            // or changed, is usually less. A system prompt's other conversations are more.
            let lost = seen.tokens.len() - tokens;
            if !seen.live && lost <= tokens / 4 {
                Reuse::Take { slot, tokens }
            } else {
                Reuse::Copy { slot, tokens }
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
    fn the_next_message_takes_its_slot_and_a_shared_beginning_is_copied() {
        let message: Vec<u32> = (0..40).collect();
        let next: Vec<u32> = (0..60).collect();
        let slot = [(3, seen(&message, false))];
        assert_eq!(choose(&next, slot.into_iter(), 1), Reuse::Take { slot: 3, tokens: 40 });
        let live = [(3, seen(&message, true))];
        assert_eq!(choose(&next, live.into_iter(), 1), Reuse::Copy { slot: 3, tokens: 40 });
        let other: Vec<u32> = (0..10).chain(90..99).collect();
        assert_eq!(choose(&other, slot.into_iter(), 1), Reuse::Copy { slot: 3, tokens: 10 });
        assert_eq!(choose(&[1, 2, 3], slot.into_iter(), 1), Reuse::Nothing);
    }

    #[test]
    fn on_a_grid_whole_chunks_are_reused_only() {
        let tokens: Vec<u32> = (0..40).collect();
        let slots = [(1, seen(&tokens, false))];
        let next: Vec<u32> = (0..35).chain(90..99).collect();
        assert_eq!(choose(&next, slots.into_iter(), 16), Reuse::Take { slot: 1, tokens: 32 });
        assert_eq!(
            choose(&tokens[..33], slots.into_iter(), 16),
            Reuse::Take { slot: 1, tokens: 32 }
        );
        // The last token is to be read, and with it the chunk that it is in.
        assert_eq!(
            choose(&tokens[..32], slots.into_iter(), 16),
            Reuse::Copy { slot: 1, tokens: 16 }
        );
        assert_eq!(choose(&tokens[..16], slots.into_iter(), 16), Reuse::Nothing);
    }

    #[test]
    fn the_last_token_of_a_prompt_is_always_left() {
        let tokens: Vec<u32> = (0..20).collect();
        let slots = [(0, seen(&tokens, false))];
        assert_eq!(choose(&tokens, slots.into_iter(), 1), Reuse::Take { slot: 0, tokens: 19 });
        assert_eq!(choose(&[], slots.into_iter(), 1), Reuse::Nothing);
    }
}
