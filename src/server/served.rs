//! A request's hold on its model, and the wait for it.

use std::future::{pending, ready};
use std::ops::{ControlFlow, Deref};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::access::Exchange;
use super::app::{App, Phase};
use super::error::ApiError;
use super::models::{self, KeepAlive, ModelEntry, PinError};
use phi4d_engine::{JobError, LoadStage};
use phi4d_generate::Generator;

/// How often a request that waits looks how far the load is.
const TICK: Duration = Duration::from_millis(200);

/// What a request says of the model that it wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Asks<'a> {
    /// Its name; `None` for the first one.
    pub(super) model: Option<&'a str>,
    /// How long the request may take, the wait for the model included.
    pub(super) timeout: Option<Duration>,
    /// How long the model is to stay after it.
    pub(super) keep: KeepAlive,
}

/// The server as a request sees it whose model is in memory, and stays there until the last copy of this is
/// dropped.
#[derive(Debug, Clone)]
pub(super) struct Served {
    app: App,
    index: usize,
    pin: Arc<models::Pin>,
    waited: Duration,
}

impl Deref for Served {
    type Target = App;

    fn deref(&self) -> &App {
        &self.app
    }
}

impl Served {
    /// Waits until the model at `index` is loaded.
    ///
    /// # Errors
    /// If it can't be loaded, too many wait, the request's time is over, or the daemon ends.
    pub(super) async fn with(
        app: &App,
        exchange: &Exchange,
        index: usize,
        asks: &Asks<'_>,
    ) -> Result<Self, ApiError> {
        Waiting::begin(app, exchange, index, asks).served().await
    }

    /// The model's generator.
    pub(super) fn generator(&self) -> &Generator {
        self.pin.generator()
    }

    /// The model's place in the list.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    pub(super) fn entry(&self) -> &ModelEntry {
        &self.app.models().entries()[self.index]
    }

    /// For how long the request waited for the model.
    pub(super) fn waited(&self) -> Duration {
        self.waited
    }
}

/// A request that waits for its model. Dropping it gives up its place in the line.
pub(super) struct Waiting {
    app: App,
    index: usize,
    pin: Pin<Box<dyn Future<Output = Result<models::Pin, PinError>> + Send>>,
    begun: Instant,
    until: Option<Instant>,
    /// Its place in the line, from 1; 0 while it has none.
    place: watch::Receiver<usize>,
    /// What was said last of the wait.
    said: Option<Wait>,
}

/// What a request waits for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Wait {
    /// Its turn: this is its place in the line, from 1.
    Turn(usize),
    /// The load of its model, which is at this stage; and the part of the weights that is there, if that is known.
    Load(LoadStage, Option<f64>),
}

impl Waiting {
    /// Asks for the model at `index`. Nothing happens before this is polled.
    pub(super) fn begin(app: &App, exchange: &Exchange, index: usize, asks: &Asks<'_>) -> Self {
        let (models, caller, keep) = (app.models().clone(), exchange.caller().id(), asks.keep);
        let begun = Instant::now();
        let most = models.request_timeout();
        let limit = asks.timeout.map(|own| most.map_or(own, |most| own.min(most))).or(most);
        let until = limit.and_then(|limit| begun.checked_add(limit));
        let (sender, place) = watch::channel(0);
        let pin = Box::pin(async move { models.pin(index, caller, keep, sender).await });
        Self { app: app.clone(), index, pin, begun, until, place, said: None }
    }

    /// For how long it waits already.
    pub(super) fn time(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Waits until the model is there. Cancel-safe, but over once it has returned.
    ///
    /// # Errors
    /// If it can't be loaded, too many wait, the request's time is over, or the daemon ends.
    pub(super) async fn served(&mut self) -> Result<Served, ApiError> {
        let until = self.until;
        let late = async move {
            match until {
                Some(until) => sleep_until(until).await,
                None => pending().await,
            }
        };
        let pin = tokio::select! {
            biased;
            pin = &mut self.pin => {
                let name = &self.app.models().entries()[self.index].name;
                pin.map_err(|error| ApiError::no_model(name, &error))?
            }
            () = self.app.reached(Phase::Cutting) => return Err(JobError::ShuttingDown.into()),
            () = late => return Err(JobError::DeadlineExceeded.into()),
        };
        let waited = if pin.has_waited() { self.begun.elapsed() } else { Duration::ZERO };
        Ok(Served { app: self.app.clone(), index: self.index, pin: Arc::new(pin), waited })
    }

    /// Waits until the model is there, or, with `None`, until the request has a place in the line.
    ///
    /// # Errors
    /// As [`Self::served`].
    pub(super) async fn placed(&mut self) -> Result<Option<Served>, ApiError> {
        let mut place = self.place.clone();
        tokio::select! {
            biased;
            served = self.served() => served.map(Some),
            Ok(()) = place.changed() => Ok(None),
        }
    }

    /// Waits until the model is there, or until there is something new to say of the wait, up to five times a
    /// second.
    ///
    /// # Errors
    /// As [`Self::served`].
    pub(super) async fn next(&mut self) -> Result<ControlFlow<Served, Wait>, ApiError> {
        loop {
            if self.said.is_some() {
                tokio::select! {
                    biased;
                    served = self.served() => return served.map(ControlFlow::Break),
                    () = sleep(TICK) => {}
                }
            }
            let load = self.app.models().view(self.index).load();
            let turn = Wait::Turn(*self.place.borrow());
            let now = load.map_or(turn, |(stage, weights)| Wait::Load(stage, weights));
            tokio::select! {
                biased;
                // Asked after the state was read: a load that has just ended is no turn to wait for.
                served = self.served() => return served.map(ControlFlow::Break),
                () = ready(()) => {}
            }
            if self.said.replace(now) != Some(now) {
                return Ok(ControlFlow::Continue(now));
            }
        }
    }
}
