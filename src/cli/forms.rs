//! The process that compiles forms: how the daemon starts it, what it does, and how the grammar
//! layer's frames travel between them.
//!
//! ```text
//! phi4d serve ── phi4d forms (single-threaded, waits) ── one process for each form
//! ```
//!
//! `phi4d forms` is for [`start`] alone; it takes its orders from standard input, which is a socket.

use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::exit::{self, Fatal};
use phi4d_generate::{FormCompiler, FormEnd, FormFork, FormHost, FormLink, FormPort, FormWait};
use phi4d_os::helper::{self, Control, Ended, Forked, Helper, Limits, Pipe};

/// The subcommand, which the command line's definition does not know.
pub(super) const SUBCOMMAND: &str = "forms";

/// What a form's process may take beyond what the helper has. Its processor time is bounded by the
/// piece of work.
const LIMITS: Limits = Limits { data: 64 << 20, stack: 16 << 20, nice: 10 };

/// Orders to the helper: a pipe by which the vocabulary comes, and one for a form.
const VOCABULARY: u8 = b'v';
const FORM: u8 = b'f';

/// What the helper answers once it has the vocabulary.
const PREPARED: &[u8] = b"ok";

/// Starts the helper. To be called from the main thread, which it ends with, before there are other
/// threads and before the process gives up its right to start programs.
pub(super) fn start() -> io::Result<Arc<dyn FormHost>> {
    Ok(Arc::new(Processes(Helper::start(SUBCOMMAND)?)))
}

/// The daemon's side.
#[derive(Debug)]
struct Processes(Helper);

impl Processes {
    fn order(&self, kind: u8) -> Result<Pipe, FormEnd> {
        self.0.open(kind).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::NotConnected => FormEnd::Gone,
            _ => FormEnd::Refused,
        })
    }
}

impl FormHost for Processes {
    fn prepare(&self, vocabulary: Vec<u8>) -> FormWait<'_, ()> {
        Box::pin(async move {
            let mut pipe = self.order(VOCABULARY)?;
            pipe.send(&vocabulary).await.map_err(|_| FormEnd::Gone)?;
            drop(vocabulary);
            match pipe.receive().await {
                Ok(answer) if answer == PREPARED => Ok(()),
                _ => Err(FormEnd::Gone),
            }
        })
    }

    fn open(&self) -> Result<Box<dyn FormLink>, FormEnd> {
        Ok(Box::new(Link(self.order(FORM)?)))
    }
}

/// The daemon's end of a form's pipe.
#[derive(Debug)]
struct Link(Pipe);

/// What an error of a pipe says of the form's process.
fn end_of(error: &io::Error) -> FormEnd {
    match Pipe::ended_by(error) {
        Some(Ended::Time) => FormEnd::Time,
        Some(Ended::Memory) => FormEnd::Memory,
        Some(Ended::Depth) => FormEnd::Depth,
        None => FormEnd::Lost,
    }
}

impl FormLink for Link {
    fn send<'a>(&'a mut self, frame: &'a [u8]) -> FormWait<'a, ()> {
        Box::pin(async move { self.0.send(frame).await.map_err(|error| end_of(&error)) })
    }

    fn receive(&mut self) -> FormWait<'_, Vec<u8>> {
        Box::pin(async move { self.0.receive().await.map_err(|error| end_of(&error)) })
    }

    fn send_now(&mut self, frame: &[u8]) -> Result<(), FormEnd> {
        self.0.send_now(frame).map_err(|error| end_of(&error))
    }

    fn receive_within(&mut self, limit: Duration) -> Result<Option<Vec<u8>>, FormEnd> {
        self.0.receive_within(limit).map_err(|error| end_of(&error))
    }

    fn fork(&mut self, frame: &[u8]) -> Result<Box<dyn FormLink>, FormEnd> {
        let (ours, theirs) = Pipe::pair().map_err(|_| FormEnd::Refused)?;
        self.0.pass(frame, &theirs).map_err(|error| end_of(&error))?;
        Ok(Box::new(Link(ours)))
    }
}

/// `phi4d forms`: the helper, until the daemon closes its socket.
pub(super) fn run() -> ExitCode {
    match serve_orders() {
        Ok(()) => ExitCode::SUCCESS,
        Err(source) => {
            exit::report(&Fatal::System { action: "be the process that compiles forms", source })
        }
    }
}

fn serve_orders() -> io::Result<()> {
    let mut control = Control::adopt()?;
    let mut compiler: Option<Prepared> = None;
    while let Some((order, mut pipe)) = control.order()? {
        match (order, &compiler) {
            (VOCABULARY, known) => {
                if let Some(prepared) = prepare(&mut pipe, known.as_ref()) {
                    compiler = Some(prepared);
                }
            }
            (FORM, Some(Prepared { compiler: made, .. })) => match helper::fork() {
                Ok(Forked::Child) => {
                    // The daemon sees the end of the helper by this socket.
                    drop(control);
                    serve(made, pipe);
                    helper::leave();
                }
                // The pipe closes, here and, without a process, at all.
                Ok(Forked::Parent) | Err(_) => {}
            },
            _ => {}
        }
    }
    Ok(())
}

/// As the helper, in the process that calls it: it forks itself for each form. For checks of what
/// forms do, which have no helper.
#[cfg(any(test, feature = "testing"))]
#[derive(Debug, Default)]
pub(super) struct Forks(std::sync::OnceLock<Arc<FormCompiler>>);

