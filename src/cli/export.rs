//! `tollgate export`.

mod parts;
mod render;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use indicatif::HumanCount;
use serde::Deserialize;
use serde_json::value::RawValue;

use self::parts::Parts;
use self::render::Renderer;
use super::client::Client;
use super::{Failure, ServerArgs, directory, output};
use crate::clock::Clock;
use crate::events::json;
use crate::events::parse::time;
use crate::model::event::{EventFilter, EventTime, Order, PageQuery, Place, StoredEvent};
use crate::store::Store;

/// What `export --help` ends with.
const EXAMPLES: &str = "\
In order of (timestamp, arrival). What is written as NDJSON or CSV can be imported: the events are then
the same. Parquet goes into a directory, as day=YYYY-MM-DD/part-00000.parquet and so on by the UTC day of the
timestamp, and takes the place of what an earlier export wrote for those days.

Examples:
  tollgate export > all.ndjson
  tollgate export --tenant-id shop --from 2026-11-01T00:00:00Z --format csv -o november.csv
  tollgate export --format parquet --partition day --output events";

/// Events a page.
const PAGE: usize = 1_000;

/// The options of `export`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ExportArgs {
    /// How events are written
    #[arg(long, value_enum, default_value = "ndjson")]
    format: ExportFormat,
    /// Where to: a file, or a directory for Parquet [default: standard output]
    #[arg(long, short, value_name = "PATH")]
    output: Option<PathBuf>,
    /// What a folder of Parquet files has [default: day]
    #[arg(long, value_enum)]
    partition: Option<Partition>,
    #[command(flatten)]
    filter: Filter,
    /// Out of the data directory of a server that does not run
    #[arg(long, value_name = "DIR", conflicts_with = "server")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArgs,
}

/// How events are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum ExportFormat {
    /// A JSON object a line.
    Ndjson,
    /// A header, then a row an event; further keys in the column `extra_json`.
    Csv,
    /// Parquet files in a folder for each day.
    Parquet,
}

/// What a folder of Parquet files has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Partition {
    /// The events of a UTC day.
    Day,
}

/// Which events; all that are given must match.
#[derive(Debug, Args)]
struct Filter {
    /// Only this tenant's
    #[arg(long, value_name = "NAME")]
    tenant_id: Option<String>,
    /// Only of this topic
    #[arg(long, value_name = "NAME")]
    topic: Option<String>,
    /// Only from this source
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Only of this type
    #[arg(long, value_name = "NAME")]
    event_type: Option<String>,
    /// Only this user's
    #[arg(long, value_name = "NAME")]
    user_id: Option<String>,
    /// Not before, such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    from: Option<EventTime>,
    /// Before
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    to: Option<EventTime>,
    /// The newest first
    #[arg(long)]
    desc: bool,
}

fn parse_time(text: &str) -> Result<EventTime, String> {
    time::parse(text).ok_or_else(|| "a time is written as in 2026-01-31T12:00:00Z".to_owned())
}

/// Where events come from.
enum Origin {
    Server(Box<Remote>),
    Directory { store: Store, query: Box<PageQuery> },
}

/// A running server, and where in its events this is.
struct Remote {
    client: Client,
    clock: Clock,
    query: Vec<(&'static str, String)>,
    cursor: Option<String>,
    args: ServerArgs,
}

/// What is read of a page.
#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    events: Vec<&'a RawValue>,
    next_cursor: Option<String>,
}

/// Writes every event that is meant.
pub(super) async fn run(args: ExportArgs) -> Result<(), Failure> {
    let usage = |text: &str| Err(Failure::Usage(text.to_owned()));
    match args.format {
        ExportFormat::Parquet if args.output.is_none() => {
            return usage("--format parquet needs a directory: --output DIR");
        }
        ExportFormat::Csv | ExportFormat::Ndjson if args.partition.is_some() => {
            return usage("--partition is for --format parquet");
        }
        _ => {}
    }
    let mut origin = match &args.data_dir {
        Some(dir) => Origin::Directory {
            store: directory::open(dir)?,
            query: Box::new(args.filter.query()),
        },
        None => Origin::Server(Box::new(Remote {
            client: Client::new(&args.server)?,
            clock: Clock::system(),
            query: args.filter.parameters(),
            cursor: None,
            args: args.server,
        })),
    };
    let mut output = Output::open(args.format, args.output.as_deref())?;
    let done = write_all(&mut origin, &mut output).await;
    if let Origin::Directory { store, .. } = origin {
        store.close().await;
    }
    let written = done?;
    output.finish()?;
    if args.output.is_some() {
        output::note(&format!("{} events", HumanCount(written)));
    }
    Ok(())
}

async fn write_all(origin: &mut Origin, output: &mut Output) -> Result<u64, Failure> {
    let mut written = 0;
    loop {
        let (events, more) = match origin {
            Origin::Server(remote) => remote.page(output).await?,
            Origin::Directory { store, query } => directory_page(store, query, output).await?,
        };
        written += events;
        output.end_page()?;
        if !more {
            return Ok(written);
        }
    }
}

