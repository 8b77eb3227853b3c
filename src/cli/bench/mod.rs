//! `phi4d bench`: measures a model bare and through the daemon, in one run.
//!
//! The daemon under test runs in this process, with its real server on a Unix socket. Bare steps
//! and requests take turns on the same loaded model, so that a noisy machine disturbs both alike;
//! figures are medians.

mod client;
mod decode;
mod prefill;
mod report;
mod shared;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::sync::watch;

use super::args::BenchArgs;
use super::client::Daemon;
use super::exit::Fatal;
use super::output::print;
use super::start;
use super::threads;
use client::Timing;
use phi4d_engine::{self as engine, Engine};
use phi4d_fetch::Server;
use phi4d_generate::Generator;
use phi4d_model as model;
use phi4d_os as os;
use phi4d_server::{self as server, App, ModelEntry, Models, ServerOptions};
use phi4d_settings::Settings;
use report::{Report, ms, quantile};
use shared::{Inner, Shared};

/// Widths of decode steps.
const WIDTHS: [usize; 4] = [1, 2, 4, 8];

/// A measurement that took this long is not repeated: long contexts on small machines take minutes.
const ENOUGH: Duration = Duration::from_secs(60);

pub(super) fn run(arguments: &BenchArgs) -> Result<(), Fatal> {
    let mut resolved = arguments.settings.resolve(&["model"])?;
    // A line for each request would be part of what is measured.
    resolved.settings.log_level = resolved.settings.log_level.min(log::LevelFilter::Warn);
    start::start_log(&resolved)?;
    let runtime = threads::runtime(2)?;
    let mut report = Report::default();
    runtime.block_on(measure(arguments, &resolved.settings, &mut report))?;
    if arguments.json { print(&report.json()) } else { print(report.text()) }
}

async fn measure(
    arguments: &BenchArgs,
    settings: &Settings,
    report: &mut Report,
) -> Result<(), Fatal> {
    let folder = tempfile_folder()?;
    let under_test = UnderTest::start(settings, &folder.0)?;
    let bench = Bench { arguments, under_test: &under_test };
    bench.decode(report).await?;
    bench.prefill(report).await?;
    bench.beside(report).await?;
    bench.second_turn(report).await?;
    if arguments.load_seconds > 0 {
        bench.load(report).await?;
    }
    memory(report);
    under_test.stop().await
}

