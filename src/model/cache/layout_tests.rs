use proptest::prelude::*;

use super::layout::{Bounds, Layout, Lost, Mover};
use crate::plan::alike_positions;

/// Memory as lists of tokens.
#[derive(Debug, Default)]
struct Memory {
    rows: Vec<Vec<u32>>,
    bench: Vec<u32>,
    capacity: usize,
    laid: usize,
    moved: usize,
    fail: bool,
}

impl Mover for Memory {
    type Error = String;

    fn lay(&mut self, from: &[Option<usize>], capacity: usize) -> Result<(), String> {
        if std::mem::take(&mut self.fail) {
            *self = Self { laid: self.laid, ..Self::default() };
            return Err("no memory".into());
        }
        let resized = |row: &[u32]| {
            let mut row = row.to_vec();
            row.resize(capacity, 0);
            row
        };
        let old = std::mem::take(&mut self.rows);
        self.rows = from
            .iter()
            .map(|&row| resized(old.get(row.unwrap_or(0)).map_or(&[], Vec::as_slice)))
            .collect();
        self.bench = resized(&self.bench);
        self.capacity = capacity;
        self.laid += 1;
        Ok(())
    }

    fn load(&mut self, row: usize) -> Result<(), String> {
        self.bench.clone_from(&self.rows[row]);
        self.moved += 1;
        Ok(())
    }

    fn store(&mut self, row: usize) -> Result<(), String> {
        self.rows[row].clone_from(&self.bench);
        self.moved += 1;
        Ok(())
    }
}

impl From<Lost> for String {
    fn from(lost: Lost) -> Self {
        lost.to_string()
    }
}

/// The layout over lists, beside what each slot should hold.
struct World {
    layout: Layout,
    memory: Memory,
    slots: Vec<Vec<u32>>,
    next: u32,
}

const CONTEXT: usize = 1024;

impl World {
    fn new(slots: usize, budget: usize) -> Self {
        let bounds = Bounds { slots, context: CONTEXT, budget };
        Self {
            layout: Layout::new(bounds),
            memory: Memory::default(),
            slots: vec![Vec::new(); slots],
            next: 0,
        }
    }

    fn tokens(&mut self, count: usize) -> Vec<u32> {
        let first = self.next + 1;
        self.next += u32::try_from(count).unwrap();
        (first..=self.next).collect()
    }

    /// `count` tokens behind the first `past` of `slot`.
    fn prefill(&mut self, slot: usize, past: usize, count: usize) {
        let end = past + count;
        self.layout.seat_one(&mut self.memory, slot, past, end).unwrap();
        assert_eq!(self.memory.bench[..past], self.slots[slot][..past], "slot {slot}");
        let tokens = self.tokens(count);
        self.memory.bench[past..end].copy_from_slice(&tokens);
        self.slots[slot].truncate(past);
        self.slots[slot].extend(tokens);
        self.layout.wrote(slot, end);
    }

    /// A token for each of `count` slots, and whatever for other rows.
    fn decode(&mut self, first: usize, count: usize) {
        let past: Vec<usize> = self.slots[first..first + count].iter().map(Vec::len).collect();
        let seats = self.layout.seat(&mut self.memory, first, &past, CONTEXT).unwrap();
        assert!(seats.past.len() <= (2 * count).max(8), "{seats:?}");
        for (row, &past) in seats.past.iter().enumerate() {
            self.memory.rows[row][past] = 0;
        }
        for (index, &row) in seats.rows.iter().enumerate() {
            let slot = first + index;
            assert_eq!(seats.past[row], past[index]);
            assert_eq!(self.memory.rows[row][..past[index]], self.slots[slot], "slot {slot}");
            let token = self.tokens(1)[0];
            self.memory.rows[row][past[index]] = token;
            self.slots[slot].push(token);
            self.layout.wrote(slot, past[index] + 1);
        }
    }

    fn show(&mut self, slot: usize) {
        self.layout.show(&mut self.memory, slot, self.slots[slot].len()).unwrap();
        let held = &self.slots[slot];
        assert_eq!(self.memory.bench[..held.len()], held[..], "slot {slot}");
    }

    /// Positions that what is held asks for, by the rule that the engine counts by.
    fn needed(&self) -> usize {
        let longest = self.slots.iter().map(Vec::len).max().unwrap_or(0);
        let count = self.slots.iter().filter(|slot| !slot.is_empty()).count();
        (count + 1) * alike_positions(longest, CONTEXT)
    }

    fn taken(&self) -> usize {
        (self.memory.rows.len() + 1) * self.memory.capacity
    }
}

#[derive(Debug, Clone)]
enum Step {
    Prefill(usize, usize, usize),
    Decode(usize, usize),
    Swap(usize, usize),
    Copy(usize, usize, usize),
    Release(usize, usize),
    Show(usize),
}

