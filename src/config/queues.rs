//! The settings of the queues.

use std::collections::BTreeMap;
use std::num::{NonZeroU16, NonZeroU32};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::ConfigError;
use super::section::Section;
use crate::model::queue::{
    HttpSettings, ProcessorSettings, QueueName, QueueSettings, RetryPolicy, SimulateSettings,
    UpstreamTemplate,
};

/// The most queues.
pub(super) const MAX_QUEUES: usize = 1_000;

const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

const PROCESSORS: [(&str, Kind); 2] = [("simulate", Kind::Simulate), ("http", Kind::Http)];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Simulate,
    Http,
}

/// All queues of `queues.*`, and `default`.
pub(super) fn read(
    queues: &Section<'_>,
) -> Result<BTreeMap<QueueName, QueueSettings>, ConfigError> {
    let mut all = BTreeMap::new();
    for key in queues.keys() {
        let name =
            QueueName::try_from(key.to_owned()).map_err(|problem| queues.refuse(key, &problem))?;
        all.insert(name, queue(&queues.section(key)?)?);
        if all.len() > MAX_QUEUES {
            return Err(queues.refuse(key, &format!("at most {MAX_QUEUES} queues are allowed")));
        }
    }
    if let Ok(default) = QueueName::try_from(QueueName::DEFAULT.to_owned()) {
        all.entry(default).or_default();
    }
    if all.len() > MAX_QUEUES {
        let problem = format!("at most {MAX_QUEUES} queues are allowed, `default` included");
        return Err(ConfigError {
            key: "queues".to_owned(),
            origin: None,
            problem,
        });
    }
    Ok(all)
}

fn queue(section: &Section<'_>) -> Result<QueueSettings, ConfigError> {
    section.allow(&[
        "batch_size",
        "connect_timeout",
        "interval",
        "max_in_flight",
        "max_response",
        "max_waiting",
        "pack_slots",
        "processor",
        "retry",
        "simulate",
        "timeout",
        "upstream",
    ])?;
    let defaults = QueueSettings::default();
    let batch_size = section.integer("batch_size", 1..=1_000_u16)?;
    let max_in_flight = section.integer("max_in_flight", 1..=10_000_u32)?;
    Ok(QueueSettings {
        interval: section
            .duration("interval", MILLISECOND..=DAY)?
            .unwrap_or(defaults.interval),
        batch_size: batch_size
            .and_then(NonZeroU16::new)
            .unwrap_or(defaults.batch_size),
        max_in_flight: max_in_flight
            .and_then(NonZeroU32::new)
            .unwrap_or(defaults.max_in_flight),
        pack_slots: section.flag("pack_slots")?.unwrap_or(defaults.pack_slots),
        max_waiting: section
            .integer("max_waiting", 1..=1_000_000_000)?
            .unwrap_or(defaults.max_waiting),
        retry: retry(&section.section("retry")?)?,
        processor: processor(section)?,
    })
}

fn retry(section: &Section<'_>) -> Result<RetryPolicy, ConfigError> {
    section.allow(&[
        "max_attempts",
        "max_backoff",
        "max_doublings",
        "min_backoff",
    ])?;
    let defaults = RetryPolicy::default();
    let (min_backoff, max_backoff) = ordered(
        section,
        ("min_backoff", defaults.min_backoff),
        ("max_backoff", defaults.max_backoff),
        MILLISECOND..=DAY,
    )?;
    let max_attempts = section.integer("max_attempts", 1..=1_000_u32)?;
    Ok(RetryPolicy {
        max_attempts: max_attempts
            .and_then(NonZeroU32::new)
            .unwrap_or(defaults.max_attempts),
        min_backoff,
        max_backoff,
        max_doublings: section
            .integer("max_doublings", 0..=30)?
            .unwrap_or(defaults.max_doublings),
    })
}

/// Every key is checked, also those of the processor that isn't chosen.
fn processor(section: &Section<'_>) -> Result<ProcessorSettings, ConfigError> {
    let simulate = simulate(&section.section("simulate")?)?;
    let upstream = match section.text("upstream")? {
        None => None,
        Some(text) => Some(
            UpstreamTemplate::parse(&text)
                .map_err(|problem| section.refuse("upstream", &problem))?,
        ),
    };
    let connect_timeout = section.duration("connect_timeout", MILLISECOND..=HOUR)?;
    let timeout = section.duration("timeout", MILLISECOND..=HOUR)?;
    let max_response = section.size("max_response", 1..=64 << 20)?;
    let chosen = section.choice("processor", &PROCESSORS)?;
    match (chosen, upstream) {
        (Some(Kind::Http), Some(upstream)) => {
            let defaults = HttpSettings::new(upstream);
            Ok(ProcessorSettings::Http(Box::new(HttpSettings {
                connect_timeout: connect_timeout.unwrap_or(defaults.connect_timeout),
                timeout: timeout.unwrap_or(defaults.timeout),
                max_response: max_response.unwrap_or(defaults.max_response),
                ..defaults
            })))
        }
        (Some(Kind::Http), None) => Err(section.refuse(
            "processor",
            "\"http\" needs `upstream` beside it, such as \"http://127.0.0.1:9000/items/{id}\"",
        )),
        (None, Some(_)) => Err(section.refuse(
            "upstream",
            "is used only with processor = \"http\", which is not set",
        )),
        (Some(Kind::Simulate) | None, _) => Ok(ProcessorSettings::Simulate(simulate)),
    }
}

fn simulate(section: &Section<'_>) -> Result<SimulateSettings, ConfigError> {
    section.allow(&["max", "min", "seed"])?;
    let defaults = SimulateSettings::default();
    let (min, max) = ordered(
        section,
        ("min", defaults.min),
        ("max", defaults.max),
        Duration::ZERO..=HOUR,
    )?;
    Ok(SimulateSettings {
        min,
        max,
        seed: section.integer("seed", 0..=u64::MAX)?,
    })
}

/// Two durations of which the first must not be longer. Where only one is set, the default of the
/// other gives way.
fn ordered(
    section: &Section<'_>,
    (low_key, low): (&str, Duration),
    (high_key, high): (&str, Duration),
    range: RangeInclusive<Duration>,
) -> Result<(Duration, Duration), ConfigError> {
    let given = (
        section.duration(low_key, range.clone())?,
        section.duration(high_key, range)?,
    );
    match given {
        (Some(low), Some(high)) if low > high => {
            Err(section.refuse(low_key, &format!("must not be longer than {high_key}")))
        }
        (given_low, Some(high)) => Ok((given_low.unwrap_or(low.min(high)), high)),
        (Some(low), None) => Ok((low, high.max(low))),
        (None, None) => Ok((low, high)),
    }
}
