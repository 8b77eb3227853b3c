//! A request's hold on its model.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::access::Exchange;
use super::app::{App, Phase};
use super::error::ApiError;
use super::models::{KeepAlive, ModelEntry, Pin};
use phi4d_engine::JobError;
use phi4d_generate::Generator;

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
    pin: Arc<Pin>,
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
        let models = app.models();
        let begun = Instant::now();
        let most = models.request_timeout();
        let limit = asks.timeout.map(|own| most.map_or(own, |most| own.min(most))).or(most);
        let until = limit.and_then(|limit| begun.checked_add(limit));
        let late = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let pin = tokio::select! {
            biased;
            pin = models.pin(index, exchange.caller().id(), asks.keep) => {
                pin.map_err(|error| ApiError::no_model(&models.entries()[index].name, &error))?
            }
            () = app.reached(Phase::Cutting) => return Err(JobError::ShuttingDown.into()),
            () = late => return Err(JobError::DeadlineExceeded.into()),
        };
        let waited = if pin.has_waited() { begun.elapsed() } else { Duration::ZERO };
        Ok(Self { app: app.clone(), index, pin: Arc::new(pin), waited })
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
