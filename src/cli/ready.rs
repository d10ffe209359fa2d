//! `tollgate ready`: for start scripts, and for health checks where there is no shell and no curl.

use clap::Args;
use serde_json::Value;

use super::client::Client;
use super::follow::one_line;
use super::{ClientArgs, Failure, output};
use crate::clock::Clock;

/// What `ready --help` ends with.
const EXAMPLES: &str = "\
Exit code 0 says that it is ready.

Examples:
  tollgate ready                     wait for it, a minute at the most
  tollgate ready --retry-for 0s      ask once";

/// The options of `ready`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ReadyArgs {
    #[command(flatten)]
    client: ClientArgs,
}

/// Asks until it is ready, or `--retry-for` is over.
pub(super) async fn run(args: ReadyArgs) -> Result<(), Failure> {
    let client = Client::new(&args.client.server)?;
    let (retry_for, clock) = (args.client.server.retry_for, Clock::system());
    let text = client.get_again("ready", &[], retry_for, &clock).await?;
    if args.client.json {
        return output::line(&one_line(&text));
    }
    output::line("ready")?;
    let answer: Value = serde_json::from_str(&text).unwrap_or_default();
    let components = answer.get("components").and_then(Value::as_object);
    for (name, component) in components.into_iter().flatten() {
        let state = component.get("state").and_then(Value::as_str);
        output::line(&format!("{name:<10} {}", state.unwrap_or("?")))?;
    }
    Ok(())
}
