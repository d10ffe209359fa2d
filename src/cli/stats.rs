//! `tollgate stats`: questions about events, answered as tables.

mod retention;

use clap::{Args, Subcommand};
use jiff::civil::Date;
use serde::Deserialize;

use super::client::Client;
use super::follow::one_line;
use super::table::{Table, Wide};
use super::{Failure, ServerArgs, output};
use crate::clock::Clock;
use crate::events::parse::time;

/// What `stats --help` ends with.
const EXAMPLES: &str = "\
Examples:
  tollgate stats dau --tenant shop --from 2026-11-01 --tz Europe/Kyiv
  tollgate stats top --limit 20 --from 2026-11-21T00:00:00Z
  tollgate stats retention --windows 8 --window-type weekly
  tollgate stats segments properties.country
  tollgate stats dau --segment properties.country=UA
  tollgate stats buckets --bucket-size hour --type purchase --csv > hours.csv";

/// The options of `stats`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct StatsArgs {
    #[command(subcommand)]
    question: Question,
}

#[derive(Debug, Subcommand)]
enum Question {
    /// Users of each day
    Dau(Daily),
    /// Users of the 7 days that end with each date
    Wau(Daily),
    /// Users of the 30 days that end with each date
    Mau(Daily),
    /// The most frequent event types
    Top {
        /// How many types at most
        #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1_000))]
        limit: u64,
        #[command(flatten)]
        between: Between,
        #[command(flatten)]
        common: Common,
    },
    /// Who comes back, by when they first came
    Retention {
        /// The first day of the first window [default: such that the last one ends with today]
        #[arg(long, value_name = "DATE", value_parser = parse_date)]
        start_date: Option<String>,
        /// How many cohorts, and through how many windows each is followed
        #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=90))]
        windows: u64,
        /// How long a window is
        #[arg(long, value_name = "TYPE", default_value = "daily", value_parser = ["daily", "weekly"])]
        window_type: String,
        #[command(flatten)]
        common: Common,
    },
    /// The values that there are at a path, each a segment
    Segments {
        #[arg(
            value_name = "PATH",
            default_value = "event_type",
            help = "Where: event_type, or such as properties.country"
        )]
        path: String,
        /// How many values at most
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1_000))]
        limit: u64,
        #[command(flatten)]
        between: Between,
        #[command(flatten)]
        common: Common,
    },
    /// Events and users by minute, hour or day
    Buckets {
        /// How long a bucket is
        #[arg(long, value_name = "SIZE", default_value = "hour", value_parser = ["minute", "hour", "day"])]
        bucket_size: String,
        #[command(flatten)]
        between: Between,
        #[command(flatten)]
        common: Common,
    },
}

/// Which days.
#[derive(Debug, Args)]
struct Daily {
    /// The first day [default: 29 days before the last]
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    from: Option<String>,
    /// The last day, included [default: today]
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    to: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// When.
#[derive(Debug, Args)]
struct Between {
    /// Not before: a date, or a time such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = parse_when)]
    from: Option<String>,
    /// A date, included; or a time, not included
    #[arg(long, value_name = "WHEN", value_parser = parse_when)]
    to: Option<String>,
}

/// Which events, and how the answer is printed.
#[derive(Debug, Args)]
struct Common {
    /// Only this tenant's
    #[arg(long, alias = "tenant-id", value_name = "NAME")]
    tenant: Option<String>,
    /// Only from this source
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Only of this type
    #[arg(long = "type", alias = "event-type", value_name = "NAME")]
    event_type: Option<String>,
    #[arg(
        long,
        value_name = "SEGMENT",
        help = "Only of this segment, such as properties.country=UA; all that are given must match"
    )]
    segment: Vec<String>,
    /// The IANA time zone whose days are meant [default: UTC]
    #[arg(long, value_name = "ZONE")]
    tz: Option<String>,
    /// Print the server's answer
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print CSV with a header
    #[arg(long)]
    csv: bool,
    #[command(flatten)]
    server: ServerArgs,
}

fn parse_date(text: &str) -> Result<String, String> {
    let date = text.parse::<Date>().map(|date| date.to_string());
    date.map_err(|_| "a date is written as in 2026-01-31".to_owned())
}

fn parse_when(text: &str) -> Result<String, String> {
    match time::parse(text) {
        Some(time) => Ok(time.to_string()),
        None => parse_date(text).map_err(|_| {
            "a date is written as in 2026-01-31, a time as in 2026-01-31T12:00:00Z".to_owned()
        }),
    }
}

