//! A database that a data directory is moved into (table `migration`).
//!
//! Each chunk is a transaction that also says how far it is, so whenever this is killed, the next run
//! goes on where it was. Until all is there and compared, no node starts ([`refuse_unfinished`]).

mod copy;
mod read;

use std::collections::BTreeSet;

use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use self::copy::{CopyRows, EventCopy};
use super::connect::{Server, Session, fault};
use super::events::messages::columns;
use super::events::parts::{Month, Parts};
use super::events::prepare::COPY as EVENT;
use super::schema;
use crate::model::bus::MessageName;
use crate::model::event::{DeadLetter, Event, EventTime, Sequence};
use crate::model::ingestion::Ingestion;
use crate::model::time::Timestamp;
use crate::store::embedded::GoneEvent;
use crate::store::embedded::source::{Counts, Kept, Queue};
use crate::store::error::{OpenError, StoreError};
use crate::store::identity::{Entry, Identity, Key};
use crate::store::migration::{FactRow, Mark, Origin};

/// The advisory lock of whoever moves a directory here.
const LOCK: i64 = 0x746f_6c6c_6761_7404;

/// How long to wait for it, in milliseconds: the session of one that was killed may end a little later.
const PATIENCE: u32 = 5_000;

/// Tables and the columns that are written.
const QUEUE: &str = "queue (id, name, last_slot)";
const TOPIC: &str = "topic (number, name)";
const INGESTION: &str = "ingestion (arrival, id, queue, priority, created_at, batch_size, ids,
    metadata, callback_url, deadline, rest, rest_at, ended_at)";
const RUN: &str = "run (arrival, batch, status, attempt, first_triggered_at, triggered_at,
    completed_at, retry_at, failures)";
const ANSWER: &str = "kept_answer (key, body, ingestion, expires_at)";
const IDENTITY: &str = "identity (hash, time, content)";
const ERASED: &str = "erased (time, nanos, tenant, source, type, user_hash, sequence, identity)";
const FACT: &str = "fact (first, last, low, high, facts)";
const LETTER: &str = "letter (number, refused_at, errors, body)";
const MESSAGE: &str = "message (stretch, places, published)";

/// See the module.
pub(in crate::store) struct Target {
    session: Session,
    place: String,
    parts: Parts,
}

/// Events on their way, with all that belongs to them.
pub(in crate::store) struct EventRows {
    events: EventCopy,
    identities: CopyRows,
    erased: CopyRows,
    facts: CopyRows,
    months: BTreeSet<Month>,
}

impl EventRows {
    pub(in crate::store) fn new() -> Self {
        Self {
            events: EventCopy::new(),
            identities: CopyRows::new(),
            erased: CopyRows::new(),
            facts: CopyRows::new(),
            months: BTreeSet::new(),
        }
    }

    /// What they take in memory, about.
    pub(in crate::store) fn bytes(&self) -> usize {
        self.events.bytes() + self.identities.bytes() + self.erased.bytes() + self.facts.bytes()
    }

    pub(in crate::store) fn event(&mut self, sequence: Sequence, event: &Event<'_>) {
        self.months.insert(Month::of(event.time.micros));
        self.events.push(sequence, event);
    }

    pub(in crate::store) fn identity(&mut self, (identity, first): Entry) {
        let row = self.identities.row(3).uuid(identity);
        row.at(Timestamp::from_micros(first.time))
            .int4(first.content.cast_signed());
    }

    /// An erased event: its identity, and what remains of it.
    pub(in crate::store) fn erased(
        &mut self,
        identity: Identity,
        (Sequence(sequence), event, user): &GoneEvent<'_>,
    ) {
        let EventTime { micros, nanos } = event.time;
        let row = self.erased.row(8).at(micros).int2(nanos.cast_signed());
        row.escaped(&event.tenant);
        for text in [&event.source, &event.event_type] {
            match text {
                Some(text) => row.escaped(text),
                None => row.null(),
            };
        }
        match user {
            Some(user) => row.uuid(*user),
            None => row.null(),
        };
        row.int8(sequence.cast_signed()).uuid(identity);
    }

