use super::super::options::SamplingDefaults;
use super::*;
use crate::{Message, Role};

const VOCAB: usize = 1000;

fn options() -> GeneratorOptions {
    GeneratorOptions {
        eos_token_ids: vec![7, 9],
        bos_token_id: 7,
        defaults: SamplingDefaults { temperature: 0.7, top_p: 0.9, ..SamplingDefaults::default() },
        close_objects: true,
        request_timeout: Some(Duration::from_secs(60)),
        forms: std::sync::Arc::new(crate::ThreadForms::default()),
    }
}

fn check(given: &Parameters) -> Result<Checked, GenerateError> {
    parameters(given, &options(), VOCAB)
}

/// The faulty field, value and what is accepted.
fn fault(given: &Parameters) -> (String, String, String) {
    match check(given) {
        Err(GenerateError::InvalidField { field, value, accepted }) => (field, value, accepted),
        other => panic!("{given:?} gave {other:?}"),
    }
}

#[test]
fn defaults_are_the_server_s() {
    let checked = check(&Parameters::default()).unwrap();
    assert_eq!(
        checked,
        Checked {
            prompt_logprobs: None,
            sampling: Sampling { temperature: 0.7, top_p: 0.9, ..Sampling::default() },
            stop_tokens: [7, 9].into(),
            max_tokens: None,
            timeout: Some(Duration::from_secs(60)),
        }
    );
}

#[test]
fn every_field_reaches_the_engine() {
    let checked = check(&Parameters {
        max_tokens: Some(5),
        temperature: Some(0.5),
        top_p: Some(0.25),
        top_k: Some(40),
        min_p: Some(0.125),
        repetition_penalty: Some(1.5),
        presence_penalty: Some(-2.0),
        frequency_penalty: Some(2.0),
        logit_bias: vec![(3, -100.0), (999, 100.0)],
        seed: Some(-1),
        stop: vec!["x".into()],
        stop_token_ids: vec![30, 9],
        ignore_eos: false,
        top_logprobs: Some(20),
        timeout: Some(Duration::from_secs(1)),
        ..Parameters::default()
    })
    .unwrap();
    let expected = Sampling {
        temperature: 0.5,
        top_k: 40,
        top_p: 0.25,
        min_p: 0.125,
        repetition_penalty: 1.5,
        presence_penalty: -2.0,
        frequency_penalty: 2.0,
        logit_bias: [(3, -100.0), (999, 100.0)].into(),
        seed: Some(u64::MAX),
        top_logprobs: Some(20),
        ..Sampling::default()
    };
    assert_eq!(checked.sampling, expected);
    assert_eq!(checked.stop_tokens, [7, 9, 30].into());
    assert_eq!(checked.max_tokens, Some(5));
    assert_eq!(checked.timeout, Some(Duration::from_secs(1)));
}

#[test]
fn numbers_outside_their_ranges_are_refused_by_name_and_value() {
    type Set = fn(&mut Parameters, Option<f64>);
    let fields: [(&str, Set, f64, f64, bool); 6] = [
        ("temperature", |p, v| p.temperature = v, 0.0, 2.0, true),
        ("top_p", |p, v| p.top_p = v, 0.0, 1.0, false),
        ("min_p", |p, v| p.min_p = v, 0.0, 1.0, true),
        ("repetition_penalty", |p, v| p.repetition_penalty = v, 0.0, 10.0, false),
        ("presence_penalty", |p, v| p.presence_penalty = v, -2.0, 2.0, true),
        ("frequency_penalty", |p, v| p.frequency_penalty = v, -2.0, 2.0, true),
    ];
    for (name, set, least, most, least_included) in fields {
        let with = |value: f64| {
            let mut given = Parameters::default();
            set(&mut given, Some(value));
            given
        };
        let middle = f64::midpoint(least, most);
        let mut accepted = vec![most, middle, least + 1e-300];
        let mut refused = vec![most + 1e-9, least - 1e-9, f64::NAN, f64::INFINITY, -f64::INFINITY];
        if least_included { &mut accepted } else { &mut refused }.push(least);
        for value in accepted {
            assert!(check(&with(value)).is_ok(), "{name} {value}");
        }
        for value in refused {
            let (field, shown, range) = fault(&with(value));
            assert_eq!((field.as_str(), shown), (name, value.to_string()));
            assert!(range.contains(&most.to_string()), "{range}");
        }
    }
}

