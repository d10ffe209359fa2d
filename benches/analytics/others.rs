//! What Tollgate answered, for those who are asked the same.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::figures::{Row, show};
use super::questions::QUESTIONS;

/// Longer than this nobody waits: a database is told to give up.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// An answer of ours.
#[derive(Clone, Copy)]
pub(crate) struct Told {
    /// Half of the answers took no longer.
    pub(crate) took: Duration,
    /// What was counted, in sum.
    pub(crate) counted: u64,
}

static TOLD: LazyLock<Mutex<HashMap<&'static str, Told>>> = LazyLock::new(Mutex::default);

/// Remembers an answer of ours.
pub(crate) fn tell(question: &'static str, told: Told) {
    TOLD.lock().insert(question, told);
}

/// Puts every question that there is SQL for, three times; `None` means that it took too long.
pub(crate) fn compare(
    name: &str,
    country: &str,
    rows: &mut Vec<Row>,
    mut ask: impl FnMut(&str) -> Option<u64>,
) {
    for question in QUESTIONS {
        let Some(sql) = question.sql(country) else {
            continue;
        };
        let told = TOLD.lock().get(question.name).copied();
        let mut best = None;
        for _ in 0..3 {
            let started = Instant::now();
            let Some(counted) = ask(&sql) else { break };
            let took = started.elapsed();
            if let Some(told) = told {
                assert_eq!(counted, told.counted, "{name}: {}", question.name);
            }
            best = Some(best.map_or(took, |best: Duration| best.min(took)));
            if took > PATIENCE / 8 {
                break;
            }
        }
        let (took, more) = best.map_or((PATIENCE, "over "), |took| (took, ""));
        let ratio = told.map_or(String::new(), |told| {
            let times = took.as_secs_f64() / told.took.as_secs_f64();
            format!(": Tollgate's p50 is {more}{times:.0} times as fast")
        });
        rows.push(Row::new(
            format!("{name}: {}", question.name),
            "",
            format!("{more}{}{ratio}", show(took)),
        ));
    }
}
