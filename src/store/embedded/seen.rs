//! The identity index: of every event identity that was ever accepted, when its event was and what
//! it said. Exact, and in bounded memory however many there are.
//!
//! ```text
//! reserve ──▶ fresh: 16 shards, one lock each          pending (a ticket holds it) and recent
//!                │ a full generation is frozen, at most two wait
//! committed ─────▼
//!             frozen: read-only maps                   a snapshot of both, replaced as a whole
//!                │ background thread: sorted, written
//!                ▼
//!             runs on disk, merged four by four        filter, fences: one read of 4 KiB a look
//!                └─ manifest: which runs there are, and `covers`
//! ```
//!
//! The index is derived: every identity is in an event block too. So nothing here is synced before
//! an answer, and whatever is damaged, missing or of another version is thrown away and made again
//! from the blocks after `covers`.
//!
//! **Why sorted runs of our own**, and not a key-value store: the keys are uniform hashes, are only
//! ever added, and are read one by one; there are no ranges, overwrites, deletions or transactions.
//! What is left of a log-structured store is then a sort, a merge and a filter, with no journal, no
//! cache to size, and each byte checked. The price: this code, and a restart after a crash feeds up
//! to three generations again.
//!
//! **Why it is exact.** A call looks into a shard and, under the same lock, reserves what it doesn't
//! find; only then it loads the snapshot and looks at what is older, and takes back what it finds
//! there. An identity goes from pending to recent under its shard's lock. It leaves recent only in
//! `Fresh::freeze`, which publishes the snapshot that has it before it lets go of the shard; every
//! later snapshot has it too, since a run is published before its generation or its parts go, or in
//! the same step. So a call that doesn't find a committed identity in the shard loads a snapshot
//! that has it; and of two calls for one that is new, the second to lock the shard finds it pending.
//! A reservation that will be taken back may be met by a third call as pending: that one waits for
//! the ticket to end, asks again, and finds it in what is older.

mod background;
mod filter;
mod fresh;
mod manifest;
mod page;
mod run;
mod shared;
mod snapshot;
mod tickets;

#[cfg(test)]
mod tests;

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;

use self::background::Background;
use self::manifest::Manifest;
use self::run::Run;
use self::shared::{Shared, Stop};
use self::snapshot::{Held, Snapshot};
pub(crate) use self::tickets::TicketId;
use super::schema::sync_dir;
pub(crate) use crate::store::identity::{Entry, First, Identity};

/// The half that orders runs and chooses shards, pages and blocks.
fn upper(identity: Identity) -> u64 {
    u64::try_from(identity >> 64).unwrap_or(0)
}

/// The half that maps and the bits of a filter use.
fn lower(identity: Identity) -> u64 {
    u64::try_from(identity & u128::from(u64::MAX)).unwrap_or(0)
}

/// The bounds of the index.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SeenSettings {
    /// Whose identities these are, for instance a hash of the key they were made with. The index
    /// of another owner is thrown away.
    pub(crate) owner: u64,
    /// Identities that stay in memory until they are written together; about 43 bytes each, three
    /// times while two generations wait.
    pub(crate) generation: usize,
    /// Runs that become one, at least 2.
    pub(crate) fan_in: usize,
    /// Bytes of all filters, those included that are being made. Past it the largest runs have
    /// none, and each look at such a run costs a read.
    pub(crate) filter_limit: u64,
    /// Identities that a merge moves before it looks for more urgent work.
    pub(crate) stretch: u64,
}

impl SeenSettings {
    /// The usual ones, for this owner.
    pub(crate) fn of(owner: u64) -> Self {
        Self {
            owner,
            generation: 800_000,
            fan_in: 4,
            filter_limit: 256 * 1024 * 1024,
            stretch: 65_536,
        }
    }
}

/// What a call is told of one identity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Claim {
    /// Never seen: this call's ticket holds it now.
    New,
    /// Committed before; this was the first.
    Seen(First),
    /// A call that has not ended holds it: wait with [`Seen::ended`], then ask again.
    Pending(TicketId),
    /// The same as at this earlier position of this call, whose claim counts.
    Twice(u32),
}

/// What a call was told, in its order, and what it holds.
#[derive(Debug)]
pub(crate) struct Reservation {
    pub(crate) claims: Vec<Claim>,
    pub(crate) ticket: Ticket,
}

/// Holds the identities that were new to a call. Dropped, it lets go of them.
pub(crate) struct Ticket {
    shared: Arc<Shared>,
    id: TicketId,
    reserved: Vec<Entry>,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket")
            .field("id", &self.id)
            .field("reserved", &self.reserved.len())
            .finish_non_exhaustive()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.shared.fresh.release(&self.reserved);
        self.shared.tickets.end(self.id);
    }
}

