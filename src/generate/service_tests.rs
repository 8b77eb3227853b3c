use std::sync::atomic::Ordering;
use std::time::Duration;

use super::super::fixtures::demo_folder;
use super::super::options::SamplingDefaults;
use super::super::request::{Finish, Finished, Message, Parameters, Request, Role, Usage};
use super::super::tokenizer::Tokenizer;
use super::*;
use phi4d_engine::{CallerId, Engine, JobError, SubmitError};
use phi4d_model::ModelLimits;
use phi4d_model::fake::{FakeControl, FakeRunner};

const IM_END: u32 = 1009;

fn options() -> GeneratorOptions {
    GeneratorOptions {
        eos_token_ids: vec![1001, IM_END],
        bos_token_id: 1001,
        defaults: SamplingDefaults { temperature: 0.0, top_p: 1.0, ..SamplingDefaults::default() },
        close_objects: true,
        request_timeout: None,
        forms: std::sync::Arc::new(crate::ThreadForms::default()),
    }
}

/// A vocabulary of the demo's size, 64 tokens of context.
fn limits() -> ModelLimits {
    ModelLimits { vocab_size: 1024, ..FakeRunner::small_limits(3) }
}

fn started(limits: ModelLimits) -> (Generator, Engine, Arc<FakeControl>) {
    let (runner, control) = FakeRunner::new(limits);
    let engine_options = engine::Options { max_running: 2, queue: 2, ..engine::Options::default() };
    let engine =
        engine::start(Box::new(runner), Arc::clone(&control) as _, engine_options).unwrap();
    let generator = Generator::load(&demo_folder(), engine.handle().clone(), options()).unwrap();
    (generator, engine, control)
}

fn request(text: &str, parameters: Parameters) -> Request {
    Request {
        prompts: vec![Prompt::Text { text: text.to_owned(), parse_special: false }],
        parameters,
        weight: text.len(),
        ..Request::default()
    }
}

/// What the fake model says greedily after `prompt`, without an engine.
fn expected(prompt: &[u32], max_tokens: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    while tokens.len() < prompt.len() + max_tokens {
        tokens.push(FakeRunner::next_token(&tokens, 1024));
    }
    tokens.split_off(prompt.len())
}

