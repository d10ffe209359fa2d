//! Connections to the server, and what its errors mean.

use std::future::poll_fn;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Socket};

use super::history::History;
use super::tls::{Asked, Tls};
use crate::store::error::{OpenError, StoreError};

/// How long a new connection may take.
const CONNECT: Duration = Duration::from_secs(3);

/// What whoever made the database may have set otherwise: what is acknowledged is on disk, and statements
/// see what was committed while they waited.
const PROMISED: &str = "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED;
    SELECT set_config('synchronous_commit', 'on', false)
        WHERE current_setting('synchronous_commit') = 'off'";

/// How long a transaction that others wait for may be silent.
const SILENT: Duration = Duration::from_secs(3);

/// Ends those that are silent in the middle of a command: for these the database has no such setting.
const END_HANGING: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name = 'tollgate' AND datname = current_database() AND usename = current_user
      AND state = 'active' AND wait_event = 'ClientRead' AND backend_xid IS NOT NULL
      AND query_start < clock_timestamp() - INTERVAL '4 seconds'";

/// How long a read waits for its turn.
const TURN: Duration = Duration::from_secs(10);

/// The error that the schema raises where a deposed leader writes.
const DEPOSED: &str = "TG001";

/// The error that it raises where an `Idempotency-Key` has an answer.
const KEY_TAKEN: &str = "TG002";

/// The error that it raises where a message of the bus was committed before.
const MESSAGE_TAKEN: &str = "TG003";

/// The error that it raises where a queue has no room.
const QUEUE_FULL: &str = "TG004";

/// Where the server is, and how to connect to it.
#[derive(Clone)]
pub(super) struct Server {
    config: Arc<Config>,
    tls: Option<Tls>,
    /// The one that all connections have in common; of a replica it is not asked.
    history: Option<History>,
}

/// One connection. Ends when it is dropped.
pub(super) struct Session(Client);

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.0
    }
}

impl Server {
    /// Reads the URL of the setting. Of several hosts the one that takes writes is meant, and all
    /// connections are to the same [`History`].
    pub(super) fn parse(url: &str) -> Result<Self, OpenError> {
        let mut server = Self::named("store.url", url)?;
        let mut config = Config::clone(&server.config);
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        server.config = Arc::new(config);
        server.history = Some(History::default());
        Ok(server)
    }

    /// Reads a URL. What is wrong with it is said without the password that it may have.
    pub(super) fn named(name: &str, url: &str) -> Result<Self, OpenError> {
        let refused = |problem: &str| OpenError(format!("{name}: {problem}"));
        let Asked { url, tls } = Asked::of(url).map_err(|problem| refused(&problem))?;
        let mut config = Config::from_str(&url)
            .map_err(|error| refused(&format!("it is no PostgreSQL URL: {error}")))?;
        if config.get_hosts().is_empty() {
            return Err(refused("it names no host"));
        }
        config
            .connect_timeout(CONNECT)
            .application_name("tollgate")
            .tcp_user_timeout(Duration::from_secs(10))
            .keepalives_idle(Duration::from_secs(10))
            .ssl_mode(match tls {
                Some(_) => SslMode::Require,
                None => SslMode::Disable,
            });
        Ok(Self {
            config: Arc::new(config),
            tls,
            history: None,
        })
    }

    /// The name of the history that all connections have in common.
    pub(super) fn history(&self) -> &str {
        self.history.as_ref().map_or("", History::name)
    }