fn step(slots: usize) -> impl Strategy<Value = Step> {
    let slot = 0..slots;
    let tokens = 0..CONTEXT;
    prop_oneof![
        4 => (slot.clone(), tokens.clone(), 1..300_usize).prop_map(|(s, p, c)| Step::Prefill(s, p, c)),
        4 => (slot.clone(), 2..=slots).prop_map(|(s, c)| Step::Decode(s, c)),
        1 => (slot.clone(), slot.clone()).prop_map(|(a, b)| Step::Swap(a, b)),
        1 => (slot.clone(), slot.clone(), tokens.clone()).prop_map(|(a, b, t)| Step::Copy(a, b, t)),
        1 => (slot.clone(), tokens).prop_map(|(s, t)| Step::Release(s, t)),
        1 => slot.prop_map(Step::Show),
    ]
}

proptest! {
    #[test]
    fn every_slot_holds_what_was_written_to_it_and_the_budget_is_kept(
        steps in proptest::collection::vec(step(10), 1..80),
        budget in 1..8_usize,
    ) {
        let budget = budget * CONTEXT;
        let mut world = World::new(10, budget);
        let mut most = 0;
        for step in steps {
            let slots = world.slots.len();
            match step {
                Step::Prefill(slot, past, count) => {
                    let past = past.min(world.slots[slot].len());
                    let count = count.min(CONTEXT - past);
                    if count > 0 {
                        world.prefill(slot, past, count);
                    }
                }
                Step::Decode(first, count) => {
                    let count = count.min(slots - first);
                    let ready = |slot: &Vec<u32>| (1..CONTEXT).contains(&slot.len());
                    if count > 1 && world.slots[first..first + count].iter().all(ready) {
                        world.decode(first, count);
                    }
                }
                Step::Swap(a, b) => {
                    world.layout.swap([a, b]);
                    world.slots.swap(a, b);
                }
                Step::Copy(from, to, tokens) => {
                    let tokens = tokens.min(world.slots[from].len());
                    if from != to && tokens > 0 {
                        world.layout.copy(&mut world.memory, from, to, tokens).unwrap();
                        world.slots[to] = world.slots[from][..tokens].to_vec();
                    }
                }
                Step::Release(slot, keep) => {
                    world.layout.release(slot, keep);
                    world.slots[slot].truncate(keep);
                }
                Step::Show(slot) => world.show(slot),
            }
            // What is taken is needed now, was needed at once before, or fits anyway.
            most = most.max(world.needed());
            prop_assert!(world.taken() <= most.max(budget), "{} of {most}", world.taken());
        }
        for slot in 0..world.slots.len() {
            world.show(slot);
        }
    }
}

#[test]
fn rows_put_in_order_keep_the_positions_that_the_step_writes() {
    // No memory to spare, so that capacity is what is needed and no more.
    let mut world = World::new(10, CONTEXT);
    for slot in 0..8 {
        world.prefill(slot, 0, 10);
    }
    for slot in 8..10 {
        world.prefill(slot, 0, 256);
    }
    world.decode(8, 2);
    assert_eq!(world.memory.capacity, 512);
}

#[test]
fn one_sequence_stays_on_the_bench_and_nothing_is_moved() {
    let mut world = World::new(4, 1 << 20);
    world.prefill(0, 0, 200);
    for past in 200..250 {
        world.prefill(0, past, 1);
    }
    assert_eq!((world.memory.laid, world.memory.moved, world.memory.rows.len()), (1, 0, 0));
}

#[test]
fn several_that_decode_together_are_moved_once() {
    let mut world = World::new(4, 1 << 20);
    for slot in 0..4 {
        world.prefill(slot, 0, 20);
    }
    world.decode(0, 4);
    let (laid, moved) = (world.memory.laid, world.memory.moved);
    for _ in 0..100 {
        world.decode(0, 4);
    }
    // Exchanges move nothing.
    world.layout.swap([0, 3]);
    world.slots.swap(0, 3);
    world.decode(0, 4);
    assert_eq!((world.memory.laid, world.memory.moved), (laid, moved));
}

#[test]
fn when_memory_runs_out_all_is_lost_and_said_to_be() {
    let mut world = World::new(2, 1 << 20);
    world.prefill(0, 0, 200);
    world.memory.fail = true;
    let error = world.layout.seat_one(&mut world.memory, 0, 200, 300).unwrap_err();
    assert_eq!(error, "no memory");
    let error = world.layout.seat_one(&mut world.memory, 0, 200, 300).unwrap_err();
    assert_eq!(error, "slot 0 holds 0 tokens and not 200");
    // It goes on from nothing.
    world.prefill(0, 0, 300);
    world.show(0);
}
