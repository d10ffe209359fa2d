//! The whole service: settings in, a running server out.

use std::pin::pin;
use std::time::Duration;

use rocket::error::ErrorKind;
use rocket::fairing::AdHoc;
use rocket::figment::Figment;
use rocket::{Build, Rocket};
use thiserror::Error;

use crate::bus::{Bus, OpenBusError};
use crate::clock::Clock;
use crate::config::Settings;
use crate::http::{self, HttpState};
use crate::jobs::{Jobs, JobsSettings};
use crate::quota::{Quota, Shared};
use crate::store::{OpenError, Store, StoreSettings};
use crate::telemetry::Metrics;

/// How long batches that run may take to end after a signal.
const GRACE: Duration = Duration::from_secs(3);

/// How long that and the closing of the store may take together. The contract gives ten seconds in
/// all: the server takes up to four before (`grace`, `mercy`, and a second of Rocket's own), and
/// threads that hang up to half a second after.
const STOP: Duration = Duration::from_secs(4);

/// How long of that the messages in hand may take to be committed.
const HANDS: Duration = Duration::from_secs(2);

/// Why the service did not start, or stopped with an error.
#[derive(Debug, Error)]
pub enum AppError {
    /// The data directory was not opened, or a queue could not be made.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Redis can't be used as it is set.
    #[error("{0}")]
    Quota(String),
    /// The bus was not opened.
    #[error(transparent)]
    Bus(#[from] OpenBusError),
    /// The store that nodes share can't be gone on with.
    #[error("this node can't go on, and has to be started again: {0}")]
    Store(String),
    /// The HTTP server did not start or did not end well.
    #[error("{0}")]
    Server(String),
}

/// Runs until a signal, then stops gracefully: no new requests, batches that run may end, everything
/// is on disk.
pub async fn run(settings: Settings, figment: Figment) -> Result<(), AppError> {
    raise_file_limit();
    let (clock, metrics) = (Clock::system(), Metrics::new());
    let jobs = JobsSettings {
        queues: settings.queues,
        keep_ended: settings.keep_ended,
        retention: settings.retention,
        events: settings.events,
    };
    let store = StoreSettings {
        dir: settings.data_dir,
        accept_loss: settings.accept_loss,
    };
    // First, for nothing has begun yet if it is refused.
    let bus = Bus::open(settings.bus.as_ref(), &clock, &metrics).await?;
    let shared = Shared::connect(&settings.quota, &clock, &metrics).map_err(AppError::Quota)?;
    let quota = Quota::new(settings.quota.rate, &shared, &clock);
    let jobs = match settings.store {
        #[cfg(feature = "cluster")]
        Some(shared) => {
            tracing::info!("opening the shared store in PostgreSQL");
            Jobs::open_shared(jobs, &shared, clock.clone(), metrics.clone()).await?
        }
        _ => {
            tracing::info!("opening the store in {}", store.dir.display());
            Jobs::open(jobs, &store, clock.clone(), metrics.clone()).await?
        }
    };
    jobs.share_keys(shared.clone());
    let events = jobs.events().clone().over(bus.clone());
    let background = events.start();
    let mut state = HttpState::new(jobs.clone(), metrics, clock.clone(), settings.max_body);
    (state.events, state.quota, state.shared) = (events, quota, shared);
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
    let rocket = http::rocket(figment, state).attach(banner);
    let served = serve(rocket, jobs.store(), &place).await;
    tracing::info!("stopping: batches that run may end");
    let began = clock.now().mono;
    background.stop(HANDS).await;
    bus.close().await;
    let took = clock.now().mono.saturating_sub(began);
    jobs.stop(GRACE.saturating_sub(took), STOP.saturating_sub(took))
        .await;
    served
}

/// Serves until a signal, or until the store can't be gone on with.
async fn serve(rocket: Rocket<Build>, store: &Store, place: &str) -> Result<(), AppError> {
    let failure = |error: rocket::Error| AppError::Server(sentence(&error, place));
    let rocket = rocket.ignite().await.map_err(failure)?;
    let shutdown = rocket.shutdown();
    let mut launched = pin!(rocket.launch());
    let (served, ended) = tokio::select! {
        served = &mut launched => (served, Ok(())),
        sentence = store.failed() => {
            tracing::error!("this node can't go on: {sentence}");
            shutdown.notify();
            (launched.await, Err(AppError::Store(sentence)))
        }
    };
    match served {
        Ok(_) => ended,
        Err(error) if matches!(error.kind(), ErrorKind::Shutdown(_, None)) => {
            tracing::warn!("requests that had not ended were cut off");
            ended
        }
        Err(error) => Err(failure(error)),
    }
}

/// Rocket's error prints itself in colours when dropped; one line is enough.
fn sentence(error: &rocket::Error, place: &str) -> String {
    match error.kind() {
        ErrorKind::Bind(error) => {
            let elsewhere = "--port and --address choose another place";
            format!("{place} can't be listened on: {error}; {elsewhere}")
        }
        ErrorKind::Io(error) => format!("the server failed: {error}"),
        ErrorKind::Shutdown(_, Some(error)) => format!("the server failed while stopping: {error}"),
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
