//! The handler of `POST /v1/completions`.

use std::time::Duration;

use serde_json::Value;

use super::{Completion, CompletionRequest, Piece};
use crate::access::Call;
use crate::error::ApiError;
use crate::handlers::generation::{Renderer, answer_by, asked, end_of_events, envelope};
use crate::reply::{Format, Reply, event};
use crate::served::{Served, Wait};
use crate::wire::common::{Envelope, Extras, to_json};
use crate::wire::error::Dialect;
use crate::wire::loading::waiting;
use crate::wire::logprobs::{PromptLogprobs, name_by_ids};
use crate::wire::timings::{progressed, timed};
use phi4d_generate::{Answer, Choices, Finish, Finished, PromptProgress, TextDelta, Usage};

/// Continues a text.
pub(crate) async fn create(call: Call<'_>) -> Result<Reply, ApiError> {
    let Call { app, request, exchange, .. } = call;
    let parse = |body: Value| CompletionRequest::parse(&body);
    let (index, completion) =
        asked(app, request, exchange, parse, |completion| completion.parsed.asks()).await?;
    let renderer = CompletionRenderer {
        envelope: envelope(app, completion.parsed.model.clone(), "cmpl", Completion::OBJECT),
        extras: completion.extras,
        echo: completion.echo,
        prompt_only: completion.prompt_only,
        prompt_logprobs: completion.prompt_logprobs,
        copies: completion.parsed.request.copies.wanted,
        prompts: Vec::new(),
        echoes: Vec::new(),
        characters: Vec::new(),
    };
    answer_by(app, index, completion.parsed, exchange, renderer).await
}

struct CompletionRenderer {
    envelope: Envelope,
    extras: Extras,
    echo: bool,
    /// The answer is the prompt alone.
    prompt_only: bool,
    prompt_logprobs: bool,
    /// Answers that are given out for each prompt.
    copies: usize,
    /// The prompts' token ids, if they are wanted.
    prompts: Vec<Vec<u32>>,
    /// The prompts' texts, if they are wanted.
    echoes: Vec<String>,
    /// Characters in the tokens so far of each answer, for `text_offset`.
    characters: Vec<usize>,
}

impl CompletionRenderer {
    fn prompt_ids(&self, index: usize) -> Option<Vec<u32>> {
        self.prompts.get(index / self.copies).cloned()
    }

    fn echo_of(&self, index: usize) -> Option<&str> {
        self.echoes.get(index / self.copies).map(String::as_str)
    }

    /// What it took, without tokens that are not shown.
    fn shown(&self, usage: Usage) -> Usage {
        let completion_tokens = if self.prompt_only { 0 } else { usage.completion_tokens };
        Usage { completion_tokens, ..usage }
    }

    fn chunk(&mut self, piece: Piece, usage: Usage) -> String {
        let so_far = self.extras.delivery.chunk_usage(usage);
        let offset = self.characters.get_mut(piece.index).filter(|_| self.extras.logprobs);
        let body = Completion::chunk(&self.envelope, so_far, piece, offset, self.extras.token_ids);
        event(&timed(&body, usage, self.extras.timings))
    }
}

impl Renderer for CompletionRenderer {
    const FORMAT: Format = Format::Events;
    const DIALECT: Dialect = Dialect::OpenAi;

    fn waiting(&mut self, wait: Wait, time: Duration) -> String {
        let so_far = self.extras.delivery.chunk_usage(Usage::default());
        let body = Completion::chunk(&self.envelope, so_far, Piece::default(), None, false);
        event(&waiting(&body, wait, time))
    }

    fn begin(&mut self, served: &Served, choices: &Choices) {
        if self.extras.token_ids {
            self.prompts = choices.prompts().map(<[u32]>::to_vec).collect();
        }
        if self.echo {
            self.echoes = choices.prompts().map(|ids| served.generator().spell(ids)).collect();
        }
        self.characters = vec![0; choices.count()];
    }

    fn complete(&mut self, answers: Vec<Answer>, usage: Usage) -> String {
        let usage = self.shown(usage);
        let piece = |(index, mut answer): (usize, Answer)| {
            if self.prompt_only {
                answer.text.clear();
                answer.tokens.clear();
                answer.finished.reason = Finish::Length;
            }
            if self.extras.names_by_id {
                let prompt = answer.prompt.iter_mut().map(|prompt| &mut prompt.token);
                name_by_ids(answer.tokens.iter_mut().chain(prompt));
            }
            let text = match self.echo_of(index) {
                Some(echo) => format!("{echo}{}", answer.text),
                None => answer.text,
            };
            Piece {
                index,
                delta: TextDelta { text, tokens: answer.tokens, ..TextDelta::default() },
                finish: Some(answer.finished.reason),
                prompt_token_ids: self.prompt_ids(index),
                prompt_logprobs: self.prompt_logprobs.then(|| PromptLogprobs::new(&answer.prompt)),
                echoed: if self.echo { answer.prompt } else { Vec::new() },
            }
        };
        let pieces = answers.into_iter().enumerate().map(piece).collect();
        let with = [self.extras.logprobs, self.extras.token_ids];
        timed(&Completion::whole(&self.envelope, pieces, usage, with), usage, self.extras.timings)
    }

    fn start(&mut self, index: usize, usage: Usage) -> String {
        let prompt_token_ids = self.prompt_ids(index);
        let echo = self.echo_of(index).map(str::to_owned);
        if echo.is_none() && prompt_token_ids.is_none() {
            return String::new();
        }
        let delta = TextDelta { text: echo.unwrap_or_default(), ..TextDelta::default() };
        self.chunk(Piece { index, delta, prompt_token_ids, ..Piece::default() }, usage)
    }

    fn progress(&mut self, index: usize, progress: PromptProgress, usage: Usage) -> String {
        let so_far = self.extras.delivery.chunk_usage(usage);
        let piece = Piece { index, ..Piece::default() };
        let body = Completion::chunk(&self.envelope, so_far, piece, None, false);
        event(&progressed(&body, progress))
    }

    fn piece(&mut self, index: usize, mut delta: TextDelta, usage: Usage) -> String {
        if self.extras.names_by_id {
            name_by_ids(&mut delta.tokens);
        }
        let shows_tokens = self.extras.logprobs || self.extras.token_ids;
        if self.prompt_only {
            return String::new();
        }
        if delta.text.is_empty() && (delta.tokens.is_empty() || !shows_tokens) {
            return String::new();
        }
        self.chunk(Piece { index, delta, ..Piece::default() }, usage)
    }

    fn end(&mut self, index: usize, finished: Finished, usage: Usage) -> String {
        let finish = if self.prompt_only { Finish::Length } else { finished.reason };
        let piece = Piece { index, finish: Some(finish), ..Piece::default() };
        let usage = self.shown(usage);
        let so_far = self.extras.delivery.chunk_usage(usage);
        let body = Completion::chunk(&self.envelope, so_far, piece, None, false);
        event(&timed(&body, usage, self.extras.timings))
    }

    fn close(&mut self, usage: Usage) -> String {
        let wanted = self.extras.delivery.includes_usage();
        let usage = self.shown(usage);
        let usage = wanted.then(|| to_json(&Completion::usage(&self.envelope, usage)));
        end_of_events(usage.as_deref())
    }
}
