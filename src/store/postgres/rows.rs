//! The changes of a commit as columns, so that each table takes one statement however many they are.

use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Statement};
use uuid::Uuid;

use super::change::encode;
use super::connect::Session;
use super::events::escape::escape;
use super::time::At;
use crate::model::batch::{BatchRun, BatchStatus};
use crate::model::change::Change;
use crate::model::ingestion::Ingestion;
use crate::store::Room;

/// Each takes the columns below in their order. Numbers are taken from `head`, which the transaction
/// has advanced and holds.
const CHANGE: &str = "INSERT INTO change (number, body)
    SELECT (SELECT change FROM head) - cardinality($1::text[]) + place, body
    FROM unnest($1::text[]) WITH ORDINALITY AS it (body, place)";

const INGESTION: &str =
    "INSERT INTO ingestion (arrival, id, queue, priority, created_at, batch_size,
        metadata, callback_url, deadline, ids)
    SELECT (SELECT arrival FROM head) - cardinality($1::uuid[]) + place, id, queue, priority,
        created_at, batch_size, metadata, callback_url, deadline, ($9::bigint[])[first:last]
    FROM unnest($1::uuid[], $2::smallint[], $3::smallint[], $4::timestamptz[], $5::integer[],
        $6::text[], $7::text[], $8::timestamptz[], $10::integer[], $11::integer[])
        WITH ORDINALITY AS it (id, queue, priority, created_at, batch_size, metadata, callback_url,
            deadline, first, last, place)";

const RUN: &str = "INSERT INTO run (arrival, batch, status, attempt, first_triggered_at, triggered_at,
        completed_at, retry_at, failures)
    SELECT arrival, batch, status, attempt, first_triggered_at, triggered_at, completed_at, retry_at,
        failures::json
    FROM unnest($1::bigint[], $2::integer[], $3::text[], $4::bigint[], $5::timestamptz[],
        $6::timestamptz[], $7::timestamptz[], $8::timestamptz[], $9::text[])
        AS it (arrival, batch, status, attempt, first_triggered_at, triggered_at, completed_at,
            retry_at, failures)
    ON CONFLICT (arrival, batch) DO UPDATE SET status = excluded.status, attempt = excluded.attempt,
        triggered_at = excluded.triggered_at, completed_at = excluded.completed_at,
        retry_at = excluded.retry_at, failures = excluded.failures";

/// A number belongs to the name that had it first, and a name has one number: of two nodes that number
/// their queues at the same time, the later one is refused, for no name is null.
const QUEUE: &str = "INSERT INTO queue (id, name, last_slot)
    SELECT * FROM unnest($1::smallint[], $2::text[], $3::timestamptz[])
    ON CONFLICT (id) DO UPDATE SET
        name = CASE WHEN queue.name = excluded.name THEN queue.name END,
        last_slot = coalesce(excluded.last_slot, queue.last_slot)";

const SLOT: &str = "UPDATE queue SET last_slot = it.at
    FROM unnest($1::smallint[], $2::timestamptz[]) AS it (queue, at) WHERE id = it.queue";

const REST: &str = "UPDATE ingestion SET rest = it.status, rest_at = it.at
    FROM unnest($1::bigint[], $2::text[], $3::timestamptz[]) AS it (of, status, at)
    WHERE arrival = it.of";

const END: &str = "UPDATE ingestion SET ended_at = it.at
    FROM unnest($1::bigint[], $2::timestamptz[]) AS it (of, at) WHERE arrival = it.of";

const KEPT: &str = "SELECT keep_answers($1, $2, $3, $4)";

const ROOM: &str = "SELECT keep_within($1, $2, $3)";