    pub(in crate::store) fn fact(&mut self, fact: &FactRow) {
        // Also where all of them were erased: a store that had events has a part.
        self.months.insert(Month::of(fact.low));
        let row = self.facts.row(5);
        row.int8(fact.first.cast_signed())
            .int8(fact.last.cast_signed());
        row.at(fact.low).at(fact.high).value(&fact.facts);
    }
}

impl Target {
    /// Makes the tables, and takes the place of whoever else might move a directory here. Returns how
    /// far an earlier run came; `None` if the database has nothing yet.
    pub(in crate::store) async fn open(
        url: &str,
        origin: &Origin,
    ) -> Result<(Self, Option<Mark>), OpenError> {
        let server = Server::named("--to", url)?;
        let place = format!("PostgreSQL at {}", server.place());
        let refuse = |error: StoreError| OpenError(format!("{place}: {error}"));
        let session = server.connect().await.map_err(refuse)?;
        schema::migrate(&session, &server).await?;
        let patience = format!("SET lock_timeout = {PATIENCE}");
        session
            .batch_execute(&patience)
            .await
            .map_err(away(&place))?;
        let locked = session.execute("SELECT pg_advisory_lock($1)", &[&LOCK]);
        locked.await.map_err(|error| {
            if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) {
                OpenError(format!("{place}: another `tollgate migrate` works on it"))
            } else {
                away(&place)(error)
            }
        })?;
        let target = Self {
            session,
            place,
            parts: Parts::default(),
        };
        let mark = target.mark(origin).await?;
        Ok((target, mark))
    }

    async fn mark(&self, origin: &Origin) -> Result<Option<Mark>, OpenError> {
        let away = || away(&self.place);
        let refuse = |sentence: &str| Err(OpenError(format!("{}: {sentence}", self.place)));
        let found = self
            .session
            .query_opt(
                "SELECT store, content, step, place, block, fact, gone, finished_at::text,
                     change = 0 AND epoch = 0
                 FROM migration, head",
                &[],
            )
            .await
            .map_err(away())?;
        let Some(row) = found else {
            let empty: bool = self
                .session
                .query_one_scalar(
                    "SELECT change = 0 AND arrival = 0 AND epoch = 0
                         AND event = 0 AND duplicates = 0 AND letter = 0 AND topics = 0
                         AND NOT EXISTS (SELECT FROM queue)
                     FROM head, event_head",
                    &[],
                )
                .await
                .map_err(away())?;
            return if empty {
                Ok(None)
            } else {
                refuse("it has data of tollgate; expected is a database without any")
            };
        };
        let read = || -> Result<_, tokio_postgres::Error> {
            let number = |column: usize| row.try_get::<_, i64>(column).map(i64::cast_unsigned);
            let mark = Mark {
                step: row.try_get(2)?,
                place: number(3)?,
                block: number(4)?,
                fact: number(5)?,
                gone: number(6)?,
            };
            let origin = Origin {
                store: row.try_get::<_, Uuid>(0)?.as_u128(),
                content: row.try_get(1)?,
            };
            let finished: Option<String> = row.try_get(7)?;
            Ok((mark, origin, finished, row.try_get::<_, bool>(8)?))
        };
        let (mark, known, finished, untouched) = read().map_err(away())?;
        // One that was killed before it could tell its end is told again, until a node has started.
        if let Some(at) = finished
            && !(known == *origin && untouched)
        {
            return refuse(&format!(
                "a data directory was moved into it at {at}; expected is a database without data \
                 of tollgate"
            ));
        }
        if known.store != origin.store {
            return refuse("another data directory is being moved into it");
        }
        if known.content != origin.content {
            return refuse(
                "the data directory was changed since its migration began: begin anew with an empty \
                 database",
            );
        }
        Ok(Some(mark))
    }

    /// Writes what there is once, and that the migration has begun.
    pub(in crate::store) async fn begin(
        &self,
        origin: &Origin,
        key: Option<Key>,
        counts: &Counts,
        (queues, topics): (&[Queue], &BTreeSet<String>),
    ) -> Result<(), OpenError> {
        let mut queue_rows = CopyRows::new();
        for it in queues {
            let row = queue_rows.row(3).int2(it.id.0.cast_signed());
            row.text(it.name.as_str()).opt_at(it.last_slot);
        }
        let mut topic_rows = CopyRows::new();
        for (number, name) in (1_i64..).zip(topics) {
            topic_rows.row(2).int8(number).escaped(name);
        }
        let key = key.map(|key| key.0.to_vec());
        let store = Uuid::from_u128(origin.store);
        let Counts {
            arrival,
            accepted,
            duplicates,
            conflicting,
            topics,
            last_letter,
            ..
        } = counts;
        let numbers = [
            arrival,
            accepted,
            duplicates,
            conflicting,
            topics,
            last_letter,
        ];
        let [arrival, accepted, duplicates, conflicting, topics, letter] =
            numbers.map(|it| it.cast_signed());
        let written = async {
            self.session.batch_execute("BEGIN").await?;
            self.session
                .execute(
                    "INSERT INTO migration (store, content, step, place, block, fact, gone)
                     VALUES ($1, $2, 0, 0, 0, 0, 0)",
                    &[&store, &origin.content],
                )
                .await?;
            queue_rows.send(&self.session, QUEUE).await?;
            topic_rows.send(&self.session, TOPIC).await?;
            self.session
                .execute("UPDATE head SET arrival = $1", &[&arrival])
                .await?;
            self.session
                .execute(
                    "UPDATE event_head SET event = $1, duplicates = $2, conflicting = $3,
                         topics = $4, letter = $5, key = coalesce($6, key)",
                    &[&accepted, &duplicates, &conflicting, &topics, &letter, &key],
                )
                .await?;
            self.session.batch_execute("COMMIT").await
        };
        written.await.map_err(away(&self.place))
    }

    /// Writes ingestions with what became of their batches.
    pub(in crate::store) async fn ingestions(
        &self,
        all: &[Ingestion],
        mark: Mark,
    ) -> Result<(), OpenError> {
        let (mut rows, mut runs) = (CopyRows::new(), CopyRows::new());
        for it in all {
            put_ingestion(&mut rows, it);
            put_runs(&mut runs, it);
        }
        self.write(vec![(rows, INGESTION), (runs, RUN)], 0, mark)
            .await
    }

    pub(in crate::store) async fn answers(
        &self,
        all: &[Kept],
        mark: Mark,
    ) -> Result<(), OpenError> {
        let mut rows = CopyRows::new();
        for Kept { record, ingestion } in all {
            let row = rows.row(4).uuid(record.key).uuid(record.body);
            row.uuid(ingestion.uuid().as_u128()).at(record.expires_at);
        }
        self.write(vec![(rows, ANSWER)], 0, mark).await
    }

    pub(in crate::store) async fn letters(
        &self,
        all: &[DeadLetter],
        mark: Mark,
    ) -> Result<(), OpenError> {
        let mut rows = CopyRows::new();
        for it in all {
            let row = rows.row(4).int8(it.id.cast_signed()).at(it.refused_at);
            row.escaped(&it.errors).escaped(&it.body);
        }
        self.write(vec![(rows, LETTER)], 0, mark).await
    }

    /// Writes names of messages of the bus, each stretch of the stream in a row.
    pub(in crate::store) async fn messages(
        &self,
        names: &[MessageName],
        mark: Mark,
    ) -> Result<(), OpenError> {
        let mut names = names.to_vec();
        names.sort_unstable();
        let mut rows = CopyRows::new();
        for same in names.chunk_by(|a, b| a.stretch() == b.stretch()) {
            let Some(first) = same.first() else { continue };
            let (places, published) = columns(same);
            let row = rows.row(3).int8(first.stretch().cast_signed());
            row.int8s(&places).int8s(&published);
        }
        self.write(vec![(rows, MESSAGE)], 0, mark).await
    }

    /// Writes events; `erased` of them are.
    pub(in crate::store) async fn events(
        &self,
        rows: EventRows,
        erased: u64,
        mark: Mark,
    ) -> Result<(), OpenError> {
        let made = self.parts.ensure(&self.session, &rows.months).await;
        made.map_err(|error| OpenError(format!("{}: {error}", self.place)))?;
        let event = EVENT.trim_start_matches("COPY ");
        let event = event.trim_end_matches(" FROM STDIN BINARY");
        let tables = vec![
            (rows.events.sorted(), event),
            (rows.identities, IDENTITY),
            (rows.erased, ERASED),
            (rows.facts, FACT),
        ];
        self.write(tables, erased, mark).await
    }

    /// Writes rows and how far it is then, both or neither.
    async fn write(
        &self,
        tables: Vec<(CopyRows, &str)>,
        erased: u64,
        mark: Mark,
    ) -> Result<(), OpenError> {
        let written = async {
            self.session.batch_execute("BEGIN").await?;
            for (rows, table) in tables {
                rows.send(&self.session, table).await?;
            }
            if erased > 0 {
                let erased = erased.cast_signed();
                self.session
                    .execute("UPDATE event_head SET erased = erased + $1", &[&erased])
                    .await?;
            }
            let Mark {
                step,
                place,
                block,
                fact,
                gone,
            } = mark;
            let [place, block, fact, gone] = [place, block, fact, gone].map(u64::cast_signed);
            let parameters: [&(dyn ToSql + Sync); 5] = [&step, &place, &block, &fact, &gone];
            self.session
                .execute(
                    "UPDATE migration SET step = $1, place = $2, block = $3, fact = $4, gone = $5",
                    &parameters,
                )
                .await?;
            self.session.batch_execute("COMMIT").await
        };
        written.await.map_err(away(&self.place))
    }

    /// From here on nodes may start.
    pub(in crate::store) async fn release(&self) -> Result<(), OpenError> {
        let released = async {
            // What finds events by their arrival, and what plans are made by, is not kept while rows
            // are copied in.
            let vacuum =
                "VACUUM (ANALYZE) queue, ingestion, run, kept_answer, identity, event, fact,
                              erased, topic, letter, message";
            self.session.batch_execute(vacuum).await?;
            self.session
                .batch_execute("UPDATE migration SET finished_at = clock_timestamp()")
                .await
        };
        released.await.map_err(away(&self.place))
    }
}