/// What the index takes.
#[cfg(test)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SeenStats {
    /// Identities that are committed. Those that were fed twice may count twice until a merge.
    pub(crate) identities: u64,
    /// Files.
    pub(crate) runs: usize,
    /// Bytes of maps, filters and fences.
    pub(crate) memory: u64,
    /// Bytes of all runs.
    pub(crate) disk: u64,
}

/// The index. Cheap to clone. When the last one is dropped the background thread is stopped, and
/// what was not written yet is left to the next start.
#[derive(Clone)]
pub(crate) struct Seen(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Seen {
    /// Opens `dir`, made if it is missing. Also returns the sequence up to which every identity is
    /// in the index; the rest is to be fed by [`Seen::recover`]. An index that is damaged or not
    /// ours is thrown away, which the log tells, and 0 returned.
    pub(crate) fn open(dir: &Path, settings: SeenSettings) -> io::Result<(Self, u64)> {
        let background = open(dir, settings)?;
        let covers = background.manifest.covers;
        let shared = Arc::clone(&background.shared);
        let thread = std::thread::Builder::new()
            .name("store-seen".to_owned())
            .spawn(move || background.run())?;
        let handle = Handle {
            shared,
            thread: Mutex::new(Some(thread)),
        };
        Ok((Self(Arc::new(handle)), covers))
    }

    /// Throws the index in `dir` away; none may be open there.
    pub(crate) fn discard(dir: &Path) -> io::Result<()> {
        // Without its manifest the rest is strays already, if this gets no further.
        remove_if_there(&dir.join(manifest::NAME))?;
        if dir.exists() {
            // Or a loss of power brings back a manifest that knows of other events.
            sync_dir(dir)?;
        }
        remove_strays(dir, &Manifest::default())
    }

    /// Reserves what is new of `wanted`. Many calls at once. An error means that nothing is held:
    /// `InvalidData` that the index is damaged, any other that it can't be read or written now.
    ///
    /// Commit what is new before you wait for what is pending: two calls that wait for each other
    /// with their tickets in hand would wait for ever.
    pub(crate) fn reserve(&self, wanted: &[Entry]) -> io::Result<Reservation> {
        self.0.shared.ready()?;
        self.0.reserve(wanted)
    }

    /// Makes what `ticket` holds committed. In the order of the commits; `last_seq` is the sequence
    /// of the last event of this one. Waits while the background thread is two generations behind.
    pub(crate) fn committed(&self, mut ticket: Ticket, last_seq: u64) {
        let reserved = std::mem::take(&mut ticket.reserved);
        self.0.shared.commit(&reserved, last_seq, || drop(ticket));
    }

    /// Feeds identities from the blocks, before any other use, in order of sequence.
    pub(crate) fn recover(&self, entries: &[Entry], last_seq: u64) {
        self.0.shared.commit(entries, last_seq, || ());
    }

    /// Returns once the call that holds this ticket has ended; then ask again.
    pub(crate) async fn ended(&self, ticket: TicketId) {
        self.0.shared.tickets.ended(ticket).await;
    }

    /// The first event of a committed identity.
    pub(crate) fn find(&self, identity: Identity) -> io::Result<Option<First>> {
        let shared = &self.0.shared;
        if let Some(first) = shared.fresh.find(identity) {
            return Ok(Some(first));
        }
        let wanted = [(
            identity,
            First {
                time: 0,
                content: 0,
            },
        )];
        let found = shared.snapshot().find_all(&wanted, vec![0])?;
        Ok(found.first().map(|&(_, first)| first))
    }

    /// What it takes now.
    #[cfg(test)]
    pub(crate) fn stats(&self) -> SeenStats {
        let shared = &self.0.shared;
        let snapshot = shared.snapshot();
        let maps: usize = snapshot.frozen.iter().map(|frozen| frozen.memory()).sum();
        let fences: u64 = snapshot.runs.iter().map(|held| held.run.memory()).sum();
        SeenStats {
            identities: shared.fresh.count() as u64 + snapshot.count(),
            runs: snapshot.runs.len(),
            memory: (shared.fresh.memory() + maps) as u64 + fences + snapshot.filter_bytes(),
            disk: snapshot
                .runs
                .iter()
                .map(|held| held.run.line().length)
                .sum(),
        }
    }

    /// Writes what is in memory and ends the background thread: after this a start has nothing to
    /// feed. Takes as long as the disk takes for three generations, or one attempt if it fails; a
    /// merge is left. Nothing may be committed afterwards.
    pub(crate) fn close(&self) {
        self.0.shared.freeze_rest();
        self.0.stop(Stop::Written);
    }
}

impl Handle {
    fn reserve(&self, wanted: &[Entry]) -> io::Result<Reservation> {
        let shared = &self.shared;
        let mut ticket = Ticket {
            shared: Arc::clone(shared),
            id: shared.tickets.begin(),
            reserved: Vec::new(),
        };
        let mut claims = vec![Claim::New; wanted.len()];
        let mut positions = shared.fresh.reserve(ticket.id, wanted, &mut claims);
        let all = |positions: &[u32]| -> Vec<Entry> {
            let entries = positions.iter();
            entries.filter_map(|&p| fresh::at(wanted, p)).collect()
        };
        // From here on the ticket's drop lets go of all, also on an error.
        ticket.reserved = all(&positions);
        // Only now, see the module.
        let older = shared.snapshot().find_all(wanted, positions.clone())?;
        if older.is_empty() {
            return Ok(Reservation { claims, ticket });
        }
        for &(position, first) in &older {
            let claim = usize::try_from(position)
                .ok()
                .and_then(|p| claims.get_mut(p));
            if let Some(claim) = claim {
                *claim = Claim::Seen(first);
            }
        }
        let is_new = |p: u32| {
            let claim = usize::try_from(p).ok().and_then(|p| claims.get(p));
            claim == Some(&Claim::New)
        };
        positions.retain(|&position| is_new(position));
        ticket.reserved = all(&positions);
        let back: Vec<u32> = older.into_iter().map(|(position, _)| position).collect();
        shared.fresh.release(&all(&back));
        Ok(Reservation { claims, ticket })
    }

    fn stop(&self, stop: Stop) {
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            self.shared.tell(|work| work.stop = stop);
            let _ = thread.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop(Stop::Now);
    }
}

/// Opens what is in `dir`, or throws it away, and removes strays.
fn open(dir: &Path, settings: SeenSettings) -> io::Result<Background> {
    fs::create_dir_all(dir)?;
    let (manifest, runs) = match load(dir, settings) {
        Ok(loaded) => loaded,
        Err(error) => {
            let lost = [
                ErrorKind::InvalidData,
                ErrorKind::NotFound,
                ErrorKind::UnexpectedEof,
            ];
            if !lost.contains(&error.kind()) {
                return Err(error);
            }
            tracing::warn!(%error, "the identity index is thrown away and made again");
            Seen::discard(dir)?;
            let manifest = Manifest {
                owner: settings.owner,
                ..Manifest::default()
            };
            (manifest, Vec::new())
        }
    };
    remove_strays(dir, &manifest)?;
    let snapshot = Snapshot {
        frozen: Vec::new(),
        runs,
    };
    Ok(Background {
        dir: dir.to_owned(),
        shared: Arc::new(Shared::new(settings, snapshot, manifest.covers)),
        manifest,
        making: 0,
    })
}

/// Reads the manifest and opens its runs. Errors name the file.
fn load(dir: &Path, settings: SeenSettings) -> io::Result<(Manifest, Vec<Held>)> {
    let named = |path: &Path, error: &io::Error| {
        io::Error::new(error.kind(), format!("{}: {error}", path.display()))
    };
    let path = dir.join(manifest::NAME);
    let manifest = match Manifest::read(dir).map_err(|error| named(&path, &error))? {
        Some(manifest) if manifest.owner == settings.owner => manifest,
        Some(_) => {
            let sentence = format!("{}: it is the index of another owner", path.display());
            return Err(io::Error::new(ErrorKind::InvalidData, sentence));
        }
        None => Manifest {
            owner: settings.owner,
            ..Manifest::default()
        },
    };
    let mut runs = Vec::with_capacity(manifest.runs.len());
    for &line in &manifest.runs {
        let path = dir.join(run::file_name(line.run));
        let run = Run::open(dir, line).map_err(|error| named(&path, &error))?;
        runs.push(Held {
            run: Arc::new(run),
            filter: None,
        });
    }
    read_filters(&mut runs, settings.filter_limit)?;
    Ok((manifest, runs))
}

/// Reads the filters that there is room for, smallest first.
fn read_filters(runs: &mut [Held], limit: u64) -> io::Result<()> {
    let mut smallest_first: Vec<&mut Held> = runs.iter_mut().collect();
    smallest_first.sort_by_key(|held| held.run.filter_bytes());
    let mut room = limit;
    for held in smallest_first {
        match room.checked_sub(held.run.filter_bytes()) {
            Some(left) => room = left,
            None => break,
        }
        held.filter = held.run.read_filter()?.map(Arc::new);
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes runs that the manifest doesn't name, and a manifest that was never ended.
fn remove_strays(dir: &Path, manifest: &Manifest) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        let named = |line: &manifest::Line| run::file_name(line.run) == name;
        let stray = run::is_file_name(name) && !manifest.runs.iter().any(named);
        if stray || name == manifest::NEW_NAME {
            remove_if_there(&dir.join(name))?;
        }
    }
    Ok(())
}