#[cfg(any(test, feature = "testing"))]
impl FormHost for Forks {
    fn prepare(&self, vocabulary: Vec<u8>) -> FormWait<'_, ()> {
        let compiler = FormCompiler::new(&vocabulary).map(Arc::new);
        let prepared = compiler.map(|compiler| drop(self.0.set(compiler)));
        Box::pin(async move { prepared.map_err(|_| FormEnd::Gone) })
    }

    fn open(&self) -> Result<Box<dyn FormLink>, FormEnd> {
        let compiler = self.0.get().ok_or(FormEnd::Gone)?;
        let (ours, theirs) = Pipe::pair().map_err(|_| FormEnd::Refused)?;
        match helper::fork().map_err(|_| FormEnd::Refused)? {
            Forked::Parent => Ok(Box::new(Link(ours))),
            Forked::Child => {
                drop(ours);
                std::panic::set_hook(Box::new(|_| {}));
                serve(compiler, Pipe::of(theirs));
                // Not by the way of the process that was forked, which would do its work, too.
                helper::leave()
            }
        }
    }
}

/// The tables of a vocabulary.
struct Prepared {
    /// Of the vocabulary's bytes.
    hash: u64,
    compiler: Arc<FormCompiler>,
}

/// Builds the tables of the vocabulary that `pipe` brings, unless they are the `known` ones: a caller may
/// have left before it received the result, and a model that is loaded again may have another tokenizer.
fn prepare(pipe: &mut Pipe, known: Option<&Prepared>) -> Option<Prepared> {
    let (vocabulary, _) = pipe.take().ok()??;
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(&vocabulary);
    if known.is_some_and(|known| known.hash == hash) {
        let _ = pipe.send_now(PREPARED);
        return None;
    }
    let compiler = Arc::new(FormCompiler::new(&vocabulary).ok()?);
    drop(vocabulary);
    let _ = pipe.send_now(PREPARED);
    Some(Prepared { hash, compiler })
}

/// One form's process. If it can't be limited it serves nothing, which closes the pipe.
fn serve(compiler: &Arc<FormCompiler>, pipe: Pipe) {
    if helper::confine(&pipe, &LIMITS).is_ok() {
        let before = helper::heap_bytes();
        compiler.serve(&mut Port { pipe, passed: None, before, began: Instant::now() });
    }
}

/// The process's end of a form's pipe.
struct Port {
    pipe: Pipe,
    /// What came with the last frame.
    passed: Option<OwnedFd>,
    /// Bytes of heap that the process had when it was made.
    before: usize,
    began: Instant,
}

impl FormPort for Port {
    fn receive(&mut self) -> Option<Vec<u8>> {
        let (frame, passed) = self.pipe.take().ok()??;
        self.passed = passed;
        Some(frame)
    }

    fn send(&mut self, frame: &[u8]) {
        // If nobody listens, the next read says so.
        let _ = self.pipe.send_now(frame);
    }

    fn begin(&mut self, budget: Duration) {
        self.began = Instant::now();
        helper::begin(budget);
    }

    fn end(&mut self) {
        helper::end();
    }

    fn spent(&self) -> Duration {
        self.began.elapsed()
    }

    fn weight(&mut self) -> usize {
        helper::heap_bytes().saturating_sub(self.before)
    }

    fn fork(&mut self) -> FormFork {
        let Some(passed) = self.passed.take() else { return FormFork::Original };
        match helper::fork() {
            Ok(Forked::Child) => {
                // The original's pipe is closed here, or the daemon would never see its end.
                self.pipe = Pipe::of(passed);
                if helper::follow(&self.pipe).is_err() {
                    helper::leave();
                }
                FormFork::Copy
            }
            Ok(Forked::Parent) | Err(_) => FormFork::Original,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use serde_json::{Map, Value, json};

    use super::*;
    use phi4d_generate::Form;
    use phi4d_generate::fuzzing::Forms;

    /// A large agent's tools, as one schema.
    fn tools(count: usize) -> Value {
        let tool = |index: usize| {
            let fields: Map<String, Value> = (0..12)
                .map(|field| {
                    let kind = ["string", "integer", "boolean"][field % 3];
                    (format!("field_{field}_of_{index}"), json!({"type": kind}))
                })
                .collect();
            json!({"type": "object", "properties": {"name": {"const": format!("tool_{index}")},
                "arguments": {"type": "object", "properties": fields, "required": ["field_0"]}},
                "required": ["name", "arguments"]})
        };
        json!({"anyOf": (0..count).map(tool).collect::<Vec<_>>()})
    }

    /// The limits leave real forms their room, at Phi-4's vocabulary.
    #[tokio::test]
    async fn large_forms_of_real_programs_are_within_the_limits() {
        let folder = tempfile::tempdir().unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/make_phi4_tokenizer.py");
        let made = Command::new("python3").arg(script).arg(folder.path()).status();
        assert!(made.unwrap().success(), "{script}");
        let vocabulary = folder.path().join("tokenizer.json");
        let ends = vec![100_265, 100_257];
        let host = Arc::new(Forks::default());
        let forms = Forms::over_vocabulary(&vocabulary, ends, host).unwrap();
        let began = Instant::now();
        assert!(forms.check(&Form::JsonObject).await);
        eprintln!("the first form: {:?}", began.elapsed());
        let began = Instant::now();
        assert!(forms.check(&Form::JsonSchema(tools(128))).await);
        eprintln!("128 tools: {:?}", began.elapsed());
        assert!(forms.check(&Form::Regex("([a-z]+ ){2,40}[0-9]{4}-[0-9]{2}".into())).await);
        let texts = (0..1024).map(|index| format!("category {index}")).collect();
        assert!(forms.check(&Form::Choice(texts)).await);
    }
}
