use serde_json::json;

use super::super::request::{Message, Role};
use super::*;

const MINI: &str = "{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>' + '<|end|>' }}{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}";
const FIRST: &str = "{% for message in messages %}{% if (message['role'] == 'system') %}{{'<|im_start|>system<|im_sep|>' + message['content'] + '<|im_end|>'}}{% elif (message['role'] == 'user') %}{{'<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|><|im_start|>assistant<|im_sep|>'}}{% elif (message['role'] == 'assistant') %}{{message['content'] + '<|im_end|>'}}{% endif %}{% endfor %}";
const CURRENT: &str = "{% for message in messages %}{% if (message['role'] == 'system') %}{{'<|im_start|>system<|im_sep|>' + message['content'] + '<|im_end|>'}}{% elif (message['role'] == 'user') %}{{'<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|>'}}{% elif (message['role'] == 'assistant') %}{{'<|im_start|>assistant<|im_sep|>' + message['content'] + '<|im_end|>'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}";

fn conversation() -> Vec<Message> {
    [
        (Role::System, "Be brief."),
        (Role::User, "Hi {{ 1 }}"),
        (Role::Assistant, "Hello <b>"),
        (Role::User, " ok? "),
    ]
    .map(|(role, content)| Message::text(role, content))
    .to_vec()
}

fn chat(messages: Vec<Message>) -> Chat {
    Chat { messages, ..Chat::default() }
}

fn render(source: &str) -> Result<String, String> {
    let config = json!({"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": true}});
    ChatTemplate::new(source.to_owned(), &config)
        .and_then(|template| said(&template, &chat(conversation())))
}

fn said(template: &ChatTemplate, chat: &Chat) -> Result<String, String> {
    let turn = |message: &Message| TemplateMessage {
        role: message.role.as_str(),
        content: message.content.clone(),
        tools: None,
    };
    template.render(&chat.messages.iter().map(turn).collect::<Vec<_>>(), chat)
}

#[test]
fn both_published_forms_of_phi4_s_template_give_the_same_conversation() {
    let expected = "<|im_start|>system<|im_sep|>Be brief.<|im_end|>\
        <|im_start|>user<|im_sep|>Hi {{ 1 }}<|im_end|>\
        <|im_start|>assistant<|im_sep|>Hello <b><|im_end|>\
        <|im_start|>user<|im_sep|> ok? <|im_end|><|im_start|>assistant<|im_sep|>";
    assert_eq!(render(FIRST).unwrap(), expected);
    assert_eq!(render(CURRENT).unwrap(), expected);
}

#[test]
fn phi4_mini_s_template_works() {
    assert_eq!(
        render(MINI).unwrap(),
        "<|system|>Be brief.<|end|><|user|>Hi {{ 1 }}<|end|><|assistant|>Hello <b><|end|>\
         <|user|> ok? <|end|><|assistant|>"
    );
}

#[test]
fn what_transformers_offers_templates_is_there() {
    for (source, expected) in [
        ("{{ bos_token }}{{ eos_token }}", "<s></s>"),
        ("{{ messages[1]['content'].split(' ')[0].lower() }}", "hi"),
        ("{{ messages[3].content.strip() }}|{{ messages[3].content|trim }}", "ok?|ok?"),
        ("{{ messages[0] | tojson }}", r#"{"role": "system", "content": "Be brief."}"#),
        ("{{ '<é>' | tojson }}", "\"<é>\""),
        ("{{ [1, {'a': true}] | tojson(indent=2) }}", "[\n  1,\n  {\n    \"a\": true\n  }\n]"),
        ("{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}x{% endfor %}", "x"),
        (
            "{%- set ns = namespace(n=0) -%}\n  {% for m in messages %}\n    {% set ns.n = ns.n + 1 %}\n  {% endfor %}\n{{ ns.n }}\n",
            "4",
        ),
        ("{{ (strftime_now('%Y') | int) > 2000 }}", "True"),
        ("{{ messages[-1]['role'] }}{{ nothing }}", "user"),
    ] {
        assert_eq!(render(source).as_deref(), Ok(expected), "{source}");
    }
}

#[test]
fn a_template_can_refuse_a_conversation() {
    assert_eq!(render("{{ raise_exception('no system role') }}").unwrap_err(), "no system role");
    let error = render("line\n{{ messages[0]['content'].frobnicate() }}").unwrap_err();
    assert!(error.contains("frobnicate") && error.contains("line 2"), "{error}");
}

#[test]
fn endless_work_is_cut_short() {
    for source in [
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(t='x') %}{% for i in range(64) %}{% set ns.t = ns.t + ns.t %}{% endfor %}",
        "{{ 'x' * 100000000000 }}",
    ] {
        let error = render(source).unwrap_err();
        assert!(error.contains("too much work") || error.contains("large"), "{source}: {error}");
    }
}

