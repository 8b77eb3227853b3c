//! `/slots`.

use serde::Serialize;

use phi4d_engine::{CallerId, Live, State};

/// One slot, or a request that waits for one, in llama.cpp's shape as far as it goes: numbers,
/// never text.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Slot {
    /// `null` while waiting.
    id: Option<usize>,
    /// Whether a request is in it.
    is_processing: bool,
    /// `idle`, `waiting`, `prefill`, `decode` or `parked`.
    state: &'static str,
    /// Tokens that one slot holds.
    n_ctx: usize,
    /// Its model, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(flatten)]
    request: Option<SlotRequest>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct SlotRequest {
    caller: String,
    priority: i32,
    age_ms: u64,
    n_prompt_tokens: usize,
    n_decoded: usize,
    n_remain: usize,
    n_cached: usize,
}

/// All slots of a model, then what waits.
pub(crate) fn slots(
    live: Vec<Live>,
    slots: usize,
    context_tokens: usize,
    model: Option<&str>,
    caller: impl Fn(CallerId) -> String,
) -> Vec<Slot> {
    let mut all = Vec::with_capacity(live.len().max(slots));
    let (waiting, running): (Vec<Live>, Vec<Live>) =
        live.into_iter().partition(|live| live.state == State::Waiting);
    let slot = |id: Option<usize>, live: Live| Slot {
        id,
        is_processing: id.is_some(),
        state: name(live.state),
        n_ctx: context_tokens,
        model: model.map(str::to_owned),
        request: Some(SlotRequest::new(&live, caller(live.caller))),
    };
    all.extend(running.into_iter().enumerate().map(|(id, live)| slot(Some(id), live)));
    all.extend((all.len()..slots).map(|id| Slot {
        id: Some(id),
        is_processing: false,
        state: "idle",
        n_ctx: context_tokens,
        model: model.map(str::to_owned),
        request: None,
    }));
    all.extend(waiting.into_iter().map(|live| slot(None, live)));
    all
}

impl SlotRequest {
    fn new(live: &Live, caller: String) -> Self {
        Self {
            caller,
            priority: live.priority,
            age_ms: u64::try_from(live.age.as_millis()).unwrap_or(u64::MAX),
            n_prompt_tokens: live.prompt_tokens,
            n_decoded: live.output_tokens,
            n_remain: live.remaining_tokens,
            n_cached: live.cached_tokens,
        }
    }
}

fn name(state: State) -> &'static str {
    match state {
        State::Waiting => "waiting",
        State::Prefill => "prefill",
        State::Decode => "decode",
        State::Paused => "parked",
    }
}