/// A folder of this run, removed at its end.
struct Folder(std::path::PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tempfile_folder() -> Result<Folder, Fatal> {
    let path = std::env::temp_dir().join(format!("phi4d-bench-{}", std::process::id()));
    std::fs::create_dir_all(&path)
        .map_err(|source| Fatal::System { action: "make a folder for the socket", source })?;
    Ok(Folder(path))
}

/// The daemon under test and the model it runs.
struct UnderTest {
    inner: Inner,
    engine: Engine,
    daemon: Arc<Daemon>,
    stop: watch::Sender<bool>,
    server: tokio::task::JoinHandle<server::Ended>,
    vocab: u32,
    context: usize,
    prefill_chunk: usize,
    /// The first of the benchmark's slots.
    own_slots: usize,
}

impl UnderTest {
    fn start(settings: &Settings, folder: &Path) -> Result<Self, Fatal> {
        let model_folder = start::model_folder(settings)?;
        let mut options = start::load_options(settings, model_folder);
        // The engine runs the widest batch, and the benchmark has as many slots of its own.
        let widest = WIDTHS[WIDTHS.len() - 1];
        options.slots = options.slots.max(widest) + widest;
        let memory = start::memory_settings(settings, os::spare_memory());
        let loaded = model::load(&options)?;
        let limits = loaded.runner.limits().clone();
        let plan = model::MemoryPlan::new(&limits, loaded.weight_bytes, &memory);
        let engine_options = engine::Options {
            store: None,
            // Speculation would give a step several tokens.
            draft_tokens: 0,
            ..start::engine_options(settings, &plan, &loaded)?
        };
        let runner = Shared::new(loaded.runner, widest);
        let inner = runner.inner();
        let engine = engine::start(Box::new(runner), loaded.interrupt, engine_options)?;
        let generator = Generator::load(
            model_folder,
            engine.handle(),
            start::generator_options(settings, &loaded.config, model_folder)?,
        )?;
        let path = folder.join("phi4d.sock");
        let (listener, file) = os::bind_unix(&path, 0o600)?;
        let (stop, stopped) = watch::channel(false);
        let entry = ModelEntry {
            name: "bench".to_owned(),
            aliases: Vec::new(),
            created: 0,
            at_start: true,
        };
        let app = App::new(Models::one(entry, generator), ServerOptions::default());
        let server = tokio::spawn(async move {
            let _file = file;
            server::serve(app, vec![listener], stopped, Duration::from_secs(1)).await
        });
        Ok(Self {
            inner,
            engine,
            daemon: Arc::new(Daemon::at(Server::Unix(path))),
            stop,
            server,
            vocab: u32::try_from(limits.vocab_size).unwrap_or(u32::MAX),
            context: limits.context_tokens,
            prefill_chunk: limits.max_prefill_tokens,
            own_slots: limits.slots - widest,
        })
    }

    async fn stop(self) -> Result<(), Fatal> {
        self.stop.send_replace(true);
        let _ = self.server.await;
        self.engine.stop()?;
        Ok(())
    }

    /// Tokens that no other prompt of this run begins with.
    fn prompt(&self, length: usize, random: &mut ChaCha8Rng) -> Vec<u32> {
        // Low ids are ordinary text in every vocabulary of the family.
        (0..length).map(|_| random.random_range(0..self.vocab.min(900))).collect()
    }
}

struct Bench<'a> {
    arguments: &'a BenchArgs,
    under_test: &'a UnderTest,
}

