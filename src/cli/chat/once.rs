//! `phi4d run`: one question, from the command line, standard input or both; its answer, and the end.

use std::io::IsTerminal as _;
use std::path::Path;

use serde_json::{Value, json};

use super::super::args::RunArgs;
use super::super::exit::Fatal;
use super::super::output::print;
use super::super::threads::own_runtime;
use super::answer::Answer;
use super::client::Client;
use super::conversation::Conversation;
use super::files;
use super::screen::Screen;
use super::wait::{Patience, until_ready};

pub(super) fn run(arguments: &RunArgs) -> Result<(), Fatal> {
    let question = question(arguments)?;
    let client = Client::new(&arguments.client)?;
    let mut conversation = Conversation::new(&arguments.client);
    if let Some(path) = &arguments.schema {
        let put = conversation.parameters.put("response_format", format_of(path)?);
        put.map_err(Fatal::Internal)?;
    }
    conversation.ask(&question);
    let runtime = own_runtime()?;
    let mut screen = if arguments.json { Screen::silent() } else { Screen::open() };
    let answer = runtime.block_on(async {
        until_ready(&client, Patience::new(arguments.client.wait), &mut screen).await?;
        // Ctrl-C ends the program as it does any other.
        let interrupt = std::future::pending();
        let request = conversation.request(screen.lines_can_go());
        Answer::take(&client, &request, &mut screen, interrupt).await
    })?;
    if arguments.json {
        print(&format!("{}\n", answer.to_json()))?;
    }
    if arguments.client.stats {
        screen.aside(&answer.to_string());
    } else if !arguments.json {
        screen.footer(&answer.footer(None));
    }
    if answer.is_cut() { Err(Fatal::Cut) } else { Ok(()) }
}

/// The files, then what was given, and after it what is piped in.
fn question(arguments: &RunArgs) -> Result<String, Fatal> {
    let files = arguments.files.iter().map(|path| files::block(path));
    let files = files.collect::<Result<Vec<_>, _>>()?.join("\n\n");
    let piped = match std::io::stdin().is_terminal() {
        true => String::new(),
        false => std::io::read_to_string(std::io::stdin()).map_err(Fatal::Input)?,
    };
    let given = arguments.prompt.as_deref().unwrap_or_default().trim();
    let parts: Vec<&str> =
        [&files, given, piped.trim()].into_iter().filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        return Err(Fatal::Usage(
            "there is no question; expected is one as an argument or on standard input".to_owned(),
        ));
    }
    Ok(parts.join("\n\n"))
}

/// The API's way to say that the answer keeps to the schema in a file.
fn format_of(path: &Path) -> Result<Value, Fatal> {
    let wrong = |reason: String| Fatal::File { path: path.to_owned(), reason };
    let text = std::fs::read(path);
    let text = text.map_err(|error| wrong(format!("the schema can't be read: {error}")))?;
    let schema: Value = serde_json::from_slice(&text)
        .map_err(|error| wrong(format!("it is no JSON, and a JSON Schema is expected: {error}")))?;
    Ok(json!({
        "type": "json_schema",
        "json_schema": { "name": "answer", "schema": schema, "strict": true },
    }))
}
