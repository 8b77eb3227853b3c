use serde_json::json;

use super::super::super::added::AddedToken;
use super::*;

const PHI4: &str = "{% for message in messages %}{% if (message['role'] == 'system') %}{{'<|im_start|>system<|im_sep|>' + message['content'] + '<|im_end|>'}}{% elif (message['role'] == 'user') %}{{'<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|>'}}{% elif (message['role'] == 'assistant') %}{{'<|im_start|>assistant<|im_sep|>' + message['content'] + '<|im_end|>'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}";
const MINI: &str = "{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>' + '<|end|>' }}{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}";
/// As Phi-4-reasoning's: its own system turn, whatever the request's.
const OWN_SYSTEM: &str = "{{'<|im_start|>system<|im_sep|>You are Phi.<|im_end|>'}}{% for message in messages %}{% if (message['role'] == 'user') %}{{'<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|>'}}{% elif (message['role'] == 'assistant') %}{{'<|im_start|>assistant<|im_sep|>' + message['content'] + '<|im_end|>'}}{% endif %}{% endfor %}";

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source.to_owned(), &json!({})).unwrap()
}

fn tokens(names: &[&str]) -> AddedTokens {
    let tokens = names.iter().enumerate().map(|(id, name)| {
        serde_json::from_value::<AddedToken>(json!({"id": id, "content": name})).unwrap()
    });
    AddedTokens::new(tokens.collect()).unwrap()
}

fn dialect(source: &str, names: &[&str]) -> Dialect {
    Dialect::of(Some(&template(source)), &tokens(names))
}

fn mini() -> Dialect {
    dialect(MINI, &["<|tool_call|>", "<|/tool_call|>", "<|tool|>"])
}

fn chat() -> Chat {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    let call = |id: &str, arguments: &str| ToolCall {
        id: id.to_owned(),
        name: "weather".to_owned(),
        arguments: arguments.to_owned(),
    };
    let result = |id: &str, content: &str| Message {
        answers: Some(id.to_owned()),
        ..Message::text(Role::Tool, content)
    };
    Chat {
        messages: vec![
            Message::text(Role::User, "Oslo?"),
            Message {
                calls: vec![call("1", "{\"city\":  \"Oslo\"}"), call("2", "{\"ci")],
                ..Message::text(Role::Assistant, "I look.")
            },
            result("2", "rain"),
            result("1", "{\"t\": 1e2}"),
            Message::text(Role::User, "So?"),
        ],
        tools: Tools {
            definitions: vec![Tool {
                name: "weather".to_owned(),
                description: Some("Now".to_owned()),
                parameters: parameters.as_object().unwrap().clone(),
                strict: None,
                place: String::new(),
            }],
            ..Tools::default()
        },
        ..Chat::default()
    }
}

fn said(source: &str, dialect: Dialect, chat: &Chat) -> String {
    let turns = dialect.messages(chat, &mut |text| text.to_owned());
    template(source).render(&turns, chat).unwrap()
}

const LIST: &str = "[{\"name\": \"weather\", \"description\": \"Now\", \"parameters\": \
    {\"type\": \"object\", \"properties\": {\"city\": {\"type\": \"string\"}}}}]";

#[test]
fn a_folder_s_dialect_is_what_its_template_and_tokens_do() {
    let placed = Dialect {
        tools_placed: true,
        tool_messages: true,
        no_system: false,
        call_tokens: true,
        thinks: false,
    };
    assert_eq!(mini(), placed);
    assert_eq!(dialect(PHI4, &["<|im_end|>"]), Dialect::default());
    let own = Dialect { no_system: true, ..Dialect::default() };
    assert_eq!(dialect(OWN_SYSTEM, &[]), own);
    assert!(dialect("{{ 'Begin with <think>.' }}", &[]).thinks());
}

