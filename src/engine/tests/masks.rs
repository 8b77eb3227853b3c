//! Jobs whose output must be of a form.

use super::*;

/// Tokens of a vocabulary of 50: runs of three that are prescribed, then one of a residue class.
#[derive(Debug)]
struct Runs {
    place: u32,
    end: u32,
    allowed: [u32; 2],
    forced: Vec<u32>,
    breaks_at: Option<u32>,
}

impl Runs {
    fn new(end: u32) -> Self {
        let mut runs = Self { place: 0, end, allowed: [0; 2], forced: Vec::new(), breaks_at: None };
        runs.work_out();
        runs
    }

    fn prescribed(place: u32) -> Option<u32> {
        (place % 4 != 3).then_some((place * 11 + 5) % 50)
    }

    fn allows(place: u32, token: u32) -> bool {
        Self::prescribed(place).map_or(token % 7 == place % 5, |only| token == only)
    }

    fn work_out(&mut self) {
        self.allowed = [0; 2];
        for token in (0..50_u32).filter(|&token| Self::allows(self.place, token)) {
            self.allowed[token as usize / 32] |= 1 << (token % 32);
        }
        self.forced = (self.place..self.end).map_while(Self::prescribed).collect();
    }
}

impl TokenMask for Runs {
    fn allowed(&mut self) -> Result<&[u32], MaskError> {
        Ok(&self.allowed)
    }

    fn accept(&mut self, token: u32) -> Result<Progress, MaskError> {
        assert!(Self::allows(self.place, token), "{token} at {}", self.place);
        if self.breaks_at == Some(self.place) {
            return Err(MaskError("too long a story".into()));
        }
        self.place += 1;
        self.work_out();
        Ok(if self.place == self.end { Progress::Complete } else { Progress::Open })
    }

    fn forced(&mut self) -> &[u32] {
        &self.forced
    }
}

/// What a masked job gives, and the steps that it took.
fn run(mask: Runs, draft_tokens: usize, max_tokens: usize) -> (Vec<u32>, FinishReason, u64) {
    let (engine, _) = engine_with(Options { draft_tokens, ..options() });
    let (job, mut events) = job(&[1, 2, 3], max_tokens, 64);
    engine.handle().submit(Job { mask: Some(Box::new(mask)), ..job }).unwrap();
    let (tokens, end) = wait(&mut events);
    let stats = settle(&engine.handle());
    assert_settled(&stats);
    engine.stop().unwrap();
    (tokens, end.unwrap().unwrap(), stats.steps)
}

#[test]
fn a_mask_constrains_and_ends_the_output_with_draft_tokens_and_without() {
    let (plain, end, plain_steps) = run(Runs::new(23), 0, 40);
    assert_eq!((plain.len(), end), (23, FinishReason::Complete));
    let (drafted, end, steps) = run(Runs::new(23), 7, 40);
    assert_eq!((&drafted, end), (&plain, FinishReason::Complete));
    assert!(steps < plain_steps, "{steps} steps, without draft tokens {plain_steps}");
    let (cut, end, _) = run(Runs::new(23), 7, 9);
    assert_eq!((cut.as_slice(), end), (&plain[..9], FinishReason::Length));
}

#[test]
fn masked_and_free_jobs_run_side_by_side() {
    let (engine, _) = engine();
    let (first, mut events) = job(&[4, 5], 12, 64);
    let (second, mut masked_events) = job(&[1, 2, 3], 40, 64);
    engine.handle().submit(first).unwrap();
    let masked = Job { mask: Some(Box::new(Runs::new(9))), ..second };
    engine.handle().submit(masked).unwrap();
    assert_eq!(wait(&mut events).0, expected(&[4, 5], 12));
    let (tokens, end) = wait(&mut masked_events);
    assert_eq!((tokens.len(), end), (9, Some(Ok(FinishReason::Complete))));
    engine.stop().unwrap();
}

#[test]
fn a_mask_that_cannot_go_on_fails_its_job_only() {
    let (engine, _) = engine();
    let (first, mut broken) = job(&[1, 2, 3], 40, 64);
    let mask = Runs { breaks_at: Some(5), ..Runs::new(20) };
    engine.handle().submit(Job { mask: Some(Box::new(mask)), ..first }).unwrap();
    let end = wait(&mut broken).1.unwrap();
    assert_eq!(end, Err(JobError::Mask(MaskError("too long a story".into()))));
    let (after, mut events) = job(&[4, 5], 3, 64);
    engine.handle().submit(after).unwrap();
    assert_eq!(wait(&mut events).0, expected(&[4, 5], 3));
    assert_settled(&settle(&engine.handle()));
    engine.stop().unwrap();
}

