use super::super::fixtures::demo_folder;
use super::super::options::{GeneratorOptions, SamplingDefaults};
use super::super::request::{Parameters, Prompt, TextDelta};
use super::*;
use phi4d_engine::{self as engine, Engine};
use phi4d_model::ModelLimits;
use phi4d_model::fake::FakeRunner;

fn started() -> (Generator, Engine) {
    let limits =
        ModelLimits { vocab_size: 1024, context_tokens: 512, ..FakeRunner::small_limits(8) };
    let (runner, control) = FakeRunner::new(limits);
    let engine_options =
        engine::Options { max_running: 4, queue: 8, draft_tokens: 0, ..engine::Options::default() };
    let engine = engine::start(Box::new(runner), control as _, engine_options).unwrap();
    let options = GeneratorOptions {
        eos_token_ids: vec![1001, 1009],
        bos_token_id: 1001,
        defaults: SamplingDefaults { temperature: 1.0, top_p: 1.0, ..SamplingDefaults::default() },
        close_objects: true,
        request_timeout: None,
        forms: std::sync::Arc::new(crate::ThreadForms::default()),
    };
    (Generator::load(&demo_folder(), engine.handle(), options).unwrap(), engine)
}

fn request(parameters: Parameters) -> Request {
    let parameters =
        Parameters { max_tokens: Some(8), ignore_eos: true, seed: Some(40), ..parameters };
    Request { prompts: vec![Prompt::Tokens(vec![1])], parameters, ..Request::default() }
}

/// `request` with other prompts and copies.
fn of(prompts: &[Prompt], copies: Copies, request: &Request) -> Request {
    Request { prompts: prompts.to_vec(), copies, ..request.clone() }
}

fn ids(answer: &Answer) -> Vec<u32> {
    answer.tokens.iter().map(|token| token.id).collect()
}

async fn alone(generator: &Generator, prompt: &Prompt, seed: i64) -> Vec<u32> {
    let mut request = request(Parameters::default());
    request.prompts = vec![prompt.clone()];
    request.parameters.seed = Some(seed);
    ids(&generator.start(request).await.unwrap().collect().await.unwrap())
}

#[tokio::test]
async fn copies_are_what_their_seeds_give_alone_and_share_the_prompt() {
    let (generator, engine) = started();
    let prompts = vec![Prompt::Tokens((1..200).collect()), Prompt::Tokens(vec![7, 8, 9])];
    let copies = Copies { wanted: 3, made: 3 };
    let request = request(Parameters::default());
    let mut choices = generator.start_all(of(&prompts, copies, &request)).await.unwrap();
    assert_eq!(choices.prompt_tokens(), 202);
    assert_eq!(choices.prompts().map(<[u32]>::len).collect::<Vec<_>>(), [199, 3]);
    let (answers, usage) = choices.collect().await.unwrap();
    assert_eq!(answers.len(), 6);
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (202, 48));
    // Copies after the first had all but the last token of the longer prompt in the cache.
    assert_eq!(answers[0].finished.usage.cached_tokens, 0);
    assert!(answers[1..3].iter().all(|answer| answer.finished.usage.cached_tokens >= 128));
    for (index, answer) in answers.iter().enumerate() {
        let seed = 40 + i64::try_from(index % 3).unwrap();
        assert_eq!(ids(answer), alone(&generator, &prompts[index / 3], seed).await, "{index}");
    }
    assert_ne!(ids(&answers[0]), ids(&answers[1]));
    drop(engine);
}

#[tokio::test]
async fn a_prompt_is_read_once_and_a_list_is_checked_once_for_all_copies() {
    let (generator, _engine) = started();
    let text = Prompt::Text { text: "hello ".repeat(20), parse_special: false };
    let lists = Parameters {
        allowed_token_ids: Some((0..1000).cycle().take(20_000).collect()),
        bad_words: vec!["no".to_owned(); 9],
        stop: vec!["end".to_owned()],
        ..Parameters::default()
    };
    let copies = Copies { wanted: 4, made: 4 };
    let mut choices = generator.prepare_all(of(&[text], copies, &request(lists))).await.unwrap();
    let sampling = choices.plan.as_ref().unwrap().checked.sampling.clone();
    choices.begin().await.unwrap();
    let first = choices.prompts().next().unwrap();
    assert!(choices.generations.iter().all(|copy| std::ptr::eq(copy.prompt_ids(), first)));
    assert_eq!(sampling.bad_words.len(), 2);
    assert_eq!(sampling.allowed_tokens, Some((0..1000).collect()));
}

