//! Settings: from `Rocket.toml` and the environment into types that hold only legal values.
//!
//! What is built in, `Rocket.toml`, the environment, and the command line are layers of one figment,
//! the later ones winning. [`Settings::load`] reads the figment once; nothing reads it later.

pub(crate) use section::duration;

mod bus;
mod queues;
mod quota;
mod section;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rocket::figment::providers::{Env, Format, Toml};
use rocket::figment::value::{Dict, Map, Value};
use rocket::figment::{self, Figment, Metadata, Profile, Provider, util};
use thiserror::Error;
use tracing::Level;

use crate::model::bus::BusSettings;
use crate::model::event::{ColdSettings, EventsSettings};
use crate::model::queue::{QueueName, QueueSettings};
use crate::model::quota::QuotaSettings;
use crate::model::shared::SharedSettings;
use section::Section;

/// What [`figment()`] starts from, and what the file shows to its reader, are the same text.
const BUILT_IN: &str = include_str!("../Rocket.toml");

/// Before each of our environment variables.
const PREFIX: &str = "TOLLGATE_";

const DAY: Duration = Duration::from_hours(24);

/// Variables with our prefix that are no settings of the service.
const NOT_SETTINGS: [&str; 1] = ["TOLLGATE_SERVER"];

/// What is said of a setting that needs other servers.
pub(crate) const NOT_BUILT_IN: &str =
    "needs a build with the feature cluster: cargo run --release --features cluster";

/// What is said of an empty path.
const NO_DIRECTORY: &str = "\"\" is not allowed; a directory is";

/// Everything that can be set, beside Rocket's own settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the store is; default `./data`.
    pub data_dir: PathBuf,
    /// The database that this node shares with others; without one the store is in `data_dir`.
    pub store: Option<SharedSettings>,
    /// Start although acknowledged commits are missing from the store.
    pub accept_loss: bool,
    /// How long an ended ingestion stays in memory; default 1 h.
    pub keep_ended: Duration,
    /// How long an ended ingestion can be read at all; default 30 days.
    pub retention: Duration,
    /// The largest request body, in bytes; default 16 MiB.
    pub max_body: u64,
    /// How the log is written.
    pub log: LogFormat,
    /// The least important lines of the log that are written; default `info`.
    pub log_level: Level,
    /// How much each client may ask for.
    pub quota: QuotaSettings,
    /// The bounds of events.
    pub events: EventsSettings,
    /// Where events wait until they are committed; `None` if they go straight to the store.
    pub bus: Option<BusSettings>,
    /// All queues; always has `default`.
    pub queues: BTreeMap<QueueName, QueueSettings>,
}

/// How the log is written to standard error.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// A setting that can't be used: one line that names it, where it was set, and what is allowed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{key}{}: {problem}", origin.as_ref().map(|origin| format!(" (set {origin})")).unwrap_or_default())]
pub struct ConfigError {
    /// Its path, without `tollgate` before it: `queues.default.interval`.
    pub key: String,
    /// The file or the variable: `in Rocket.toml`, `by TOLLGATE_DATA_DIR`.
    pub origin: Option<String>,
    /// What is wrong, and what is allowed.
    pub problem: String,
}

/// Defaults, `Rocket.toml` (or the file that `ROCKET_CONFIG` names), `ROCKET_*` and `TOLLGATE_*`.
#[must_use]
pub fn figment() -> Figment {
    let file = match Env::var("ROCKET_CONFIG") {
        Some(named) => Toml::file_exact(named),
        None => Toml::file("Rocket.toml"),
    };
    let rocket = Env::prefixed("ROCKET_").ignore(&["PROFILE", "CONFIG"]);
    let figment = base(file).merge(rocket.global());
    let profile = Profile::from_env_or("ROCKET_PROFILE", rocket::Config::DEFAULT_PROFILE);
    with_variables(figment, std::env::vars_os()).select(profile)
}

/// Defaults and one file.
fn base(file: figment::providers::Data<Toml>) -> Figment {
    Figment::from(rocket::Config::default())
        .merge(Toml::string(BUILT_IN).nested())
        .merge(file.nested())
}