impl Bench<'_> {
    fn failed(error: &model::RunError) -> Fatal {
        Fatal::Internal(error.to_string())
    }

    /// The given numbers of tokens that fit the context with `further` tokens behind them, or the longest
    /// that does if none of them fits.
    fn fitting(&self, wanted: &[usize], further: usize) -> Vec<usize> {
        let most = self.under_test.context.saturating_sub(further).max(1);
        let fits: Vec<usize> = wanted.iter().copied().filter(|&n| n > 0 && n <= most).collect();
        if fits.is_empty() { vec![most] } else { fits }
    }

    /// Whether a measurement that began then has another round, of which it had `done`.
    fn goes_on(&self, done: u32, began: Instant) -> bool {
        done == 0 || done < self.arguments.rounds && began.elapsed() < ENOUGH
    }

    /// A conversation's second message against its first.
    async fn second_turn(&self, report: &mut Report) -> Result<(), Fatal> {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let length = self.arguments.conversation.clamp(16, self.under_test.context - 64);
        let mut prompt = self.under_test.prompt(length, &mut random);
        let cold = self.ask(&prompt, 4).await?;
        prompt.extend(self.under_test.prompt(16, &mut random));
        let warm = self.ask(&prompt, 4).await?;
        report.section("A conversation's next message, of 16 more tokens");
        if let (Some(cold), Some(warm)) = (cold.first, warm.first) {
            report.figure("cold_ms", &format!("{length} tokens: first token"), ms(cold), "ms");
            report.figure("warm_ms", "next message: first token", ms(warm), "ms");
            report.figure("warm_share", "next / first", ms(warm) / ms(cold), "");
        }
        #[expect(clippy::cast_precision_loss, reason = "prompts are short")]
        report.figure("warm_cached", "next message: tokens cached", warm.cached as f64, "");
        Ok(())
    }

    /// Requests that come at random times, as from many callers.
    async fn load(&self, report: &mut Report) -> Result<(), Fatal> {
        let mut random = ChaCha8Rng::seed_from_u64(4);
        let until = Duration::from_secs(self.arguments.load_seconds);
        let mut asked = Vec::new();
        let began = Instant::now();
        let mut at = Duration::ZERO;
        while at < until {
            // Exponential distances make a Poisson process.
            let distance = -(1.0 - random.random::<f64>()).ln() / self.arguments.load_rate;
            at += Duration::from_secs_f64(distance);
            let length = random.random_range(8..=self.arguments.load_prompt.max(9));
            let prompt = self.under_test.prompt(length, &mut random);
            let tokens = random.random_range(4..=self.arguments.tokens.max(5));
            let daemon = Arc::clone(&self.under_test.daemon);
            asked.push(tokio::spawn(async move {
                tokio::time::sleep_until((began + at).into()).await;
                client::complete(&daemon, &prompt, tokens).await
            }));
        }
        let (mut timings, mut refused) = (Vec::new(), 0_u32);
        for task in asked {
            match task.await {
                Ok(Ok(timing)) => timings.push(timing),
                _ => refused += 1,
            }
        }
        let took = began.elapsed();
        report_load(report, &timings, refused, took);
        Ok(())
    }

    async fn ask(&self, prompt: &[u32], tokens: u32) -> Result<Timing, Fatal> {
        client::complete(&self.under_test.daemon, prompt, tokens).await
    }

    /// Asks all at once.
    async fn ask_all(&self, prompts: &[Vec<u32>], tokens: u32) -> Result<Vec<Timing>, Fatal> {
        let mut tasks = Vec::new();
        for prompt in prompts {
            let prompt = prompt.clone();
            let daemon = Arc::clone(&self.under_test.daemon);
            tasks.push(tokio::spawn(
                async move { client::complete(&daemon, &prompt, tokens).await },
            ));
        }
        let mut timings = Vec::new();
        for task in tasks {
            timings.push(task.await.map_err(|error| Fatal::Internal(error.to_string()))??);
        }
        Ok(timings)
    }
}

fn report_load(report: &mut Report, timings: &[Timing], refused: u32, took: Duration) {
    let tokens: u32 = timings.iter().map(|timing| timing.tokens).sum();
    report.section("Requests at random times");
    #[expect(clippy::cast_precision_loss, reason = "a count of requests")]
    report.figure("load_requests", "requests", timings.len() as f64, "");
    report.figure("load_refused", "refused or failed", f64::from(refused), "");
    let rate = f64::from(tokens) / took.as_secs_f64();
    report.figure("load_rate", "generated", rate, "tokens/s");
    let firsts: Vec<f64> = timings.iter().filter_map(|timing| timing.first).map(ms).collect();
    let gaps: Vec<f64> =
        timings.iter().flat_map(|timing| timing.gaps.iter().copied()).map(ms).collect();
    let wholes: Vec<f64> = timings.iter().map(|timing| ms(timing.whole)).collect();
    for (key, name, values) in [
        ("ttft", "time to the first token", firsts),
        ("gap", "time between tokens", gaps),
        ("whole", "time to the end", wholes),
    ] {
        for (suffix, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)] {
            let value = quantile(values.clone(), share);
            report.figure(
                &format!("load_{key}_{suffix}"),
                &format!("{name}, {suffix}"),
                value,
                "ms",
            );
        }
    }
}

/// Resident memory of this process: model, daemon and benchmark.
fn memory(report: &mut Report) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    report.section("Memory");
    for (key, field, name) in [
        ("rss_mib", "VmRSS:", "resident"),
        ("rss_anon_mib", "RssAnon:", "of it not backed by files"),
        ("rss_peak_mib", "VmHWM:", "resident at most"),
    ] {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
        if let Some(kib) = kib {
            report.figure(key, name, kib / 1024.0, "MiB");
        }
    }
}
