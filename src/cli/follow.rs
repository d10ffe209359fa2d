//! Watches an ingestion until it ends, over restarts of the server.

use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Deserialize;

use super::client::{Client, Refusal};
use super::{ClientArgs, Failure, output};
use crate::clock::Clock;
use crate::model::id::IngestionId;

/// How long the server may hold an answer back. It answers earlier when the overall status
/// changes; this bounds how late a batch that moved is shown.
const WAIT: &str = "1s";

/// The least time between two requests, should the server hold none back.
const MIN_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause between two attempts to reach a server that went away.
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// What is read of a status.
#[derive(Debug, Deserialize)]
pub(super) struct Summary {
    pub(super) status: String,
    #[serde(default)]
    pub(super) progress: Counts,
    pub(super) queue: Option<String>,
    pub(super) priority: Option<String>,
    pub(super) position: Option<u64>,
    pub(super) eta_seconds: Option<f64>,
    pub(super) waiting_reason: Option<String>,
}

/// How many batches are in which state.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(default)]
pub(super) struct Counts {
    total: u64,
    triggered: u64,
    completed: u64,
    failed: u64,
    cancelled: u64,
    expired: u64,
}

impl Counts {
    fn ended(&self) -> u64 {
        [self.completed, self.failed, self.cancelled, self.expired]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// `1 of 4 completed, 1 failed`.
    pub(super) fn words(&self) -> String {
        let mut words = format!("{} of {} completed", self.completed, self.total);
        let others = [
            (self.triggered, "running"),
            (self.failed, "failed"),
            (self.cancelled, "cancelled"),
            (self.expired, "expired"),
        ];
        for (count, state) in others.into_iter().filter(|(count, _)| *count > 0) {
            let _ = write!(words, ", {count} {state}");
        }
        words
    }
}

impl Summary {
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        serde_json::from_str(text)
            .map_err(|error| Failure::Failed(format!("the server's answer is no status: {error}")))
    }

    fn has_ended(&self) -> bool {
        matches!(
            self.status.as_str(),
            "completed" | "failed" | "cancelled" | "expired"
        )
    }
}

/// JSON text without its line breaks, which can only stand between its tokens.
pub(super) fn one_line(json: &str) -> String {
    json.trim().replace(['\n', '\r'], " ")
}

/// Prints every change until the ingestion has ended; fails unless it ended completed.
pub(super) async fn until_it_ends(
    client: &Client,
    id: IngestionId,
    args: &ClientArgs,
) -> Result<(), Failure> {
    let clock = Clock::system();
    let display = Display::new(args.json);
    let mut shown: Option<(String, Counts)> = None;
    // The first answer comes at once, and must: only a server that was there is waited for.
    let mut text = client.get(&format!("status/{id}?view=summary")).await?;
    loop {
        let asked_at = clock.now().mono;
        let summary = Summary::parse(&text)?;
        let now = Some((summary.status.clone(), summary.progress));
        let changed = shown != now;
        display.show(&summary, &text, changed)?;
        shown = now;
        if summary.has_ended() {
            display.close();
            return ended(id, &summary);
        }
        text = patiently(client, id, args.server.retry_for, &clock, &display).await?;
        if !changed {
            clock.sleep_until(asked_at + MIN_PAUSE).await;
        }
    }
}

fn ended(id: IngestionId, summary: &Summary) -> Result<(), Failure> {
    match summary.status.as_str() {
        "completed" => Ok(()),
        status => Err(Failure::Failed(format!(
            "ingestion {id} ended {status}: {}",
            summary.progress.words()
        ))),
    }
}

