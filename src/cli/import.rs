//! `tollgate import`.
//!
//! One thread reads, decompresses, splits and renders; batches go from it through a short channel to
//! a few requests in flight. They are accounted for in the order of the file, so that the reject
//! file is in that order and a checkpoint is one number. Memory is bounded by [`WINDOW`].

mod batch;
mod checkpoint;
mod columns;
pub(super) mod progress;
mod rejects;
mod rows;
mod source;
mod target;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::Duration;

use clap::Args;
use indicatif::HumanCount;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use self::batch::{Batch, Limits};
use self::checkpoint::{Checkpoint, Subject};
use self::progress::{Progress, per_second};
use self::rejects::Rejects;
use self::rows::{Format, Rows};
use self::source::Source;
use self::target::{Outcome, Target};
use super::{ClientArgs, Failure, output};
use crate::clock::Clock;

/// What `import --help` ends with.
const EXAMPLES: &str = "\
A row is refused if the server's rules refuse it; the others are imported all the same. Refused rows
are in the reject file with their line and the reason: a reject file of a CSV file can be corrected
and imported as it is, one of JSON lines holds {\"line\", \"reason\", \"row\"}.

An event that the server has is a duplicate: to import a file again adds nothing, and is safe after
any interruption. With --resume it also starts where it was interrupted.

Columns: event_id, timestamp or occurred_at, user_id, event_type, topic, tenant_id, source, payload
or properties or properties_json (a JSON object), extra_json (a JSON object of further keys); others
are kept as strings. An empty field is an absent one.

Exit codes: 0 done, 1 the operation failed or rows were refused, 2 wrong usage.

Examples:
  tollgate import events.csv
  zstd -dc old.ndjson.zst | tollgate import - --rejects bad.ndjson
  tollgate import events.csv.gz --resume --server http://10.0.0.5:8000";

/// Batches between the first that is not accounted for and the last that was begun, for each
/// connection: others go on while one is tried again.
const WINDOW: usize = 2;

/// The bytes of all batches that are sent at the same time, and of one of them at most. Those of
/// [`WINDOW`], and each one's request, come to some multiple of it.
const SENT_BYTES: usize = 5 << 19;
const BATCH_BYTES: usize = 5 << 17;

/// The least time between two checkpoints.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

/// The options of `import`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ImportArgs {
    /// A CSV file with a header, or a JSON object a line; plain, gzip or zstd; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What the file is [default: by its first character]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Where refused rows go [default: FILE.rejects, for standard input import.rejects]
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Exit with 0 although rows were refused
    #[arg(long)]
    allow_rejects: bool,
    /// Note in FILE.import how far it came, and go on from there
    #[arg(long)]
    resume: bool,
    /// Rows a request
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    batch: u32,
    /// Requests in flight
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=16))]
    connections: u32,
    /// Straight into the data directory of a server that does not run
    #[arg(long, value_name = "DIR", conflicts_with = "server")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    client: ClientArgs,
}

/// What became of all rows so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Tally {
    rows: u64,
    accepted: u64,
    duplicates: u64,
    /// Taken by the server's bus, to be counted when they are committed.
    #[serde(default, skip_serializing_if = "output::is_zero")]
    queued: u64,
    rejected: u64,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Summary<'a> {
    #[serde(flatten)]
    tally: Tally,
    seconds: f64,
    rows_per_second: u64,
    /// The reject file, if there is one.
    rejects: Option<&'a Path>,
}

/// An import that runs.
struct Import {
    tally: Tally,
    rejects: Rejects,
    progress: Progress,
    clock: Clock,
    checkpoints: Option<Checkpoints>,
}

/// Where checkpoints are kept, and of what.
struct Checkpoints {
    path: PathBuf,
    subject: Subject,
    last: Duration,
}

/// Imports, says how it went, and fails unless all rows went in.
pub(super) async fn run(args: ImportArgs) -> Result<(), Failure> {
    let clock = Clock::system();
    let standard_input = args.file == Path::new("-");
    if standard_input && args.resume {
        let text = "standard input can't be resumed: --resume needs a file";
        return Err(Failure::Usage(text.to_owned()));
    }
    let rejects = rejects_path(&args, standard_input)?;
    let failed = |error: io::Error| Failure::Failed(format!("{}: {error}", args.file.display()));
    let read = Arc::new(AtomicU64::new(0));
    let (source, total) = open(&args.file, standard_input, &read).map_err(failed)?;
    let rows = Rows::new(source, args.format).map_err(failed)?;
    // Behind the input: a directory is made where there is none.
    let target = Target::new(args.data_dir.as_deref(), &args.client.server, &clock)?;
    let (checkpoints, resumed) = if args.resume {
        let subject = Subject::of(&args.file, target.name()).map_err(failed)?;
        checkpoints(&args.file, subject)?
    } else {
        (None, None)
    };
    let kept = resumed.as_ref().map(|found| found.rejects_bytes);
    let rejects = Rejects::open(&rejects, rows.header(), kept)
        .map_err(|error| Failure::Failed(format!("{}: {error}", rejects.display())))?;
    let tally = resumed.map(|found| found.tally).unwrap_or_default();
    if tally.rows > 0 {
        let rows = HumanCount(tally.rows);
        output::note(&format!("going on behind the first {rows} rows"));
    }
    let import = Import {
        tally,
        rejects,
        progress: Progress::new(&clock, tally.rows, read, total, args.client.json),
        clock,
        checkpoints,
    };
    let done = import.run(&args, rows, target.clone()).await;
    target.close().await;
    done
}

