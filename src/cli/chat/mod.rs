//! `phi4d chat`: a conversation with the daemon over its own API.
//!
//! In a terminal, lines are edited and Ctrl-C stops an answer, not the program. Piped, each line
//! of the input is one turn, and the end of the input the end of the program.

pub(super) mod client;
pub(super) mod endpoint;
pub(super) mod events;
mod input;

use std::io::{IsTerminal as _, Write as _};

use super::args::{ChatArgs, RunArgs};
use super::exit::Fatal;
use client::{Conversation, Piece, Stream};
use endpoint::Endpoint;
use input::{Input, Line};

pub(super) fn run(arguments: &ChatArgs) -> Result<(), Fatal> {
    // A thread of its own closes the connection of a stopped answer while this one waits for the
    // next question; else the daemon would go on with it.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|source| Fatal::System { action: "start the network", source })?;
    let endpoint = Endpoint::choose(arguments)?;
    let mut conversation = Conversation::new(arguments);
    let mut input = Input::open()?;
    if input.is_interactive() {
        eprint_line(&format!("Talking to {endpoint}. Ctrl-C stops an answer, Ctrl-D leaves."));
    }
    loop {
        let question = match input.read()? {
            Line::Text(text) if text.trim().is_empty() => continue,
            Line::Text(text) => text,
            Line::Interrupted => {
                eprint_line("Ctrl-D leaves.");
                continue;
            }
            Line::End => return Ok(()),
        };
        conversation.ask(&question);
        let turn = take_turn(&endpoint, &conversation, input.is_interactive());
        match runtime.block_on(turn) {
            // Stopped before it began: as if it had not been asked.
            Ok(answer) if answer.is_empty() => conversation.take_back(),
            Ok(answer) => conversation.answered(&answer),
            Err(fatal @ (Fatal::Refused(_) | Fatal::Unreachable { .. }))
                if input.is_interactive() =>
            {
                conversation.take_back();
                eprint_line(&format!("phi4d: {fatal}"));
            }
            Err(fatal) => return Err(fatal),
        }
    }
}

/// `phi4d run`: one question, from the command line, standard input or both; its answer, and the end.
pub(super) fn once(arguments: &RunArgs) -> Result<(), Fatal> {
    let piped = match std::io::stdin().is_terminal() {
        true => String::new(),
        false => std::io::read_to_string(std::io::stdin()).map_err(Fatal::Input)?,
    };
    let given = arguments.prompt.as_deref().unwrap_or_default().trim();
    let parts: Vec<&str> =
        [given, piped.trim()].into_iter().filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        return Err(Fatal::Usage(
            "there is no question; expected is one as an argument or on standard input".to_owned(),
        ));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Fatal::System { action: "start the network", source })?;
    let endpoint = Endpoint::choose(&arguments.chat)?;
    let mut conversation = Conversation::new(&arguments.chat);
    conversation.ask(&parts.join("\n\n"));
    runtime.block_on(take_turn(&endpoint, &conversation, false)).map(drop)
}

fn eprint_line(text: &str) {
    // Without standard error there is nobody to tell.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Asks, prints the answer as it comes, and gives the whole of it, or what there is of it when
/// the user stopped it.
async fn take_turn(
    endpoint: &Endpoint,
    conversation: &Conversation,
    interactive: bool,
) -> Result<String, Fatal> {
    let interrupt = async {
        let stopped = interactive && tokio::signal::ctrl_c().await.is_ok();
        if !stopped {
            // Piped, Ctrl-C ends the program as it does any other.
            std::future::pending::<()>().await;
        }
    };
    tokio::pin!(interrupt);
    let mut answer = String::new();
    let opened = tokio::select! {
        opened = Stream::open(endpoint, conversation) => opened,
        () = &mut interrupt => return Ok(answer),
    };
    let mut stream = opened?;
    loop {
        let piece = tokio::select! {
            piece = stream.next() => piece,
            () = &mut interrupt => break,
        };
        match piece {
            Ok(Piece::Text(text)) => {
                show(&text)?;
                answer.push_str(&text);
            }
            Ok(Piece::End) => break,
            Err(fatal) => {
                // The error must not be glued to half an answer.
                show("\n")?;
                return Err(fatal);
            }
        }
    }
    show("\n")?;
    Ok(answer)
}

/// Prints a piece of the answer. A terminal gets no control characters, by which a model's text
/// could steer it.
fn show(text: &str) -> Result<(), Fatal> {
    if !std::io::stdout().is_terminal() {
        return super::output::print(text);
    }
    let harmless = |c: &char| !c.is_control() || matches!(c, '\n' | '\t');
    super::output::print(&text.chars().filter(harmless).collect::<String>())
}
