mod sampling {
    use super::super::super::common::read_fields;
    use super::super::*;
    use serde_json::{Value, json};

    fn parse(body: &Value) -> Result<Parameters, ApiError> {
        read_fields::<SamplingFields>(body)?.parameters()
    }

    #[test]
    fn every_field_arrives() {
        let parsed = parse(&json!({
            "max_tokens": 7, "temperature": 1, "top_p": 0.5, "top_k": -1, "min_p": 0.1,
            "repetition_penalty": 1.1, "presence_penalty": -2, "frequency_penalty": 2,
            "logit_bias": {"5": -100, "12": 1.5, " no": -5, "+5": 1}, "seed": -3, "stop": ["a", "b"],
            "stop_token_ids": [1, 2], "ignore_eos": true, "timeout": 0.25
        }));
        let expected = Parameters {
            max_tokens: Some(7),
            temperature: Some(1.0),
            top_p: Some(0.5),
            top_k: Some(-1),
            min_p: Some(0.1),
            repetition_penalty: Some(1.1),
            presence_penalty: Some(-2.0),
            frequency_penalty: Some(2.0),
            logit_bias: vec![(12, 1.5), (5, -100.0)],
            text_bias: vec![(" no".to_owned(), -5.0), ("+5".to_owned(), 1.0)],
            seed: Some(-3),
            stop: vec!["a".to_owned(), "b".to_owned()],
            stop_token_ids: vec![1, 2],
            ignore_eos: true,
            top_logprobs: None,
            timeout: Some(Duration::from_millis(250)),
            ..Parameters::default()
        };
        assert_eq!(parsed.unwrap(), expected);
        assert_eq!(parse(&json!({})).unwrap(), Parameters::default());
    }

    #[test]
    fn aliases_are_the_same_field() {
        assert_eq!(parse(&json!({"max_completion_tokens": 4})).unwrap().max_tokens, Some(4));
        let both = json!({"max_completion_tokens": 4, "max_tokens": 4});
        assert_eq!(parse(&both).unwrap().max_tokens, Some(4));
        let penalty = parse(&json!({"repeat_penalty": 1.5})).unwrap();
        assert_eq!(penalty.repetition_penalty, Some(1.5));
        assert_eq!(parse(&json!({"stop": "x"})).unwrap().stop, ["x"]);
    }

    #[test]
    fn faults_found_later_use_the_clients_names() {
        let names = |body| parse(&body).unwrap().names;
        let penalty = names(json!({"repeat_penalty": 99}));
        assert_eq!(penalty.repetition_penalty, "repeat_penalty");
        let both = names(json!({"repeat_penalty": 99, "repetition_penalty": 99}));
        assert_eq!(both.repetition_penalty, "repetition_penalty");
        let tokens = names(json!({"max_completion_tokens": 9}));
        assert_eq!(tokens.max_tokens, "max_completion_tokens");
    }

    #[test]
    fn faults_name_field_value_and_what_is_accepted() {
        let table = [
            (json!({"max_tokens": 0}), "max_tokens", "0"),
            (json!({"max_tokens": -4}), "max_tokens", "-4"),
            (json!({"max_completion_tokens": 0}), "max_completion_tokens", "0"),
            (
                json!({"max_completion_tokens": 4, "max_tokens": 5}),
                "max_completion_tokens",
                "which is 5",
            ),
            (json!({"seed": u64::MAX}), "seed", "18446744073709551615"),
            (json!({"top_k": u64::MAX}), "top_k", "18446744073709551615"),
            (json!({"logit_bias": {"4294967296": 1}}), "logit_bias", "4294967296"),
            (json!({"logit_bias": {"": 1}}), "logit_bias", "\"\""),
            (json!({"stop_token_ids": [1, -1]}), "stop_token_ids[1]", "-1"),
            (json!({"timeout": 0}), "timeout", "0"),
            (json!({"timeout": -1}), "timeout", "-1"),
            (json!({"timeout": 1e300}), "timeout", "seconds"),
        ];
        for (body, param, part) in table {
            let error = parse(&body).unwrap_err();
            assert_eq!(error.code, "invalid_value");
            assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
            assert!(error.message.contains(part), "{}", error.message);
            assert!(error.message.contains("expected "), "{}", error.message);
        }
    }
}

mod steering {
    use super::super::super::common::read_fields;
    use super::super::*;
    use serde_json::{Value, json};

    fn parse(body: &Value) -> Result<Parameters, ApiError> {
        let mut parameters = Parameters::default();
        read_fields::<SteeringFields>(body)?.steer(&mut parameters)?;
        Ok(parameters)
    }

    #[test]
    fn every_field_arrives() {
        let parsed = parse(&json!({
            "top_n_sigma": 1, "typical_p": 0.5, "xtc_probability": 0.25, "xtc_threshold": 0.2,
            "dry_multiplier": 0.8, "dry_base": 2, "dry_allowed_length": 3,
            "dry_penalty_last_n": -1, "dry_sequence_breakers": ["."], "min_tokens": 4,
            "bad_words": ["x"], "allowed_token_ids": [5, 6], "truncate_prompt_tokens": 7,
            "truncation_side": "right", "cache_salt": "s", "priority": -2,
            "include_stop_str_in_output": true, "skip_special_tokens": false, "prompt_logprobs": 3,
            "return_progress": true
        }));
        let expected = Parameters {
            top_n_sigma: Some(1.0),
            typical_p: Some(0.5),
            xtc_probability: Some(0.25),
            xtc_threshold: Some(0.2),
            dry: DryParameters {
                multiplier: Some(0.8),
                base: Some(2.0),
                allowed_length: Some(3),
                penalty_last_n: Some(-1),
                sequence_breakers: Some(vec![".".to_owned()]),
            },
            min_tokens: Some(4),
            bad_words: vec!["x".to_owned()],
            allowed_token_ids: Some(vec![5, 6]),
            truncate_prompt_tokens: Some(7),
            truncation_side: Side::Right,
            cache_salt: Some("s".to_owned()),
            priority: -2,
            include_stop: true,
            spell_special: true,
            prompt_logprobs: Some(3),
            progress: true,
            ..Parameters::default()
        };
        assert_eq!(parsed.unwrap(), expected);
        assert_eq!(parse(&json!({"cache_salt": ""})).unwrap(), Parameters::default());
        let context = parse(&json!({"truncate_prompt_tokens": -1})).unwrap();
        assert_eq!(context.truncate_prompt_tokens, Some(u64::MAX));
    }

    #[test]
    fn faults_name_the_field() {
        for (body, param) in [
            (json!({"min_tokens": -1}), "min_tokens"),
            (json!({"dry_allowed_length": -1}), "dry_allowed_length"),
            (json!({"dry_sequence_breakers": "x"}), "dry_sequence_breakers"),
            (json!({"allowed_token_ids": [1, -1]}), "allowed_token_ids[1]"),
            (json!({"truncate_prompt_tokens": -2}), "truncate_prompt_tokens"),
            (json!({"truncation_side": "middle"}), "truncation_side"),
            (json!({"priority": 4_294_967_296_u64}), "priority"),
            (json!({"bad_words": [1]}), "bad_words[0]"),
        ] {
            assert_eq!(parse(&body).unwrap_err().param.as_deref(), Some(param));
        }
    }
}