type Parameters<'p> = &'p [&'p (dyn ToSql + Sync)];

/// The statements of one connection.
pub(super) struct Statements {
    change: Statement,
    ingestion: Statement,
    run: Statement,
    queue: Statement,
    slot: Statement,
    rest: Statement,
    end: Statement,
    kept: Statement,
    room: Statement,
    advance: Statement,
}

impl Statements {
    pub(super) async fn prepare(session: &Session) -> Result<Self, Error> {
        Ok(Self {
            change: session.prepare(CHANGE).await?,
            ingestion: session.prepare(INGESTION).await?,
            run: session.prepare(RUN).await?,
            queue: session.prepare(QUEUE).await?,
            slot: session.prepare(SLOT).await?,
            rest: session.prepare(REST).await?,
            end: session.prepare(END).await?,
            kept: session.prepare(KEPT).await?,
            room: session.prepare(ROOM).await?,
            advance: session.prepare("SELECT * FROM advance($1, $2, $3)").await?,
        })
    }
}

/// Where the order of changes and that of arrivals ended after a commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Head {
    pub(super) change: i64,
    pub(super) arrival: i64,
}

/// The columns of every table.
#[derive(Default)]
pub(super) struct Rows {
    bodies: Vec<String>,
    ingestions: Ingestions,
    runs: Runs,
    queues: (Vec<i16>, Vec<String>, Vec<Option<At>>),
    slots: (Vec<i16>, Vec<At>),
    rests: (Vec<i64>, Vec<&'static str>, Vec<At>),
    ends: (Vec<i64>, Vec<At>),
    kept: (Vec<Uuid>, Vec<Uuid>, Vec<Uuid>, Vec<At>),
    /// By queue: the last arrival that was seen, and how many batches fitted then.
    room: (Vec<i16>, Vec<i64>, Vec<i64>),
}

#[derive(Default)]
struct Ingestions {
    id: Vec<Uuid>,
    queue: Vec<i16>,
    priority: Vec<i16>,
    created_at: Vec<At>,
    batch_size: Vec<i32>,
    metadata: Vec<Option<String>>,
    callback_url: Vec<Option<String>>,
    deadline: Vec<Option<At>>,
    /// Of all, one after the other.
    ids: Vec<i64>,
    /// Where those of each begin and end, counted from 1, both included.
    first: Vec<i32>,
    last: Vec<i32>,
}

#[derive(Default)]
struct Runs {
    arrival: Vec<i64>,
    batch: Vec<i32>,
    status: Vec<&'static str>,
    attempt: Vec<i64>,
    first_triggered_at: Vec<At>,
    triggered_at: Vec<At>,
    completed_at: Vec<Option<At>>,
    retry_at: Vec<Option<At>>,
    failures: Vec<Option<String>>,
}

impl Rows {
    /// Of `changes`, in their order.
    pub(super) fn of<'c>(changes: impl Iterator<Item = &'c Change>) -> Self {
        let mut rows = Self::default();
        for change in changes {
            rows.push(change);
        }
        rows
    }

    /// What is submitted must fit in there. Of several rooms in a queue the least counts, seen the
    /// longest ago: what fits there fits in all.
    pub(super) fn keep_within(&mut self, room: Room) {
        let (queues, seen, batches) = &mut self.room;
        let queue = room.queue.0.cast_signed();
        let (after, free) = (
            room.after.0.cast_signed(),
            i64::try_from(room.batches).unwrap_or(i64::MAX),
        );
        let place = queues.iter().position(|known| *known == queue);
        if let Some((seen, batches)) =
            place.and_then(|place| Some((seen.get_mut(place)?, batches.get_mut(place)?)))
        {
            (*seen, *batches) = (after.min(*seen), free.min(*batches));
        } else {
            queues.push(queue);
            seen.push(after);
            batches.push(free);
        }
    }