#[test]
fn values_that_f32_cannot_hold_stay_in_range() {
    let given = Parameters {
        temperature: Some(1e-9),
        top_p: Some(1e-60),
        repetition_penalty: Some(1e-60),
        ..Parameters::default()
    };
    let sampling = check(&given).unwrap().sampling;
    assert_eq!(sampling.temperature, 0.0);
    assert!(sampling.top_p > 0.0 && sampling.repetition_penalty > 0.0);
}

#[test]
fn the_other_fields_are_refused_by_name_and_value() {
    let default = Parameters::default;
    let long = "9".repeat(17);
    let table = [
        (Parameters { max_tokens: Some(0), ..default() }, "max_tokens", "0"),
        (Parameters { top_k: Some(-2), ..default() }, "top_k", "-2"),
        (Parameters { top_logprobs: Some(21), ..default() }, "top_logprobs", "21"),
        (Parameters { logit_bias: vec![(0, 0.0), (1000, 1.0)], ..default() }, "logit_bias", "1000"),
        (Parameters { logit_bias: vec![(5, 100.5)], ..default() }, "logit_bias[5]", "100.5"),
        (Parameters { logit_bias: vec![(5, f64::NAN)], ..default() }, "logit_bias[5]", "NaN"),
        (
            Parameters { logit_bias: vec![(5, 0.0); 1001], ..default() },
            "logit_bias",
            "1001 entries",
        ),
        (Parameters { stop: vec!["a".into(), String::new()], ..default() }, "stop[1]", "\"\""),
        (Parameters { stop: vec![long; 17], ..default() }, "stop", "17 strings"),
        (
            Parameters { stop_token_ids: vec![1, u32::MAX], ..default() },
            "stop_token_ids[1]",
            "4294967295",
        ),
        (Parameters { timeout: Some(Duration::ZERO), ..default() }, "timeout", "0"),
    ];
    for (given, expected_field, expected_value) in table {
        let (field, value, accepted) = fault(&given);
        assert_eq!((field.as_str(), value.as_str()), (expected_field, expected_value));
        assert!(!accepted.is_empty());
    }
}

#[test]
fn edges_that_mean_something_are_accepted() {
    for (given, expected) in [(0, 0), (-1, 0), (1, 1), (999, 999), (1000, 0), (i64::MAX, 0)] {
        let parameters = Parameters { top_k: Some(given), ..Parameters::default() };
        assert_eq!(check(&parameters).unwrap().sampling.top_k, expected, "{given}");
    }
    let parameters = Parameters {
        ignore_eos: true,
        stop: vec!["x".into(); 16],
        max_tokens: Some(u64::MAX),
        timeout: Some(Duration::MAX),
        ..Parameters::default()
    };
    let checked = check(&parameters).unwrap();
    assert!(checked.stop_tokens.is_empty());
    assert_eq!(checked.timeout, Some(Duration::from_secs(60)));
    let unlimited = GeneratorOptions { request_timeout: None, ..options() };
    let checked = super::parameters(&Parameters::default(), &unlimited, VOCAB).unwrap();
    assert_eq!(checked.timeout, None);
}

#[test]
fn prompts_are_checked_before_they_are_read() {
    let refused = |given: Prompt| match prompt(&given, VOCAB) {
        Err(GenerateError::InvalidField { field, .. }) => Some(field),
        Ok(()) => None,
        Err(other) => panic!("{other:?}"),
    };
    assert_eq!(refused(Prompt::chat(Vec::new())).as_deref(), Some("messages"));
    assert_eq!(refused(Prompt::Tokens(Vec::new())).as_deref(), Some("prompt"));
    assert_eq!(refused(Prompt::Tokens(vec![0, 1, 1000])).as_deref(), Some("prompt[2]"));
    assert_eq!(refused(Prompt::Tokens(vec![999])), None);
    assert_eq!(refused(Prompt::Text { text: String::new(), parse_special: false }), None);
    let message = Message::text(Role::User, "");
    assert_eq!(refused(Prompt::chat(vec![message])), None);
}

#[test]
fn the_answer_gets_what_fits_and_at_least_one_token() {
    assert_eq!(room(10, 64, None), Ok(54));
    assert_eq!(room(10, 64, Some(5)), Ok(5));
    assert_eq!(room(10, 64, Some(1000)), Ok(54));
    assert_eq!(room(63, 64, Some(1000)), Ok(1));
    for prompt_tokens in [64, 65, 1000] {
        let refused = room(prompt_tokens, 64, Some(1));
        assert_eq!(
            refused,
            Err(GenerateError::ContextExceeded { prompt_tokens, context_tokens: 64 })
        );
    }
}

