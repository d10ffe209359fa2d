//! `tollgate dead-letters`: events that were refused, and what to do with them.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::client::Client;
use super::follow::one_line;
use super::{ClientArgs, Failure, output};

/// What `dead-letters --help` ends with.
const EXAMPLES: &str = "\
Examples:
  tollgate dead-letters list
  tollgate dead-letters show 17 --json | jq .body > fixed.json
  tollgate dead-letters retry 17 --event fixed.json
  tollgate dead-letters discard 18 19";

/// The longest event that is read from a file, in bytes.
const MAX_EVENT: u64 = 16 << 20;

/// The most of an event that a line of the list shows, in characters.
const MAX_SHOWN: usize = 60;

/// The options of `dead-letters`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DeadLettersArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List them: number, time, reason, event
    List {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Show one with everything that is wrong with it
    Show {
        /// Its number
        id: u64,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Send it again; it stays if it is refused again
    Retry {
        /// Its number
        id: u64,
        /// The event put right, in a file (- is standard input) [default: as it was]
        #[arg(long, value_name = "FILE")]
        event: Option<PathBuf>,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Throw them away
    Discard {
        /// Their numbers
        #[arg(required = true)]
        ids: Vec<u64>,
        #[command(flatten)]
        client: ClientArgs,
    },
}

#[derive(Deserialize)]
struct Letters {
    dead_letters: Vec<Letter>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct Letter {
    id: u64,
    refused_at: String,
    errors: Vec<Offence>,
    body: Box<RawValue>,
}

#[derive(Deserialize)]
struct Offence {
    #[serde(default)]
    pointer: String,
    detail: String,
}

/// Does what is asked.
pub(super) async fn run(args: DeadLettersArgs) -> Result<(), Failure> {
    match args.action {
        Action::List { client } => list(&client).await,
        Action::Show { id, client } => show(id, &client).await,
        Action::Retry { id, event, client } => retry(id, event.as_deref(), &client).await,
        Action::Discard { ids, client } => discard(&ids, &client).await,
    }
}

async fn list(args: &ClientArgs) -> Result<(), Failure> {
    let client = Client::new(&args.server)?;
    let mut cursor: Option<String> = None;
    loop {
        let path = match &cursor {
            Some(cursor) => format!("dead-letters?cursor={cursor}"),
            None => "dead-letters".to_owned(),
        };
        let text = client.get(&path).await?;
        if args.json {
            for letter in parse::<RawLetters>(&text)?.dead_letters {
                output::line(&one_line(letter.get()))?;
            }
        }
        let page: Letters = parse(&text)?;
        if !args.json {
            for letter in &page.dead_letters {
                output::line(&letter.line())?;
            }
        }
        // A cursor that does not move would never end.
        if page.next_cursor.is_none() || page.next_cursor == cursor {
            return Ok(());
        }
        cursor = page.next_cursor;
    }
}

#[derive(Deserialize)]
struct RawLetters {
    dead_letters: Vec<Box<RawValue>>,
}

async fn show(id: u64, args: &ClientArgs) -> Result<(), Failure> {
    let text = Client::new(&args.server)?
        .get(&format!("dead-letters/{id}"))
        .await?;
    if args.json {
        return output::line(&one_line(&text));
    }
    let letter: Letter = parse(&text)?;
    output::line(&format!("number   {}", letter.id))?;
    output::line(&format!("refused  {}", letter.refused_at))?;
    for offence in &letter.errors {
        output::line(&format!("wrong    {}", offence.words()))?;
    }
    output::line(&format!("event    {}", one_line(letter.body.get())))
}

async fn retry(id: u64, event: Option<&Path>, args: &ClientArgs) -> Result<(), Failure> {
    let client = Client::new(&args.server)?;
    let body = event.map(read).transpose()?.unwrap_or_default();
    let text = client
        .post(&format!("dead-letters/{id}/retry"), body, None)
        .await?;
    output::line(&one_line(&text))
}

/// All of a file, or of standard input.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |why: String| Failure::Failed(format!("{}: {why}", path.display()));
    let mut bytes = Vec::new();
    let done = if path == Path::new("-") {
        io::stdin()
            .lock()
            .take(MAX_EVENT + 1)
            .read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(MAX_EVENT + 1).read_to_end(&mut bytes))
    };
    match done {
        Err(error) => Err(failed(error.to_string())),
        Ok(0) => Err(failed("it is empty".to_owned())),
        Ok(length) if u64::try_from(length).unwrap_or(u64::MAX) > MAX_EVENT => {
            Err(failed("it is longer than 16 MiB".to_owned()))
        }
        Ok(_) => Ok(bytes),
    }
}

async fn discard(ids: &[u64], args: &ClientArgs) -> Result<(), Failure> {
    let client = Client::new(&args.server)?;
    for id in ids {
        client.delete(&format!("dead-letters/{id}")).await?;
    }
    Ok(())
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Failure> {
    serde_json::from_str(text)
        .map_err(|error| Failure::Failed(format!("the answer has no dead letters: {error}")))
}

impl Letter {
    /// One line of the list.
    fn line(&self) -> String {
        let reason = self.errors.first().map(Offence::words).unwrap_or_default();
        let body = one_line(self.body.get());
        let mut shown: String = body.chars().take(MAX_SHOWN).collect();
        if shown.len() < body.len() {
            shown.push_str("...");
        }
        format!("{}  {}  {reason}  {shown}", self.id, self.refused_at)
    }
}

impl Offence {
    fn words(&self) -> String {
        if self.pointer.is_empty() {
            self.detail.clone()
        } else {
            format!("{}: {}", self.pointer, self.detail)
        }
    }
}
