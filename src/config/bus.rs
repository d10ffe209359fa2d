//! The settings of the bus.

use super::ConfigError;
use super::section::Section;
use crate::model::bus::BusSettings;

const KEYS: [&str; 4] = ["max_bytes", "max_deliver", "replicas", "url"];

/// The bus, if one is set.
pub(super) fn read(section: &Section<'_>) -> Result<Option<BusSettings>, ConfigError> {
    section.allow(&KEYS)?;
    let Some(url) = section.text("url")? else {
        return match KEYS.into_iter().find(|key| section.has(key)) {
            None => Ok(None),
            Some(key) => Err(section.refuse(key, "is used only with url, which is not set")),
        };
    };
    let default = BusSettings::new(servers(&url).map_err(|it| section.refuse("url", it))?);
    Ok(Some(BusSettings {
        replicas: section
            .integer("replicas", 1..=5)?
            .unwrap_or(default.replicas),
        max_bytes: section
            .size("max_bytes", 1 << 20..=1 << 50)?
            .unwrap_or(default.max_bytes),
        max_deliver: section
            .integer("max_deliver", 1..=1_000)?
            .unwrap_or(default.max_deliver),
        ..default
    }))
}

/// The parts of a list with commas. What is said of a bad one does not repeat it: it may hold a
/// password.
#[cfg(feature = "cluster")]
fn servers(url: &str) -> Result<Vec<String>, &'static str> {
    const ALLOWED: &str = "is no URL of NATS servers; allowed: \"nats://host:4222\", \"tls://host:4222\", \
         several with commas between";
    let legal = |one: &str| {
        let ours = one.starts_with("nats://") || one.starts_with("tls://");
        ours && one.parse::<async_nats::ServerAddr>().is_ok()
    };
    let servers: Vec<String> = url.split(',').map(|it| it.trim().to_owned()).collect();
    if servers.iter().all(|one| legal(one)) {
        Ok(servers)
    } else {
        Err(ALLOWED)
    }
}

/// Refuses all.
#[cfg(not(feature = "cluster"))]
fn servers(_: &str) -> Result<Vec<String>, &'static str> {
    Err(
        "this program was built without the cargo feature `cluster`, which a bus needs: \
         build it with `cargo build --release --features cluster`",
    )
}
