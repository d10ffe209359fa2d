//! A Redis that nodes share: its connection, and whether it is there.
//!
//! ```text
//!           connected, and the probe's script ran
//!      ┌──────────────────────────────────────────────┐
//!      │                                              ▼
//!    away ── probes every PAUSE                       up ── probes every PAUSE
//!      ▲                                              │
//!      └──────────────────────────────────────────────┘
//!           a script failed, or took longer than `patience`
//! ```
//!
//! A task of its own connects and probes. Requests only look whether there is a connection, so while
//! Redis is away none of them waits for it.

mod bucket;
mod marker;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client as Driver, FromRedisValue, Script};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

pub use self::marker::Marker;

use crate::clock::Clock;
use crate::model::quota::RedisSettings;
use crate::telemetry::Metrics;

/// The longest that connecting takes.
const CONNECT: Duration = Duration::from_secs(1);

/// The time between two probes.
const PAUSE: Duration = Duration::from_millis(250);

/// How often the log says, at the most, that Redis went away.
const QUIET: Duration = Duration::from_mins(1);

/// The handle. Cheap to clone; the task ends with the last one.
#[derive(Clone)]
pub struct Redis(Arc<Inner>);

struct Inner {
    line: Arc<Line>,
    scripts: Scripts,
    /// The longest that a request waits.
    patience: Duration,
    keeper: AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// What runs on the server; see `bucket` and `marker`.
struct Scripts {
    take: Script,
    claim: Script,
    settle: Script,
}

/// The connection, if there is one.
#[derive(Default)]
struct Line {
    state: Mutex<State>,
    /// Told when a request found it broken.
    broken: Notify,
}

#[derive(Default)]
struct State {
    connection: Option<MultiplexedConnection>,
    /// How many connections there have been: who fails on an old one says nothing of the present one.
    number: u64,
}

impl Line {
    fn current(&self) -> Option<(u64, MultiplexedConnection)> {
        let state = self.state.lock();
        Some((state.number, state.connection.clone()?))
    }

    fn is_up(&self) -> bool {
        self.state.lock().connection.is_some()
    }

    fn open(&self, connection: MultiplexedConnection) -> u64 {
        let mut state = self.state.lock();
        state.connection = Some(connection);
        state.number += 1;
        state.number
    }

    /// Gives up connection `number`.
    fn close(&self, number: u64) {
        let mut state = self.state.lock();
        if state.number == number && state.connection.take().is_some() {
            self.broken.notify_one();
        }
    }
}

impl Redis {
    /// Returns at once; the connection is made by a task of its own.
    ///
    /// # Errors
    /// The driver does not take the URL.
    pub fn connect(
        settings: &RedisSettings,
        clock: Clock,
        metrics: Metrics,
    ) -> Result<Self, String> {
        let driver = Driver::open(settings.url.as_str())
            .map_err(|_| "quota.url: the Redis driver does not take this URL".to_owned())?;
        let line = Arc::new(Line::default());
        let keeper = Keeper {
            line: Arc::clone(&line),
            driver,
            take: Script::new(bucket::TAKE),
            patience: settings.patience,
            clock,
            metrics,
            told: None,
            tell_back: true,
        };
        Ok(Self(Arc::new(Inner {
            line,
            scripts: Scripts {
                take: Script::new(bucket::TAKE),
                claim: Script::new(marker::CLAIM),
                settle: Script::new(marker::SETTLE),
            },
            patience: settings.patience,
            keeper: tokio::spawn(keeper.run()).abort_handle(),
        })))
    }

    /// Whether it answered when it was last asked.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.0.line.is_up()
    }

    /// Runs a script; `None` if there is no answer in time.
    async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        key: &str,
        arguments: &[&str],
    ) -> Option<T> {
        let (number, mut connection) = self.0.line.current()?;
        let patience = self.0.patience;
        let answer = run(&mut connection, script, key, arguments, patience).await;
        if let Err(reason) = &answer {
            tracing::debug!("redis: {reason}");
            self.0.line.close(number);
        }
        answer.ok()
    }
}

/// Runs a script, by its digest if the server has it already, within `patience`.
async fn run<T: FromRedisValue>(
    connection: &mut MultiplexedConnection,
    script: &Script,
    key: &str,
    arguments: &[&str],
    patience: Duration,
) -> Result<T, String> {
    let mut call = script.key(key);
    for argument in arguments {
        call.arg(*argument);
    }
    match tokio::time::timeout(patience, call.invoke_async(connection)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {patience:?}")),
    }
}

/// The task that connects and probes.
struct Keeper {
    line: Arc<Line>,
    driver: Driver,
    take: Script,
    patience: Duration,
    clock: Clock,
    metrics: Metrics,
    /// When the log last said that Redis is away.
    told: Option<Duration>,
    /// Whether the log waits to hear that it is there.
    tell_back: bool,
}

impl Keeper {
    async fn run(mut self) {
        self.metrics.set_redis_up(false);
        loop {
            match self.connect().await {
                Ok(connection) => {
                    if std::mem::take(&mut self.tell_back) {
                        tracing::info!("redis answers: nodes share quotas and Idempotency-Keys");
                    }
                    self.metrics.set_redis_up(true);
                    let reason = self.watch(connection).await;
                    self.metrics.set_redis_up(false);
                    self.tell_away(&reason);
                }
                Err(reason) => self.tell_away(&reason),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// A connection on which a script ran.
    async fn connect(&self) -> Result<MultiplexedConnection, String> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(self.patience));
        let connecting = self
            .driver
            .get_multiplexed_async_connection_with_config(&config);
        let mut connection = match tokio::time::timeout(CONNECT, connecting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err(format!("no connection within {CONNECT:?}")),
        };
        self.probe(&mut connection).await?;
        Ok(connection)
    }

    /// Does what requests do, so that a server that only takes connections, or no writes, is away.
    async fn probe(&self, connection: &mut MultiplexedConnection) -> Result<(), String> {
        let arguments = ["1", "1000"];
        let (script, key) = (&self.take, bucket::PROBE);
        run::<bucket::Taken>(connection, script, key, &arguments, self.patience)
            .await
            .map(drop)
    }

    /// Offers the connection to requests until it is broken; why it is.
    async fn watch(&self, mut connection: MultiplexedConnection) -> String {
        let number = self.line.open(connection.clone());
        loop {
            tokio::select! {
                () = self.line.broken.notified() => return "a request got no answer".to_owned(),
                () = tokio::time::sleep(PAUSE) => {}
            }
            if let Err(reason) = self.probe(&mut connection).await {
                self.line.close(number);
                // That told the next round, too, which has nothing to do with it.
                self.line.broken.notified().await;
                return reason;
            }
        }
    }

    /// Once, and not again and again while it comes and goes.
    fn tell_away(&mut self, reason: &str) {
        let now = self.clock.now().mono;
        if self
            .told
            .is_none_or(|told| now.saturating_sub(told) >= QUIET)
        {
            self.told = Some(now);
            self.tell_back = true;
            tracing::warn!(
                "redis is away ({reason}): each node counts for itself, and finds Idempotency-Keys in the store"
            );
        }
    }
}
