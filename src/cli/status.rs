//! `tollgate status`.

use clap::Args;

use super::client::Client;
use super::follow::{self, Summary, one_line};
use super::{ClientArgs, Failure, output};
use crate::model::id::IngestionId;

/// The options of `status`.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// The ingestion's id, as `submit` printed it
    #[arg(value_name = "INGESTION_ID", value_parser = parse_id)]
    id: IngestionId,
    /// Watch it until it ends
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    client: ClientArgs,
}

fn parse_id(text: &str) -> Result<IngestionId, String> {
    IngestionId::parse(text).ok_or_else(|| "an ingestion's id is a UUID".to_owned())
}

/// Shows the status once, or until it ends.
pub(super) async fn run(args: StatusArgs) -> Result<(), Failure> {
    let client = Client::new(&args.client.server)?;
    if args.follow {
        return follow::until_it_ends(&client, args.id, &args.client).await;
    }
    if args.client.json {
        let text = client.get(&format!("status/{}", args.id)).await?;
        return output::line(&one_line(&text));
    }
    let text = client
        .get(&format!("status/{}?view=summary", args.id))
        .await?;
    let summary = Summary::parse(&text)?;
    output::line(&format!("ingestion  {}", args.id))?;
    output::line(&format!("status     {}", summary.status))?;
    if let (Some(queue), Some(priority)) = (&summary.queue, &summary.priority) {
        output::line(&format!("queue      {queue}, {priority}"))?;
    }
    output::line(&format!("batches    {}", summary.progress.words()))?;
    if let Some(position) = summary.position {
        let batches = if position == 1 { "batch" } else { "batches" };
        output::line(&format!("ahead      {position} {batches}"))?;
    }
    if let Some(eta) = summary.eta_seconds {
        output::line(&format!("left       about {}", follow::lasting(eta)))?;
    }
    if let Some(reason) = &summary.waiting_reason {
        output::line(&format!("waiting    {reason}"))?;
    }
    Ok(())
}
