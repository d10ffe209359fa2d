//! Moves a data directory into PostgreSQL.
//!
//! ```text
//! directory ──chunks of rows──▶ database      each chunk one transaction, with the mark of how far it is
//!     │                            │
//!     └──────── sums ── equal? ── sums        then nodes may start
//! ```
//!
//! The directory is opened alone and only read: it is there afterwards as it was. Whenever this is
//! killed, the next run goes on behind the last chunk.

mod sums;
mod window;

use uuid::Uuid;

pub(in crate::store) use self::sums::Sums;
use self::window::Window;
use super::embedded::source::{Block, Counts, Source};
use super::embedded::{Gone, Place};
use super::error::OpenError;
use super::identity::Key;
use super::postgres::target::{EventRows, Target};
use crate::model::event::{Event, Sequence};
pub use crate::model::shared::MigrationSettings;
use crate::model::time::Timestamp;
use crate::rollups::{Facts, Notes, TenantComparison};

/// The most bytes of events in a chunk, about.
const BYTES: usize = 8 << 20;

/// The rows of names of messages in a chunk: each has up to some hundred names.
const MESSAGE_ROWS: usize = 128;

/// How far a migration is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moved {
    /// Whether all was moved, and both sides are read and compared.
    pub comparing: bool,
    /// Ingestions, answers, events and letters that this is done with.
    pub rows: u64,
    /// Of so many; when they are compared, of both sides.
    pub total: u64,
}

/// A migration that came to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Migrated {
    /// What both sides have.
    pub compared: Vec<Compared>,
    /// What follows from the events of each tenant.
    pub tenants: Vec<TenantComparison>,
}

impl Migrated {
    /// Whether both sides have the same. Only then nodes may start.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.compared.iter().all(Compared::is_same)
            && self.tenants.iter().all(TenantComparison::is_same)
    }
}

/// Rows of both sides: of the directory, of the database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Compared {
    /// What they are.
    pub what: &'static str,
    /// How many.
    pub rows: (u64, u64),
    /// The sum of their digests.
    pub digests: (u64, u64),
}

impl Compared {
    /// Whether they are the same.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.rows.0 == self.rows.1 && self.digests.0 == self.digests.1
    }
}

/// Which directory, and what it had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::store) struct Origin {
    pub(in crate::store) store: u128,
    pub(in crate::store) content: i64,
}

/// How far it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::store) struct Mark {
    /// Which of the steps.
    pub(in crate::store) step: i16,
    /// The last row of it: an arrival, a number of answers, of a letter or of a row of messages.
    pub(in crate::store) place: u64,
    /// The last arrival of the last block.
    pub(in crate::store) block: u64,
    /// The last arrival of the last row of facts.
    pub(in crate::store) fact: u64,
    /// How many rows of erased events.
    pub(in crate::store) gone: u64,
}

/// What the rollups need of events without a gap.
pub(in crate::store) struct FactRow {
    pub(in crate::store) first: u64,
    pub(in crate::store) last: u64,
    pub(in crate::store) low: Timestamp,
    pub(in crate::store) high: Timestamp,
    pub(in crate::store) facts: Vec<u8>,
}

/// The steps, in their order.
const LIVE: i16 = 0;
const ENDED: i16 = 1;
const ANSWERS: i16 = 2;
const EVENTS: i16 = 3;
const LETTERS: i16 = 4;
const MESSAGES: i16 = 5;

/// Moves what is left to be moved, compares all of it, and if it is the same lets nodes start. Calls
/// `each` now and then. Reads the directory on its caller's thread.
pub async fn migrate(
    settings: &MigrationSettings,
    each: impl FnMut(Moved),
) -> Result<Migrated, OpenError> {
    let source = Source::open(&settings.dir)?;
    let key = source.key();
    let origin = Origin {
        store: key.map_or(0, |key| Uuid::from_bytes(key.of_migrations()).as_u128()),
        content: source.content(),
    };
    let counts = source.counts();
    let (target, mark) = Target::open(&settings.to, &origin).await?;
    if mark.is_none() {
        let once = (source.queues()?, source.topics()?);
        target
            .begin(&origin, key, &counts, (&once.0, &once.1))
            .await?;
    }
    let mut mover = Mover {
        batch: settings.batch.max(1),
        mark: mark.unwrap_or_default(),
        rows: 0,
        total: total(&counts),
        source,
        target,
        each,
    };
    mover.resume(&counts);
    mover.run().await?;
    let migrated = mover.compare(&counts).await?;
    if migrated.is_same() {
        mover.target.release().await?;
    }
    Ok(migrated)
}

