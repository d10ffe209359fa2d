//! `/`, `/health`, `/health/liveness` and `/ready`: whether it is there, and whether it works.

use std::time::Duration;

use rocket::fairing::AdHoc;
use rocket::http::ContentType;
use rocket::{State, get, routes};
use serde::Serialize;

use super::HttpState;
use super::error::{Code, Problem};
use crate::jobs::Jobs;
use crate::model::bus::BusState;
use crate::store::StoreState;

/// Mounts the resource.
pub(super) fn stage() -> AdHoc {
    AdHoc::on_ignite("health", |rocket| async {
        rocket.mount("/", routes![index, health, liveness, ready])
    })
}

/// The greeting.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Greeting {
    /// Always the same.
    #[schema(example = "Ingestion API is live!")]
    message: &'static str,
}

/// That the process serves.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Health {
    /// Always `ok`.
    #[schema(example = "ok")]
    status: &'static str,
    /// The version of the service.
    #[schema(example = "0.1.0")]
    version: &'static str,
    /// Since the process started.
    #[schema(example = 12.5)]
    uptime_seconds: f64,
}

/// That the process lives.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Liveness {
    /// Always `alive`.
    #[schema(example = "alive")]
    status: &'static str,
}

/// That everything works.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Ready {
    /// Always `ready`.
    #[schema(example = "ready")]
    status: &'static str,
    components: Components,
}

/// The state of each part.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Components {
    /// Whether writes are taken.
    store: Component,
    /// Whether batches are started: here, or (`standby`) on another node.
    scheduler: Component,
    /// Whether the database answers that several nodes share; only where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<Component>,
    /// Whether the Redis that nodes share answers; absent if none is set. Without it each node counts
    /// for itself, and nothing fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    redis: Option<Component>,
    /// Whether events are taken; only where there is a bus.
    #[serde(skip_serializing_if = "Option::is_none")]
    nats: Option<Component>,
}

/// The state of one part.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Component {
    /// `ok`, or what else it is: `full`, `away`, `failed`, `stopped`.
    #[schema(example = "ok")]
    state: &'static str,
    /// More about it, if it isn't `ok`.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'static str>,
    /// How many messages with events wait to be committed; of `nats`.
    #[serde(skip_serializing_if = "Option::is_none")]
    lag: Option<u64>,
}

impl Component {
    const OK: Self = Self {
        state: "ok",
        detail: None,
        lag: None,
    };

    const fn not_ok(state: &'static str, detail: &'static str) -> Self {
        Self {
            state,
            detail: Some(detail),
            lag: None,
        }
    }
}

const AWAY: Component = Component::not_ok("away", "NATS does not answer; events are refused");

impl Components {
    fn of(store: &StoreState, scheduling: Scheduling, shared: bool, bus: Option<BusState>) -> Self {
        let store = match store {
            StoreState::Ok => Component::OK,
            StoreState::Full => {
                Component::not_ok("full", "the disk is full; writes resume when space returns")
            }
            StoreState::Away(_) => Component::not_ok(
                "away",
                "the database does not answer; it is tried again all the time",
            ),
            // The reason names files of the server; the log has it.
            StoreState::Failed(_) => Component::not_ok(
                "failed",
                "a write failed; it takes no writes until a restart",
            ),
        };
        Self {
            scheduler: match scheduling {
                Scheduling::Here => Component::OK,
                Scheduling::Elsewhere => {
                    Component::not_ok(STANDBY, "batches are started by another node")
                }
                Scheduling::Stopped => {
                    Component::not_ok("stopped", "no batch is started: the service shuts down")
                }
            },
            database: shared.then(|| store.clone()),
            store,
            redis: None,
            nats: bus.map(|bus| Component {
                lag: Some(bus.lag),
                ..if bus.up { Component::OK } else { AWAY }
            }),
        }
    }

    /// With the Redis that nodes share, if one is set.
    fn with_redis(mut self, up: Option<bool>) -> Self {
        self.redis = up.map(|up| {
            if up {
                Component::OK
            } else {
                Component::not_ok("away", "each node counts requests for itself meanwhile")
            }
        });
        self
    }

