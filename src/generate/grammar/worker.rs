//! The thread that works out what may follow while the model runs.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use llguidance::Matcher;

use super::mask::{Following, follow};

/// Work that may wait. Each running output has at most one piece of it, so it is never full; if it
/// were, the work would be done where it is needed.
const ROOM: usize = 1024;

/// A matcher, and where it comes back with what may follow.
struct Task {
    matcher: Box<Matcher>,
    back: SyncSender<(Box<Matcher>, Following)>,
}

/// Sends work to the thread. The thread ends with the last of these.
#[derive(Debug, Clone)]
pub(super) struct Worker(SyncSender<Task>);

impl Worker {
    /// Starts the thread.
    pub(super) fn start() -> std::io::Result<Self> {
        let (sender, tasks) = sync_channel::<Task>(ROOM);
        std::thread::Builder::new().name("phi4d-grammar".into()).spawn(move || {
            for Task { mut matcher, back } in tasks {
                let following = follow(&mut matcher);
                // An output that has ended does not wait.
                let _ = back.send((matcher, following));
            }
        })?;
        Ok(Self(sender))
    }

    /// Has it worked out what may follow `matcher`'s state.
    ///
    /// # Errors
    /// Gives the matcher back where the thread takes no more.
    pub(super) fn ask(
        &self,
        matcher: Box<Matcher>,
    ) -> Result<Receiver<(Box<Matcher>, Following)>, Box<Matcher>> {
        let (back, answer) = sync_channel(1);
        match self.0.try_send(Task { matcher, back }) {
            Ok(()) => Ok(answer),
            Err(error) => {
                use std::sync::mpsc::TrySendError::{Disconnected, Full};
                let (Full(task) | Disconnected(task)) = error;
                Err(task.matcher)
            }
        }
    }
}
