//! The cold tier: events past an age leave the store for Parquet files, a folder a UTC day.
//!
//! **Every event is in one place, whatever happens.** A day is moved in *parts*, one file each:
//!
//! 1. write the part under a temporary name, and sync it;
//! 2. rename it: from here on the file is final, and its events are in both places;
//! 3. *settle* it: find each event of the store that it covers in the file, then erase those.
//!
//! The name of a file says what it covers ([`Covers`]): all events of its day that had arrived by
//! some arrival, up to some place in the order of (time, arrival). A crash before 2 leaves a file
//! with a temporary name, which is removed before the next part is made. A crash after 2 leaves a file
//! whose events are still in the store: before anything of a day is moved, its files are settled. So no
//! event is in two files, and none is erased that is not in one. What arrives later than a file says is
//! not covered by it, and makes a further part.
//!
//! **So it is on several nodes**, of which one moves events, and any of which may be stopped anywhere
//! and wake up much later, believing that it still leads:
//!
//! ```text
//! a term     begins ──▶ removes temporary files of earlier terms ──▶ looks at final files, settles them ──▶ ...
//! each part  temporary file is made ──▶ written ──▶ the store confirms the term ──▶ rename ──▶ settle
//! ```
//!
//! - *Only the present leader can make a file final.* A temporary file has a name of its own, so nobody
//!   writes into another's. Its maker lets the store confirm the term once it is there: a term that begins
//!   after that removes it, and the rename of a file that is gone fails. So a part of an earlier term
//!   became final before the next one looked at the final files, or never does. Whoever is refused by the
//!   store, or finds the file gone, has erased nothing of it, and its events are still in the store.
//! - *An erasure only removes what is in a final file*, so one that comes late takes nothing away. It is
//!   fenced all the same: the store commits it only as long as the term lasts. Where that is refused, or
//!   the process dies before it, the part is final and its events are in the store as well: the next term
//!   finds the file and settles it before it writes anything of that day. Before it erases what another
//!   one has written, it makes the names of the files durable, which that one may not have come to.
//! - What was found of a day in one term says nothing in another ([`Cold::in_term`]).
//!
//! All this takes a directory in which a file is there, or gone, for all nodes at the same time.

mod covers;
mod temporary;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;
use tokio::task::spawn_blocking;

use self::covers::Covers;
use super::part::{self, Day, Limits, PartRows, PartWriter};
use crate::model::event::{
    ColdSettings, EventFilter, EventPage, Order, PageQuery, Place, Sequence, StoredEvent,
};
use crate::model::time::Timestamp;
use crate::store::{Store, StoreError, Term};

/// The most events that are read at once; their bytes are bounded by the store.
const PAGE: usize = 4_096;

/// Why events were not moved.
#[derive(Debug, Error)]
pub(super) enum ColdError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error(
        "{} should have event {id} (arrival {arrival}) and does not: is it damaged, or of \
         another store? Nothing more is moved while it is there",
        path.display()
    )]
    Foreign {
        path: PathBuf,
        id: String,
        arrival: u64,
    },
}

/// What a step did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// So many events left the store, and there may be more.
    Moved(u64),
    /// Nothing is old enough until the next day is.
    Nothing,
}

/// A part that is whole and not final yet.
struct Written {
    temporary: PathBuf,
    covers: Covers,
    rows: u64,
}

/// Moves old events in one term, a part at a time.
pub(super) struct Cold {
    store: Store,
    term: Term,
    settings: ColdSettings,
    limits: Limits,
    /// The day whose files are settled.
    settled: Option<Day>,
    /// The day up to which all was moved. Late events for it or for an earlier one wait until the
    /// next day is old enough, so that a trickle of them does not make many small files.
    finished: Option<Day>,
}

impl Cold {
    pub(super) fn new(store: Store, settings: ColdSettings, term: Term) -> Self {
        Self {
            store,
            term,
            settings,
            limits: Limits::default(),
            settled: None,
            finished: None,
        }
    }

    /// The same in another term, in which nothing is known yet.
    pub(super) fn in_term(&self, term: Term) -> Self {
        Self {
            limits: self.limits,
            ..Self::new(self.store.clone(), self.settings.clone(), term)
        }
    }

    /// Its term.
    pub(super) fn term(&self) -> Term {
        self.term
    }

    /// Moves one part of the oldest day that has events and is old enough as a whole. After an error
    /// it can be called again.
    pub(super) async fn step(&mut self, now: Timestamp) -> Result<Step, ColdError> {
        let due = Day::of(now.minus(self.settings.after)).before();
        if self.finished.is_some_and(|finished| finished >= due) {
            return Ok(Step::Nothing);
        }
        let Some(day) = self.oldest(due).await? else {
            self.finished = Some(due);
            return Ok(Step::Nothing);
        };
        self.sweep().await?;
        let mut moved = 0;
        if self.settled != Some(day) {
            self.settled = None;
            moved += self.settle_day(day).await?;
        }
        self.settled = None;
        if let Some(part) = self.write(day).await? {
            let path = self.publish(&part).await?;
            let erased = self.settle(part.covers, &path).await?;
            if erased < part.rows {
                tracing::warn!(
                    "{} events were erased while they were moved: they stay in {}",
                    part.rows - erased,
                    path.display()
                );
            }
            moved += erased;
        }
        self.settled = Some(day);
        Ok(Step::Moved(moved))
    }

