//! The scheduler and the pace over a machine whose steps take a computed time: how long prompts and tokens
//! wait.

use std::time::Duration;

use proptest::prelude::*;

use crate::candidate::Candidate;
use crate::cost::Work;
use crate::pace::{Aims, Pace};
use crate::scheduler::{Budget, Scheduler, Span};
use phi4d_door::CallerId;
use phi4d_model::Rotary;

/// How long steps take, in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Machine {
    /// Each step.
    fixed: f64,
    /// Each token of a prompt, and each sequence that decodes.
    token: f64,
    /// Each thousand positions attended to.
    attended: f64,
}

#[derive(Debug, Clone, Copy)]
struct Request {
    /// Milliseconds from the begin.
    arrives: f64,
    caller: u64,
    prompt: usize,
    output: usize,
}

/// What a request saw, in milliseconds.
#[derive(Debug, Clone, Default)]
struct Seen {
    first: f64,
    gaps: Vec<f64>,
}

impl Seen {
    fn mean_gap(&self) -> f64 {
        self.gaps.iter().sum::<f64>() / self.gaps.len() as f64
    }
}

struct Running {
    request: Request,
    arrival: usize,
    past: usize,
    newest: f64,
}

/// The virtual engine.
struct World {
    machine: Machine,
    /// Whether a step runs tokens and chunks of several sequences.
    mixes: bool,
    pace: Pace,
    scheduler: Scheduler,
    now: f64,
    running: Vec<Running>,
}

impl World {
    fn new(machine: Machine, mixes: bool, share: f64) -> Self {
        let aims =
            Aims { share, chunk: Duration::from_millis(250), most_tokens: 256, draft_tokens: 0 };
        let mut world = Self {
            machine,
            mixes,
            pace: Pace::new(aims),
            scheduler: Scheduler::default(),
            now: 0.0,
            running: Vec::new(),
        };
        // A machine that has run for a while.
        world.run(&[Request { arrives: 0.0, caller: 0, prompt: 3000, output: 20 }]);
        world
    }

    fn candidates(&self) -> Vec<Candidate> {
        let sequences = self.running.iter().enumerate();
        let candidate = |(slot, sequence): (usize, &Running)| {
            let decodes = sequence.past >= sequence.request.prompt;
            Candidate {
                slot,
                caller: CallerId(sequence.request.caller),
                priority: 0,
                arrival: sequence.arrival as u64,
                past: sequence.past,
                pending: if decodes { 1 } else { sequence.request.prompt - sequence.past },
                decodes,
                rotary: Rotary::Short,
                ready: true,
            }
        };
        sequences.map(candidate).collect()
    }

    /// Runs the step; returns how long it took.
    fn step(&mut self, plan: &[Span], candidates: &[Candidate]) -> f64 {
        assert!(self.mixes || plan.len() == 1 || plan.iter().all(|span| span.decodes));
        let past = |span: &Span| candidates[span.slot].past;
        let decoding: Vec<usize> = plan.iter().filter(|span| span.decodes).map(past).collect();
        let chunks = plan.iter().filter(|span| !span.decodes);
        let work = chunks.fold(Work::decode(&decoding), |work, span| {
            work.and(Work::chunk(past(span), span.tokens))
        });
        let tokens = (work.prefill_tokens + work.decode_rows) as f64;
        let attended = (work.prefill_attended + work.decode_attended) as f64 / 1e3;
        let Machine { fixed, token, attended: rate } = self.machine;
        let ms = fixed + token * tokens + rate * attended;
        let took = Duration::from_secs_f64(ms / 1e3);
        let waits = |decodes| candidates.iter().any(|other| other.decodes == decodes);
        match plan {
            [span] if !span.decodes => {
                self.pace.prefilled(past(span), span.tokens, took, waits(true));
            }
            _ if work.prefill_tokens == 0 => self.pace.decoded(&decoding, took, waits(false)),
            _ => self.pace.mixed(work, took),
        }
        ms
    }

    /// Answers `requests`, in order of arrival, until none but endless ones are left; times count from now.
    fn run(&mut self, requests: &[Request]) -> Vec<Seen> {
        let mut seen = vec![Seen::default(); requests.len()];
        let began = self.now;
        let mut waiting = requests.iter().copied().enumerate().peekable();
        loop {
            while let Some((arrival, request)) =
                waiting.next_if(|(_, next)| began + next.arrives <= self.now)
            {
                self.running.push(Running { request, arrival, past: 0, newest: self.now });
            }
            // The cache keeps those that decode in front.
            self.running.sort_by_key(|sequence| sequence.past < sequence.request.prompt);
            let candidates = self.candidates();
            let pace = &self.pace;
            let budget = Budget {
                prefill_waits: pace.prefill_waits(),
                chunk: &|past| pace.chunk(past),
                mixes: self.mixes.then_some(pace),
            };
            let plan = self.scheduler.plan(&candidates, &budget);
            let endless = |running: &Running| running.request.output == usize::MAX;
            if self.running.iter().all(endless) && waiting.peek().is_none() {
                self.running.clear();
                return seen;
            }
            if plan.is_empty() {
                let Some((_, next)) = waiting.peek() else { return seen };
                self.now = began + next.arrives;
                continue;
            }
            self.now += self.step(&plan, &candidates);
            for span in plan {
                let sequence = &mut self.running[span.slot];
                sequence.past += span.tokens;
                if sequence.past < sequence.request.prompt {
                    continue;
                }
                let seen = &mut seen[sequence.arrival];
                if sequence.past == sequence.request.prompt {
                    seen.first = self.now - began - sequence.request.arrives;
                } else {
                    seen.gaps.push(self.now - sequence.newest);
                }
                sequence.newest = self.now;
            }
            self.running.retain(|sequence| {
                sequence.past < sequence.request.prompt.saturating_add(sequence.request.output)
            });
        }
    }

