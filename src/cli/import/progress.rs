//! How far an import is, for those who watch it.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::{follow, output};
use crate::clock::Clock;

/// The least time between two lines where no bar can be drawn.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows it on standard error.
pub(in crate::cli) struct Progress {
    clock: Clock,
    started: Duration,
    /// Rows that an earlier run did.
    rows_before: u64,
    read: Arc<AtomicU64>,
    total: Option<u64>,
    display: Display,
}

enum Display {
    Bar(ProgressBar),
    Lines { last: Duration },
    Nothing,
}

impl Progress {
    /// `read` counts the bytes of an input that has `total`, if that is known.
    pub(in crate::cli) fn new(
        clock: &Clock,
        rows_before: u64,
        read: Arc<AtomicU64>,
        total: Option<u64>,
        quiet: bool,
    ) -> Self {
        let started = clock.now().mono;
        let display = if quiet {
            Display::Nothing
        } else if io::stderr().is_terminal() {
            Display::Bar(bar(total))
        } else {
            Display::Lines { last: started }
        };
        Self {
            clock: clock.clone(),
            started,
            rows_before,
            read,
            total,
            display,
        }
    }

    /// Since its start, in seconds.
    pub(in crate::cli) fn seconds(&self) -> f64 {
        let now = self.clock.now().mono;
        now.saturating_sub(self.started).as_secs_f64()
    }

    /// Those of `rows` that this run did.
    pub(in crate::cli) fn new_rows(&self, rows: u64) -> u64 {
        rows.saturating_sub(self.rows_before)
    }

    /// `rows` are done, those of an earlier run with them.
    pub(in crate::cli) fn show(&mut self, rows: u64) {
        let read = self.read.load(Ordering::Relaxed);
        let words = words(self.new_rows(rows), self.seconds(), read, self.total);
        match &mut self.display {
            Display::Bar(bar) => {
                bar.set_position(read);
                bar.set_message(format!("{} rows{words}", HumanCount(rows)));
            }
            Display::Lines { last } => {
                let now = self.clock.now().mono;
                if now.saturating_sub(*last) >= LINE_EVERY {
                    *last = now;
                    output::note(&format!("{} rows{words}", HumanCount(rows)));
                }
            }
            Display::Nothing => {}
        }
    }

    /// Leaves the screen.
    pub(in crate::cli) fn close(&self) {
        if let Display::Bar(bar) = &self.display {
            bar.finish_and_clear();
        }
    }
}

fn bar(total: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    let template = if total.is_some() {
        "{bar:20} {percent:>3}%  {wide_msg}"
    } else {
        "{spinner} {wide_msg}"
    };
    // A template of our own can only be wrong for every user: then the usual one serves.
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.with_style(style)
}

/// Rate and time left, as far as they are known.
fn words(rows: u64, seconds: f64, read: u64, total: Option<u64>) -> String {
    if seconds <= 0.0 || rows == 0 {
        return String::new();
    }
    let rate = per_second(rows, seconds);
    let mut words = format!(", {} rows/s", HumanCount(rate));
    match total {
        Some(total) if read > 0 => {
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            let left = seconds * total.saturating_sub(read) as f64 / read as f64;
            words.push_str(", about ");
            words.push_str(&follow::lasting(left));
            words.push_str(" left");
        }
        _ => {
            words.push_str(", ");
            words.push_str(&HumanBytes(read).to_string());
        }
    }
    words
}

/// How many a second, rounded.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate for people; a cast from a float saturates"
)]
pub(in crate::cli) fn per_second(count: u64, seconds: f64) -> u64 {
    if seconds > 0.0 {
        (count as f64 / seconds).round() as u64
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_time_left_are_told_as_far_as_they_are_known() {
        assert_eq!(words(0, 1.0, 10, Some(20)), "");
        assert_eq!(words(5, 0.0, 10, Some(20)), "");
        assert_eq!(
            words(3_000, 2.0, 25, Some(100)),
            ", 1,500 rows/s, about 6 s left"
        );
        assert_eq!(words(3_000, 2.0, 2_048, None), ", 1,500 rows/s, 2.00 KiB");
    }
}
