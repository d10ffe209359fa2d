//! `tollgate publish`: made-up load, and whether the server counts it right.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::client::Client;
use super::{ClientArgs, Failure, output};
use crate::clock::Clock;

/// What `publish --help` ends with.
const EXAMPLES: &str = "\
Fails unless the server's answers and its GET /stats agree with what was sent.

Examples:
  tollgate publish
  tollgate publish --events 1000000 --duplicates 0.5 --batch 5000";

/// How often the counts are looked at while the server commits what its bus took.
const LOOK: Duration = Duration::from_millis(200);

/// How many looks without any news are the end.
const MAX_IDLE_LOOKS: u32 = 150;

/// The options of `publish`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct PublishArgs {
    /// Events to send, duplicates included
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    events: u64,
    /// Which part of them is sent a second time, 0 to below 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.2, value_parser = parse_share)]
    duplicates: f64,
    /// Events a request
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    /// Requests in flight
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    connections: u32,
    /// Their topic
    #[arg(long, value_name = "NAME", default_value = "stress")]
    topic: String,
    /// The same seed makes the same events [default: another one each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    #[command(flatten)]
    client: ClientArgs,
}

fn parse_share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..1.0).contains(share));
    share.ok_or_else(|| "a share is at least 0 and less than 1".to_owned())
}

/// What is read of `GET /stats`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Stats {
    received: u64,
    unique_processed: u64,
    duplicate_dropped: u64,
}

/// What was sent, or what the answers say of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Counts {
    enqueued: u64,
    accepted: u64,
    duplicates: u64,
    /// Taken by the server's bus, to be counted when they are committed.
    #[serde(default, skip_serializing_if = "output::is_zero")]
    queued: u64,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.enqueued += other.enqueued;
        self.accepted += other.accepted;
        self.duplicates += other.duplicates;
        self.queued += other.queued;
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    seed: u64,
    sent: Counts,
    answered: Counts,
    before: Stats,
    after: Stats,
    seconds: f64,
    problems: Vec<String>,
}

/// Sends, compares, and tells.
pub(super) async fn run(args: PublishArgs) -> Result<(), Failure> {
    let client = Client::new(&args.client.server)?;
    let clock = Clock::system();
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    let load = Load::new(&args, seed);
    let unique = load.left_unique;
    let sent = Counts {
        enqueued: args.events,
        accepted: unique,
        duplicates: args.events - unique,
        queued: 0,
    };
    let before = stats(&client).await?;
    let started = clock.now().mono;
    let answered = send(&args, &client, &clock, load).await?;
    let seconds = clock.now().mono.saturating_sub(started).as_secs_f64();
    let mut after = stats(&client).await?;
    if answered.queued > 0 {
        let committed = before.received.saturating_add(answered.enqueued);
        after = committed_stats(&client, &clock, committed, after).await?;
    }
    let report = Report {
        seed,
        sent,
        answered,
        before,
        after,
        seconds,
        problems: problems(sent, answered, before, after, args.seed.is_some()),
    };
    tell(&report, args.client.json)?;
    if report.problems.is_empty() {
        Ok(())
    } else {
        Err(Failure::Failed(report.problems.join("\n       ")))
    }
}

async fn stats(client: &Client) -> Result<Stats, Failure> {
    let text = client.get("stats").await?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::Failed(format!("the server's answer has no counts: {error}")))
}

/// The counts once `received` is as high as it shall be, or no longer rises.
async fn committed_stats(
    client: &Client,
    clock: &Clock,
    received: u64,
    mut last: Stats,
) -> Result<Stats, Failure> {
    let mut idle = 0;
    while last.received < received && idle < MAX_IDLE_LOOKS {
        clock.sleep(LOOK).await;
        let now = stats(client).await?;
        idle = if now == last { idle + 1 } else { 0 };
        last = now;
    }
    Ok(last)
}

async fn send(
    args: &PublishArgs,
    client: &Client,
    clock: &Clock,
    load: Load,
) -> Result<Counts, Failure> {
    let load = Arc::new(Mutex::new(load));
    let mut senders = JoinSet::new();
    for _ in 0..args.connections {
        let (load, client, clock) = (Arc::clone(&load), client.clone(), clock.clone());
        let (batch, retry_for) = (args.batch, args.client.server.retry_for);
        senders.spawn(async move {
            let mut sum = Counts::default();
            loop {
                let Some(body) = load.lock().await.body(batch) else {
                    return Ok(sum);
                };
                let text = client
                    .post_again("publish", &body, retry_for, &clock)
                    .await?;
                let counts: Counts = serde_json::from_str(&text).map_err(|error| {
                    Failure::Failed(format!("the server's answer has no counts: {error}"))
                })?;
                sum.add(counts);
            }
        });
    }
    let mut sum = Counts::default();
    while let Some(done) = senders.join_next().await {
        let counts: Counts =
            done.unwrap_or_else(|error| Err(Failure::Failed(error.to_string())))?;
        sum.add(counts);
    }
    Ok(sum)
}

