//! What a commit with events writes.

use std::collections::BTreeSet;

use rusqlite::{Connection, params};

use super::super::codec::Digest;
use super::super::fault::Fault;
use super::super::meta::{Meta, Table, Tally};
use super::super::seen::Ticket;
use super::NewLetter;
use super::block::{self, Block};
use super::letters::{self, MAX_LETTERS};
use crate::model::bus::MessageName;
use crate::model::event::{Event, MAX_TOPICS};
use crate::rollups::Facts;

/// The events of one request as the writer gets them.
#[derive(Debug)]
pub(in crate::store::embedded) struct Append {
    /// Those that are new; they are numbered from 1 in the order of the request.
    pub(in crate::store::embedded) content: Content,
    /// How many those are.
    pub(in crate::store::embedded) new: u64,
    /// What the rollups need to know of them.
    pub(in crate::store::embedded) facts: Facts,
    /// Holds their identities until the commit.
    pub(in crate::store::embedded) ticket: Ticket,
    /// How many events of the request were duplicates.
    pub(in crate::store::embedded) duplicates: u64,
    /// How many of those said something else than the first.
    pub(in crate::store::embedded) conflicting: u64,
    /// Topics that may be new.
    pub(in crate::store::embedded) topics: Vec<String>,
    /// Events that were refused.
    pub(in crate::store::embedded) letters: Vec<NewLetter>,
    /// The messages of the bus that all of this is of.
    pub(in crate::store::embedded) names: Vec<MessageName>,
}

/// The new events of a request.
#[derive(Debug)]
pub(in crate::store::embedded) enum Content {
    /// As blocks of their own.
    Blocks(Vec<Block>),
    /// So few that they share blocks with those of other requests.
    Few(Vec<Event<'static>>),
}

/// Writes what a group of requests brought; arrivals are assigned in the order of `group`.
pub(in crate::store::embedded) fn write<'a>(
    db: &Connection,
    meta: &mut Meta,
    digest: &mut Digest,
    group: impl Iterator<Item = &'a Append>,
) -> Result<(), Fault> {
    let mut few: Vec<(u64, &'a Event<'a>)> = Vec::new();
    let mut any = false;
    for append in group {
        any = true;
        let base = meta.events.last_sequence;
        match &append.content {
            Content::Blocks(blocks) => {
                for block in blocks {
                    block::insert(db, meta, digest, block, base)?;
                }
            }
            Content::Few(events) => few.extend((base + 1..).zip(events.iter().map(shorten))),
        }
        meta.events.last_sequence += append.new;
        meta.events.accepted += append.new;
        meta.events.duplicates += append.duplicates;
        meta.events.conflicting += append.conflicting;
        for topic in &append.topics {
            insert_topic(db, meta, digest, topic)?;
        }
        for letter in &append.letters {
            letters::insert(db, meta, digest, letter, MAX_LETTERS)?;
        }
    }
    for block in block::build(few.into_iter(), 0) {
        block::insert(db, meta, digest, &block, 0)?;
    }
    if any {
        meta.save_events(db)?;
    }
    Ok(())
}

/// An event that lives longer than it needs to.
const fn shorten<'a>(event: &'a Event<'static>) -> &'a Event<'a> {
    event
}

fn insert_topic(
    db: &Connection,
    meta: &mut Meta,
    digest: &mut Digest,
    topic: &str,
) -> Result<(), Fault> {
    if meta.tally(Table::Topic).rows() >= MAX_TOPICS as u64 {
        return Ok(());
    }
    let sum = digest_of_topic(digest, topic);
    let new = db
        .prepare_cached("INSERT OR IGNORE INTO topic (name, digest) VALUES (?1, ?2)")?
        .execute(params![topic, sum])?;
    if new == 1 {
        meta.tally(Table::Topic).add(sum);
    }
    Ok(())
}

/// Every topic, checked against `meta`.
pub(in crate::store::embedded) fn load_topics(
    db: &Connection,
    meta: &Meta,
) -> Result<BTreeSet<String>, Fault> {
    let mut digest = Digest::default();
    let mut found = Tally::default();
    let mut topics = BTreeSet::new();
    let mut statement = db.prepare("SELECT name, digest FROM topic")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (name, sum): (String, i64) = (row.get(0)?, row.get(1)?);
        if sum != digest_of_topic(&mut digest, &name) {
            return Err(Fault::Damaged(
                "a row of table topic is not what was written".to_owned(),
            ));
        }
        found.add(sum);
        topics.insert(name);
    }
    meta.check(Table::Topic, found)?;
    Ok(topics)
}

fn digest_of_topic(digest: &mut Digest, name: &str) -> i64 {
    digest.row("topic").bytes(name.as_bytes()).finish()
}