#[tokio::test]
async fn tokens_that_nobody_read_count_when_the_work_is_stopped() {
    let (generator, engine) = started();
    let copies = Copies { wanted: 2, made: 2 };
    let prompts = vec![Prompt::Tokens(vec![5, 6])];
    let request = request(Parameters::default());
    let mut choices = generator.start_all(of(&prompts, copies, &request)).await.unwrap();
    assert_eq!(choices.most_tokens(), 2 + 2 * 8);
    while engine.handle().stats().finished < 2 {
        tokio::task::yield_now().await;
    }
    let usage = choices.stop();
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (2, 16));
    assert_eq!(choices.stop(), usage);
}

#[tokio::test]
async fn only_answers_of_no_stated_length_are_limited() {
    let (generator, _engine) = started();
    let prepare = |max_tokens| {
        let mut request = request(Parameters::default());
        request.parameters.max_tokens = max_tokens;
        generator.prepare_all(of(&[Prompt::Tokens(vec![5, 6])], Copies::default(), &request))
    };
    for (given, most) in [(Some(8), 2 + 8), (None, 2 + 5)] {
        let mut choices = prepare(given).await.unwrap();
        choices.limit_open_answers(5);
        assert_eq!(choices.most_tokens(), most);
        choices.begin().await.unwrap();
        let (_, usage) = choices.collect().await.unwrap();
        assert_eq!(usage.prompt_tokens + usage.completion_tokens, most);
    }
    assert_eq!(prepare(None).await.unwrap().most_tokens(), 512);
}

#[tokio::test]
async fn a_stream_of_copies_says_what_the_whole_answers_say() {
    let (generator, _engine) = started();
    let copies = Copies { wanted: 2, made: 2 };
    let request = request(Parameters::default());
    let prompts = vec![Prompt::Tokens(vec![5, 6]), Prompt::Tokens(vec![9])];
    let mut whole = generator.start_all(of(&prompts, copies, &request)).await.unwrap();
    let (answers, usage) = whole.collect().await.unwrap();
    let mut choices = generator.start_all(of(&prompts, copies, &request)).await.unwrap();
    let mut texts = vec![TextDelta::default(); 4];
    while let Some((index, delta)) = choices.next().await {
        if let Delta::Text(delta) = delta.unwrap() {
            texts[index].text.push_str(&delta.text);
            texts[index].tokens.extend(delta.tokens);
        }
    }
    for (text, answer) in texts.iter().zip(&answers) {
        assert_eq!((&text.text, &text.tokens), (&answer.text, &answer.tokens));
    }
    let streamed = choices.usage();
    assert_eq!(streamed.completion_tokens, usage.completion_tokens);
    assert_eq!(streamed.prompt_tokens, usage.prompt_tokens);
    assert!(choices.next().await.is_none());
}

#[tokio::test]
async fn best_of_gives_out_the_likeliest_per_token() {
    let (generator, _engine) = started();
    let prompts = vec![Prompt::Tokens(vec![5, 6])];
    let request = request(Parameters::default());
    let all = Copies { wanted: 4, made: 4 };
    let mut scored = request.clone();
    scored.parameters.top_logprobs = Some(0);
    let mut every = generator.start_all(of(&prompts, all, &scored)).await.unwrap();
    let (every, _) = every.collect().await.unwrap();
    let best = every.iter().max_by(|a, b| likelihood(a).total_cmp(&likelihood(b))).unwrap();
    let one = Copies { wanted: 1, made: 4 };
    let (answers, usage) =
        generator.start_all(of(&prompts, one, &request)).await.unwrap().collect().await.unwrap();
    assert_eq!(answers.len(), 1);
    assert_eq!(ids(&answers[0]), ids(best));
    assert_eq!(usage.completion_tokens, 32);
}

#[tokio::test]
async fn too_many_answers_are_refused() {
    let (generator, _engine) = started();
    let request = request(Parameters::default());
    let prompts = || vec![Prompt::Tokens(vec![1]); 2];
    for (wanted, made, field) in [(65, 65, "n"), (1, 65, "best_of"), (0, 0, "n"), (3, 2, "n")] {
        let copies = Copies { wanted, made };
        let error = generator.start_all(of(&prompts(), copies, &request)).await.unwrap_err();
        assert!(error.to_string().starts_with(&format!("{field}: ")), "{error}");
    }
}

#[tokio::test]
async fn a_fault_or_a_drop_leaves_nothing_running() {
    let (generator, engine) = started();
    let request = request(Parameters::default());
    let prompts = vec![Prompt::Tokens(vec![1]), Prompt::Tokens(vec![2000])];
    let copies = Copies::default();
    assert!(generator.start_all(of(&prompts, copies, &request)).await.is_err());
    let prompts = vec![Prompt::Tokens(vec![1])];
    drop(generator.start_all(of(&prompts, Copies { wanted: 2, made: 2 }, &request)).await.unwrap());
    let handle = engine.handle();
    // A job behind them all: when it has ended, so have they.
    generator.start(request).await.unwrap().collect().await.unwrap();
    let ends = handle.stats();
    assert_eq!(ends.accepted, ends.finished + ends.cancelled + ends.failed);
}
