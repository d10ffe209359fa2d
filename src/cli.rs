//! The command line: what `tollgate` does is one of these subcommands.
//!
//! Exit codes: 0 done, 1 the operation failed, 2 wrong usage.

mod client;
mod csv;
mod dead_letters;
mod directory;
mod export;
mod follow;
mod ids;
mod import;
mod migrate;
mod output;
mod publish;
mod ready;
mod serve;
mod stats;
mod status;
mod submit;
mod table;
mod verify;

use std::io;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// What `--help` ends with.
const EXIT_CODES: &str = "Exit codes: 0 done, 1 the operation failed, 2 wrong usage.";

/// A priority job-scheduling service: takes ids at any speed, lets them through at a steady one.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service (also without a subcommand)
    Serve(serve::ServeArgs),
    /// Submit ids to a running server and print the ingestion's id
    Submit(submit::SubmitArgs),
    /// Show how far an ingestion is
    Status(status::StatusArgs),
    /// Wait until a server is ready, and show the state of its parts
    Ready(ready::ReadyArgs),
    /// Read events from a CSV or NDJSON file into a server or a data directory
    Import(import::ImportArgs),
    /// Write events as NDJSON or CSV
    Export(export::ExportArgs),
    /// Send made-up events, some of them twice, and check what the server counts
    Publish(publish::PublishArgs),
    /// Ask about events: active users, top types, retention, counts by time
    Stats(Box<stats::StatsArgs>),
    /// Read all events of a data directory and compare with them what is derived from them
    Verify(verify::VerifyArgs),
    /// Move a data directory into a PostgreSQL database that several nodes share
    Migrate(migrate::MigrateArgs),
    /// List, show, send again or discard events that were refused
    DeadLetters(dead_letters::DeadLettersArgs),
}

/// Which server a client command talks to, and how long it waits for it.
#[derive(Debug, Args)]
struct ServerArgs {
    #[arg(
        long,
        value_name = "URL",
        help = "The server [default: the environment's TOLLGATE_SERVER, else http://127.0.0.1:8000]"
    )]
    server: Option<String>,
    /// How long to keep trying a server that went away or is too busy (submit, status: with --follow)
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    retry_for: std::time::Duration,
}

/// The same, and how it prints.
#[derive(Debug, Args)]
struct ClientArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    crate::config::duration(text)
        .ok_or_else(|| "a duration such as 500ms, 60s or 10m is allowed".to_owned())
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
enum Failure {
    /// What was asked can't be meant.
    Usage(String),
    /// It was tried and failed.
    Failed(String),
    /// The reader of standard output went away; nobody is left to tell.
    Closed,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Failed(format!("the output can't be written: {error}")),
        }
    }
}

/// Runs the command that the process's arguments name; the exit code is the process's.
#[must_use]
pub fn run() -> ExitCode {
    // Only a second provider is refused, and the first one does.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    let done = match cli.command {
        None => serve::run(cli.serve),
        Some(Command::Serve(args)) => serve::run(args),
        Some(Command::Submit(args)) => blocking(submit::run(args)),
        Some(Command::Status(args)) => blocking(status::run(args)),
        Some(Command::Ready(args)) => blocking(ready::run(args)),
        Some(Command::Import(args)) => blocking(import::run(args)),
        Some(Command::Export(args)) => blocking(export::run(args)),
        Some(Command::Publish(args)) => blocking(publish::run(args)),
        Some(Command::Stats(args)) => blocking(stats::run(*args)),
        Some(Command::Verify(args)) => blocking(verify::run(args)),
        Some(Command::Migrate(args)) => blocking(migrate::run(args)),
        Some(Command::DeadLetters(args)) => blocking(dead_letters::run(args)),
    };
    match done {
        Ok(()) | Err(Failure::Closed) => ExitCode::SUCCESS,
        Err(Failure::Failed(text)) => {
            output::note(&format!("error: {text}"));
            ExitCode::from(1)
        }
        Err(Failure::Usage(text)) => {
            output::note(&format!(
                "error: {text}\n\nFor more information, try '--help'."
            ));
            ExitCode::from(2)
        }
    }
}

/// Runs a client command, which needs no more than one thread.
fn blocking(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("no runtime can be started: {error}")))?
        .block_on(command)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_subcommand_is_serve() {
        let cli = Cli::try_parse_from(["tollgate", "--port", "9000"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.serve.port, Some(9000));
        assert!(Cli::try_parse_from(["tollgate", "--port", "9000", "submit", "1"]).is_err());
    }
}
