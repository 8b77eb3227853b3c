//! Forms on threads of this process, where forking is not possible: on Windows, in other tools, and
//! in unit tests. Only the checks of the form itself limit what it takes.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::compile::FormCompiler;
use super::host::{FormEnd, FormFork, FormHost, FormLink, FormPort, FormWait};

/// Stack of a thread. Address space only: pages take memory when they are touched.
const STACK: usize = 64 << 20;

/// Messages that wait for a thread: one question, and requests for copies.
const ASKS: usize = 256;

/// Answers that wait for the daemon: all those to one question.
const ANSWERS: usize = 4;

/// How often a wait with a limit polls for an answer.
const LOOK: Duration = Duration::from_micros(50);

/// A host whose processes are threads.
#[derive(Debug, Default)]
pub struct ThreadForms(OnceLock<Arc<FormCompiler>>);

pub(super) fn spawn(work: impl FnOnce() + Send + 'static) {
    // If no thread can start, the link closes, which the daemon sees as the form's end.
    let _ = std::thread::Builder::new().name("phi4d-form".into()).stack_size(STACK).spawn(work);
}

impl FormHost for ThreadForms {
    fn prepare(&self, vocabulary: Vec<u8>) -> FormWait<'_, ()> {
        Box::pin(async move {
            let compiler = FormCompiler::new(&vocabulary).map_err(|_| FormEnd::Gone)?;
            self.0.get_or_init(|| Arc::new(compiler));
            Ok(())
        })
    }

    fn open(&self) -> Result<Box<dyn FormLink>, FormEnd> {
        let compiler = Arc::clone(self.0.get().ok_or(FormEnd::Gone)?);
        let (link, mut port) = pair();
        spawn(move || compiler.serve(&mut port));
        Ok(Box::new(link))
    }
}

type Frame = (Vec<u8>, Option<Port>);

#[derive(Debug)]
struct Link {
    asks: SyncSender<Frame>,
    answers: mpsc::Receiver<Vec<u8>>,
}

#[derive(Debug)]
struct Port {
    asks: Receiver<Frame>,
    answers: mpsc::Sender<Vec<u8>>,
    forked: Option<Box<Port>>,
    began: Instant,
}

fn pair() -> (Link, Port) {
    let (asks, asked) = sync_channel(ASKS);
    let (answers, answered) = mpsc::channel(ANSWERS);
    let port = Port { asks: asked, answers, forked: None, began: Instant::now() };
    (Link { asks, answers: answered }, port)
}

impl FormLink for Link {
    fn send<'a>(&'a mut self, frame: &'a [u8]) -> FormWait<'a, ()> {
        Box::pin(async move { self.send_now(frame) })
    }

    fn receive(&mut self) -> FormWait<'_, Vec<u8>> {
        Box::pin(async move { self.answers.recv().await.ok_or(FormEnd::Lost) })
    }

    fn send_now(&mut self, frame: &[u8]) -> Result<(), FormEnd> {
        self.asks.try_send((frame.to_vec(), None)).map_err(|_| FormEnd::Lost)
    }

    fn receive_within(&mut self, limit: Duration) -> Result<Option<Vec<u8>>, FormEnd> {
        let began = Instant::now();
        loop {
            match self.answers.try_recv() {
                Ok(frame) => return Ok(Some(frame)),
                Err(mpsc::error::TryRecvError::Disconnected) => return Err(FormEnd::Lost),
                Err(mpsc::error::TryRecvError::Empty) if began.elapsed() >= limit => {
                    return Ok(None);
                }
                Err(mpsc::error::TryRecvError::Empty) => std::thread::sleep(LOOK),
            }
        }
    }

    fn fork(&mut self, frame: &[u8]) -> Result<Box<dyn FormLink>, FormEnd> {
        let (link, port) = pair();
        self.asks.try_send((frame.to_vec(), Some(port))).map_err(|_| FormEnd::Lost)?;
        Ok(Box::new(link))
    }
}

impl FormPort for Port {
    fn receive(&mut self) -> Option<Vec<u8>> {
        let (frame, port) = self.asks.recv().ok()?;
        self.forked = port.map(Box::new);
        Some(frame)
    }

    fn send(&mut self, frame: &[u8]) {
        // Fails if the daemon has dropped the link.
        let _ = self.answers.blocking_send(frame.to_vec());
    }

    fn begin(&mut self, _budget: Duration) {
        self.began = Instant::now();
    }

    fn end(&mut self) {}

    fn spent(&self) -> Duration {
        self.began.elapsed()
    }

    fn weight(&mut self) -> usize {
        0
    }

    fn fork(&mut self) -> FormFork {
        match self.forked.take() {
            Some(port) => FormFork::Thread(port),
            None => FormFork::Original,
        }
    }
}