/// What does not fit. With `again`, the events may have been sent before.
fn problems(
    sent: Counts,
    answered: Counts,
    before: Stats,
    after: Stats,
    again: bool,
) -> Vec<String> {
    let mut found = Vec::new();
    let added = answered
        .accepted
        .saturating_add(answered.duplicates)
        .saturating_add(answered.queued);
    // What the bus took shows in the counts alone.
    let least = if answered.queued > 0 {
        Counts {
            accepted: if again { 0 } else { sent.accepted },
            ..sent
        }
    } else {
        answered
    };
    if answered.enqueued != sent.enqueued || added != sent.enqueued {
        found.push(format!(
            "{} events were sent; the server says {} enqueued, {} accepted and {} duplicates",
            sent.enqueued, answered.enqueued, answered.accepted, answered.duplicates
        ));
    } else if least.accepted != sent.accepted && !(again && least.accepted < sent.accepted) {
        found.push(format!(
            "{} different events were sent; the server accepted {}",
            sent.accepted, answered.accepted
        ));
    }
    for (name, before, after, least) in [
        ("received", before.received, after.received, least.enqueued),
        (
            "unique_processed",
            before.unique_processed,
            after.unique_processed,
            least.accepted,
        ),
        (
            "duplicate_dropped",
            before.duplicate_dropped,
            after.duplicate_dropped,
            least.duplicates,
        ),
    ] {
        // Others may send, too.
        if after < before.saturating_add(least) {
            found.push(format!(
                "{name} was {before} and is {after}, which is less than {least} more"
            ));
        }
    }
    if after.received != after.unique_processed + after.duplicate_dropped {
        found.push("received is not unique_processed and duplicate_dropped together".to_owned());
    }
    found
}

fn tell(report: &Report, as_json: bool) -> Result<(), Failure> {
    if as_json {
        let text =
            serde_json::to_string(report).map_err(|error| Failure::Failed(error.to_string()))?;
        return output::line(&text);
    }
    let Report {
        seed,
        sent,
        answered,
        before,
        after,
        seconds,
        ..
    } = report;
    output::line(&format!(
        "sent                {} events in {seconds:.2} s: {} different ones, {} duplicates (seed {seed})",
        sent.enqueued, sent.accepted, sent.duplicates
    ))?;
    output::line(&format!(
        "answered            {} enqueued, {} accepted, {} duplicates",
        answered.enqueued, answered.accepted, answered.duplicates
    ))?;
    for (name, before, after) in [
        ("received", before.received, after.received),
        (
            "unique_processed",
            before.unique_processed,
            after.unique_processed,
        ),
        (
            "duplicate_dropped",
            before.duplicate_dropped,
            after.duplicate_dropped,
        ),
    ] {
        output::line(&format!(
            "{name:<19} {before} -> {after} (+{})",
            after.saturating_sub(before)
        ))?;
    }
    Ok(())
}

/// Events still to be made, in an order that the seed decides.
struct Load {
    rng: fastrand::Rng,
    seed: u64,
    topic: String,
    made: u64,
    left_unique: u64,
    left_duplicates: u64,
}

/// One of them.
#[derive(Serialize)]
struct Made<'a> {
    topic: &'a str,
    event_id: String,
    timestamp: String,
    source: &'static str,
    payload: Payload,
}

#[derive(Serialize)]
struct Payload {
    number: u64,
    level: &'static str,
    message: String,
}

impl Load {
    fn new(args: &PublishArgs, seed: u64) -> Self {
        let duplicates = share(args.events, args.duplicates);
        Self {
            rng: fastrand::Rng::with_seed(seed),
            seed,
            topic: args.topic.clone(),
            made: 0,
            left_unique: args.events - duplicates,
            left_duplicates: duplicates,
        }
    }

    /// The number of the next event: a new one, or with the chance that leaves none over, one of
    /// those before.
    fn next(&mut self) -> Option<u64> {
        let left = self.left_unique + self.left_duplicates;
        if left == 0 {
            return None;
        }
        if self.made > 0 && self.rng.u64(..left) < self.left_duplicates {
            self.left_duplicates -= 1;
            return Some(self.rng.u64(..self.made));
        }
        self.left_unique -= 1;
        self.made += 1;
        Some(self.made - 1)
    }