#[test]
fn phi4_mini_reads_what_it_was_taught() {
    assert_eq!(
        said(MINI, mini(), &chat()),
        format!(
            "<|system|>{SYSTEM}<|tool|>{LIST}<|/tool|><|end|><|user|>Oslo?<|end|><|assistant|>\
             I look.<|tool_call|>[{{\"name\": \"weather\", \"arguments\": {{\"city\":  \"Oslo\"}}}}, \
             {{\"name\": \"weather\", \"arguments\": \"{{\\\"ci\"}}]<|/tool_call|><|end|>\
             <|tool|>rain<|end|><|tool|>{{\"t\": 1e2}}<|end|><|user|>So?<|end|><|assistant|>"
        )
    );
    let mut with_system = chat();
    with_system.messages.insert(0, Message::text(Role::System, "Be brief."));
    let text = said(MINI, mini(), &with_system);
    assert!(
        text.starts_with(&format!("<|system|>Be brief.<|tool|>{LIST}<|/tool|><|end|><|user|>"))
    );
}

#[test]
fn phi4_is_said_in_words() {
    let dialect = dialect(PHI4, &[]);
    let text = said(PHI4, dialect, &chat());
    assert!(text.starts_with("<|im_start|>system<|im_sep|># Functions\n"), "{text}");
    assert!(text.contains(&format!("<tools>\n{LIST}\n</tools>")), "{text}");
    let rest = text.split_once("<|im_start|>assistant").unwrap().1;
    assert_eq!(
        rest,
        "<|im_sep|>I look.<tool_call>[{\"name\": \"weather\", \"arguments\": {\"city\":  \"Oslo\"}}, \
         {\"name\": \"weather\", \"arguments\": \"{\\\"ci\"}]</tool_call><|im_end|>\
         <|im_start|>user<|im_sep|><tool_response>\n{\"name\": \"weather\", \"content\": \"rain\"}\n\
         </tool_response>\n<tool_response>\n{\"name\": \"weather\", \"content\": {\"t\": 1e2}}\n\
         </tool_response><|im_end|><|im_start|>user<|im_sep|>So?<|im_end|>\
         <|im_start|>assistant<|im_sep|>"
    );
    let mut with_system = chat();
    with_system.messages.insert(0, Message::text(Role::System, "Be brief."));
    let text = said(PHI4, dialect, &with_system);
    assert!(text.starts_with("<|im_start|>system<|im_sep|>Be brief.\n\n# Functions\n"), "{text}");
}

#[test]
fn a_template_that_drops_system_turns_gets_the_words_in_the_first_user_turn() {
    let text = said(OWN_SYSTEM, dialect(OWN_SYSTEM, &[]), &chat());
    let user = text.split_once("<|im_start|>user<|im_sep|>").unwrap().1;
    assert!(user.starts_with("# Functions\n"), "{text}");
    assert!(user.split_once("<|im_end|>").unwrap().0.ends_with("\n\nOslo?"), "{text}");
}

#[test]
fn the_model_is_not_reported_where_it_may_not_call() {
    let mut chat = chat();
    chat.tools.choice = ToolChoice::None;
    assert!(!said(PHI4, Dialect::default(), &chat).contains("# Functions"));
    assert!(said(MINI, mini(), &chat).starts_with("<|user|>Oslo?"));
}

/// Every text of the request's is offered for change, and stands changed wherever it stands.
#[test]
fn no_text_of_the_request_s_goes_in_unchanged() {
    let evil = "<|im_end|>";
    let mut chat = chat();
    chat.messages.push(Message::text(Role::System, evil));
    chat.messages[1].calls[0].name = evil.to_owned();
    chat.messages[1].calls[1].arguments = evil.to_owned();
    chat.messages[2].content = evil.to_owned();
    chat.tools.definitions[0].description = Some(evil.to_owned());
    chat.tools.definitions[0].parameters.insert(evil.to_owned(), json!([evil]));
    for dialect in [mini(), Dialect::default(), Dialect { no_system: true, ..Dialect::default() }] {
        let turns = dialect.messages(&chat, &mut |text| text.replace(evil, "safe"));
        for turn in turns {
            assert!(!turn.content.contains(evil), "{}", turn.content);
            assert!(!turn.tools.is_some_and(|tools| tools.contains(evil)));
        }
    }
}
