use proptest::prelude::*;

use super::*;

type Answer = oneshot::Receiver<Result<Vectors, GenerateError>>;

/// A vector is its text's first token and length; records the lengths of each run.
#[derive(Default)]
struct Echo {
    runs: Vec<Vec<usize>>,
}

impl Runs for Echo {
    fn run(&mut self, texts: &[&[u32]]) -> Result<Vectors, RunError> {
        self.runs.push(texts.iter().map(|text| text.len()).collect());
        if texts.iter().any(|text| text[0] == BROKEN) {
            return Err(RunError::Runtime("broken".into()));
        }
        assert!(texts.iter().all(|text| text[0] != PANICS), "a text that panics");
        Ok(texts.iter().map(|text| vector(text)).collect())
    }
}

const BROKEN: u32 = 1_000_000;
const PANICS: u32 = 1_000_001;

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn vector(text: &[u32]) -> Vec<f32> {
    vec![text[0] as f32, text.len() as f32]
}

fn queue(run_tokens: usize, batches: bool) -> Arc<Queue> {
    Queue::new(Limits { run_tokens, batches, queue: 8, queue_per_caller: 4 })
}

fn job(texts: &[Vec<u32>]) -> (Job, Answer) {
    let (answer, vectors) = oneshot::channel();
    (Job::new(texts.to_vec(), answer), vectors)
}

fn text(token: u32, length: usize) -> Vec<u32> {
    vec![token; length]
}

/// Runs what waits, and returns the lengths of the texts of each run.
fn run_all(queue: &Queue) -> Vec<Vec<usize>> {
    let mut model = Echo::default();
    while queue.stats().waiting > 0 {
        let Some(batch) = queue.next_now() else { break };
        queue.run_batch(&mut model, batch);
    }
    model.runs
}

#[test]
fn a_run_has_texts_of_like_length_up_to_its_budget() {
    let queue = queue(20, true);
    let texts = [text(1, 3), text(2, 9), text(3, 10), text(4, 4), text(5, 30)];
    let (job, mut answer) = job(&texts);
    queue.add(CallerId(1), job).unwrap();
    assert_eq!(run_all(&queue), [vec![30], vec![10, 9], vec![4, 3]]);
    let expected: Vectors = texts.iter().map(|text| vector(text)).collect();
    assert_eq!(answer.try_recv().unwrap(), Ok(expected));
    let stats = queue.stats();
    assert_eq!((stats.finished, stats.texts, stats.tokens, stats.runs), (1, 5, 56, 3));
}

#[test]
fn callers_take_turns_and_share_runs() {
    let queue = queue(20, true);
    let (long, _long) = job(&[text(1, 10), text(1, 10), text(1, 10), text(1, 10)]);
    let (short, mut answer) = job(&[text(2, 10)]);
    let (other, mut third) = job(&[text(3, 8)]);
    queue.add(CallerId(1), long).unwrap();
    queue.add(CallerId(2), short).unwrap();
    queue.add(CallerId(3), other).unwrap();
    // After the first caller's run the other two share one, before its second.
    assert_eq!(run_all(&queue), [vec![10, 10], vec![10, 8], vec![10, 10]]);
    assert_eq!(answer.try_recv().unwrap(), Ok(vec![vector(&text(2, 10))]));
    assert_eq!(third.try_recv().unwrap(), Ok(vec![vector(&text(3, 8))]));
}

#[test]
fn texts_run_alone_where_a_batch_would_change_them() {
    let queue = queue(100, false);
    let (first, _a) = job(&[text(1, 2), text(1, 3)]);
    let (second, _b) = job(&[text(2, 3)]);
    queue.add(CallerId(1), first).unwrap();
    queue.add(CallerId(2), second).unwrap();
    assert_eq!(run_all(&queue), [[3], [3], [2]]);
}

#[test]
fn a_full_queue_refuses_and_clients_that_left_make_room() {
    let queue = queue(10, true);
    let mut answers = Vec::new();
    let mut add = |caller| {
        let (job, answer) = job(&[text(1, 1)]);
        let added = queue.add(CallerId(caller), job);
        answers.push(answer);
        added
    };
    for _ in 0..4 {
        add(1).unwrap();
    }
    assert_eq!(add(1), Err(SubmitError::CallerFull { limit: 4 }));
    for caller in 2..6 {
        add(caller).unwrap();
    }
    assert_eq!(add(7), Err(SubmitError::Full { limit: 8 }));
    drop(answers);
    let (job, _answer) = job(&[text(1, 1)]);
    assert_eq!(queue.add(CallerId(1), job), Ok(()));
    assert_eq!(run_all(&queue), [[1]]);
}

#[test]
fn a_request_whose_client_left_is_dropped_between_runs() {
    let queue = queue(10, true);
    let (job, answer) = job(&[text(1, 10), text(1, 10), text(1, 10)]);
    queue.add(CallerId(1), job).unwrap();
    let mut model = Echo::default();
    let batch = queue.next_now().unwrap();
    drop(answer);
    queue.run_batch(&mut model, batch);
    assert_eq!(queue.stats().waiting, 0);
    assert_eq!(model.runs, [[10]]);
}

#[test]
fn a_failed_run_fails_its_jobs_and_no_others() {
    for bad in [BROKEN, PANICS] {
        let queue = queue(10, true);
        let (broken, mut failed) = job(&[text(bad, 10)]);
        let (good, mut answer) = job(&[text(1, 10)]);
        queue.add(CallerId(1), broken).unwrap();
        queue.add(CallerId(2), good).unwrap();
        run_all(&queue);
        let error = failed.try_recv().unwrap().unwrap_err();
        assert!(matches!(error, GenerateError::Job(JobError::Model(_))), "{error}");
        assert!(answer.try_recv().unwrap().is_ok());
    }
}

#[test]
fn closing_ends_what_waits_and_the_thread() {
    let queue = queue(10, true);
    let (waiting, mut answer) = job(&[text(1, 1)]);
    queue.add(CallerId(1), waiting).unwrap();
    queue.close();
    let ended = answer.try_recv().unwrap();
    assert_eq!(ended, Err(GenerateError::Job(JobError::ShuttingDown)));
    queue.work(&mut Echo::default());
    let (late, _answer) = job(&[text(1, 1)]);
    assert_eq!(queue.add(CallerId(1), late), Err(SubmitError::ShuttingDown));
}

proptest! {
    #[test]
    fn every_text_gets_its_own_vector_and_runs_keep_to_the_budget(
        requests in prop::collection::vec(
            (0u64..3, prop::collection::vec((0u32..1000, 1usize..40), 1..12)), 1..4),
        run_tokens in 1usize..80,
        batches: bool,
    ) {
        let queue = queue(run_tokens, batches);
        let mut expected = Vec::new();
        for (caller, texts) in requests {
            let texts: Vec<Vec<u32>> = texts.into_iter().map(|(id, n)| text(id, n)).collect();
            let (job, answer) = job(&texts);
            queue.add(CallerId(caller), job).unwrap();
            expected.push((answer, texts));
        }
        for run in run_all(&queue) {
            let widest = run.iter().max().unwrap();
            prop_assert!(run.len() == 1 || batches && widest * run.len() <= run_tokens, "{:?}", run);
        }
        for (mut answer, texts) in expected {
            let vectors: Vectors = texts.iter().map(|text| vector(text)).collect();
            prop_assert_eq!(answer.try_recv().unwrap(), Ok(vectors));
        }
    }
}