    /// The longest that a chunk is meant to take.
    fn target(&self) -> f64 {
        f64::max(250.0, 4.0 * self.machine.fixed)
    }

    /// The longest that a chunk of a prompt is meant to take that is alone.
    fn alone(&self) -> f64 {
        if self.mixes { f64::max(500.0, 4.0 * self.machine.fixed) } else { self.target() }
    }

    /// The longest that a step is meant to take with which a prompt of ten tokens ends.
    fn short(&self) -> f64 {
        let Machine { fixed, token, attended } = self.machine;
        let own = fixed + 10.0 * token + attended;
        if self.mixes { own.max(3.0 * fixed + token) } else { own }
    }
}

/// Phi-4 on two cores with slow memory.
const LARGE: Machine = Machine { fixed: 285.0, token: 48.0, attended: 0.5 };

fn machine() -> impl Strategy<Value = Machine> {
    // From a small model on a large machine to Phi-4 on two cores. Ten tokens fit a chunk on any of them.
    let any = (0.2f64..400.0, 0.02f64..0.25, 0.0f64..0.02).prop_map(|(fixed, token, attended)| {
        Machine { fixed, token: fixed * token, attended: fixed * token * attended }
    });
    prop_oneof![3 => any, 1 => Just(LARGE)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_short_prompt_beside_a_long_one_waits_for_the_step_in_progress_and_its_own(
        machine in machine(), mixes in any::<bool>(), after in 0.0f64..3000.0, caller in 0u64..2,
    ) {
        let mut world = World::new(machine, mixes, 0.5);
        let long = Request { arrives: 0.0, caller: 0, prompt: 4000, output: 1 };
        let short = Request { arrives: after, caller, prompt: 10, output: 1 };
        let seen = world.run(&[long, short]);
        let limit = 1.05 * (world.alone() + world.short());
        prop_assert!(seen[1].first < limit, "{} of {limit} ms", seen[1].first);
        prop_assert!(seen[1].first < 3.0 * world.target(), "{}", seen[1].first);
    }

    #[test]
    fn short_prompts_one_after_another_hardly_delay_a_long_one_nor_it_them(
        machine in machine(), mixes in any::<bool>(), count in 2usize..12, caller in 0u64..2,
    ) {
        let mut world = World::new(machine, mixes, 0.5);
        let long = Request { arrives: 0.0, caller: 0, prompt: 4000, output: 1 };
        let alone = world.run(&[long])[0].first;
        let limit = 1.05 * (world.alone().max(world.target() * 2.0) + world.short());
        let shorts = (1..=count).map(|number| Request {
            arrives: number as f64 * 1.1 * limit,
            caller,
            prompt: 10,
            output: 1,
        });
        let requests: Vec<Request> = [long].into_iter().chain(shorts).collect();
        let seen = world.run(&requests);
        for short in &seen[1..] {
            prop_assert!(short.first < limit, "{} of {limit} ms", short.first);
        }
        let most = 1.05 * (alone + count as f64 * (world.short() + machine.fixed));
        prop_assert!(seen[0].first < most, "{} of {most} ms, {alone} alone", seen[0].first);
    }

    #[test]
    fn a_prompt_alone_reads_the_weights_as_seldom_as_its_steps_may_be_long(machine in machine()) {
        let mut world = World::new(machine, true, 0.5);
        let (tokens, most) = (4000.0, 256.0);
        let prompt = Request { arrives: 0.0, caller: 0, prompt: 4000, output: 1 };
        let took = world.run(&[prompt])[0].first;
        let work = tokens * machine.token + machine.attended * tokens * tokens / 2e3;
        let steps = f64::max(work / (world.alone() - machine.fixed), tokens / most);
        // One for what remains, and one for rounding each step down to whole tokens.
        let limit = 1.02 * (work + machine.fixed * (steps + 2.0));
        prop_assert!(took < limit, "{took} of {limit} ms");
    }

    #[test]
    fn prompts_get_their_share_beside_answers_whose_gaps_keep_to_the_bound(
        machine in machine(), mixes in any::<bool>(), share in 0.1f64..0.9,
    ) {
        let mut world = World::new(machine, mixes, share);
        let long = Request { arrives: 0.0, caller: 0, prompt: 8000, output: 1 };
        let alone = world.run(&[long])[0].first;
        let answer = Request { arrives: 0.0, caller: 1, prompt: 20, output: usize::MAX };
        let prompt = Request { arrives: 500.0 + 50.0 * machine.fixed, ..long };
        let seen = world.run(&[answer, answer, prompt]);
        prop_assert!(
            seen[2].first * share < alone * 1.1,
            "{} beside answers, {alone} alone", seen[2].first
        );
        // The decode step's time while the prompt is read, with some slack for what the fit is off.
        let step = machine.fixed + 2.0 * machine.token + machine.attended * 2.0 * 60.0;
        let bound = 1.1 * (world.target() + step / (1.0 - share));
        let mut gaps = seen[0].gaps.clone();
        gaps.sort_by(f64::total_cmp);
        prop_assert!(gaps[gaps.len() - 1] < bound, "{:?} over {bound}", gaps.last());
    }

    #[test]
    fn a_newcomer_does_not_pay_for_a_prompt_that_was_read_before(
        machine in machine(), mixes in any::<bool>(), output in 1usize..30,
    ) {
        let mut world = World::new(machine, mixes, 0.5);
        let first = Request { arrives: 0.0, caller: 0, prompt: 1024, output: 40 };
        let alone = world.run(&[first]);
        // A while after the first token of the other.
        let step = alone[0].gaps[output];
        let arrives = alone[0].first + step * output as f64;
        let newcomer = Request { arrives, caller: 1, prompt: 10, output: 1 };
        let seen = world.run(&[first, newcomer]);
        let own = machine.fixed + machine.token * 10.0 + machine.attended;
        let limit = 1.05 * (2.0 * step + own);
        prop_assert!(seen[1].first <= limit, "{} of {limit}", seen[1].first);
    }

    /// Each of `n` callers has an `n`th of its speed alone at least, whatever the others have.
    #[test]
    fn callers_with_few_and_with_many_answers_have_their_parts(
        machine in machine(), counts in prop::collection::vec(1usize..16, 1..4), few in 1usize..3,
    ) {
        let mut world = World::new(machine, true, 0.5);
        let own = |caller: u64, count: usize, output| {
            let one = Request { arrives: 0.0, caller, prompt: 20, output };
            std::iter::repeat_n(one, count)
        };
        let alone = world.run(&own(0, few, 200).collect::<Vec<_>>())[0].mean_gap();
        let others = (1..).zip(&counts).flat_map(|(caller, &count)| own(caller, count, usize::MAX));
        let all: Vec<Request> = own(0, few, 200).chain(others).collect();
        let seen = world.run(&all);
        let callers = (counts.len() + 1) as f64;
        let beside = seen[0].mean_gap();
        prop_assert!(beside < callers * alone * 1.1, "{beside} beside {callers}, {alone} alone");
        let mut first = few;
        for &count in &counts {
            // One that has less than its part in this while has it in the next.
            let tokens: usize = seen[first..first + count].iter().map(|one| one.gaps.len()).sum();
            let past = count as f64 * 120.0;
            let step = machine.fixed + count as f64 * machine.token + machine.attended * past / 1e3;
            let possible = seen[0].gaps.iter().sum::<f64>() / step * count as f64 / callers;
            prop_assert!(tokens as f64 > possible * 0.85, "{tokens} of {possible} tokens of {count}");
            // Its answers take turns.
            let least = seen[first..first + count].iter().map(|one| one.gaps.len()).min().unwrap();
            prop_assert!((least + 4) * count * 2 > tokens, "{least} of {tokens} of {count}");
            first += count;
        }
    }

    /// Beside one caller with answers and prompts at once, an answer or a prompt takes three times its time alone,
    /// also the next ones of the same caller.
    #[test]
    fn one_caller_with_answers_and_prompts_takes_no_more_than_two_thirds(
        machine in machine(), answers in 1usize..16, length in 100usize..8000, asks in any::<bool>(),
    ) {
        let mut world = World::new(machine, true, 0.5);
        let own = match asks {
            true => Request { arrives: 0.0, caller: 0, prompt: 20, output: 100 },
            false => Request { arrives: 300.0 * machine.fixed, caller: 0, prompt: 2000, output: 1 },
        };
        let alone = world.run(&[own])[0].clone();
        // One after another, with all the time that each may take.
        let apart = 4.0 * alone.first;
        let own: Vec<Request> = (0..if asks { 1 } else { 4 })
            .map(|number| Request { arrives: own.arrives + f64::from(number) * apart, ..own })
            .collect();
        let answer = Request { arrives: 0.0, caller: 1, prompt: 20, output: usize::MAX };
        let prompt = Request { arrives: 0.0, caller: 1, prompt: length, output: 1 };
        let others = std::iter::repeat_n(answer, answers);
        let prompts = std::iter::repeat_n(prompt, 40_000 / length);
        let first = answers + 40_000 / length;
        let all: Vec<Request> = others.chain(prompts).chain(own).collect();
        let seen = world.run(&all);
        for seen in &seen[first..] {
            let (beside, alone) = match asks {
                true => (seen.mean_gap(), alone.mean_gap()),
                false => (seen.first, alone.first),
            };
            prop_assert!(beside < 3.0 * alone * 1.1, "{beside} beside, {alone} alone");
        }
    }
}
