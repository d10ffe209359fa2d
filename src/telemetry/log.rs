//! The log: one line an occurrence, on standard error.

use std::io::{self, IsTerminal};

use tracing::subscriber::Interest;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt};

use crate::config::LogFormat;

/// Starts to write the log, of this program down to `level`, of its libraries warnings and errors.
/// Must come before Rocket is built, which else installs a logger of its own. Does nothing if a
/// log was started before.
pub fn init(format: LogFormat, level: Level) {
    let registry = Registry::default().with(Chosen { level });
    let installed = match format {
        LogFormat::Text => registry
            .with(
                fmt::layer()
                    .with_writer(io::stderr)
                    .with_target(false)
                    .with_ansi(io::stderr().is_terminal()),
            )
            .try_init(),
        LogFormat::Json => registry
            .with(
                fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_current_span(false)
                    .with_span_list(false)
                    .with_writer(io::stderr),
            )
            .try_init(),
    };
    // Only a second call fails, and it changes nothing.
    drop(installed);
}

/// Which lines are written.
struct Chosen {
    level: Level,
}

impl Chosen {
    fn takes(&self, target: &str, level: Level) -> bool {
        // Rocket marks the details of a request so. Among them are failed guards with the request's
        // body, under the target of the route's own module.
        if target.ends_with("::_") {
            return false;
        }
        // Rocket tells its launch and its shutdown as warnings; the service says both itself.
        if target == "rocket" || target.starts_with("rocket::") {
            return level <= Level::ERROR;
        }
        let ours = target == "tollgate" || target.starts_with("tollgate::");
        level
            <= if ours {
                self.level
            } else {
                self.level.min(Level::WARN)
            }
    }
}

impl<S: Subscriber> Layer<S> for Chosen {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // Records of the `log` crate share one call site a level: those are asked each time.
        if metadata.target() == "log" {
            Interest::sometimes()
        } else if self.takes(metadata.target(), *metadata.level()) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.takes(metadata.target(), *metadata.level())
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(self.level.into())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn writes_ours_down_to_the_level_and_warnings_of_others() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = Registry::default()
            .with(Chosen { level: Level::INFO })
            .with(
                fmt::layer()
                    .with_ansi(false)
                    .with_writer(move || writer.clone()),
            );
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: "tollgate::jobs", "one");
            tracing::debug!(target: "tollgate::jobs", "two");
            tracing::warn!(target: "hyper", "three");
            tracing::info!(target: "hyper", "four");
            tracing::warn!(target: "rocket::launch", "five");
            tracing::error!(target: "rocket::server", "six");
            tracing::warn!(target: "tollgate::http::ingest::_", "the body: seven");
        });
        let text = String::from_utf8(lines.0.lock().clone()).unwrap();
        let words: Vec<&str> = text
            .lines()
            .filter_map(|line| line.split(' ').next_back())
            .collect();
        assert_eq!(words, ["one", "three", "six"], "{text}");
    }

    #[test]
    fn records_of_the_log_crate_are_chosen_by_their_own_target() {
        use tracing_log::log;

        // Another test may have done it before.
        let _ = tracing_log::LogTracer::init();
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = Registry::default()
            .with(Chosen { level: Level::INFO })
            .with(fmt::layer().json().with_writer(move || writer.clone()));
        tracing::subscriber::with_default(subscriber, || {
            log::warn!(target: "tollgate::http::ingest::_", "Data guard failed: the body");
            log::warn!(target: "rocket::launch", "Rocket has launched");
            log::info!(target: "rocket::server", "GET /");
            log::error!(target: "rocket::server", "a handler panicked");
        });
        let text = String::from_utf8(lines.0.lock().clone()).unwrap();
        let targets: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["target"].take())
            .collect();
        assert_eq!(targets, ["rocket::server"], "{text}");
    }

    #[test]
    fn a_second_start_changes_nothing() {
        init(LogFormat::Json, Level::ERROR);
        init(LogFormat::Text, Level::TRACE);
        assert!(!tracing::enabled!(target: "tollgate", Level::WARN));
    }

    #[test]
    fn a_level_above_warnings_holds_for_others_too() {
        let chosen = Chosen {
            level: Level::ERROR,
        };
        assert!(!chosen.takes("hyper", Level::WARN));
        assert!(!chosen.takes("tollgate", Level::WARN));
        assert!(chosen.takes("hyper", Level::ERROR));
        assert!(!chosen.takes("tollgateway", Level::INFO));
    }
}