#[test]
fn long_values_are_shown_shortened() {
    let GenerateError::InvalidField { value, .. } = invalid("f", "é".repeat(500), "less") else {
        panic!("another error");
    };
    assert_eq!(value, format!("{}…", "é".repeat(60)));
}

#[test]
fn min_tokens_keeps_the_stop_tokens_out_and_stays_below_max_tokens() {
    let given = Parameters { min_tokens: Some(3), max_tokens: Some(3), ..Parameters::default() };
    let checked = check(&given).unwrap();
    assert_eq!((checked.sampling.min_tokens, checked.sampling.late_tokens), (3, [7, 9].into()));
    let (field, value, accepted) = fault(&Parameters { max_tokens: Some(2), ..given });
    assert_eq!((field.as_str(), value.as_str()), ("min_tokens", "3"));
    assert_eq!(accepted, "at most max_tokens, which is 2");
}

#[test]
fn allowed_token_ids_are_some_and_the_model_s() {
    let with =
        |ids: &[u32]| Parameters { allowed_token_ids: Some(ids.to_vec()), ..Parameters::default() };
    assert_eq!(check(&with(&[3, 5])).unwrap().sampling.allowed_tokens, Some([3, 5].into()));
    assert_eq!(fault(&with(&[])).0, "allowed_token_ids");
    assert_eq!(fault(&with(&[3, 1000])).0, "allowed_token_ids[1]");
    let none = Parameters { truncate_prompt_tokens: Some(0), ..Parameters::default() };
    assert_eq!(fault(&none).0, "truncate_prompt_tokens");
}

#[test]
fn template_variables_of_the_server_s_own_are_refused() {
    let message = Message::text(Role::User, "x");
    let Prompt::Chat(mut chat) = Prompt::chat(vec![message]) else { panic!() };
    chat.variables.insert("bos_token".to_owned(), "x".into());
    let error = prompt(&Prompt::Chat(chat), VOCAB).unwrap_err().to_string();
    assert!(error.starts_with("chat_template_kwargs.bos_token: "), "{error}");
}

proptest::proptest! {
    /// The engine is given the same for a list and for the list many times over, so that what is
    /// repeated costs no step anything.
    #[test]
    fn repeated_entries_leave_nothing_behind(
        allowed in proptest::collection::vec(0u32..1000, 1..50),
        stops in proptest::collection::vec(0u32..1000, 0..50),
        times in 2usize..20,
    ) {
        let given = |times: usize| {
            let repeat = |ids: &[u32]| ids.iter().cycle().take(ids.len() * times).copied().collect();
            Parameters {
                allowed_token_ids: Some(repeat(&allowed)),
                stop_token_ids: repeat(&stops),
                min_tokens: Some(3),
                ..Parameters::default()
            }
        };
        let (once, often) = (check(&given(1)).unwrap(), check(&given(times)).unwrap());
        proptest::prop_assert_eq!(&once, &often);
        for id in 0..1000 {
            let set = once.sampling.allowed_tokens.as_ref().unwrap();
            proptest::prop_assert_eq!(set.contains(id), allowed.contains(&id));
            let is_stop = stops.contains(&id) || options().eos_token_ids.contains(&id);
            proptest::prop_assert_eq!(once.stop_tokens.contains(id), is_stop);
            proptest::prop_assert_eq!(once.sampling.late_tokens.contains(id), is_stop);
        }
    }

    #[test]
    fn summed_biases_add_what_each_would(
        biases in proptest::collection::vec((0u32..40, -100i8..=100), 0..120),
    ) {
        let biases: Vec<(u32, f32)> = biases.into_iter().map(|(id, bias)| (id, bias.into())).collect();
        let mut naive = [0.0_f32; 40];
        for &(id, bias) in &biases {
            naive[id as usize] += bias;
        }
        let once = summed(biases.iter().copied());
        proptest::prop_assert!(once.windows(2).all(|pair| pair[0].0 < pair[1].0));
        let mut added = [0.0_f32; 40];
        for &(id, bias) in once.iter() {
            added[id as usize] += bias;
        }
        proptest::prop_assert_eq!(naive, added);
    }
}