/// Asks again while the server is away, for at most `retry_for`.
async fn patiently(
    client: &Client,
    id: IngestionId,
    retry_for: Duration,
    clock: &Clock,
    display: &Display,
) -> Result<String, Refusal> {
    let path = format!("status/{id}?view=summary&wait={WAIT}");
    let mut backoff = MIN_PAUSE;
    let mut gone_at = None;
    loop {
        let refusal = match client.get(&path).await {
            Ok(text) => return Ok(text),
            Err(refusal) => refusal,
        };
        let now = clock.now().mono;
        let gone_for = now.saturating_sub(*gone_at.get_or_insert(now));
        if !refusal.passing || gone_for + backoff > retry_for {
            display.close();
            return Err(refusal);
        }
        if gone_for.is_zero() {
            display.away(&refusal.text, retry_for);
        }
        clock.sleep(backoff).await;
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}

/// How changes are shown.
enum Display {
    /// The server's JSON, a line a change.
    Json,
    /// Words, a line a change.
    Lines,
    /// A bar on a terminal.
    Bar(ProgressBar),
}

impl Display {
    fn new(json: bool) -> Self {
        if json {
            return Self::Json;
        }
        if !io::stdout().is_terminal() {
            return Self::Lines;
        }
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stdout());
        // A template of our own can only be wrong for every user: then the usual one serves.
        let style = ProgressStyle::with_template("{bar:20} {pos}/{len} batches  {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        Self::Bar(bar.with_style(style))
    }

    fn show(&self, summary: &Summary, text: &str, changed: bool) -> Result<(), Failure> {
        match self {
            Self::Json if changed => output::line(&one_line(text)),
            Self::Lines if changed => output::line(&format!(
                "{}: {}{}",
                summary.status,
                summary.progress.words(),
                outlook(summary)
            )),
            Self::Json | Self::Lines => Ok(()),
            Self::Bar(bar) => {
                bar.set_length(summary.progress.total);
                bar.set_position(summary.progress.ended());
                bar.set_message(format!("{}{}", summary.status, outlook(summary)));
                Ok(())
            }
        }
    }

    /// Tells that the server went away: what is shown is of before.
    fn away(&self, text: &str, retry_for: Duration) {
        let seconds = retry_for.as_secs();
        match self {
            Self::Bar(bar) => bar.set_message(format!("trying for {seconds} s: {text}")),
            Self::Json | Self::Lines => {
                output::note(&format!("{text}; trying again for {seconds}s"));
            }
        }
    }

    fn close(&self) {
        if let Self::Bar(bar) = self {
            bar.abandon();
        }
    }
}

/// What is still to come, in words; empty when nothing is.
// Writing to a string can't fail: both results are dropped.
fn outlook(summary: &Summary) -> String {
    let mut words = String::new();
    if let Some(position) = summary.position.filter(|position| *position > 0) {
        let _ = write!(words, ", {position} ahead");
    }
    if let Some(eta) = summary.eta_seconds.filter(|_| !summary.has_ended()) {
        let _ = write!(words, ", about {} left", lasting(eta));
    }
    words
}

/// A time in the unit that a person would name.
pub(super) fn lasting(seconds: f64) -> String {
    match seconds {
        ..100.0 => format!("{seconds:.0} s"),
        100.0..6000.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_unit_that_fits() {
        let told = [0.0, 12.4, 99.9, 100.0, 5999.0, 6000.0, 50035.3].map(lasting);
        let expected = [
            "0 s", "12 s", "100 s", "2 min", "100 min", "1.7 h", "13.9 h",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn tells_what_is_and_what_comes() {
        let text = r#"{"status": "triggered", "position": 3, "eta_seconds": 12.4, "more": [],
            "progress": {"total": 4, "completed": 1, "failed": 1, "triggered": 1, "waiting": 1}}"#;
        let summary = Summary::parse(text).unwrap();
        assert_eq!(
            summary.progress.words(),
            "1 of 4 completed, 1 running, 1 failed"
        );
        assert_eq!(summary.progress.ended(), 2);
        assert_eq!(outlook(&summary), ", 3 ahead, about 12 s left");
        assert!(!one_line(text).contains('\n'));
        assert!(Summary::parse("[]").is_err());
    }
}