/// Adds each `TOLLGATE_*` of `variables`.
fn with_variables(
    figment: Figment,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Figment {
    variables
        .into_iter()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value))
        .filter(|(name, _)| !NOT_SETTINGS.contains(&name.as_str()))
        .fold(figment, |figment, (name, value)| {
            let Some(key) = name.strip_prefix(PREFIX) else {
                return figment;
            };
            let path = key.to_ascii_lowercase().replace("__", ".");
            let value = value.to_string_lossy().into_owned();
            figment.merge(Single::new(
                name.clone(),
                &format!("tollgate.{path}"),
                value,
            ))
        })
}

/// Sets one key on top of a figment, and remembers by what it was set: an option of the command
/// line or an environment variable. Keys of ours begin with `tollgate.`.
#[must_use]
pub fn set(figment: Figment, by: &str, key: &str, value: impl Into<Value>) -> Figment {
    figment.merge(Single::new(by.to_owned(), key, value))
}

/// A figment layer of one value, so that an error can name the variable it came from.
struct Single {
    by: String,
    data: Dict,
}

impl Single {
    fn new(by: String, key: &str, value: impl Into<Value>) -> Self {
        let data = util::nest(key, value.into())
            .into_dict()
            .unwrap_or_default();
        Self { by, data }
    }
}

impl Provider for Single {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.by.clone())
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Profile::Global.collect(self.data.clone()))
    }
}

impl Settings {
    /// Reads and checks everything, Rocket's own settings too. The figment comes back for
    /// `rocket::custom`.
    pub fn load(figment: Figment) -> Result<(Figment, Self), ConfigError> {
        let rocket = check_rocket(&figment)?;
        let settings = Self::read(&Section::root(&figment, "tollgate")?, &rocket)?;
        Ok((figment, settings))
    }

    fn read(root: &Section<'_>, rocket: &rocket::Config) -> Result<Self, ConfigError> {
        root.allow(&[
            "accept_loss",
            "bus",
            "data_dir",
            "events",
            "keep_ended",
            "log_format",
            "log_level",
            "max_body",
            "queues",
            "quota",
            "retention",
            "store",
        ])?;
        let log = root.choice(
            "log_format",
            &[("text", LogFormat::Text), ("json", LogFormat::Json)],
        )?;
        let levels = [
            ("error", Level::ERROR),
            ("warn", Level::WARN),
            ("info", Level::INFO),
            ("debug", Level::DEBUG),
            ("trace", Level::TRACE),
        ];
        let days = |days: u32| DAY * days;
        let keep_ended = root
            .duration("keep_ended", Duration::ZERO..=days(365))?
            .unwrap_or(Duration::from_hours(1));
        let retention = root
            .duration("retention", Duration::from_secs(1)..=days(36_500))?
            .unwrap_or(days(30));
        if retention < keep_ended {
            let set = if root.has("retention") {
                "retention"
            } else {
                "keep_ended"
            };
            let problem = "retention must not be shorter than keep_ended";
            return Err(root.refuse(set, problem));
        }
        let data_dir = root
            .text("data_dir")?
            .unwrap_or_else(|| "./data".to_owned());
        if data_dir.is_empty() {
            return Err(root.refuse("data_dir", NO_DIRECTORY));
        }
        let data_dir = PathBuf::from(data_dir);
        let events = events(&root.section("events")?, &data_dir)?;
        let store = store(&root.section("store")?, &data_dir)?;
        Ok(Self {
            store,
            data_dir,
            accept_loss: root.flag("accept_loss")?.unwrap_or(false),
            keep_ended,
            retention,
            max_body: root.size("max_body", 1024..=1 << 30)?.unwrap_or(16 << 20),
            log: log.unwrap_or_default(),
            log_level: root.choice("log_level", &levels)?.unwrap_or(Level::INFO),
            quota: quota::read(&root.section("quota")?, rocket.address.is_loopback())?,
            events,
            bus: bus::read(&root.section("bus")?)?,
            queues: queues::read(&root.section("queues")?)?,
        })
    }
}

/// The database that several nodes share.
fn store(section: &Section<'_>, data_dir: &Path) -> Result<Option<SharedSettings>, ConfigError> {
    section.allow(&["read_url", "url"])?;
    let url = |key| -> Result<Option<String>, ConfigError> {
        let Some(url) = section.text(key)? else {
            return Ok(None);
        };
        if !cfg!(feature = "cluster") {
            return Err(section.refuse(key, NOT_BUILT_IN));
        }
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(section.refuse(key, "must be postgres://user:password@host:port/database"));
        }
        Ok(Some(url))
    };
    let (url, read_url) = (url("url")?, url("read_url")?);
    let Some(url) = url else {
        return match read_url {
            None => Ok(None),
            Some(_) => Err(section.refuse("read_url", "is used only with url, which is not set")),
        };
    };
    Ok(Some(SharedSettings {
        url,
        read_url,
        dir: data_dir.to_owned(),
    }))
}