    /// Up to `batch` events as an array.
    fn body(&mut self, batch: u32) -> Option<Vec<u8>> {
        let numbers: Vec<u64> = (0..batch).map_while(|_| self.next()).collect();
        if numbers.is_empty() {
            return None;
        }
        let events: Vec<Made<'_>> = numbers
            .into_iter()
            .map(|number| self.event(number))
            .collect();
        serde_json::to_vec(&events).ok()
    }

    /// The event of a number: the same each time.
    fn event(&self, number: u64) -> Made<'_> {
        let mut rng =
            fastrand::Rng::with_seed(self.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let levels = ["debug", "info", "warn", "error"];
        let millis = i64::try_from(number % 86_400_000).unwrap_or(0);
        let time = jiff::Timestamp::from_millisecond(1_767_225_600_000 + millis);
        Made {
            topic: &self.topic,
            event_id: format!("{:016x}-{number}", self.seed),
            timestamp: time.unwrap_or_default().to_string(),
            source: "tollgate-publish",
            payload: Payload {
                number,
                level: rng.choice(levels).unwrap_or_default(),
                message: (0..64).map(|_| rng.alphanumeric()).collect(),
            },
        }
    }
}

/// `share` of `of`, rounded, such that one is left.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "both are bounded, and the share lies between 0 and 1"
)]
fn share(of: u64, share: f64) -> u64 {
    ((of as f64 * share).round() as u64).min(of.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(events: u64, duplicates: u64) -> Load {
        Load {
            rng: fastrand::Rng::with_seed(3),
            seed: 3,
            topic: "t".to_owned(),
            made: 0,
            left_unique: events - duplicates,
            left_duplicates: duplicates,
        }
    }

    #[test]
    fn a_share_is_rounded_and_leaves_one() {
        assert_eq!(share(5_000, 0.2), 1_000);
        assert_eq!(share(3, 0.5), 2);
        assert_eq!(share(1, 0.99), 0);
        assert!(parse_share("1").is_err() && parse_share("-0.1").is_err());
        assert!(parse_share("NaN").is_err());
    }

    #[test]
    fn as_many_duplicates_are_made_as_were_asked_for() {
        let mut load = load(5_000, 1_000);
        let mut numbers: Vec<u64> = std::iter::from_fn(|| load.next()).collect();
        assert_eq!(numbers.len(), 5_000);
        assert_eq!(numbers[0], 0, "nothing can be repeated before");
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers, (0..4_000).collect::<Vec<u64>>());
    }

    #[test]
    fn a_body_has_whole_events_that_the_seed_makes_again() {
        let first = load(10, 2).body(4).unwrap();
        assert_eq!(first, load(10, 2).body(4).unwrap());
        let events: serde_json::Value = serde_json::from_slice(&first).unwrap();
        assert_eq!(events.as_array().unwrap().len(), 4);
        for key in ["topic", "event_id", "timestamp", "source", "payload"] {
            assert!(!events[0][key].is_null(), "{key}");
        }
        let mut load = load(10, 2);
        let sizes: Vec<bool> = (0..4).map(|_| load.body(4).is_some()).collect();
        assert_eq!(sizes, [true, true, true, false]);
    }

    #[test]
    fn counts_that_do_not_fit_are_told() {
        let sent = Counts {
            enqueued: 10,
            accepted: 8,
            duplicates: 2,
            queued: 0,
        };
        let at = |unique_processed, duplicate_dropped| Stats {
            received: unique_processed + duplicate_dropped,
            unique_processed,
            duplicate_dropped,
        };
        assert!(problems(sent, sent, at(5, 5), at(13, 7), false).is_empty());
        assert!(problems(sent, sent, at(5, 5), at(99, 99), false).is_empty());
        let repeated = Counts {
            accepted: 0,
            duplicates: 10,
            ..sent
        };
        assert!(problems(sent, repeated, at(5, 5), at(5, 15), true).is_empty());
        let queued = Counts {
            enqueued: 10,
            queued: 10,
            ..Counts::default()
        };
        assert!(problems(sent, queued, at(5, 5), at(13, 7), false).is_empty());
        assert!(problems(sent, queued, at(5, 5), at(5, 15), true).is_empty());
        for (answered, after) in [
            (repeated, at(5, 15)),
            (sent, at(12, 8)),
            (sent, at(13, 6)),
            (queued, at(12, 8)),
            (queued, at(13, 6)),
            (
                Counts {
                    enqueued: 9,
                    ..sent
                },
                at(13, 7),
            ),
            (
                sent,
                Stats {
                    received: 99,
                    ..at(13, 7)
                },
            ),
        ] {
            let found = problems(sent, answered, at(5, 5), after, false);
            assert!(!found.is_empty(), "{answered:?} {after:?}");
        }
    }
}
