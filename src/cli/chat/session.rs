//! `phi4d chat`: messages, and the commands between them.

use std::path::Path;

use tokio::runtime::Runtime;

use super::super::args::ChatArgs;
use super::super::exit::Fatal;
use super::super::threads;
use super::answer::Answer;
use super::client::Client;
use super::commands::{self, Entry};
use super::conversation::Conversation;
use super::history;
use super::input::{Input, Line};
use super::saved;
use super::screen::Screen;
use super::wait::{Patience, until_ready};

/// A conversation in progress.
struct Session {
    runtime: Runtime,
    client: Client,
    patience: Patience,
    conversation: Conversation,
    screen: Screen,
    is_interactive: bool,
    /// Whether each answer's figures are shown; `None` for a short line of them.
    shows_stats: Option<bool>,
    /// Tokens of the model's context, if known.
    context: Option<u64>,
    last: Option<Answer>,
}

pub(super) fn run(arguments: &ChatArgs) -> Result<(), Fatal> {
    // A thread of its own closes the connection of a stopped answer while this one waits for the
    // next question; else the daemon would go on with it.
    let runtime = threads::runtime(1)?;
    let client = Client::new(&arguments.client)?;
    let screen = Screen::open();
    let note = |text: &str| Screen::open().note(&format!("phi4d: {text}"));
    let place = (!arguments.no_history).then(|| history::place(|name| std::env::var_os(name)));
    let mut input = Input::open(place.flatten(), &note)?;
    let mut session = Session {
        runtime,
        client,
        patience: Patience::new(arguments.client.wait),
        conversation: Conversation::new(&arguments.client),
        screen,
        is_interactive: input.is_interactive(),
        shows_stats: arguments.client.stats.then_some(true),
        context: None,
        last: None,
    };
    session.greet()?;
    let mut interrupted = false;
    loop {
        let line = input.read(&note)?;
        let again = std::mem::replace(&mut interrupted, line == Line::Interrupted);
        match line {
            Line::Text(text) if text.trim().is_empty() => {}
            Line::Text(text) if session.is_interactive => {
                if session.obey(&text)?.is_break() {
                    return Ok(());
                }
            }
            Line::Text(text) => session.ask(&text)?,
            Line::Interrupted if again => return Ok(()),
            Line::Interrupted => session.screen.note("Ctrl-C again, Ctrl-D or /exit leaves."),
            Line::End => return Ok(()),
        }
    }
}

/// From now on Ctrl-C does not end the program, whether somebody listens for it or not.
async fn outlive_interrupts() {
    tokio::select! {
        biased;
        // What its first look sets up stays.
        _ = tokio::signal::ctrl_c() => {}
        () = std::future::ready(()) => {}
    }
}

type Flow = std::ops::ControlFlow<()>;

impl Session {
    fn greet(&mut self) -> Result<(), Fatal> {
        let ready = until_ready(&self.client, self.patience, &mut self.screen);
        self.runtime.block_on(ready)?;
        if self.is_interactive {
            self.runtime.block_on(outlive_interrupts());
            let model = self.runtime.block_on(self.client.model());
            let name = model.as_ref().map_or("the daemon", |model| &model.name);
            self.context = model.as_ref().and_then(|model| model.context);
            self.screen.note(&format!(
                "Talking to {name} at {}. Ctrl-C stops an answer, Ctrl-D exits, /help lists the commands.",
                self.client.server()
            ));
        }
        Ok(())
    }