fn events(section: &Section<'_>, data_dir: &Path) -> Result<EventsSettings, ConfigError> {
    section.allow(&["cold", "max_batch", "max_bulk", "max_publish", "retention"])?;
    let default = EventsSettings::default();
    let most = |key, default: usize| -> Result<usize, ConfigError> {
        Ok(section.integer(key, 1..=1_000_000)?.unwrap_or(default))
    };
    Ok(EventsSettings {
        max_batch: most("max_batch", default.max_batch)?,
        max_bulk: most("max_bulk", default.max_bulk)?,
        max_publish: most("max_publish", default.max_publish)?,
        retention: retention(&section.section("retention")?)?,
        cold: cold(&section.section("cold")?, data_dir)?,
    })
}

/// Whether and where old events go.
fn cold(section: &Section<'_>, data_dir: &Path) -> Result<Option<ColdSettings>, ConfigError> {
    section.allow(&["after", "dir"])?;
    let range = DAY..=DAY * 36_500;
    let after = section.duration("after", range)?;
    let dir = section.text("dir")?;
    if dir.as_deref() == Some("") {
        return Err(section.refuse("dir", NO_DIRECTORY));
    }
    let Some(after) = after else {
        return match dir {
            None => Ok(None),
            Some(_) => Err(section.refuse("dir", "is used only with after, which is not set")),
        };
    };
    let dir = dir.map_or_else(|| data_dir.join("cold"), PathBuf::from);
    Ok(Some(ColdSettings { after, dir }))
}

/// Tenants, and how long their events stay.
fn retention(section: &Section<'_>) -> Result<BTreeMap<String, Duration>, ConfigError> {
    let range = Duration::from_mins(1)..=DAY * 36_500;
    let mut retention = BTreeMap::new();
    for tenant in section.keys() {
        if let Some(age) = section.duration(tenant, range.clone())? {
            retention.insert(tenant.to_owned(), age);
        }
    }
    Ok(retention)
}

/// Rocket itself ignores keys that it doesn't know, and reports bad values over many lines.
fn check_rocket(figment: &Figment) -> Result<rocket::Config, ConfigError> {
    let top: Dict = figment.extract().map_err(|error| of_figment(&error))?;
    // Rocket is built without these two: a file that sets them would be ignored in silence.
    let offered = |key: &str| {
        let parameters = rocket::Config::PARAMETERS.iter();
        parameters.copied().any(|parameter| parameter == key) && key != "tls" && key != "secret_key"
    };
    if let Some(key) = top.keys().find(|key| !offered(key) && *key != "tollgate") {
        let allowed: Vec<&str> = rocket::Config::PARAMETERS
            .iter()
            .copied()
            .filter(|parameter| offered(parameter))
            .collect();
        let origin = figment
            .find_metadata(key)
            .and_then(|metadata| section::origin(metadata, key));
        return Err(ConfigError {
            key: key.clone(),
            origin,
            problem: format!(
                "there is no such setting; allowed here: {}, tollgate",
                allowed.join(", ")
            ),
        });
    }
    figment.extract().map_err(|error| of_figment(&error))
}

/// In one line.
fn of_figment(error: &figment::Error) -> ConfigError {
    let key = error.path.join(".");
    let origin = error
        .metadata
        .as_ref()
        .and_then(|metadata| section::origin(metadata, error.path.first().map_or("", |key| key)));
    // A syntax error is several lines with a drawing: its first and its last say it all.
    let text = error.kind.to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let problem = match (lines.next(), lines.next_back()) {
        (Some(first), Some(last)) => format!("{first}: {last}"),
        (first, _) => first.unwrap_or("not readable").to_owned(),
    };
    ConfigError {
        key: if key.is_empty() {
            "the settings".to_owned()
        } else {
            key
        },
        origin,
        problem,
    }
}

#[cfg(test)]
mod tests;