    /// Removes what earlier terms, and this one, left behind unfinished. Comes before any look at the
    /// final files.
    async fn sweep(&self) -> Result<(), ColdError> {
        let (dir, term) = (self.settings.dir.clone(), self.term);
        blocking(&self.settings.dir, move || temporary::sweep(&dir, term)).await
    }

    /// The day of the oldest event in the store, if it is not after `due`.
    async fn oldest(&self, due: Day) -> Result<Option<Day>, ColdError> {
        let filter = EventFilter {
            to: Some(due.end()),
            ..EventFilter::default()
        };
        let mut pages = Pages::new(&self.store, filter, 1);
        while let Some(events) = pages.next().await? {
            if let Some(stored) = events.first() {
                return Ok(Some(Day::of(stored.event.time.micros)));
            }
        }
        Ok(None)
    }

    /// Writes the next part of `day` under a temporary name, unless it would have no events.
    async fn write(&self, day: Day) -> Result<Option<Written>, ColdError> {
        let last = *self.store.last_event().borrow();
        self.write_up_to(day, last).await
    }

    /// The same of events that had arrived by `last`: others come all the while.
    async fn write_up_to(&self, day: Day, last: Sequence) -> Result<Option<Written>, ColdError> {
        let (temporary, part) = self.create().await?;
        let filled = self.fill(part, &temporary, day, last).await;
        let filled = filled.map(|(covers, rows)| Written {
            temporary: temporary.clone(),
            covers,
            rows,
        });
        match filled {
            Ok(part) if part.rows > 0 => Ok(Some(part)),
            other => {
                discard(temporary).await;
                other.map(|_| None)
            }
        }
    }

    /// A file for a part, under a temporary name.
    async fn create(&self) -> Result<(PathBuf, PartWriter), ColdError> {
        let temporary = self.settings.dir.join(temporary::name(self.term));
        let part = blocking(&temporary, {
            let (dir, temporary) = (self.settings.dir.clone(), temporary.clone());
            let limits = self.limits;
            move || {
                fs::create_dir_all(dir)?;
                PartWriter::create_new(&temporary, limits)
            }
        });
        match part.await {
            Ok(part) => Ok((temporary, part)),
            Err(error) => {
                discard(temporary).await;
                Err(error)
            }
        }
    }

    /// Writes as many events as fit; what it covers then, and how many events it has.
    async fn fill(
        &self,
        mut part: PartWriter,
        temporary: &Path,
        day: Day,
        last: Sequence,
    ) -> Result<(Covers, u64), ColdError> {
        let mut pages = Pages::new(&self.store, of_day(day), PAGE);
        let mut through = None;
        while through.is_none()
            && let Some(events) = pages.next().await?
        {
            (part, through) = blocking(temporary, move || {
                for stored in events {
                    if stored.sequence <= last {
                        part.push(Some(stored.sequence), &stored.event)?;
                    }
                    if part.is_full() {
                        return Ok((part, Some(place(&stored))));
                    }
                }
                Ok((part, None))
            })
            .await?;
        }
        let rows = part.rows() as u64;
        blocking(temporary, move || part.finish()).await?;
        Ok((Covers { day, last, through }, rows))
    }

    /// Makes a part final; its path.
    async fn publish(&self, part: &Written) -> Result<PathBuf, ColdError> {
        let published = self.rename(part).await;
        if published.is_err() {
            // If it is final, it is not there under this name.
            discard(part.temporary.clone()).await;
        }
        published
    }

    async fn rename(&self, part: &Written) -> Result<PathBuf, ColdError> {
        // The file is there: a term that begins from here on removes it.
        self.store.confirm(self.term).await?;
        let (dir, temporary) = (self.settings.dir.clone(), part.temporary.clone());
        let (folder, name) = (part.covers.day.folder(), part.covers.file_name());
        let path = dir.join(&folder).join(&name);
        let to = path.clone();
        blocking(&path, move || {
            // It would have been settled, and this part then have none of its events.
            if to.exists() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            part::publish(&temporary, &dir, &folder, &name)
        })
        .await?;
        Ok(path)
    }