/// The input, and its length if that is known.
fn open(
    path: &Path,
    standard_input: bool,
    read: &Arc<AtomicU64>,
) -> io::Result<(Source, Option<u64>)> {
    if standard_input {
        return Ok((Source::stdin(Arc::clone(read))?, None));
    }
    let file = File::open(path)?;
    let meta = file.metadata()?;
    let total = meta.is_file().then_some(meta.len());
    Ok((Source::file(file, Arc::clone(read))?, total))
}

fn rejects_path(args: &ImportArgs, standard_input: bool) -> Result<PathBuf, Failure> {
    let path = match &args.rejects {
        Some(path) => path.clone(),
        None if standard_input => "import.rejects".into(),
        None => {
            let mut name = args.file.as_os_str().to_owned();
            name.push(".rejects");
            name.into()
        }
    };
    let same = match (fs::canonicalize(&path), fs::canonicalize(&args.file)) {
        (Ok(rejects), Ok(file)) => rejects == file,
        _ => false,
    };
    if same {
        return Err(Failure::Usage(format!(
            "{}: the reject file can't be the file that is read",
            path.display()
        )));
    }
    Ok(path)
}

/// What an interrupted import left, if it was the same one.
fn checkpoints(
    file: &Path,
    subject: Subject,
) -> Result<(Option<Checkpoints>, Option<Checkpoint>), Failure> {
    let path = checkpoint::path(file);
    let failed = |text: String| Failure::Failed(format!("{}: {text}", path.display()));
    let found = Checkpoint::load(&path).map_err(failed)?;
    if found.as_ref().is_some_and(|found| found.subject != subject) {
        let text = "it is of another file or another target: remove it to start anew";
        return Err(failed(text.to_owned()));
    }
    let last = Duration::ZERO;
    Ok((
        Some(Checkpoints {
            path,
            subject,
            last,
        }),
        found,
    ))
}

impl Import {
    async fn run(mut self, args: &ImportArgs, rows: Rows, target: Target) -> Result<(), Failure> {
        let (sender, receiver) = mpsc::channel(1);
        let connections = args.connections as usize;
        let skip = self.tally.rows;
        let limits = Limits {
            rows: args.batch as usize,
            bytes: (SENT_BYTES / connections).min(BATCH_BYTES),
        };
        // It ends when the file does, or when nobody receives any more.
        let reader = thread::Builder::new()
            .name("reader".to_owned())
            .spawn(move || read(rows, skip, limits, &sender));
        let done = match reader {
            Ok(_) => self.send_all(receiver, connections, target).await,
            Err(error) => Err(Failure::Failed(format!(
                "no thread can be started: {error}"
            ))),
        };
        self.progress.close();
        let done = done.map_err(|failure| match failure {
            Failure::Failed(text) => Failure::Failed(format!("{}: {text}", args.file.display())),
            other => other,
        });
        match (&self.checkpoints, &done) {
            (Some(kept), Ok(())) => {
                // Without it the next run starts anew, which is right.
                let _ = fs::remove_file(&kept.path);
            }
            (Some(_), Err(_)) => self.save_checkpoint()?,
            (None, _) => {}
        }
        self.finish(args, done)
    }

    /// Sends batches as they come and accounts for them in their order.
    async fn send_all(
        &mut self,
        mut batches: mpsc::Receiver<io::Result<Batch>>,
        connections: usize,
        target: Target,
    ) -> Result<(), Failure> {
        let permits = Arc::new(Semaphore::new(connections));
        let mut sent: VecDeque<JoinHandle<Result<Outcome, Failure>>> = VecDeque::new();
        // What was read before a failure is still imported.
        let mut read = Ok(());
        let mut reading = true;
        loop {
            let more = reading && sent.len() < connections * WINDOW;
            tokio::select! {
                biased;
                Some(done) = first(&mut sent) => {
                    sent.pop_front();
                    self.account(done?)?;
                }
                batch = batches.recv(), if more => match batch {
                    Some(Ok(batch)) => {
                        let (target, permits) = (target.clone(), Arc::clone(&permits));
                        sent.push_back(tokio::spawn(async move {
                            // The semaphore is never closed.
                            let _permit = permits.acquire().await;
                            target.send(batch).await
                        }));
                    }
                    Some(Err(error)) => read = Err(Failure::Failed(error.to_string())),
                    None => reading = false,
                },
                else => return read,
            }
        }
    }