    fn push(&mut self, change: &Change) {
        self.bodies.push(encode(change));
        match change {
            Change::QueueConfigured {
                queue,
                name,
                last_slot,
            } => {
                // Written once by one statement, as all rows are: the later one counts.
                let (ids, names, slots) = &mut self.queues;
                let mut last_slot = last_slot.map(At);
                if last_slot.is_some() {
                    let mut keep = self.slots.0.iter().map(|id| *id != queue.0.cast_signed());
                    self.slots.1.retain(|_| keep.next().unwrap_or(true));
                    self.slots.0.retain(|id| *id != queue.0.cast_signed());
                }
                if let Some(place) = ids.iter().position(|id| *id == queue.0.cast_signed()) {
                    ids.remove(place);
                    names.remove(place);
                    last_slot = last_slot.or(slots.remove(place));
                }
                ids.push(queue.0.cast_signed());
                names.push(name.to_string());
                slots.push(last_slot);
            }
            Change::Submitted {
                ingestion,
                idempotency,
            } => {
                self.ingestions.push(ingestion);
                if let Some(record) = idempotency {
                    let (keys, bodies, ingestions, expiries) = &mut self.kept;
                    let key = Uuid::from_u128(record.key);
                    if let Some(place) = keys.iter().position(|known| *known == key) {
                        keys.remove(place);
                        bodies.remove(place);
                        ingestions.remove(place);
                        expiries.remove(place);
                    }
                    self.kept.0.push(Uuid::from_u128(record.key));
                    self.kept.1.push(Uuid::from_u128(record.body));
                    self.kept.2.push(ingestion.id.uuid());
                    self.kept.3.push(At(record.expires_at));
                }
            }
            Change::SlotTaken { queue, at } => {
                // An `UPDATE` takes any one of several rows for one: keep the last.
                let queue = queue.0.cast_signed();
                let mut slots = self.slots.0.iter().zip(&mut self.slots.1);
                if let Some((_, last)) = slots.find(|(known, _)| **known == queue) {
                    *last = At(*at);
                } else {
                    self.slots.0.push(queue);
                    self.slots.1.push(At(*at));
                }
            }
            Change::BatchMoved {
                ingestion,
                batch,
                run,
            } => self.runs.push(
                ingestion.arrival.0.cast_signed(),
                batch.0.cast_signed(),
                run,
            ),
            Change::RestEnded {
                ingestion,
                status,
                at,
            } => {
                self.rests.0.push(ingestion.arrival.0.cast_signed());
                self.rests.1.push(status.as_str());
                self.rests.2.push(At(*at));
            }
            Change::IngestionEnded { ingestion, at } => {
                self.ends.0.push(ingestion.arrival.0.cast_signed());
                self.ends.1.push(At(*at));
            }
        }
    }

    /// Writes everything in one transaction and one round trip. `leader`: only if the node with this
    /// epoch still leads.
    pub(super) async fn write(
        &self,
        session: &Session,
        statements: &Statements,
        leader: Option<i64>,
    ) -> Result<Head, Error> {
        let (it, runs) = (&self.ingestions, &self.runs);
        let (changes, arrivals) = (count(self.bodies.len()), count(it.id.len()));
        let advance = async {
            let row = session
                .query_one(&statements.advance, &[&changes, &arrivals, &leader])
                .await?;
            Ok(Head {
                change: row.try_get(0)?,
                arrival: row.try_get(1)?,
            })
        };
        let change: Parameters<'_> = &[&self.bodies];
        let ingestion: Parameters<'_> = &[
            &it.id,
            &it.queue,
            &it.priority,
            &it.created_at,
            &it.batch_size,
            &it.metadata,
            &it.callback_url,
            &it.deadline,
            &it.ids,
            &it.first,
            &it.last,
        ];
        let run: Parameters<'_> = &[
            &runs.arrival,
            &runs.batch,
            &runs.status,
            &runs.attempt,
            &runs.first_triggered_at,
            &runs.triggered_at,
            &runs.completed_at,
            &runs.retry_at,
            &runs.failures,
        ];
        let (queues, slots, rests, ends) = (&self.queues, &self.slots, &self.rests, &self.ends);
        let (kept, rooms) = (&self.kept, &self.room);
        let queue: Parameters<'_> = &[&queues.0, &queues.1, &queues.2];
        let slot: Parameters<'_> = &[&slots.0, &slots.1];
        let rest: Parameters<'_> = &[&rests.0, &rests.1, &rests.2];
        let end: Parameters<'_> = &[&ends.0, &ends.1];
        let answer: Parameters<'_> = &[&kept.0, &kept.1, &kept.2, &kept.3];
        let room: Parameters<'_> = &[&rooms.0, &rooms.1, &rooms.2];
        let write = |rows: usize, statement, parameters| async move {
            if rows == 0 {
                return Ok(0);
            }
            session.execute(statement, parameters).await
        };
        // Sent one after the other without waiting; after an error the server does nothing more.
        let done = tokio::join!(
            biased;
            session.batch_execute("BEGIN"),
            advance,
            write(self.bodies.len(), &statements.change, change),
            write(it.id.len(), &statements.ingestion, ingestion),
            write(runs.arrival.len(), &statements.run, run),
            write(queues.0.len(), &statements.queue, queue),
            write(slots.0.len(), &statements.slot, slot),
            write(rests.0.len(), &statements.rest, rest),
            write(ends.0.len(), &statements.end, end),
            write(kept.0.len(), &statements.kept, answer),
            write(rooms.0.len(), &statements.room, room),
            session.batch_execute("COMMIT"),
            // By itself: who is not told looks all the same, and a full queue of notifications is no
            // reason to refuse a commit.
            session.batch_execute("NOTIFY tollgate"),
        );
        let (
            begun,
            head,
            change,
            ingestion,
            run,
            queue,
            slot,
            rest,
            end,
            kept,
            room,
            committed,
            _told,
        ) = done;
        begun?;
        let head = head?;
        for written in [change, ingestion, run, queue, slot, rest, end, kept, room] {
            written?;
        }
        committed?;
        Ok(head)
    }
}

