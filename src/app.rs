//! The whole service: settings in, a running server out.

use std::time::Duration;

use rocket::fairing::AdHoc;
use rocket::figment::Figment;
use thiserror::Error;

use crate::clock::Clock;
use crate::config::Settings;
use crate::http::{self, HttpState};
use crate::jobs::{Jobs, JobsSettings};
use crate::store::{OpenError, StoreSettings};
use crate::telemetry::Metrics;

/// How long batches that run may take to end after a signal; the rest of the ten seconds that the
/// contract gives is for the server before and the store after.
const GRACE: Duration = Duration::from_secs(3);

/// Why the service did not start, or stopped with an error.
#[derive(Debug, Error)]
pub enum AppError {
    /// The data directory was not opened, or a queue could not be made.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The HTTP server did not start or did not end well.
    #[error("{0}")]
    Server(String),
}

/// Runs until a signal, then stops gracefully: no new requests, batches that run may end, everything
/// is on disk.
pub async fn run(settings: Settings, figment: Figment) -> Result<(), AppError> {
    raise_file_limit();
    let (clock, metrics) = (Clock::system(), Metrics::new());
    let store = StoreSettings {
        dir: settings.data_dir,
        accept_loss: settings.accept_loss,
    };
    let jobs = JobsSettings {
        queues: settings.queues,
        keep_ended: settings.keep_ended,
        retention: settings.retention,
    };
    tracing::info!("opening the store in {}", store.dir.display());
    let jobs = Jobs::open(jobs, &store, clock.clone(), metrics.clone()).await?;
    let state = HttpState::new(jobs.clone(), metrics, clock, settings.max_body);
    let banner = AdHoc::on_liftoff("banner", |rocket| {
        Box::pin(async move {
            let config = rocket.config();
            tracing::info!("serving on http://{}:{}", config.address, config.port);
        })
    });
    let place = figment
        .extract::<rocket::Config>()
        .map(|config| format!("{} port {}", config.address, config.port))
        .unwrap_or_default();
    let served = http::rocket(figment, state).attach(banner).launch().await;
    tracing::info!("stopping: batches that run may end");
    jobs.stop(GRACE).await;
    served
        .map(|_| ())
        .map_err(|error| AppError::Server(sentence(&error, &place)))
}

/// Rocket's error prints itself in colours when dropped; one line is enough.
fn sentence(error: &rocket::Error, place: &str) -> String {
    use rocket::error::ErrorKind;
    match error.kind() {
        ErrorKind::Bind(error) => {
            let elsewhere = "--port and --address choose another place";
            format!("{place} can't be listened on: {error}; {elsewhere}")
        }
        ErrorKind::Io(error) => format!("the server failed: {error}"),
        ErrorKind::Shutdown(..) => "the server did not stop in time".to_owned(),
        other => format!("the server did not start: {other}"),
    }
}

/// Each connection is a file: the usual soft limit of 1,024 is soon used up.
fn raise_file_limit() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        if setrlimit(Resource::Nofile, limit).is_err() {
            tracing::warn!(
                "the limit of open files stays at {:?}",
                getrlimit(Resource::Nofile).current
            );
        }
    }
}