    fn all_ok(&self) -> bool {
        let nats = self.nats.iter();
        let mut all = [&self.store, &self.scheduler].into_iter().chain(nats);
        all.all(|component| component.state == Component::OK.state || component.state == STANDBY)
    }
}

/// The state of a node's scheduler while another one starts the batches.
const STANDBY: &str = "standby";

/// Who starts batches.
#[derive(Clone, Copy)]
enum Scheduling {
    Here,
    Elsewhere,
    Stopped,
}

impl Scheduling {
    fn of(jobs: &Jobs) -> Self {
        if !jobs.schedulers_run() {
            Self::Stopped
        } else if jobs.store().term().borrow().is_some() {
            Self::Here
        } else {
            Self::Elsewhere
        }
    }
}

/// JSON that can't fail to be written.
pub(super) fn json(value: &impl Serialize) -> (ContentType, String) {
    let text = serde_json::to_string(value).unwrap_or_default();
    (ContentType::JSON, text)
}

/// Say hello
#[utoipa::path(get, path = "/", tag = "service",
    responses((status = 200, description = "The service is there.", body = Greeting)))]
#[get("/")]
pub(super) fn index() -> (ContentType, String) {
    json(&Greeting {
        message: "Ingestion API is live!",
    })
}

/// Whether the process serves
#[utoipa::path(get, path = "/health", tag = "service",
    responses((status = 200, description = "It does.", body = Health)))]
#[get("/health")]
pub(super) fn health(state: &State<HttpState>) -> (ContentType, String) {
    json(&Health {
        status: "ok",
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: seconds(state.clock.now().mono),
    })
}

/// Whether the process lives
#[utoipa::path(get, path = "/health/liveness", tag = "service",
    responses((status = 200, description = "It does.", body = Liveness)))]
#[get("/health/liveness")]
pub(super) fn liveness() -> (ContentType, String) {
    json(&Liveness { status: "alive" })
}

/// Whether everything works
#[utoipa::path(get, path = "/ready", tag = "service",
    responses(
        (status = 200, description = "Writes are taken and batches are started.", body = Ready),
        (status = 503, description = "`unavailable`: `components` says what does not work."),
    ))]
#[get("/ready")]
pub(super) async fn ready(state: &State<HttpState>) -> Result<(ContentType, String), Problem> {
    let store = state.jobs.store();
    // How it went is in the state.
    let _ = store.sync().await;
    let scheduling = Scheduling::of(&state.jobs);
    let components = Components::of(
        &store.state(),
        scheduling,
        store.is_shared(),
        state.events.bus.state(),
    )
    .with_redis(state.shared.is_up());
    if components.all_ok() {
        return Ok(json(&Ready {
            status: "ready",
            components,
        }));
    }
    Err(Problem::new(
        Code::Unavailable,
        "A part of the service does not work now; components says which.",
    )
    .components(serde_json::to_value(components).unwrap_or_default())
    .retry_after(Duration::from_secs(1)))
}

/// Seconds with millisecond precision, as a number for people.
pub(super) fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_needs_every_part() {
        let of = |store, scheduling| Components::of(&store, scheduling, false, None);
        assert!(of(StoreState::Ok, Scheduling::Here).all_ok());
        assert!(of(StoreState::Ok, Scheduling::Elsewhere).all_ok());
        assert!(!of(StoreState::Full, Scheduling::Here).all_ok());
        assert!(!of(StoreState::Ok, Scheduling::Stopped).all_ok());
        let away = of(StoreState::Ok, Scheduling::Here).with_redis(Some(false));
        assert!(away.all_ok());
        assert_eq!(away.redis.unwrap().state, "away");
        let failed = of(StoreState::Failed("/secret/path".into()), Scheduling::Here);
        assert_eq!(failed.store.state, "failed");
        let over = |up| {
            let bus = Some(BusState { up, lag: 7 });
            Components::of(&StoreState::Ok, Scheduling::Here, false, bus)
        };
        assert!(over(true).all_ok(), "a lag is no failure");
        assert!(!over(false).all_ok());
        assert_eq!(over(false).nats.unwrap().lag, Some(7));
        assert!(!serde_json::to_string(&failed).unwrap().contains("secret"));
    }
}
