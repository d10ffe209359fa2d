//! `tollgate submit`.

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::client::Client;
use super::follow::{self, one_line};
use super::{ClientArgs, Failure, ids, output};
use crate::model::id::IngestionId;

/// What `submit --help` ends with.
const EXAMPLES: &str = "\
Examples:
  tollgate submit 1..=7 --follow
  tollgate submit 7 8 9 --priority high --queue mail
  tollgate submit -- -10--1
  seq 1000 | tollgate submit - --json";

/// The options of `submit`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct SubmitArgs {
    /// Ids and ranges: 7 -3 1..=10 1-10; - reads standard input; -- goes before a range below zero
    #[arg(value_name = "ID", allow_negative_numbers = true)]
    ids: Vec<String>,
    /// Read ids from a file, separated by white space or commas (- is standard input)
    #[arg(long, short, value_name = "FILE")]
    file: Option<String>,
    /// HIGH goes before MEDIUM, MEDIUM before LOW
    #[arg(long, short, value_enum, ignore_case = true, default_value = "MEDIUM")]
    priority: PriorityArg,
    /// The queue's name [default: default]
    #[arg(long, short)]
    queue: Option<String>,
    /// A JSON object that is returned with the status
    #[arg(long, value_name = "JSON")]
    metadata: Option<String>,
    /// Batches that have not started by then expire, such as 2030-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    deadline: Option<String>,
    /// Post the final status to this URL
    #[arg(long, value_name = "URL")]
    callback_url: Option<String>,
    /// A submission with the same key and ids is accepted once
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Watch it until it ends
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "UPPERCASE")]
#[value(rename_all = "UPPER")]
enum PriorityArg {
    High,
    Medium,
    Low,
}

#[derive(Serialize)]
struct Body<'a> {
    ids: &'a [i64],
    priority: PriorityArg,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    callback_url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<&'a str>,
}

#[derive(Deserialize)]
struct Answer {
    ingestion_id: String,
}

/// Submits, prints the id, and follows if asked to.
pub(super) async fn run(args: SubmitArgs) -> Result<(), Failure> {
    let client = Client::new(&args.client.server)?;
    let ids = ids::collect(&args.ids, args.file.as_deref())?;
    let body = serde_json::to_vec(&Body {
        ids: &ids,
        priority: args.priority,
        queue: args.queue.as_deref(),
        metadata: args.metadata.as_deref().map(object).transpose()?,
        callback_url: args.callback_url.as_deref(),
        deadline: args.deadline.as_deref(),
    })
    .map_err(|error| Failure::Failed(error.to_string()))?;
    let key = args.idempotency_key.as_deref();
    let text = client.post("ingest", body, key).await?;
    let answer: Option<Answer> = serde_json::from_str(&text).ok();
    let id = answer.and_then(|answer| IngestionId::parse(&answer.ingestion_id));
    let Some(id) = id else {
        return Err(Failure::Failed(
            "the server's answer names no ingestion: is it a Tollgate server?".to_owned(),
        ));
    };
    if args.client.json {
        output::line(&one_line(&text))?;
    } else {
        output::line(&id.to_string())?;
    }
    if args.follow {
        follow::until_it_ends(&client, id, &args.client).await?;
    }
    Ok(())
}

fn object(text: &str) -> Result<&RawValue, Failure> {
    let parsed: Option<&RawValue> = serde_json::from_str(text).ok();
    parsed
        .filter(|value| value.get().starts_with('{'))
        .ok_or_else(|| Failure::Usage(format!("--metadata {text:?}: must be a JSON object")))
}
