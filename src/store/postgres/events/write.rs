//! One transaction of events.
//!
//! 1. Claim the identities, with no lock that all share: look which are spent, and copy in the others
//!    but for those that an earlier transaction of this node is about to spend (see
//!    [`claims`](super::claims)). Where one of another node claims some of them at the same time, it is
//!    waited for, and if it commits, the claim is made again in the careful way (`ON CONFLICT`), which
//!    costs twice as much.
//! 2. Take the row of `event_head`: from here to the commit the transactions of all nodes go one after
//!    the other, so arrivals have no gaps and their order is that of the commits. Everything that can
//!    be made before it is, and the commit is sent behind the rows without waiting for them.
//!    Messages of the bus are taken then, too: whoever committed one before has let go of the row, so it
//!    is seen, and all is refused.

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::{join, join3};
use futures_util::{SinkExt, pin_mut};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row, Statement};
use uuid::Uuid;

use super::super::connect::fault;
use super::super::follow::EventHead;
use super::super::time::{At, Y2K};
use super::claims::{Claim, Contents};
use super::escape::escape;
use super::group::{Claimed, Group};
use super::messages;
use super::prepare::{ARRIVAL, COPY};
use crate::model::event::MAX_TOPICS;
use crate::model::time::Timestamp;
use crate::rollups::Facts;
use crate::store::error::StoreError;
use crate::store::identity::{First, Identity};

/// How a binary `COPY` begins, and how it ends.
pub(in crate::store::postgres) const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
pub(in crate::store::postgres) const TRAILER: &[u8] = b"\xff\xff";

/// The most dead letters that are kept: with one more, the oldest goes.
const MAX_LETTERS: i64 = 100_000;

/// Why a transaction was not made.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It met another one, and did nothing.
    Again,
    /// One that it relied on was not committed: it did nothing.
    Void,
    /// Another one held what it needs for too long.
    Held,
    Failed(StoreError),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

impl From<tokio_postgres::Error> for Trouble {
    fn from(error: tokio_postgres::Error) -> Self {
        let met = [
            SqlState::UNIQUE_VIOLATION,
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
        ];
        match error.code() {
            Some(code) if met.contains(code) => Self::Again,
            Some(code) if *code == SqlState::LOCK_NOT_AVAILABLE => Self::Held,
            _ => Self::Failed(fault(&error)),
        }
    }
}

/// What a connection has prepared.
pub(super) struct Statements {
    look: Statement,
    claim: Statement,
    copy_identities: Statement,
    head: Statement,
    copy_events: Statement,
    fact: Statement,
    take_messages: Statement,
}

/// What was committed.
pub(super) struct Written {
    pub(super) head: EventHead,
    /// How many events are new.
    pub(super) new: u64,
    pub(super) facts: Facts,
}

impl Statements {
    pub(super) async fn prepare(client: &Client) -> Result<Self, tokio_postgres::Error> {
        let arrays = [Type::UUID_ARRAY, Type::TIMESTAMPTZ_ARRAY, Type::INT4_ARRAY];
        Ok(Self {
            look: client
                .prepare("SELECT hash, content FROM identity WHERE hash = ANY($1)")
                .await?,
            claim: client
                .prepare_typed(
                    "INSERT INTO identity (hash, time, content) SELECT * FROM unnest($1, $2, $3)
                     ON CONFLICT DO NOTHING",
                    &arrays,
                )
                .await?,
            copy_identities: client
                .prepare("COPY identity (hash, time, content) FROM STDIN BINARY")
                .await?,
            head: client
                .prepare(
                    "UPDATE event_head SET event = event + $1, duplicates = duplicates + $2,
                         conflicting = conflicting + $3, letter = letter + $4
                     RETURNING event, duplicates, conflicting, erased, topics, letter",
                )
                .await?,
            copy_events: client.prepare(COPY).await?,
            fact: client
                .prepare(
                    "INSERT INTO fact (first, last, low, high, facts) VALUES ($1, $2, $3, $4, $5)",
                )
                .await?,
            take_messages: client.prepare("SELECT take_messages($1, $2)").await?,
        })
    }

    /// Begins a transaction in which all of the group's identities are spent. `earlier`: what is spent
    /// by transactions of this node that were before it, if they were waited for. Beside what came of
    /// it, what was spent of this transaction's own claim.
    pub(super) async fn claim(
        &self,
        client: &Client,
        group: &Group<'_>,
        claim: &mut Claim<'_>,
        earlier: Option<Contents>,
    ) -> Result<(Claimed, Contents), Trouble> {
        let hashes: Vec<Uuid> = hashes_of(claim.own());
        let parameters: [&(dyn postgres_types::ToSql + Sync); 1] = [&hashes];
        let (begun, found) = join(
            client.batch_execute("BEGIN"),
            client.query(&self.look, &parameters),
        )
        .await;
        begun?;
        let mut spent = contents(&found?)?;
        let own = claim.own().iter();
        let new: Vec<(Identity, First)> = own
            .filter(|it| !spent.contains_key(&it.0))
            .copied()
            .collect();
        let mut known = if let Some(earlier) = earlier {
            self.insert(client, &new, &mut spent).await?;
            earlier
        } else {
            if !new.is_empty() {
                self.copy_in(client, &self.copy_identities, identities(&new))
                    .await?;
            }
            claim.earlier_soon().await?
        };
        known.extend(&spent);
        Ok((group.claimed(&known), spent))
    }