/// What events are written to.
enum Output {
    Lines {
        renderer: Renderer,
        /// Those of a page.
        text: Vec<u8>,
        out: BufWriter<Sink>,
    },
    Parts(Box<Parts>),
}

impl Output {
    fn open(format: ExportFormat, path: Option<&Path>) -> Result<Self, Failure> {
        if let (ExportFormat::Parquet, Some(root)) = (format, path) {
            return Ok(Self::Parts(Box::new(Parts::open(root)?)));
        }
        let sink = match path {
            Some(path) => {
                let file = File::create(path);
                Sink::File(file.map_err(|it| Failure::Failed(format!("{}: {it}", path.display())))?)
            }
            None => Sink::Stdout(io::stdout()),
        };
        let renderer = Renderer::new(format == ExportFormat::Csv);
        let mut text = Vec::new();
        renderer.header(&mut text);
        Ok(Self::Lines {
            renderer,
            text,
            out: BufWriter::new(sink),
        })
    }

    /// An event as a server answered it.
    fn json(&mut self, json: &str) -> Result<(), Failure> {
        match self {
            Self::Lines { renderer, text, .. } => renderer.render(json, text),
            Self::Parts(parts) => parts.push(None, &parts::event(json)?),
        }
    }

    fn stored(&mut self, stored: &StoredEvent) -> Result<(), Failure> {
        match self {
            Self::Lines { .. } => self.json(&json::event(&stored.event)),
            Self::Parts(parts) => parts.push(Some(stored.sequence), &stored.event),
        }
    }

    /// All events of a page are there.
    fn end_page(&mut self) -> Result<(), Failure> {
        if let Self::Lines { text, out, .. } = self {
            out.write_all(text)?;
            text.clear();
        }
        Ok(())
    }

    /// Nothing comes any more.
    fn finish(self) -> Result<(), Failure> {
        match self {
            Self::Lines { mut out, .. } => Ok(out.flush()?),
            Self::Parts(parts) => parts.finish(),
        }
    }
}

impl Remote {
    /// Writes the next page; how many events it had, and whether there are more.
    async fn page(&mut self, output: &mut Output) -> Result<(u64, bool), Failure> {
        let mut query: Vec<(&str, &str)> = Vec::new();
        query.extend(self.query.iter().map(|(key, value)| (*key, value.as_str())));
        if let Some(cursor) = &self.cursor {
            query.push(("cursor", cursor));
        }
        let text = self
            .client
            .get_again("events", &query, self.args.retry_for, &self.clock)
            .await?;
        let page: Page<'_> = serde_json::from_str(&text).map_err(|error| {
            Failure::Failed(format!("the answer is no page of events: {error}"))
        })?;
        for event in &page.events {
            output.json(event.get())?;
        }
        // A cursor that does not move would never end.
        if page.next_cursor.is_some() && page.next_cursor == self.cursor {
            return Err(Failure::Failed(
                "the server's cursor stands still".to_owned(),
            ));
        }
        self.cursor = page.next_cursor;
        Ok((count(page.events.len()), self.cursor.is_some()))
    }
}

async fn directory_page(
    store: &Store,
    query: &mut PageQuery,
    output: &mut Output,
) -> Result<(u64, bool), Failure> {
    let page = store.page(query.clone()).await;
    let page = page.map_err(|error| Failure::Failed(error.to_string()))?;
    for stored in &page.events {
        output.stored(stored)?;
    }
    let next: Option<Place> = page.next;
    query.after = next;
    Ok((count(page.events.len()), next.is_some()))
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

impl Filter {
    fn query(&self) -> PageQuery {
        PageQuery {
            filter: EventFilter {
                tenant: self.tenant_id.clone(),
                topic: self.topic.clone(),
                source: self.source.clone(),
                event_type: self.event_type.clone(),
                user: self.user_id.clone(),
                from: self.from,
                to: self.to,
            },
            order: if self.desc {
                Order::Descending
            } else {
                Order::Ascending
            },
            after: None,
            skip: 0,
            limit: PAGE,
        }
    }

    fn parameters(&self) -> Vec<(&'static str, String)> {
        let order = if self.desc { "desc" } else { "asc" };
        let mut all = vec![("page_size", PAGE.to_string()), ("order", order.to_owned())];
        for (key, value) in [
            ("tenant_id", self.tenant_id.clone()),
            ("topic", self.topic.clone()),
            ("source", self.source.clone()),
            ("event_type", self.event_type.clone()),
            ("user_id", self.user_id.clone()),
            ("from", self.from.map(|time| time.to_string())),
            ("to", self.to.map(|time| time.to_string())),
        ] {
            all.extend(value.map(|value| (key, value)));
        }
        all
    }
}

/// Where events go.
enum Sink {
    File(File),
    Stdout(io::Stdout),
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write(bytes),
            Self::Stdout(stdout) => stdout.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.flush(),
            Self::Stdout(stdout) => stdout.flush(),
        }
    }
}