    /// Settles those files of `day` that cover events of the store; how many were erased.
    async fn settle_day(&self, day: Day) -> Result<u64, ColdError> {
        let folder = self.settings.dir.join(day.folder());
        let files = blocking(&folder, {
            let folder = folder.clone();
            move || files_of(day, &folder)
        })
        .await?;
        let Some(last) = files.iter().map(|covers| covers.last).max() else {
            return Ok(0);
        };
        let mut unsettled = Vec::new();
        let mut pages = Pages::new(&self.store, of_day(day), PAGE);
        while let Some(events) = pages.next().await? {
            for stored in events.iter().filter(|stored| stored.sequence <= last) {
                let covering = files.iter().find(|covers| covers.has(place(stored)));
                if let Some(covers) = covering
                    && !unsettled.contains(covers)
                {
                    unsettled.push(*covers);
                }
            }
        }
        if unsettled.is_empty() {
            return Ok(0);
        }
        // Whoever made them final may not have come to this.
        let dir = self.settings.dir.clone();
        blocking(&folder, move || part::sync_names(&dir, &day.folder())).await?;
        let mut erased = 0;
        for covers in unsettled {
            let path = folder.join(covers.file_name());
            tracing::info!("{} is final, its events leave the store", path.display());
            erased += self.settle(covers, &path).await?;
        }
        Ok(erased)
    }

    /// Erases what the file at `path` covers, once each of these events was found in it.
    async fn settle(&self, covers: Covers, path: &Path) -> Result<u64, ColdError> {
        let mut rows = blocking(path, {
            let path = path.to_owned();
            move || PartRows::open(&path)
        })
        .await?;
        let mut pages = Pages::new(&self.store, of_day(covers.day), PAGE);
        while let Some(mut events) = pages.next().await? {
            let behind = events
                .last()
                .is_some_and(|stored| covers.ends_before(place(stored)));
            events.retain(|stored| covers.has(place(stored)));
            let missing;
            (rows, missing) = blocking(path, move || {
                let missing = first_missing(events, &mut rows)?;
                Ok((rows, missing))
            })
            .await?;
            if let Some(missing) = missing {
                return Err(ColdError::Foreign {
                    path: path.to_owned(),
                    id: missing.event.id.into_owned(),
                    arrival: missing.sequence.0,
                });
            }
            if behind {
                break;
            }
        }
        let mut erased = 0;
        for (filter, last) in covers.filters() {
            erased += self.store.erase_in(self.term, filter, last).await?;
        }
        Ok(erased)
    }
}

/// The events of the store that a filter means, in order of (time, arrival), a page at a time.
struct Pages<'s> {
    store: &'s Store,
    /// The next page; `None` behind the last one.
    query: Option<PageQuery>,
}

impl<'s> Pages<'s> {
    fn new(store: &'s Store, filter: EventFilter, limit: usize) -> Self {
        let query = PageQuery {
            filter,
            order: Order::Ascending,
            after: None,
            skip: 0,
            limit,
        };
        Self {
            store,
            query: Some(query),
        }
    }

    /// The next page, which may be empty although there are more.
    async fn next(&mut self) -> Result<Option<Vec<StoredEvent>>, StoreError> {
        let Some(query) = self.query.take() else {
            return Ok(None);
        };
        let EventPage { events, next } = self.store.page(query.clone()).await?;
        self.query = next.map(|after| PageQuery {
            after: Some(after),
            ..query
        });
        Ok(Some(events))
    }
}

fn of_day(day: Day) -> EventFilter {
    EventFilter {
        from: Some(day.start()),
        to: Some(day.end()),
        ..EventFilter::default()
    }
}

fn place(stored: &StoredEvent) -> Place {
    Place {
        time: stored.event.time,
        sequence: stored.sequence,
    }
}

/// What the files in `folder` cover. Those of other names are nobody's business here.
fn files_of(day: Day, folder: &Path) -> io::Result<Vec<Covers>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        files.extend(
            name.to_str()
                .and_then(|name| Covers::of_file_name(day, name)),
        );
    }
    Ok(files)
}

/// The first of `events` that is not among the next `rows`, exactly as it is. Both are in the same
/// order; rows between them are of events that were erased.
fn first_missing(events: Vec<StoredEvent>, rows: &mut PartRows) -> io::Result<Option<StoredEvent>> {
    for stored in events {
        loop {
            match rows.next().transpose()? {
                Some((arrival, _)) if arrival != Some(stored.sequence) => {}
                Some((_, event)) if event == stored.event => break,
                _ => return Ok(Some(stored)),
            }
        }
    }
    Ok(None)
}

/// Removes a file that does not become a part: it would take the space that a full disk needs. Where it
/// stays, it is swept before the next one is made.
async fn discard(temporary: PathBuf) {
    let _ = spawn_blocking(|| fs::remove_file(temporary)).await;
}

/// Runs `work`, which reads or writes the file at `path`, on a thread for blocking work.
async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, ColdError> {
    let done = match spawn_blocking(work).await {
        Ok(done) => done,
        // It panicked over what is in the file, or the process stops.
        Err(error) => Err(io::Error::other(error)),
    };
    done.map_err(|error| ColdError::File {
        path: path.to_owned(),
        error,
    })
}

#[cfg(test)]
mod tests;