/// Refuses a database that has a part of a data directory only.
pub(super) async fn refuse_unfinished(session: &Session, place: &str) -> Result<(), OpenError> {
    let place = format!("PostgreSQL at {place}");
    let unfinished: bool = session
        .query_one_scalar(
            "SELECT EXISTS (SELECT FROM migration WHERE finished_at IS NULL)",
            &[],
        )
        .await
        .map_err(away(&place))?;
    if unfinished {
        return Err(OpenError(format!(
            "{place}: a data directory is being moved into it: let `tollgate migrate` finish first"
        )));
    }
    Ok(())
}

fn away(place: &str) -> impl Fn(tokio_postgres::Error) -> OpenError {
    move |error| OpenError(format!("{place}: {}", fault(&error)))
}

fn put_ingestion(rows: &mut CopyRows, it: &Ingestion) {
    let extras = it.extras.as_deref();
    let (rest, ended_at) = it
        .runs
        .as_ref()
        .map_or((None, None), |runs| (runs.rest, runs.ended_at));
    let row = rows.row(13).int8(it.arrival.0.cast_signed());
    row.uuid(it.id.uuid().as_u128())
        .int2(it.queue.0.cast_signed())
        .int2(i16::from(it.priority.rank()))
        .at(it.created_at)
        .int4(i32::from(it.batch_size.get()))
        .int8s(&it.ids)
        .opt_escaped(extras.and_then(|it| it.metadata.as_deref()))
        .opt_escaped(extras.and_then(|it| it.callback_url.as_deref()))
        .opt_at(it.deadline())
        .opt_text(rest.map(|(status, _)| status.as_str()))
        .opt_at(rest.map(|(_, at)| at))
        .opt_at(ended_at);
}

fn put_runs(rows: &mut CopyRows, it: &Ingestion) {
    let started = it.runs.as_ref().map(|runs| runs.started.as_slice());
    for (batch, run) in (0_i32..).zip(started.unwrap_or_default()) {
        let failures =
            (!run.failures.is_empty()).then(|| serde_json::to_string(&run.failures).ok());
        let row = rows.row(9).int8(it.arrival.0.cast_signed());
        row.int4(batch)
            .text(run.status.as_str())
            .int8(i64::from(run.attempt))
            .at(run.first_triggered_at)
            .at(run.triggered_at)
            .opt_at(run.completed_at)
            .opt_at(run.retry_at)
            .opt_text(failures.flatten().as_deref());
    }
}