    /// Does what was typed in a terminal.
    fn obey(&mut self, text: &str) -> Result<Flow, Fatal> {
        let entry = match commands::read(text) {
            Ok(entry) => entry,
            Err(why) => {
                self.screen.note(&why);
                return Ok(Flow::Continue(()));
            }
        };
        match entry {
            Entry::Question(text) => self.ask(&text)?,
            Entry::Help => self.screen.note(&commands::help()),
            Entry::System(None) => {
                let text = self.conversation.instructions().unwrap_or("there are no instructions");
                self.screen.note(text);
            }
            Entry::System(Some(text)) => self.conversation.instruct(&text),
            Entry::Parameters => self.screen.note(&self.conversation.parameters.to_string()),
            Entry::Set(name, value) => self.set(&name, value.as_deref()),
            Entry::Save { path, overwrite } => self.save(&path, overwrite),
            Entry::Load(path) => self.load(&path),
            Entry::Clear => self.conversation.clear(),
            Entry::Retry if self.conversation.retry() => self.take_turn()?,
            Entry::Retry => self.screen.note("there is no question yet"),
            Entry::Stats(None) => match &self.last {
                Some(answer) => self.screen.note(&answer.to_string()),
                None => self.screen.note("there is no answer yet"),
            },
            Entry::Stats(Some(on)) => self.shows_stats = Some(on),
            Entry::Exit => return Ok(Flow::Break(())),
        }
        Ok(Flow::Continue(()))
    }

    fn set(&mut self, name: &str, value: Option<&str>) {
        let parameters = &mut self.conversation.parameters;
        match value {
            Some(value) => {
                if let Err(why) = parameters.set(name, value) {
                    self.screen.note(&why);
                }
            }
            None => match parameters.get(name) {
                Some(value) => self.screen.note(&format!("{name} = {value}")),
                None => self.screen.note(&format!("{name} is not set")),
            },
        }
    }

    fn save(&self, path: &Path, overwrite: bool) {
        match saved::save(&self.conversation, path, overwrite) {
            Ok(()) => self.screen.note(&format!("saved in {}", path.display())),
            Err(why) => self.screen.note(&why),
        }
    }

    fn load(&mut self, path: &Path) {
        match saved::load(path) {
            Ok(conversation) => {
                self.conversation = conversation;
                let count = self.conversation.messages.len();
                self.screen.note(&format!("{count} messages from {}", path.display()));
            }
            Err(why) => self.screen.note(&why),
        }
    }

    /// Asks, and shows the answer.
    fn ask(&mut self, question: &str) -> Result<(), Fatal> {
        self.conversation.ask(question);
        self.take_turn()
    }

    fn take_turn(&mut self) -> Result<(), Fatal> {
        let interactive = self.is_interactive;
        let interrupt = async {
            let stopped = interactive && tokio::signal::ctrl_c().await.is_ok();
            if !stopped {
                // Piped, Ctrl-C ends the program as it does any other.
                std::future::pending::<()>().await;
            }
        };
        let request = self.conversation.request(self.screen.lines_can_go());
        let (client, screen) = (&self.client, &mut self.screen);
        let turn = async {
            tokio::pin!(interrupt);
            match Answer::take(client, &request, screen, &mut interrupt).await {
                // The daemon may have been restarted since the last message.
                Err(Fatal::Unreachable { may_come: true, .. }) => {}
                taken => return taken,
            }
            tokio::select! {
                biased;
                () = &mut interrupt => {
                    screen.done_waiting();
                    return Ok(Answer::default());
                }
                ready = until_ready(client, self.patience, screen) => ready?,
            }
            Answer::take(client, &request, screen, interrupt).await
        };
        match self.runtime.block_on(turn) {
            Ok(answer) => {
                self.keep(answer);
                Ok(())
            }
            Err(
                fatal @ (Fatal::Refused(_) | Fatal::Unreachable { .. } | Fatal::NotReady { .. }),
            ) if interactive => {
                self.conversation.take_back();
                self.screen.note(&format!("phi4d: {fatal}"));
                Ok(())
            }
            Err(fatal) => Err(fatal),
        }
    }

    fn keep(&mut self, answer: Answer) {
        if answer.content.is_empty() && answer.finish_reason.is_none() {
            // Stopped before it began: as if it had not been asked.
            self.conversation.take_back();
        } else {
            self.conversation.answered(&answer.content);
        }
        if self.is_interactive {
            if let Some(names) = &answer.ignored {
                self.screen.note(&format!("the daemon does not know, and ignored: {names}"));
            }
            if answer.is_cut() {
                self.screen.aside("cut by max_tokens or the context's length");
            }
        }
        match self.shows_stats {
            Some(true) => self.screen.aside(&answer.to_string()),
            None if self.is_interactive => self.screen.footer(&answer.footer(self.context)),
            _ => {}
        }
        self.last = Some(answer);
    }
}