/// As [`Runs`], whose answers come late: what follows a token is known when it was asked for `late`
/// times, and whether anything does one time before.
#[derive(Debug)]
struct Late {
    inner: Runs,
    late: u32,
    left: u32,
    /// Whether all is known at once as soon as it is asked whether the mask is ready, though it was
    /// not when progress was asked for.
    jumps: bool,
    progress: Progress,
}

impl Late {
    fn new(inner: Runs, late: u32) -> Self {
        Self { inner, late, left: 0, jumps: false, progress: Progress::Open }
    }

    fn asked(&mut self) {
        self.left = self.left.saturating_sub(1);
    }
}

impl TokenMask for Late {
    fn allowed(&mut self) -> Result<&[u32], MaskError> {
        assert_eq!((self.left, self.progress), (0, Progress::Open), "asked too early or too late");
        self.inner.allowed()
    }

    fn accept(&mut self, token: u32) -> Result<Progress, MaskError> {
        self.progress = self.inner.accept(token)?;
        self.left = self.late;
        Ok(Progress::Open)
    }

    fn forced(&mut self) -> &[u32] {
        if self.left == 0 { self.inner.forced() } else { &[] }
    }

    fn progress(&mut self, _limit: Duration) -> Option<Progress> {
        self.asked();
        (self.left <= 1).then_some(self.progress)
    }

    fn ready(&mut self, _limit: Duration) -> bool {
        self.asked();
        if self.jumps {
            self.left = 0;
        }
        self.left == 0
    }
}

#[test]
fn masks_that_come_late_change_nothing_of_the_output() {
    let late_run = |late: u32, jumps: bool, draft_tokens: usize, max_tokens: usize| {
        let (engine, _) = engine_with(Options { draft_tokens, ..options() });
        let (job, mut events) = job(&[1, 2, 3], max_tokens, 64);
        let mask = Late { jumps, ..Late::new(Runs::new(23), late) };
        engine.handle().submit(Job { mask: Some(Box::new(mask)), ..job }).unwrap();
        let (tokens, end) = wait(&mut events);
        assert_settled(&settle(&engine.handle()));
        engine.stop().unwrap();
        (tokens, end.unwrap().unwrap())
    };
    for max_tokens in [40, 23, 9] {
        let (expected, end, _) = run(Runs::new(23), 0, max_tokens);
        for late in [0, 1, 2, 3, 7] {
            for (draft_tokens, jumps) in [(0, false), (7, false), (0, true), (7, true)] {
                let found = late_run(late, jumps, draft_tokens, max_tokens);
                let case = format!("{late} {jumps} {draft_tokens} {max_tokens}");
                assert_eq!(found, (expected.clone(), end), "{case}");
            }
        }
    }
}

#[test]
fn late_masks_of_several_jobs_and_free_ones_do_not_disturb_each_other() {
    let (engine, _) = engine();
    let (expected_masked, ..) = run(Runs::new(9), 0, 40);
    let mut masked = Vec::new();
    for late in [1, 4] {
        let (job, events) = job(&[1, 2, 3], 40, 64);
        let mask = Late::new(Runs::new(9), late);
        engine.handle().submit(Job { mask: Some(Box::new(mask)), ..job }).unwrap();
        masked.push(events);
    }
    let (free, mut events) = job(&[4, 5], 12, 64);
    engine.handle().submit(free).unwrap();
    assert_eq!(wait(&mut events).0, expected(&[4, 5], 12));
    for mut events in masked {
        let (tokens, end) = wait(&mut events);
        assert_eq!((tokens, end), (expected_masked.clone(), Some(Ok(FinishReason::Complete))));
    }
    assert_settled(&settle(&engine.handle()));
    engine.stop().unwrap();
}

#[test]
fn a_mask_that_never_comes_holds_up_nobody_and_ends_with_its_client() {
    let (engine, _) = engine();
    let (stuck, stuck_events) = job(&[1, 2, 3], 40, 64);
    let mask = Late::new(Runs::new(20), u32::MAX);
    engine.handle().submit(Job { mask: Some(Box::new(mask)), ..stuck }).unwrap();
    for _ in 0..3 {
        let (other, mut events) = job(&[4, 5], 12, 64);
        engine.handle().submit(other).unwrap();
        assert_eq!(wait(&mut events).0, expected(&[4, 5], 12));
    }
    drop(stuck_events);
    let stats = settle(&engine.handle());
    assert_settled(&stats);
    let (late, mut events) = job(&[1, 2, 3], 40, 64);
    let deadline = Some(Instant::now() + Duration::from_millis(50));
    let mask = Late::new(Runs::new(20), u32::MAX);
    engine.handle().submit(Job { mask: Some(Box::new(mask)), deadline, ..late }).unwrap();
    assert_eq!(wait(&mut events).1, Some(Err(JobError::DeadlineExceeded)));
    engine.stop().unwrap();
}