#[test]
fn long_conversations_have_work_enough() {
    let template = ChatTemplate::new(CURRENT.to_owned(), &Json::Null).unwrap();
    let messages: Vec<Message> = conversation().into_iter().cycle().take(100_000).collect();
    assert!(said(&template, &chat(messages)).is_ok());
}

/// A folder with the given tokenizer_config.json and, perhaps, chat_template.jinja.
fn load(config: &str, file: Option<&str>) -> Result<Option<String>, String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
    if let Some(source) = file {
        std::fs::write(folder.path().join("chat_template.jinja"), source).unwrap();
    }
    match ChatTemplate::load(folder.path()) {
        Ok(template) => Ok(template.map(|template| template.source().to_owned())),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn the_template_is_found_where_folders_keep_it() {
    let inline = r#"{"chat_template": "inline"}"#;
    assert_eq!(load(inline, None), Ok(Some("inline".into())));
    assert_eq!(load(inline, Some("file")), Ok(Some("file".into())));
    assert_eq!(load("{}", Some("file")), Ok(Some("file".into())));
    assert_eq!(load("{}", None), Ok(None));
    let named = r#"{"chat_template": [{"name": "tool_use", "template": "t"},
                                      {"name": "default", "template": "d"}]}"#;
    assert_eq!(load(named, None), Ok(Some("d".into())));
}

#[test]
fn unusable_templates_are_refused_at_load() {
    for (config, file, expected) in [
        (r#"{"chat_template": "{% if %}"}"#, None, "tokenizer_config.json"),
        ("{}", Some("{{ x"), "chat_template.jinja"),
        (r#"{"chat_template": [{"name": "rag", "template": "t"}]}"#, None, "\"default\""),
        (r#"{"chat_template": 5}"#, None, "neither text"),
        ("{", None, "tokenizer_config.json"),
    ] {
        let error = load(config, file).unwrap_err();
        assert!(error.contains(expected), "{config} {file:?}: {error}");
    }
    let missing = ChatTemplate::load(Path::new("/nonexistent")).unwrap_err();
    assert!(missing.to_string().contains("tokenizer_config.json"));
}

#[test]
fn the_ending_is_as_asked() {
    let template = ChatTemplate::new(CURRENT.to_owned(), &json!({})).unwrap();
    let mut messages = conversation();
    messages[3].role = Role::Assistant;
    let with = |ending| said(&template, &Chat { ending, ..chat(messages.clone()) }).unwrap();
    let closed = with(Ending::Closed);
    assert!(closed.ends_with("<|im_start|>assistant<|im_sep|> ok? <|im_end|>"), "{closed}");
    assert_eq!(with(Ending::ModelTurn), format!("{closed}<|im_start|>assistant<|im_sep|>"));
    assert_eq!(with(Ending::Open), closed.trim_end_matches(" <|im_end|>"));
    let empty = vec![Message::text(Role::Assistant, " ")];
    let refused = said(&template, &Chat { ending: Ending::Open, ..chat(empty) }).unwrap_err();
    assert!(refused.contains("continue_final_message"));
}

#[test]
fn variables_reach_the_template() {
    let source = "{{ mood }}{{ deep.list[1] }}{{ messages | length }}".to_owned();
    let template = ChatTemplate::new(source, &json!({})).unwrap();
    let variables = json!({"mood": "calm", "deep": {"list": [1, 2]}, "messages": "no"});
    let variables = variables.as_object().unwrap().clone();
    assert_eq!(said(&template, &Chat { variables, ..chat(conversation()) }).unwrap(), "calm24");
}

/// Some templates mark the model's part of a conversation for training, which changes no text.
#[test]
fn generation_tags_change_nothing() {
    let template = |open: &str, close: &str| {
        let source = format!(
            "{{% for m in messages %}}\n  {open}\n{{{{ m['content'] }}}}\n  {close}\n.{{% endfor %}}"
        );
        let template = ChatTemplate::new(source, &serde_json::json!({})).unwrap();
        let messages =
            [TemplateMessage::text("user", "a"), TemplateMessage::text("assistant", "b")];
        template.render(&messages, &Chat::default()).unwrap()
    };
    let pairs =
        [("{% ", " %}"), ("{%- ", " -%}"), ("{%", "%}"), ("{%+ ", " %}"), ("{%-\n", "\n%}")];
    for (open, close) in pairs {
        let tag = |name: &str| format!("{open}{name}{close}");
        let marked = template(&tag("generation"), &tag("endgeneration"));
        assert_eq!(marked, template(&tag("if true"), &tag("endif")), "{open}{close}");
    }
}
