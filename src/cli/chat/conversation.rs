//! What was said so far, and how to answer.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::args::ClientArgs;
use super::parameters::Parameters;

/// The field that asks for `load_progress` and `prompt_progress` in the stream. A daemon that does not know it ignores it.
pub(super) const PROGRESS: &str = "return_progress";

/// Who said something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Role {
    System,
    User,
    Assistant,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Message {
    pub(super) role: Role,
    pub(super) content: String,
}

/// Messages: perhaps instructions first, then user and model alternate, except where an answer is
/// missing.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Conversation {
    pub(super) messages: Vec<Message>,
    pub(super) parameters: Parameters,
    /// The answer that is being replaced, kept in case the new one fails.
    replaced: Option<String>,
    /// The last question, if it got no answer.
    unanswered: Option<String>,
}

impl Conversation {
    pub(super) fn new(arguments: &ClientArgs) -> Self {
        let parameters = Parameters::of_arguments(arguments);
        let mut conversation = Self { parameters, ..Self::default() };
        if let Some(text) = &arguments.system {
            conversation.instruct(text);
        }
        conversation
    }

    pub(super) fn of(messages: Vec<Message>, parameters: Parameters) -> Self {
        Self { messages, parameters, ..Self::default() }
    }

    /// The instructions, if there are any.
    pub(super) fn instructions(&self) -> Option<&str> {
        let first = self.messages.first().filter(|first| first.role == Role::System);
        first.map(|message| message.content.as_str())
    }

    /// Replaces the instructions; an empty text removes them.
    pub(super) fn instruct(&mut self, text: &str) {
        if self.instructions().is_some() {
            self.messages.remove(0);
        }
        if !text.is_empty() {
            self.messages.insert(0, Message { role: Role::System, content: text.to_owned() });
        }
    }

    /// Forgets all messages but the instructions; parameters stay.
    pub(super) fn clear(&mut self) {
        let kept = usize::from(self.instructions().is_some());
        self.messages.truncate(kept);
        (self.replaced, self.unanswered) = (None, None);
    }

    /// Adds the user's message.
    pub(super) fn ask(&mut self, text: &str) {
        self.unanswered = None;
        self.messages.push(Message { role: Role::User, content: text.to_owned() });
    }

    /// Asks the last question again, answered or not. Returns whether there is one.
    pub(super) fn retry(&mut self) -> bool {
        if let Some(question) = self.unanswered.take() {
            self.ask(&question);
            return true;
        }
        if self.messages.last().is_some_and(|last| last.role == Role::Assistant) {
            self.replaced = self.messages.pop().map(|message| message.content);
        }
        self.messages.last().is_some_and(|last| last.role == Role::User)
    }

    /// Adds the model's message.
    pub(super) fn answered(&mut self, text: &str) {
        self.replaced = None;
        self.messages.push(Message { role: Role::Assistant, content: text.to_owned() });
    }

    /// The last question got no answer: it is as if it had not been asked, but for [`Self::retry`].
    pub(super) fn take_back(&mut self) {
        if let Some(answer) = self.replaced.take() {
            self.answered(&answer);
        } else {
            self.unanswered = self.messages.pop().map(|message| message.content);
        }
    }

    /// The body of a request for the next message, streamed, with its usage at the end, and if
    /// wanted with the progress of reading the prompt.
    pub(super) fn request(&self, with_progress: bool) -> Value {
        let mut request = self.parameters.as_map().clone();
        request.insert("stream".to_owned(), true.into());
        request.insert("stream_options".to_owned(), json!({ "include_usage": true }));
        if with_progress {
            request.insert(PROGRESS.to_owned(), true.into());
        }
        request.insert("messages".to_owned(), json!(self.messages));
        Value::Object(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(conversation: &Conversation) -> Vec<&str> {
        conversation.messages.iter().map(|message| message.content.as_str()).collect()
    }

    #[test]
    fn instructions_replace_those_before_and_outlive_the_turns() {
        let mut conversation = Conversation::default();
        conversation.ask("hello");
        conversation.answered("hi");
        conversation.instruct("be brief");
        conversation.instruct("be long");
        assert_eq!(turns(&conversation), ["be long", "hello", "hi"]);
        conversation.clear();
        assert_eq!(turns(&conversation), ["be long"]);
        assert!(!conversation.retry());
        conversation.instruct("");
        assert_eq!(turns(&conversation), [""; 0]);
    }

    #[test]
    fn a_question_is_asked_again_with_or_without_an_answer() {
        let mut conversation = Conversation::default();
        assert!(!conversation.retry());
        conversation.ask("one");
        conversation.answered("1");
        conversation.ask("two");
        conversation.take_back();
        assert_eq!(turns(&conversation), ["one", "1"]);
        assert!(conversation.retry());
        assert_eq!(turns(&conversation), ["one", "1", "two"]);
        conversation.answered("2");
        assert!(conversation.retry());
        assert_eq!(turns(&conversation), ["one", "1", "two"]);
        // Nothing came: the old answer stays.
        conversation.take_back();
        assert_eq!(turns(&conversation), ["one", "1", "two", "2"]);
        conversation.ask("three");
        conversation.take_back();
        conversation.ask("four");
        conversation.answered("4");
        assert!(conversation.retry());
        assert_eq!(turns(&conversation), ["one", "1", "two", "2", "four"]);
    }
}
