//! `tollgate export`.

mod render;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use indicatif::HumanCount;
use serde::Deserialize;
use serde_json::value::RawValue;

use self::render::Renderer;
use super::client::Client;
use super::{Failure, ServerArgs, directory, output};
use crate::clock::Clock;
use crate::events::json;
use crate::events::parse::time;
use crate::model::event::{EventFilter, EventTime, Order, PageQuery, Place};
use crate::store::Store;

/// What `export --help` ends with.
const EXAMPLES: &str = "\
In order of (timestamp, arrival). What is written can be imported: the events are then the same.

Examples:
  tollgate export > all.ndjson
  tollgate export --tenant-id shop --from 2026-11-01T00:00:00Z --format csv -o november.csv";

/// Events a page.
const PAGE: usize = 1_000;

/// The options of `export`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ExportArgs {
    /// How events are written
    #[arg(long, value_enum, default_value = "ndjson")]
    format: ExportFormat,
    /// Where to [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
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
    let mut out: BufWriter<Sink> = BufWriter::new(match &args.output {
        Some(path) => {
            let file = File::create(path);
            Sink::File(file.map_err(|it| Failure::Failed(format!("{}: {it}", path.display())))?)
        }
        None => Sink::Stdout(io::stdout()),
    });
    let mut renderer = Renderer::new(args.format == ExportFormat::Csv);
    let done = write_all(&mut origin, &mut renderer, &mut out).await;
    if let Origin::Directory { store, .. } = origin {
        store.close().await;
    }
    let written = done?;
    out.flush()?;
    if args.output.is_some() {
        output::note(&format!("{} events", HumanCount(written)));
    }
    Ok(())
}

async fn write_all(
    origin: &mut Origin,
    renderer: &mut Renderer,
    out: &mut BufWriter<Sink>,
) -> Result<u64, Failure> {
    let mut written = 0;
    let mut text = Vec::new();
    renderer.header(&mut text);
    loop {
        let (events, more) = match origin {
            Origin::Server(remote) => remote.page(renderer, &mut text).await?,
            Origin::Directory { store, query } => {
                directory_page(store, query, renderer, &mut text).await?
            }
        };
        written += events;
        out.write_all(&text)?;
        text.clear();
        if !more {
            return Ok(written);
        }
    }
}

impl Remote {
    /// Renders the next page; how many events it had, and whether there are more.
    async fn page(
        &mut self,
        renderer: &Renderer,
        out: &mut Vec<u8>,
    ) -> Result<(u64, bool), Failure> {
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
            renderer.render(event.get(), out)?;
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
    renderer: &Renderer,
    out: &mut Vec<u8>,
) -> Result<(u64, bool), Failure> {
    let page = store.page(query.clone()).await;
    let page = page.map_err(|error| Failure::Failed(error.to_string()))?;
    for stored in &page.events {
        renderer.render(&json::event(&stored.event), out)?;
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