fn text_of(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let bytes: Vec<u8> =
        ids.iter().flat_map(|&id| tokenizer.vocabulary().text_bytes(id).to_vec()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn a_request_gives_the_model_s_text_and_its_usage() {
    let (generator, _engine, _) = started(limits());
    let prompt = generator
        .tokenize(request("hello", Parameters::default()).prompts.remove(0), CallerId::default(), 5)
        .await
        .unwrap();
    let parameters = Parameters { max_tokens: Some(12), ignore_eos: true, ..Parameters::default() };
    let generation = generator.start(request("hello", parameters)).await.unwrap();
    assert_eq!(generation.usage().prompt_tokens, prompt.len());
    let answer = generation.collect().await.unwrap();
    let ids = expected(&prompt, 12);
    assert_eq!(answer.text, text_of(generator.tokenizer(), &ids));
    assert_eq!(answer.tokens.iter().map(|t| t.id).collect::<Vec<_>>(), ids);
    let usage = Usage {
        prompt_tokens: prompt.len(),
        cached_tokens: 0,
        completion_tokens: 12,
        reading: answer.finished.usage.reading,
        answering: answer.finished.usage.answering,
        ..Usage::default()
    };
    assert_eq!(answer.finished, Finished { reason: Finish::Length, stop: None, usage });
}

#[tokio::test]
async fn a_stop_token_counts_and_says_nothing() {
    let (generator, _engine, _) = started(limits());
    let prompt = generator
        .tokenize(request("hello", Parameters::default()).prompts.remove(0), CallerId::default(), 5)
        .await
        .unwrap();
    let ids = expected(&prompt, 4);
    assert!(!ids[..3].contains(&ids[3]));
    let parameters = Parameters {
        stop_token_ids: vec![ids[3]],
        ignore_eos: true,
        top_logprobs: Some(2),
        ..Parameters::default()
    };
    let answer =
        generator.start(request("hello", parameters)).await.unwrap().collect().await.unwrap();
    assert_eq!(answer.finished.reason, Finish::Stop);
    assert_eq!(answer.finished.usage.completion_tokens, 4);
    // It has its entry, but no text.
    assert_eq!(answer.tokens.iter().map(|t| t.id).collect::<Vec<_>>(), ids);
    for token in &answer.tokens {
        let logprobs = token.logprobs.as_ref().unwrap();
        assert_eq!(logprobs.top.len(), 2);
        assert_eq!((logprobs.top[0].0, logprobs.top[0].2), (token.id, logprobs.chosen));
    }
}

#[tokio::test]
async fn a_stop_string_ends_the_job_in_the_engine() {
    let (generator, engine, control) = started(limits());
    control.step_us.store(200, Ordering::Release);
    let free = Parameters { ignore_eos: true, max_tokens: Some(40), ..Parameters::default() };
    let whole =
        generator.start(request("hello", free.clone())).await.unwrap().collect().await.unwrap();
    let (cut, _) = whole.text.char_indices().nth(6).unwrap();
    let stop: String = whole.text[cut..].chars().take(3).collect();
    let cut = whole.text.find(&stop).unwrap();
    let parameters = Parameters { stop: vec!["never".into(), stop], ..free };
    let answer =
        generator.start(request("hello", parameters)).await.unwrap().collect().await.unwrap();
    assert_eq!(answer.text, whole.text[..cut]);
    assert_eq!(answer.finished.reason, Finish::Stop);
    assert!(answer.finished.usage.completion_tokens < 40);
    let handle = engine.handle().clone();
    let settled = tokio::task::spawn_blocking(move || {
        let limit = std::time::Instant::now() + Duration::from_secs(10);
        while handle.stats().cancelled != 1 && std::time::Instant::now() < limit {
            std::thread::yield_now();
        }
        handle.stats()
    });
    assert_eq!(settled.await.unwrap().cancelled, 1);
}

#[tokio::test]
async fn dropping_a_generation_cancels_it() {
    let (generator, engine, control) = started(limits());
    control.step_us.store(500, Ordering::Release);
    let parameters = Parameters { ignore_eos: true, ..Parameters::default() };
    let mut generation = generator.start(request("hello", parameters)).await.unwrap();
    assert!(generation.next().await.unwrap().is_ok());
    drop(generation);
    let handle = engine.handle().clone();
    let stats = tokio::task::spawn_blocking(move || {
        let limit = std::time::Instant::now() + Duration::from_secs(10);
        while handle.stats().running != 0 && std::time::Instant::now() < limit {
            std::thread::yield_now();
        }
        handle.stats()
    });
    let stats = stats.await.unwrap();
    assert_eq!((stats.running, stats.cancelled), (0, 1));
}

#[tokio::test]
async fn what_is_wrong_is_found_before_the_queue() {
    let (generator, engine, _) = started(limits());
    let fault = |request| {
        let generator = generator.clone();
        async move { generator.start(request).await.unwrap_err() }
    };
    let hot = Parameters { temperature: Some(9.0), ..Parameters::default() };
    assert!(matches!(fault(request("x", hot)).await, GenerateError::InvalidField { .. }));
    let long = request(&"12 ".repeat(100), Parameters::default());
    let GenerateError::ContextExceeded { prompt_tokens, context_tokens } = fault(long).await else {
        panic!("another error");
    };
    assert!(prompt_tokens > context_tokens && context_tokens == 64);
    let chat = |messages| Request {
        prompts: vec![Prompt::chat(messages)],
        ..request("", Parameters::default())
    };
    assert!(matches!(fault(chat(Vec::new())).await, GenerateError::InvalidField { .. }));
    assert_eq!(engine.handle().stats().accepted, 0);
    let hello = vec![Message::text(Role::User, "hello")];
    assert!(generator.start(chat(hello)).await.is_ok());
}

#[tokio::test]
async fn the_engine_s_refusals_and_failures_come_through() {
    let (generator, engine, control) = started(limits());
    control.fail_next.store(true, Ordering::Release);
    let failed = generator.start(request("x", Parameters::default())).await.unwrap();
    let error = failed.collect().await.unwrap_err();
    assert!(matches!(error, GenerateError::Job(JobError::Model(_))), "{error:?}");
    let late = Parameters { timeout: Some(Duration::from_nanos(1)), ..Parameters::default() };
    let late = generator.start(request("x", late)).await.unwrap();
    assert_eq!(late.collect().await, Err(GenerateError::Job(JobError::DeadlineExceeded)));
    engine.handle().drain();
    let refused = generator.start(request("x", Parameters::default())).await.unwrap_err();
    assert_eq!(refused, GenerateError::Submit(SubmitError::ShuttingDown));
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    for (vocab_size, eos, expected) in
        [(1000, IM_END, "tokenizer.json"), (1024, 1024, "genai_config.json")]
    {
        let (runner, control) = FakeRunner::new(ModelLimits { vocab_size, ..limits() });
        let engine = engine::start(Box::new(runner), control, engine::Options::default()).unwrap();
        let options = GeneratorOptions { eos_token_ids: vec![eos], ..options() };
        let refused = Generator::load(&demo_folder(), engine.handle().clone(), options);
        let message = refused.unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains(&vocab_size.to_string()));
    }
}