    /// Spends identities in the careful way: those that another node has spent meanwhile are added to
    /// `spent`.
    async fn insert(
        &self,
        client: &Client,
        new: &[(Identity, First)],
        spent: &mut Contents,
    ) -> Result<(), Trouble> {
        if new.is_empty() {
            return Ok(());
        }
        let hashes = hashes_of(new);
        let at = |micros| At(Timestamp::from_micros(micros));
        let times: Vec<At> = new.iter().map(|it| at(it.1.time)).collect();
        let content: Vec<i32> = new.iter().map(|it| it.1.content.cast_signed()).collect();
        let inserted = client
            .execute(&self.claim, &[&hashes, &times, &content])
            .await?;
        if inserted < new.len() as u64 {
            // Others were faster with some. Which ones: those whose row this transaction did not write.
            let theirs = client
                .query(
                    "SELECT hash, content FROM identity
                     WHERE hash = ANY($1) AND xmin::text <> pg_current_xact_id()::xid::text",
                    &[&hashes],
                )
                .await?;
            if theirs.len() as u64 != new.len() as u64 - inserted {
                return Err(Trouble::Again);
            }
            spent.extend(contents(&theirs)?);
        }
        Ok(())
    }

    /// Writes what is new, and commits.
    pub(super) async fn finish(
        &self,
        client: &Client,
        group: &Group<'_>,
        claimed: &Claimed,
    ) -> Result<Written, Trouble> {
        let chosen = group.requests.iter().zip(&claimed.new);
        let facts = Facts::of_noted(chosen.map(|(it, new)| (&it.notes, new.as_slice())));
        let encoded = facts.encode();
        let (mut rows, arrivals) = rows_of(group, claimed);
        let letters: usize = group.requests.iter().map(|it| it.letters.len()).sum();
        let names = group.names().ok_or(StoreError::MessageTaken)?;
        let counts = [claimed.accepted, claimed.duplicates, claimed.conflicting];
        let [accepted, duplicates, conflicting] = counts.map(u64::cast_signed);
        let new = claimed.accepted;
        let letters = i64::try_from(letters).unwrap_or(i64::MAX);
        let advance: [&(dyn postgres_types::ToSql + Sync); 4] =
            [&accepted, &duplicates, &conflicting, &letters];
        // The notification is a transaction of its own: in this one it would hold up the commits of all.
        // Who is not told looks all the same.
        let commit = async {
            let notified = client.batch_execute("NOTIFY tollgate");
            let (committed, _told) = join(client.batch_execute("COMMIT"), notified).await;
            committed
        };
        let advanced = client.query_one(&self.head, &advance);
        // Sent right behind it.
        let taken = messages::take(client, &self.take_messages, &names);
        let mut head;
        let last_letter;
        if new > 0 {
            let sink = client.copy_in::<_, Bytes>(&self.copy_events);
            let (advanced, taken, sink) = join3(advanced, taken, sink).await;
            (head, last_letter) = head_of(&advanced?)?;
            taken?;
            let first = head.event + 1 - new;
            for (arrival, at) in (first..).zip(&arrivals) {
                if let Some(slot) = rows.get_mut(*at..*at + 8) {
                    slot.copy_from_slice(&arrival.to_be_bytes());
                }
            }
            let sink = sink?;
            let copied = async move {
                pin_mut!(sink);
                sink.send(rows.freeze()).await?;
                sink.finish().await
            };
            let (low, high) = times_of(group, claimed);
            let (first, last) = (first.cast_signed(), head.event.cast_signed());
            let fact: [&(dyn postgres_types::ToSql + Sync); 5] =
                [&first, &last, &low, &high, &encoded];
            let fact = client.execute(&self.fact, &fact);
            if letters == 0 && group.topics().is_empty() {
                // Behind a row that was refused the commit is none, and the refusal is told.
                let (copied, fact, committed) = join3(copied, fact, commit).await;
                copied?;
                fact?;
                committed?;
                return Ok(Written { head, new, facts });
            }
            let (copied, fact) = join(copied, fact).await;
            copied?;
            fact?;
            add_topics(client, group, &mut head).await?;
        } else {
            let (advanced, taken) = join(advanced, taken).await;
            (head, last_letter) = head_of(&advanced?)?;
            taken?;
        }
        if letters > 0 {
            put_letters(client, group, last_letter).await?;
        }
        commit.await?;
        Ok(Written { head, new, facts })
    }

