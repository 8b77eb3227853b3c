use super::super::choices::{Answer, Parts};
use super::super::fixtures::demo_folder;
use super::super::reading::Reading;
use super::super::request::Parameters;
use super::super::request::Request;
use super::super::tokenizer::{Markup, Tokenizer};
use super::super::validate;
use super::*;
use phi4d_engine::{JobError, Token};

const IM_END: u32 = 1009;

fn stopping(stops: &[String]) -> Parameters {
    Parameters { stop: stops.to_vec(), ..Parameters::default() }
}

/// A generation fed by hand.
impl Generator {
    /// Checks a request with one prompt, tokenises it and queues it.
    pub(crate) async fn start(&self, mut request: Request) -> Result<Generation, GenerateError> {
        let prompt = request.prompts.remove(0);
        validate::not_empty(&prompt)?;
        let plan = self.preparer.plan(request).await?;
        let ready = self.preparer.prepare(&plan, prompt).await?;
        self.launch(&plan, &ready, 0).await
    }
}

impl Generation {
    /// The prompt's token ids.
    pub(crate) fn prompt_ids(&self) -> &[u32] {
        &self.prompt_ids
    }

    /// Waits for the complete answer.
    pub(crate) async fn collect(mut self) -> Result<Answer, GenerateError> {
        let mut whole = Parts::default();
        while let Some(delta) = self.next().await {
            match delta? {
                Delta::Progress(_) => {}
                Delta::Text(part) => whole.add(part),
                Delta::Finished(finished) => {
                    return Ok(whole.into_answer(self.take_prompt().described(), finished));
                }
            }
        }
        Err(GenerateError::EngineGone)
    }
}

fn scripted(stops: &[&str]) -> (mpsc::Sender<Event>, Generation, Arc<Tokenizer>) {
    let (sender, events) = mpsc::channel(64);
    let path = demo_folder().join("tokenizer.json");
    let tokenizer = Arc::new(Tokenizer::load(&path).unwrap());
    let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
    let text = TextStream::new(Arc::clone(&tokenizer), &stopping(&stops), 0);
    let answer = Reading::default().reader(&tokenizer, &[]);
    let generation = Generation::new(events, Arc::new([1, 2, 3]), text, answer, None);
    (sender, generation, tokenizer)
}

fn send(sender: &mpsc::Sender<Event>, tokenizer: &Tokenizer, text: &str) -> usize {
    let ids = tokenizer.encode(text, Markup::Plain, usize::MAX).unwrap();
    for &id in &ids {
        sender.try_send(Event::Token(Token { id, logprobs: None })).unwrap();
    }
    ids.len()
}