fn total(counts: &Counts) -> u64 {
    counts.live + counts.ended + counts.answers + counts.accepted + counts.letters
}

/// A migration that runs.
struct Mover<E> {
    source: Source,
    target: Target,
    mark: Mark,
    batch: usize,
    rows: u64,
    total: u64,
    each: E,
}

impl<E: FnMut(Moved)> Mover<E> {
    /// Counts what earlier runs moved, about.
    fn resume(&mut self, counts: &Counts) {
        let steps = [
            (LIVE, counts.live),
            (ENDED, counts.ended),
            (ANSWERS, counts.answers),
            (EVENTS, counts.accepted),
            (LETTERS, counts.letters),
        ];
        let done = steps.iter().filter(|(step, _)| *step < self.mark.step);
        self.rows = done.map(|(_, rows)| rows).sum();
        self.rows += match self.mark.step {
            EVENTS => self.mark.fact,
            ANSWERS => self.mark.place,
            _ => 0,
        };
        self.show(0);
    }

    /// `rows` more are done.
    fn show(&mut self, rows: usize) {
        self.rows += rows as u64;
        (self.each)(Moved {
            comparing: false,
            rows: self.rows.min(self.total),
            total: self.total,
        });
    }

    async fn run(&mut self) -> Result<(), OpenError> {
        while self.mark.step <= MESSAGES {
            match self.mark.step {
                LIVE | ENDED => self.ingestions().await?,
                ANSWERS => self.answers().await?,
                EVENTS => self.events().await?,
                LETTERS => self.letters().await?,
                _ => self.messages().await?,
            }
            self.mark.step += 1;
            self.mark.place = 0;
        }
        Ok(())
    }

    async fn ingestions(&mut self) -> Result<(), OpenError> {
        loop {
            let after = self.mark.place;
            let chunk = if self.mark.step == LIVE {
                self.source.live_after(after, self.batch)?
            } else {
                self.source.ended_after(after, self.batch)?
            };
            let Some(last) = chunk.last() else {
                return Ok(());
            };
            self.mark.place = last.arrival.0;
            self.target.ingestions(&chunk, self.mark).await?;
            self.show(chunk.len());
        }
    }

    async fn answers(&mut self) -> Result<(), OpenError> {
        loop {
            let chunk = self.source.answers(self.mark.place, self.batch)?;
            if chunk.is_empty() {
                return Ok(());
            }
            self.mark.place += chunk.len() as u64;
            self.target.answers(&chunk, self.mark).await?;
            self.show(chunk.len());
        }
    }

    async fn letters(&mut self) -> Result<(), OpenError> {
        loop {
            let chunk = self.source.letters_after(self.mark.place, self.batch)?;
            let Some(last) = chunk.last() else {
                return Ok(());
            };
            self.mark.place = last.id;
            self.target.letters(&chunk, self.mark).await?;
            self.show(chunk.len());
        }
    }

    async fn messages(&mut self) -> Result<(), OpenError> {
        loop {
            let found = self.source.messages_after(self.mark.place, MESSAGE_ROWS)?;
            let Some((last, names)) = found else {
                return Ok(());
            };
            self.mark.place = last;
            self.target.messages(&names, self.mark).await?;
        }
    }

    async fn events(&mut self) -> Result<(), OpenError> {
        let Some(key) = self.source.key() else {
            return Ok(());
        };
        let mut stream = Stream::open(&self.source, key, &self.mark)?;
        loop {
            let (mut rows, mut events, mut erased) = (EventRows::new(), 0, 0);
            while events < self.batch && rows.bytes() < BYTES {
                let Some(piece) = stream.next(&self.source, &mut self.mark)? else {
                    break;
                };
                let (count, gone) = stream.take(&self.source, &piece, Some(&mut rows))?;
                events += count;
                erased += gone;
            }
            let all = stream.is_through(&self.mark);
            while let Some(row) = stream.window.take(all) {
                rows.fact(&row);
            }
            self.mark.fact = stream.window.covered();
            self.target.events(rows, erased, self.mark).await?;
            self.show(events);
            if all {
                return self.has_all();
            }
        }
    }

