//! One table of the settings, read key by key with messages that say where a value came from.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use jiff::{SignedDuration, Span, SpanRelativeTo};
use rocket::data::ByteUnit;
use rocket::figment::value::{Dict, Value};
use rocket::figment::{Figment, Metadata};

use super::{ConfigError, of_figment};

/// One table.
pub(super) struct Section<'f> {
    figment: &'f Figment,
    path: String,
    entries: Dict,
}

impl<'f> Section<'f> {
    /// The table at the top of `figment` under `key`; empty if it isn't there. Its keys are named
    /// without `key` before them.
    pub(super) fn root(figment: &'f Figment, key: &str) -> Result<Self, ConfigError> {
        let mut root = Self {
            figment,
            path: String::new(),
            entries: Dict::new(),
        };
        if figment.contains(key) {
            let value = figment
                .find_value(key)
                .map_err(|error| of_figment(&error))?;
            root.entries = root.table(key, value)?;
        }
        Ok(root)
    }

    /// The table under `key`; empty if it isn't there.
    pub(super) fn section(&self, key: &str) -> Result<Self, ConfigError> {
        let entries = match self.entries.get(key) {
            Some(value) => self.table(key, value.clone())?,
            None => Dict::new(),
        };
        Ok(Self {
            figment: self.figment,
            path: self.path_of(key),
            entries,
        })
    }

    fn table(&self, key: &str, value: Value) -> Result<Dict, ConfigError> {
        let refused = self.error(key, &value, "is a table of settings, not a single value");
        value.into_dict().ok_or(refused)
    }

    /// The keys that are set.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether `key` is set.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Refuses every key that is not in `allowed`.
    pub(super) fn allow(&self, allowed: &[&str]) -> Result<(), ConfigError> {
        match self.keys().find(|key| !allowed.contains(key)) {
            None => Ok(()),
            Some(key) => Err(self.refuse(
                key,
                &format!(
                    "there is no such setting; allowed here: {}",
                    allowed.join(", ")
                ),
            )),
        }
    }

    /// An error about `key`, whether or not it is set.
    pub(super) fn refuse(&self, key: &str, problem: &str) -> ConfigError {
        match self.entries.get(key) {
            Some(value) => self.error(key, value, problem),
            None => ConfigError {
                key: self.path_of(key),
                origin: None,
                problem: problem.to_owned(),
            },
        }
    }

    /// A text; numbers and flags are taken as they would be written.
    pub(super) fn text(&self, key: &str) -> Result<Option<String>, ConfigError> {
        let Some(value) = self.entries.get(key) else {
            return Ok(None);
        };
        match plain(value) {
            Some(text) => Ok(Some(text)),
            None => Err(self.error(key, value, "must be a single value")),
        }
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        self.choice(key, &[("true", true), ("false", false)])
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &self,
        key: &str,
        choices: &[(&str, T)],
    ) -> Result<Option<T>, ConfigError> {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        self.parse(key, &words.join(", "), |text| {
            let found = choices.iter().find(|(word, _)| *word == text);
            found.map(|(_, choice)| *choice)
        })
    }

    /// A whole number.
    pub(super) fn integer<T>(
        &self,
        key: &str,
        range: RangeInclusive<T>,
    ) -> Result<Option<T>, ConfigError>
    where
        T: std::str::FromStr + PartialOrd + Display,
    {
        let allowed = format!("a whole number from {} to {}", range.start(), range.end());
        self.parse(key, &allowed, |text| {
            text.parse().ok().filter(|number| range.contains(number))
        })
    }

    /// A duration with its unit, such as `5s`.
    pub(super) fn duration(
        &self,
        key: &str,
        range: RangeInclusive<Duration>,
    ) -> Result<Option<Duration>, ConfigError> {
        let allowed = format!(
            "a duration from {} to {}, such as \"20ms\", \"5s\", \"1h 30m\" or \"30d\"",
            brief(*range.start()),
            brief(*range.end())
        );
        self.parse(key, &allowed, |text| {
            duration(text).filter(|duration| range.contains(duration))
        })
    }

    /// A number of bytes, with or without a unit.
    pub(super) fn size(
        &self,
        key: &str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, ConfigError> {
        let allowed = format!(
            "a size from {} to {}, such as \"64KiB\" or 65536",
            ByteUnit::from(*range.start()),
            ByteUnit::from(*range.end())
        );
        self.parse(key, &allowed, |text| {
            let size: Option<ByteUnit> = text.parse().ok();
            size.map(ByteUnit::as_u64)
                .filter(|size| range.contains(size))
        })
    }

    fn parse<T>(
        &self,
        key: &str,
        allowed: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.entries.get(key) else {
            return Ok(None);
        };
        let shown = match plain(value) {
            Some(text) => match parse(text.trim()) {
                Some(parsed) => return Ok(Some(parsed)),
                None => format!("{text:?}"),
            },
            None => "a list or table".to_owned(),
        };
        Err(self.error(
            key,
            value,
            &format!("{shown} is not allowed; allowed: {allowed}"),
        ))
    }

    fn path_of(&self, key: &str) -> String {
        match self.path.as_str() {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        }
    }

    fn error(&self, key: &str, value: &Value, problem: &str) -> ConfigError {
        let metadata = self.figment.get_metadata(leaf(value).tag());
        ConfigError {
            key: self.path_of(key),
            origin: metadata.and_then(|metadata| origin(metadata, "tollgate")),
            problem: problem.to_owned(),
        }
    }
}

/// Where a value was set; `top` is its first key.
pub(super) fn origin(metadata: &Metadata, top: &str) -> Option<String> {
    if let Some(path) = metadata
        .source
        .as_ref()
        .and_then(|source| source.file_path())
    {
        // The path relative to the working directory is shown where that is shorter.
        let shown = metadata.source.as_ref().map(ToString::to_string);
        return Some(format!(
            "in {}",
            shown.unwrap_or_else(|| path.display().to_string())
        ));
    }
    if metadata.name.starts_with("`ROCKET_`") {
        return Some(format!("by ROCKET_{}", top.to_ascii_uppercase()));
    }
    metadata
        .source
        .is_none()
        .then(|| format!("by {}", metadata.name))
}

/// A table itself has no origin; its first value has.
fn leaf(value: &Value) -> &Value {
    match value.as_dict().and_then(|dict| dict.values().next()) {
        Some(first) => leaf(first),
        None => value,
    }
}

/// A single value as it would be written.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(_, text) => Some(text.clone()),
        Value::Char(_, c) => Some(c.to_string()),
        Value::Bool(_, flag) => Some(flag.to_string()),
        Value::Num(_, number) => number
            .to_i128()
            .map(|number| number.to_string())
            .or_else(|| number.to_u128().map(|number| number.to_string()))
            .or_else(|| number.to_f64().map(|number| format!("{number:?}"))),
        _ => None,
    }
}

/// jiff's friendly format, with days of 24 hours; `None` also for one below zero.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let span: Span = text.parse().ok()?;
    let relative = SpanRelativeTo::days_are_24_hours();
    let signed: SignedDuration = span.to_duration(relative).ok()?;
    Duration::try_from(signed).ok()
}

/// In its largest whole unit.
fn brief(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds, duration.subsec_millis()) {
        (0, 0) => "0s".to_owned(),
        (_, millis) if millis > 0 => format!("{}ms", duration.as_millis()),
        _ if seconds.is_multiple_of(86_400) => format!("{}d", seconds / 86_400),
        _ if seconds.is_multiple_of(3_600) => format!("{}h", seconds / 3_600),
        _ if seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        _ => format!("{seconds}s"),
    }
}