fn text(delta: Option<Result<Delta, GenerateError>>) -> String {
    match delta {
        Some(Ok(Delta::Text(text))) => text.text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_stop_token_is_a_token_without_text() {
    let (sender, generation, tokenizer) = scripted(&[]);
    let count = send(&sender, &tokenizer, "one");
    sender.try_send(Event::Stop(Token { id: IM_END, logprobs: None })).unwrap();
    sender.try_send(Event::Finished(FinishReason::StopToken(IM_END))).unwrap();
    let answer = generation.collect().await.unwrap();
    assert_eq!((answer.text.as_str(), answer.tokens.len()), ("one", count + 1));
    let end = answer.tokens.last().unwrap();
    assert_eq!(
        (end.id, end.is_end, answer.finished.usage.completion_tokens),
        (IM_END, true, count + 1)
    );
    assert!(answer.tokens[..count].iter().all(|token| !token.is_end));
}

#[tokio::test]
async fn events_that_are_ready_come_as_one_piece() {
    let (sender, mut generation, tokenizer) = scripted(&[]);
    sender.try_send(Event::Started { cached_tokens: 2 }).unwrap();
    let mut count = send(&sender, &tokenizer, "one two");
    assert_eq!(text(generation.next().await), "one two");
    count += send(&sender, &tokenizer, " three");
    sender.try_send(Event::Finished(FinishReason::StopToken(IM_END))).unwrap();
    assert_eq!(text(generation.next().await), " three");
    let usage = Usage {
        prompt_tokens: 3,
        cached_tokens: 2,
        completion_tokens: count + 1,
        ..Usage::default()
    };
    let Some(Ok(Delta::Finished(Finished { reason: Finish::Stop, stop: None, usage: took }))) =
        generation.next().await
    else {
        panic!("the end is missing")
    };
    let Usage { reading, answering, .. } = took;
    assert_eq!(took, Usage { reading, answering, ..usage });
    assert_eq!(generation.next().await, None);
    assert!(sender.is_closed());
}

#[tokio::test]
async fn progress_comes_before_the_text_and_is_no_end_of_reading() {
    let (sender, mut generation, tokenizer) = scripted(&[]);
    sender.try_send(Event::Started { cached_tokens: 1 }).unwrap();
    for processed_tokens in [1, 3] {
        sender.try_send(Event::Prefill { processed_tokens }).unwrap();
    }
    tokio::select! {
        biased;
        () = generation.prompt_read() => panic!("no token has been generated"),
        () = std::future::ready(()) => {}
    }
    send(&sender, &tokenizer, "one");
    sender.try_send(Event::Finished(FinishReason::Complete)).unwrap();
    generation.prompt_read().await;
    for expected in [1, 3] {
        let Some(Ok(Delta::Progress(progress))) = generation.next().await else {
            panic!("no progress")
        };
        let PromptProgress { total_tokens, cached_tokens, processed_tokens, .. } = progress;
        assert_eq!((total_tokens, cached_tokens, processed_tokens), (3, 1, expected));
    }
    assert_eq!(generation.collect().await.unwrap().text, "one");
}

#[tokio::test]
async fn nothing_of_or_after_a_stop_string_appears() {
    let (sender, mut generation, tokenizer) = scripted(&["\nUser:"]);
    send(&sender, &tokenizer, "Hi\nUs");
    assert_eq!(text(generation.next().await), "Hi");
    send(&sender, &tokenizer, "er: more");
    sender.try_send(Event::Failed(JobError::ShuttingDown)).unwrap();
    match generation.next().await {
        Some(Ok(Delta::Finished(finished))) => assert_eq!(finished.reason, Finish::Stop),
        other => panic!("{other:?}"),
    }
    assert_eq!(generation.next().await, None);
    assert!(sender.is_closed());
}

#[tokio::test]
async fn a_failure_follows_the_text_that_came_before_it() {
    let (sender, mut generation, tokenizer) = scripted(&[]);
    send(&sender, &tokenizer, "half");
    sender.try_send(Event::Failed(JobError::SlowClient)).unwrap();
    assert_eq!(text(generation.next().await), "half");
    assert_eq!(generation.next().await, Some(Err(JobError::SlowClient.into())));
    assert_eq!(generation.next().await, None);
}

#[tokio::test]
async fn an_engine_that_goes_away_is_an_error() {
    let (sender, mut generation, tokenizer) = scripted(&[]);
    send(&sender, &tokenizer, "half");
    drop(sender);
    assert_eq!(text(generation.next().await), "half");
    assert_eq!(generation.next().await, Some(Err(GenerateError::EngineGone)));
    assert_eq!(generation.next().await, None);
}

#[tokio::test]
async fn waiting_for_a_piece_can_be_given_up_and_taken_up_again() {
    let (sender, mut generation, tokenizer) = scripted(&[]);
    for part in ["a", "b"] {
        tokio::select! {
            biased;
            _ = generation.next() => panic!("nothing was sent"),
            () = std::future::ready(()) => {}
        }
        send(&sender, &tokenizer, part);
        assert_eq!(text(generation.next().await), part);
    }
}