impl Ingestions {
    fn push(&mut self, it: &Ingestion) {
        let extras = it.extras.as_deref();
        let own = |text: &Option<Box<str>>| Some(escape(text.as_deref()?).into_owned());
        self.id.push(it.id.uuid());
        self.queue.push(it.queue.0.cast_signed());
        self.priority.push(i16::from(it.priority.rank()));
        self.created_at.push(At(it.created_at));
        self.batch_size.push(i32::from(it.batch_size.get()));
        self.metadata
            .push(extras.and_then(|extras| own(&extras.metadata)));
        self.callback_url
            .push(extras.and_then(|extras| own(&extras.callback_url)));
        self.deadline
            .push(extras.and_then(|extras| extras.deadline).map(At));
        self.first.push(place(self.ids.len() + 1));
        self.ids.extend_from_slice(&it.ids);
        self.last.push(place(self.ids.len()));
    }
}

/// As the database counts; far fewer than it can.
pub(super) fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

/// A group has far fewer ids.
fn place(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

impl Runs {
    fn push(&mut self, arrival: i64, batch: i32, run: &BatchRun) {
        let places = self.arrival.iter().zip(&self.batch);
        let mut places = places.map(|(arrival, batch)| (*arrival, *batch));
        if let Some(earlier) = places.position(|known| known == (arrival, batch)) {
            // One statement writes a row once: the later state is the one that counts, and the
            // former is in the row of its change.
            self.remove(earlier);
        }
        self.arrival.push(arrival);
        self.batch.push(batch);
        self.status.push(run.status.as_str());
        self.attempt.push(i64::from(run.attempt));
        self.first_triggered_at.push(At(run.first_triggered_at));
        self.triggered_at.push(At(run.triggered_at));
        self.completed_at.push(run.completed_at.map(At));
        self.retry_at.push(run.retry_at.map(At));
        let failures =
            (!run.failures.is_empty()).then(|| serde_json::to_string(&run.failures).ok());
        self.failures.push(failures.flatten());
    }

    fn remove(&mut self, place: usize) {
        self.arrival.remove(place);
        self.batch.remove(place);
        self.status.remove(place);
        self.attempt.remove(place);
        self.first_triggered_at.remove(place);
        self.triggered_at.remove(place);
        self.completed_at.remove(place);
        self.retry_at.remove(place);
        self.failures.remove(place);
    }
}

/// The status of that name.
pub(super) fn status_of(name: &str) -> Option<BatchStatus> {
    let mut all = BatchStatus::ALL.into_iter();
    all.find(|status| status.as_str() == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::Arrival;
    use crate::model::queue::QueueId;

    #[test]
    fn of_several_rooms_in_a_queue_the_least_counts() {
        let mut rows = Rows::default();
        for (queue, after, batches) in [(1, 7, 3), (2, 9, u64::MAX), (1, 5, 4), (1, 6, 2)] {
            rows.keep_within(Room {
                queue: QueueId(queue),
                after: Arrival(after),
                batches,
            });
        }
        assert_eq!(rows.room, (vec![1, 2], vec![5, 9], vec![2, i64::MAX]));
    }
}