    async fn copy_in(
        &self,
        client: &Client,
        statement: &Statement,
        rows: Bytes,
    ) -> Result<u64, tokio_postgres::Error> {
        let sink = client.copy_in(statement).await?;
        pin_mut!(sink);
        sink.send(rows).await?;
        sink.finish().await
    }
}

/// Hashes and contents.
fn contents(rows: &[Row]) -> Result<Contents, tokio_postgres::Error> {
    let one = |row: &Row| {
        let hash: Uuid = row.try_get(0)?;
        Ok((hash.as_u128(), row.try_get::<_, i32>(1)?.cast_unsigned()))
    };
    rows.iter().map(one).collect()
}

/// What the head says, and the number of the last dead letter.
fn head_of(row: &Row) -> Result<(EventHead, i64), tokio_postgres::Error> {
    let number = |column: usize| row.try_get::<_, i64>(column).map(i64::cast_unsigned);
    let head = EventHead {
        event: number(0)?,
        duplicates: number(1)?,
        conflicting: number(2)?,
        erased: number(3)?,
        topics: number(4)?,
    };
    Ok((head, row.try_get(5)?))
}

fn hashes_of(firsts: &[(Identity, First)]) -> Vec<Uuid> {
    firsts.iter().map(|it| Uuid::from_u128(it.0)).collect()
}

/// Identities as `COPY` takes them.
fn identities(new: &[(Identity, First)]) -> Bytes {
    let mut out = BytesMut::with_capacity(new.len() * 42 + 32);
    out.put_slice(SIGNATURE);
    for (identity, first) in new {
        out.put_i16(3);
        out.put_i32(16);
        out.put_u128(*identity);
        out.put_i32(8);
        out.put_i64(first.time.saturating_sub(Y2K));
        out.put_i32(4);
        out.put_u32(first.content);
    }
    out.put_slice(TRAILER);
    out.freeze()
}

/// The rows of new events as `COPY` takes them, in their order, and where each one's arrival goes.
fn rows_of(group: &Group<'_>, claimed: &Claimed) -> (BytesMut, Vec<usize>) {
    let bytes: usize = group.requests.iter().map(|it| it.rows.len()).sum();
    let mut out = BytesMut::with_capacity(bytes + 32);
    let mut arrivals = Vec::new();
    out.put_slice(SIGNATURE);
    for (request, new) in group.requests.iter().zip(&claimed.new) {
        for place in new {
            arrivals.push(out.len() + ARRIVAL);
            out.put_slice(request.row(*place));
        }
    }
    out.put_slice(TRAILER);
    (out, arrivals)
}

/// The times of the earliest and of the latest new event.
fn times_of(group: &Group<'_>, claimed: &Claimed) -> (At, At) {
    let (mut low, mut high) = (i64::MAX, i64::MIN);
    for (request, new) in group.requests.iter().zip(&claimed.new) {
        for place in new {
            if let Some((_, first)) = request.entries.get(*place as usize) {
                low = low.min(first.time);
                high = high.max(first.time);
            }
        }
    }
    let at = |micros| At(Timestamp::from_micros(micros));
    (at(low), at(high))
}

/// Adds the topics that may be new.
async fn add_topics(
    client: &Client,
    group: &Group<'_>,
    head: &mut EventHead,
) -> Result<(), tokio_postgres::Error> {
    let topics: Vec<&str> = group.topics().into_iter().collect();
    if topics.is_empty() {
        return Ok(());
    }
    let most = i64::try_from(MAX_TOPICS).unwrap_or(i64::MAX);
    let count: i64 = client
        .query_one_scalar("SELECT add_topics($1, $2)", &[&topics, &most])
        .await?;
    head.topics = count.cast_unsigned();
    Ok(())
}

/// Adds the group's letters, of which the last has the number `last`.
async fn put_letters(
    client: &Client,
    group: &Group<'_>,
    last: i64,
) -> Result<(), tokio_postgres::Error> {
    let letters = || group.requests.iter().flat_map(|it| &it.letters);
    let times: Vec<At> = letters().map(|it| At(it.refused_at)).collect();
    let errors: Vec<_> = letters().map(|it| escape(&it.errors)).collect();
    let bodies: Vec<_> = letters().map(|it| escape(&it.body)).collect();
    let before = last - i64::try_from(times.len()).unwrap_or(i64::MAX);
    client
        .execute(
            "INSERT INTO letter (number, refused_at, errors, body)
             SELECT $1 + n, at, errors, body
             FROM unnest($2::timestamptz[], $3::text[], $4::text[])
                  WITH ORDINALITY AS it(at, errors, body, n)",
            &[&before, &times, &errors, &bodies],
        )
        .await?;
    let oldest = last - MAX_LETTERS;
    client
        .execute("DELETE FROM letter WHERE number <= $1", &[&oldest])
        .await?;
    Ok(())
}