    /// Refuses a store in which an event is missing that was not erased.
    fn has_all(&self) -> Result<(), OpenError> {
        let accepted = self.source.counts().accepted;
        if self.mark.fact == accepted {
            return Ok(());
        }
        let missing = self.mark.fact + 1;
        let sentence = format!("of {accepted} events number {missing} is missing");
        Err(self.source.damaged(sentence))
    }

    async fn compare(&mut self, counts: &Counts) -> Result<Migrated, OpenError> {
        let total = 2 * self.total;
        let mut rows = 0;
        let each = &mut self.each;
        let mut show = |more: usize| {
            rows += more as u64;
            each(Moved {
                comparing: true,
                rows: rows.min(total),
                total,
            });
        };
        let from = read(&self.source, counts, self.batch, &mut show)?;
        let mut to = Sums::new();
        let with_key = self.source.key().is_some();
        self.target.sums(&mut to, with_key, &mut show).await?;
        let (compared, tenants) = from.compare(&to);
        Ok(Migrated { compared, tenants })
    }
}

/// Events of the directory, and what the rollups need of them.
struct Stream {
    key: Key,
    /// Rows of erased events.
    gone: Vec<Place>,
    /// The block that comes next.
    block: Option<Block>,
    window: Window,
}

/// What comes next of a stream.
enum Piece {
    Block(Block),
    Gone(Gone),
}

impl Stream {
    /// What is behind `mark`.
    fn open(source: &Source, key: Key, mark: &Mark) -> Result<Self, OpenError> {
        let mut stream = Self {
            key,
            gone: source.gone().to_vec(),
            block: None,
            window: Window::new(mark.fact),
        };
        // What was moved already, and is not in a row of facts yet.
        let mut last = mark.fact;
        while last < mark.block
            && let Some(block) = source.block_after(last)?
            && block.last <= mark.block
        {
            last = block.last;
            stream.take(source, &Piece::Block(block), None)?;
        }
        let moved = usize::try_from(mark.gone).unwrap_or(usize::MAX);
        let moved: Vec<Place> = stream.gone.iter().take(moved).copied().collect();
        for place in moved.into_iter().filter(|place| place.last > mark.fact) {
            let piece = Piece::Gone(source.gone_at(place)?);
            stream.take(source, &piece, None)?;
        }
        stream.block = source.block_after(mark.block)?;
        Ok(stream)
    }

    /// Goes on in both, about in the order of arrival.
    fn next(&mut self, source: &Source, mark: &mut Mark) -> Result<Option<Piece>, OpenError> {
        let ahead = |place: &Place| self.block.as_ref().is_none_or(|it| place.first < it.last);
        if let Some(place) = self.gone_at(mark).filter(ahead) {
            mark.gone += 1;
            return source.gone_at(place).map(|gone| Some(Piece::Gone(gone)));
        }
        let Some(block) = self.block.take() else {
            return Ok(None);
        };
        mark.block = block.last;
        self.block = source.block_after(block.last)?;
        Ok(Some(Piece::Block(block)))
    }

    fn gone_at(&self, mark: &Mark) -> Option<Place> {
        let at = usize::try_from(mark.gone).ok()?;
        self.gone.get(at).copied()
    }

    /// Whether nothing comes behind `mark`.
    fn is_through(&self, mark: &Mark) -> bool {
        self.block.is_none() && self.gone_at(mark).is_none()
    }

    /// Notes the events of a piece, and adds them to `rows`. Returns how many they are, and how many
    /// of them were erased.
    fn take(
        &mut self,
        source: &Source,
        piece: &Piece,
        rows: Option<&mut EventRows>,
    ) -> Result<(usize, u64), OpenError> {
        let (notes, arrivals, erased): (_, Vec<_>, _) = match piece {
            Piece::Block(block) => {
                let events = source.events_of(block)?;
                if let Some(rows) = rows {
                    for (sequence, event) in &events {
                        rows.event(*sequence, event);
                        rows.identity(self.key.of(event));
                    }
                }
                let notes = Notes::of(self.key.of_users(), events.iter().map(|it| &it.1));
                (notes, events.iter().map(|it| at(it.0, &it.1)).collect(), 0)
            }
            Piece::Gone(gone) => {
                let events = source.events_gone(gone)?;
                if let Some(rows) = rows {
                    for (entry, event) in gone.entries.iter().zip(&events) {
                        rows.identity(*entry);
                        rows.erased(entry.0, event);
                    }
                }
                let notes = Notes::of_hashed(events.iter().map(|it| (&it.1, it.2)));
                let arrivals = events.iter().map(|it| at(it.0, &it.1)).collect();
                (notes, arrivals, events.len() as u64)
            }
        };
        let count = arrivals.len();
        let added = self.window.add(notes, arrivals.into_iter());
        added.map_err(|Sequence(sequence)| {
            source.damaged(format!("event {sequence} is there twice"))
        })?;
        Ok((count, erased))
    }
}