/// What is asked: a path with its query, and what becomes of the answer.
struct Asked {
    path: &'static str,
    query: Vec<(&'static str, Option<String>)>,
    common: Common,
    table: fn(&str) -> Result<Table, serde_json::Error>,
}

impl From<Question> for Asked {
    fn from(question: Question) -> Self {
        match question {
            Question::Dau(days) => days.ask("stats/dau", |text| active("dau", text)),
            Question::Wau(days) => days.ask("stats/wau", |text| active("wau", text)),
            Question::Mau(days) => days.ask("stats/mau", |text| active("mau", text)),
            Question::Top {
                limit,
                between,
                common,
            } => Self {
                path: "stats/top-events",
                query: vec![
                    ("limit", Some(limit.to_string())),
                    ("from", between.from),
                    ("to", between.to),
                ],
                common,
                table: top,
            },
            Question::Retention {
                start_date,
                windows,
                window_type,
                common,
            } => Self {
                path: "stats/retention",
                query: vec![
                    ("start_date", start_date),
                    ("windows", Some(windows.to_string())),
                    ("window_type", Some(window_type)),
                ],
                common,
                table: retention::table,
            },
            Question::Segments {
                path,
                limit,
                between,
                common,
            } => Self {
                path: "stats/segments/values",
                query: vec![
                    ("path", Some(path)),
                    ("limit", Some(limit.to_string())),
                    ("from", between.from),
                    ("to", between.to),
                ],
                common,
                table: values,
            },
            Question::Buckets {
                bucket_size,
                between,
                common,
            } => Self {
                path: "metrics",
                query: vec![
                    ("bucket_size", Some(bucket_size)),
                    ("from", between.from),
                    ("to", between.to),
                ],
                common,
                table: buckets,
            },
        }
    }
}

impl Daily {
    fn ask(self, path: &'static str, table: fn(&str) -> Result<Table, serde_json::Error>) -> Asked {
        Asked {
            path,
            query: vec![("from", self.from), ("to", self.to)],
            common: self.common,
            table,
        }
    }
}

/// Asks, and prints the answer.
pub(super) async fn run(args: StatsArgs) -> Result<(), Failure> {
    let Asked {
        path,
        mut query,
        common,
        table,
    } = args.question.into();
    query.extend([
        ("tenant_id", common.tenant),
        ("source", common.source),
        ("event_type", common.event_type),
        ("tz", common.tz),
    ]);
    let segments = common.segment.iter().map(|it| ("segment", it.as_str()));
    let query: Vec<(&str, &str)> = query
        .iter()
        .filter_map(|(name, value)| Some((*name, value.as_deref()?)))
        .chain(segments)
        .collect();
    let text = Client::new(&common.server)?
        .get_again(path, &query, common.server.retry_for, &Clock::system())
        .await?;
    if common.json {
        return output::line(&one_line(&text));
    }
    let table = table(&text)
        .map_err(|error| Failure::Failed(format!("the server's answer can't be read: {error}")))?;
    if common.csv {
        return output::text(&table.csv());
    }
    let width = output::width();
    output::text(&table.text(width))?;
    if let Some(note) = table.note(width) {
        output::note(&note);
    }
    Ok(())
}

/// Of DAU, WAU and MAU.
fn active(name: &'static str, text: &str) -> Result<Table, serde_json::Error> {
    let days: Vec<serde_json::Map<String, serde_json::Value>> = serde_json::from_str(text)?;
    let mut table = Table::new(&["date", name]).with_bars(1);
    for day in days {
        let date = day.get("date").and_then(serde_json::Value::as_str);
        let users = day.get(name).and_then(serde_json::Value::as_u64);
        let (Some(date), Some(users)) = (date, users) else {
            return Err(serde::de::Error::custom(format!(
                "a day has no date or no {name}"
            )));
        };
        table.row([date.to_owned(), users.to_string()]);
    }
    Ok(table)
}

#[derive(Deserialize)]
struct TopEvent {
    event_type: String,
    count: u64,
    unique_users: u64,
}

fn top(text: &str) -> Result<Table, serde_json::Error> {
    let mut table = Table::new(&["event_type", "count", "unique_users"]).with_bars(1);
    for it in serde_json::from_str::<Vec<TopEvent>>(text)? {
        table.row([
            it.event_type,
            it.count.to_string(),
            it.unique_users.to_string(),
        ]);
    }
    Ok(table)
}

#[derive(Deserialize)]
struct Values {
    values: Vec<Value>,
    truncated: bool,
}

#[derive(Deserialize)]
struct Value {
    #[serde(rename = "value")]
    text: String,
    count: u64,
    unique_users: u64,
}

fn values(text: &str) -> Result<Table, serde_json::Error> {
    let Values { values, truncated } = serde_json::from_str(text)?;
    let mut table = Table::new(&["value", "count", "unique_users"]).with_bars(1);
    for it in values {
        table.row([it.text, it.count.to_string(), it.unique_users.to_string()]);
    }
    Ok(if truncated {
        table.with_note("There are other values: see --limit")
    } else {
        table
    })
}

#[derive(Deserialize)]
struct Buckets {
    buckets: Vec<Bucket>,
}

#[derive(Deserialize)]
struct Bucket {
    start: String,
    end: String,
    count: u64,
    unique_users: u64,
}

fn buckets(text: &str) -> Result<Table, serde_json::Error> {
    let mut table = Table::new(&["start", "end", "count", "unique_users"]).with_bars(1);
    let mut rows = Vec::new();
    for it in serde_json::from_str::<Buckets>(text)?.buckets {
        let (count, users) = (it.count.to_string(), it.unique_users.to_string());
        // People know when a minute, an hour or a day ends.
        rows.push(vec![it.start.clone(), count.clone(), users.clone()]);
        table.row([it.start, it.end, count, users]);
    }
    Ok(table.with_wide(Wide {
        header: ["start", "count", "unique_users"].map(str::to_owned).into(),
        rows,
    }))
}