    /// Where it is, without user and password.
    pub(super) fn place(&self) -> String {
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(host)) => host.clone(),
            #[cfg(unix)]
            Some(Host::Unix(path)) => path.display().to_string(),
            None => String::new(),
        };
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        let database = self.config.get_dbname().unwrap_or("postgres");
        format!("{host} port {port}, database {database}")
    }

    /// A connection of its own.
    pub(super) async fn connect(&self) -> Result<Session, StoreError> {
        self.connect_with(None).await
    }

    /// The same, for transactions that others wait for: where this process is stopped or cut off in the
    /// middle of one, the server ends it after [`SILENT`].
    pub(super) async fn connect_to_write(&self) -> Result<Session, StoreError> {
        let silence = format!(
            "-c idle_in_transaction_session_timeout={}",
            SILENT.as_millis()
        );
        let options = match self.config.get_options() {
            Some(options) => format!("{options} {silence}"),
            None => silence,
        };
        let mut config = Config::clone(&self.config);
        config.options(options);
        let server = Self {
            config: Arc::new(config),
            tls: self.tls.clone(),
            history: self.history.clone(),
        };
        let session = server.connect().await?;
        let promised = session.batch_execute(PROMISED).await;
        promised.map_err(|error| fault(&error))?;
        Ok(session)
    }

    /// The same; tells `notify` of every notification.
    pub(super) async fn listening(&self, notify: Arc<Notify>) -> Result<Session, StoreError> {
        self.connect_with(Some(notify)).await
    }

    async fn connect_with(&self, notify: Option<Arc<Notify>>) -> Result<Session, StoreError> {
        let client = match &self.tls {
            Some(tls) => self.connect_over(tls.clone(), notify).await?,
            None => self.connect_over(NoTls, notify).await?,
        };
        if let Some(history) = &self.history {
            let checked = timeout(CONNECT, history.check(&client)).await;
            checked.map_err(|_| silent())??;
        }
        Ok(Session(client))
    }

    async fn connect_over<T>(
        &self,
        tls: T,
        notify: Option<Arc<Notify>>,
    ) -> Result<Client, StoreError>
    where
        T: MakeTlsConnect<Socket>,
        T::Stream: Send + 'static,
    {
        let connected = timeout(CONNECT, self.config.connect(tls)).await;
        let connected = connected.map_err(|_| silent())?;
        let (client, mut connection) = connected.map_err(|error| fault(&error))?;
        tokio::spawn(async move {
            while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
                match (message, &notify) {
                    (Ok(AsyncMessage::Notification(_)), Some(notify)) => notify.notify_one(),
                    (Ok(_), _) => {}
                    // Whoever waits for an answer is told.
                    (Err(_), _) => return,
                }
            }
        });
        Ok(client)
    }
}

/// Ends the transactions that others wait for and whose node hangs, or is cut off, in the middle of a
/// command.
pub(super) async fn end_hanging(session: &Session) -> Result<(), StoreError> {
    let ended = session.batch_execute(END_HANGING).await;
    ended.map_err(|error| fault(&error))
}

/// What an error of the server or of the way to it means.
pub(super) fn fault(error: &tokio_postgres::Error) -> StoreError {
    let Some(refusal) = error.as_db_error() else {
        return StoreError::Away(sentence(error));
    };
    match refusal.code() {
        code if code.code() == DEPOSED => StoreError::Deposed,
        code if code.code() == KEY_TAKEN => StoreError::KeyTaken,
        code if code.code() == MESSAGE_TAKEN => StoreError::MessageTaken,
        code if code.code() == QUEUE_FULL => StoreError::QueueFull,
        code if *code == SqlState::DISK_FULL => StoreError::Full,
        code if *code == SqlState::UNDEFINED_TABLE => {
            StoreError::Damaged(refusal.message().to_owned())
        }
        _ => StoreError::Away(refusal.message().to_owned()),
    }
}

/// It did not answer in time.
pub(super) fn silent() -> StoreError {
    StoreError::Away("it does not answer".to_owned())
}

/// With what caused it.
fn sentence(error: &tokio_postgres::Error) -> String {
    let mut sentence = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let text = inner.to_string();
        if !sentence.contains(&text) {
            sentence = format!("{sentence}: {text}");
        }
        cause = inner.source();
    }
    sentence
}

/// Connections that reads share: so many go on at once, and others wait for their turn.
pub(super) struct Readers {
    server: Server,
    turns: Semaphore,
    idle: Mutex<Vec<Session>>,
}

/// One of them; goes back when it is dropped, if it still works.
pub(super) struct Reader<'a> {
    session: Option<Session>,
    readers: &'a Readers,
    _turn: SemaphorePermit<'a>,
}

impl Readers {
    pub(super) fn new(server: Server, turns: usize) -> Self {
        Self {
            server,
            turns: Semaphore::new(turns),
            idle: Mutex::default(),
        }
    }

    /// A connection, once it is this caller's turn.
    pub(super) async fn get(&self) -> Result<Reader<'_>, StoreError> {
        let turn = timeout(TURN, self.turns.acquire()).await;
        let turn = turn.map_err(|_| StoreError::Busy)?;
        let turn = turn.map_err(|_| StoreError::Closed)?;
        let idle = loop {
            let idle = self.idle.lock().pop();
            match idle {
                Some(session) if session.is_closed() => {}
                other => break other,
            }
        };
        let session = match idle {
            Some(session) => session,
            None => self.server.connect().await?,
        };
        Ok(Reader {
            session: Some(session),
            readers: self,
            _turn: turn,
        })
    }

    /// No more reads.
    pub(super) fn close(&self) {
        self.turns.close();
        self.idle.lock().clear();
    }
}

impl Reader<'_> {
    /// The connection. `Err` never happens: it is there until the drop.
    pub(super) fn session(&self) -> Result<&Session, StoreError> {
        self.session.as_ref().ok_or(StoreError::Closed)
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        if let Some(session) = self.session.take()
            && !session.is_closed()
            && !self.readers.turns.is_closed()
        {
            self.readers.idle.lock().push(session);
        }
    }
}