fn at(sequence: Sequence, event: &Event<'_>) -> (Sequence, Timestamp) {
    (sequence, event.time.micros)
}

/// Reads the directory again, from its beginning.
fn read(
    source: &Source,
    counts: &Counts,
    batch: usize,
    show: &mut impl FnMut(usize),
) -> Result<Sums, OpenError> {
    let mut sums = Sums::new();
    for queue in source.queues()? {
        sums.queue(&queue);
    }
    for topic in source.topics()? {
        sums.topic(&topic);
    }
    for step in [LIVE, ENDED] {
        let mut last = 0;
        loop {
            let chunk = match step {
                LIVE => source.live_after(last, batch)?,
                _ => source.ended_after(last, batch)?,
            };
            let Some(end) = chunk.last() else { break };
            last = end.arrival.0;
            for it in &chunk {
                sums.ingestion(it);
                let started = it.runs.as_ref().map(|runs| runs.started.as_slice());
                for (batch, run) in (0..).zip(started.unwrap_or_default()) {
                    sums.run(it.arrival.0, batch, run);
                }
            }
            show(chunk.len());
        }
    }
    let mut answers = 0;
    loop {
        let chunk = source.answers(answers, batch)?;
        if chunk.is_empty() {
            break;
        }
        answers += chunk.len() as u64;
        for it in &chunk {
            sums.answer(it);
        }
        show(chunk.len());
    }
    let mut letter = 0;
    loop {
        let chunk = source.letters_after(letter, batch)?;
        let Some(last) = chunk.last() else { break };
        letter = last.id;
        for it in &chunk {
            sums.letter(it);
        }
        show(chunk.len());
    }
    let mut row = 0;
    while let Some((last, names)) = source.messages_after(row, MESSAGE_ROWS)? {
        row = last;
        for name in names {
            sums.message(name);
        }
    }
    if let Some(key) = source.key() {
        read_events(source, key, &mut sums, show)?;
    }
    finish(source, counts, sums)
}

fn read_events(
    source: &Source,
    key: Key,
    sums: &mut Sums,
    show: &mut impl FnMut(usize),
) -> Result<(), OpenError> {
    let mut last = 0;
    while let Some(block) = source.block_after(last)? {
        last = block.last;
        let events = source.events_of(&block)?;
        for (sequence, event) in &events {
            sums.event(*sequence, event);
            sums.identity(key.of(event));
        }
        let facts = Facts::of(key.of_users(), events.iter().map(|(_, event)| event));
        sums.facts(&facts);
        show(events.len());
    }
    for place in source.gone() {
        let gone = source.gone_at(*place)?;
        let events = source.events_gone(&gone)?;
        for (entry, event) in gone.entries.iter().zip(&events) {
            sums.identity(*entry);
            sums.erased(entry.0, event);
        }
        let users = events.iter().map(|(_, event, user)| (event, *user));
        sums.facts(&Facts::of_hashed(users));
        show(events.len());
    }
    Ok(())
}

/// Adds the counts, and refuses a directory that has other rows than it counts.
fn finish(source: &Source, counts: &Counts, mut sums: Sums) -> Result<Sums, OpenError> {
    let [queues, ingestions, answers, events, erased, topics, letters] = sums.rows();
    let found = [
        queues,
        ingestions,
        answers,
        events + erased,
        topics,
        letters,
    ];
    let expected = [
        counts.queues,
        counts.live + counts.ended,
        counts.answers,
        counts.accepted,
        counts.topics,
        counts.letters,
    ];
    if found != expected {
        return Err(source.damaged("some of its rows are missing".to_owned()));
    }
    sums.counts(
        [
            counts.arrival,
            counts.accepted,
            counts.duplicates,
            counts.conflicting,
            erased,
            counts.topics,
            counts.last_letter,
        ],
        source.key(),
    );
    Ok(sums)
}