    fn account(&mut self, outcome: Outcome) -> Result<(), Failure> {
        self.tally.rows += outcome.rows;
        self.tally.accepted += outcome.accepted;
        self.tally.duplicates += outcome.duplicates;
        self.tally.queued += outcome.queued;
        self.tally.rejected += u64::try_from(outcome.rejects.len()).unwrap_or(0);
        self.rejects
            .add(outcome.rejects)
            .map_err(|error| Failure::Failed(format!("the reject file: {error}")))?;
        self.progress.show(self.tally.rows);
        let now = self.clock.now().mono;
        if let Some(kept) = &mut self.checkpoints
            && now.saturating_sub(kept.last) >= CHECKPOINT_EVERY
        {
            kept.last = now;
            self.save_checkpoint()?;
        }
        Ok(())
    }

    fn save_checkpoint(&self) -> Result<(), Failure> {
        let Some(kept) = &self.checkpoints else {
            return Ok(());
        };
        let checkpoint = Checkpoint {
            subject: kept.subject.clone(),
            tally: self.tally,
            rejects_bytes: self.rejects.bytes(),
        };
        checkpoint
            .save(&kept.path)
            .map_err(|error| Failure::Failed(format!("{}: {error}", kept.path.display())))
    }

    /// Tells the counts, also those of an import that failed.
    fn finish(self, args: &ImportArgs, done: Result<(), Failure>) -> Result<(), Failure> {
        let seconds = self.progress.seconds();
        let (tally, new) = (self.tally, self.progress.new_rows(self.tally.rows));
        let rejects = self.rejects.close();
        let rate = per_second(new, seconds);
        if args.client.json {
            let summary = Summary {
                tally,
                seconds,
                rows_per_second: rate,
                rejects: rejects.as_deref(),
            };
            let text = serde_json::to_string(&summary)
                .map_err(|error| Failure::Failed(error.to_string()))?;
            output::line(&text)?;
        } else {
            for (name, count) in [
                ("rows", tally.rows),
                ("accepted", tally.accepted),
                ("duplicates", tally.duplicates),
                ("queued", tally.queued),
                ("rejected", tally.rejected),
            ] {
                if name == "queued" && count == 0 {
                    continue;
                }
                output::line(&format!("{name:<10} {}", HumanCount(count)))?;
            }
            output::line(&format!("{:<10} {seconds:.1}", "seconds"))?;
            output::line(&format!("{:<10} {}", "rows/s", HumanCount(rate)))?;
        }
        done?;
        match rejects {
            Some(path) if !args.allow_rejects => Err(Failure::Failed(format!(
                "{} of {} rows were refused: see {}",
                HumanCount(tally.rejected),
                HumanCount(tally.rows),
                path.display()
            ))),
            _ => Ok(()),
        }
    }
}

/// What the first of those in flight came to; `None` if none is.
async fn first(
    sent: &mut VecDeque<JoinHandle<Result<Outcome, Failure>>>,
) -> Option<Result<Outcome, Failure>> {
    let done = sent.front_mut()?.await;
    Some(done.unwrap_or_else(|error| Err(Failure::Failed(error.to_string()))))
}

/// Makes batches of all rows but the first `skip`.
fn read(mut rows: Rows, skip: u64, limits: Limits, sender: &mpsc::Sender<io::Result<Batch>>) {
    let mut skipped = Vec::new();
    for _ in 0..skip {
        skipped.clear();
        match rows.next(&mut skipped) {
            Ok(Some(_)) => {}
            Ok(None) => return,
            Err(error) => return drop(sender.blocking_send(Err(error))),
        }
    }
    let mut batch = Batch::default();
    loop {
        let failed = match rows.next(batch.events()) {
            Ok(Some(row)) => {
                batch.push(row);
                if !batch.is_full(limits) {
                    continue;
                }
                None
            }
            Ok(None) => Some(Ok(())),
            Err(error) => Some(Err(error)),
        };
        let full = std::mem::take(&mut batch);
        if full.rows() > 0 && sender.blocking_send(Ok(full)).is_err() {
            return;
        }
        match failed {
            None => {}
            Some(Ok(())) => return,
            Some(Err(error)) => return drop(sender.blocking_send(Err(error))),
        }
    }
}
