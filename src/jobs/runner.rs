//! The task of one queue: waits, commits what the scheduler decides, starts the work.
//!
//! It lives on the schedulers' own thread; the work is done by the runtime that serves requests.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use super::attempt::{Attempt, Gate, GivenUp};
use super::booking::Booking;
use super::callback::{Callback, Callbacks};
use super::decide::Finished;
use super::live::{Live, QueueHandle};
use super::pace::Slot;
use super::processor::Processor;
use super::refusals::Refusals;
use super::results;
use super::scheduler::{Outcome, Scheduler, Start};
use crate::clock::Clock;
use crate::events::Events;
use crate::model::batch::BatchStatus;
use crate::model::change::Change;
use crate::model::id::{BatchIndex, IngestionRef};
use crate::model::ingestion::Ingestion;
use crate::model::queue::{QueueId, QueueName, QueueSettings};
use crate::model::time::Now;
use crate::store::{Store, StoreError, Term};
use crate::telemetry::{Metrics, counted};

/// How long to wait after the store refused a commit.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// The most ended attempts that are recorded in one commit.
const FINISHED_AT_ONCE: usize = 256;

/// The most ids of a batch that a line of the log names.
const TOLD_IDS: usize = 10;

/// What a queue's task works with.
pub(crate) struct Runner {
    pub(crate) queue: QueueId,
    pub(crate) name: QueueName,
    pub(crate) live: Arc<Live>,
    pub(crate) store: Store,
    /// Where results are kept.
    pub(crate) events: Events,
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
    pub(crate) callbacks: Callbacks,
    pub(crate) processor: Arc<Processor>,
    pub(crate) settings: QueueSettings,
    /// The term in which this node schedules; the last one, if it does not.
    pub(crate) term: Term,
    /// Where the work is done.
    pub(crate) workers: Handle,
    /// True once no more batches shall start.
    pub(crate) stopping: watch::Receiver<bool>,
    pub(crate) refusals: Refusals,
}

/// What the task of a queue waits for beside the time.
#[derive(Default)]
struct UnderWay {
    /// Attempts that have ended.
    finished: Vec<Finished>,
    /// Starts that are committed and whose work has not begun.
    launching: Vec<Start>,
    /// `None`: it has not begun.
    works: JoinSet<Option<Finished>>,
    /// Bookings that are being committed: how far they reach, and whether they were. At most one
    /// that the scheduler waits for, and one before it.
    bookings: JoinSet<(Slot, bool)>,
}

impl Runner {
    /// Schedules in every term of this node, until told to stop and nothing runs any more.
    pub(crate) async fn run(mut self) {
        let live = Arc::clone(&self.live);
        let Some(handle) = live.handle(self.queue) else {
            return;
        };
        let mut terms = self.store.term();
        let mut stopping = self.stopping.clone();
        loop {
            let last = self.term;
            let begun = tokio::select! {
                begun = terms.wait_for(|term| term.is_some_and(|term| term != last)) => {
                    begun.ok().and_then(|term| *term)
                }
                _ = stopping.wait_for(|stopping| *stopping) => None,
            };
            let Some(term) = begun else { return };
            self.term = term;
            let mut way = UnderWay::default();
            let scheduler = self.take_over(handle, &mut way);
            handle.leads.store(true, Ordering::Release);
            self.schedule(handle, scheduler, way, &mut terms).await;
            handle.leads.store(false, Ordering::Release);
            self.refusals = Refusals::default();
        }
    }

    /// Goes on where whoever scheduled before has stopped.
    fn take_over(&self, handle: &QueueHandle, way: &mut UnderWay) -> Scheduler {
        let mut registry = self.live.registry.write();
        for (ingestion, batch) in registry.take_over(self.queue) {
            if let Some(it) = registry.get(ingestion.id) {
                self.give_up(it, batch, way);
            }
        }
        let booked_until = registry.queue(self.queue).and_then(|queue| queue.last_slot);
        let booking = if self.store.is_shared() {
            Booking::shared()
        } else {
            Booking::default()
        };
        let now = self.clock.now();
        let settings = self.settings.clone();
        let scheduler = Scheduler::new(self.queue, settings, booked_until, booking, now);
        handle.set_opens_at(scheduler.opens_at());
        scheduler
    }

    /// Runs until the term is over, or until told to stop and nothing runs any more.
    async fn schedule(
        &mut self,
        handle: &QueueHandle,
        mut scheduler: Scheduler,
        mut way: UnderWay,
        terms: &mut watch::Receiver<Option<Term>>,
    ) {
        let live = Arc::clone(&self.live);
        loop {
            // Armed before anything is looked at: a submission from here on ends the wait below.
            let woken = handle.wake.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            let seen = handle.applied.load(Ordering::Acquire);
            way.collect(&mut scheduler);
            // What this node still wants to write would be refused.
            if *terms.borrow_and_update() != Some(self.term) || self.refusals.end_the_term() {
                return;
            }
            // Nobody left to say so is as good as having been told.
            let stopping = *self.stopping.borrow() || self.stopping.has_changed().is_err();
            if stopping && way.is_over() {
                return;
            }
            if self.refusals.are_final() {
                // What the store takes no more is started again after the next start.
                let _ = self.stopping.wait_for(|stopping| *stopping).await;
                return;
            }
            let until = if stopping && way.finished.is_empty() {
                None
            } else if let Err(error) = self.store.sync().await {
                // What other nodes have accepted is considered, or nothing is.
                tracing::debug!(queue = %self.name, %error, "nothing is decided");
                Some(self.clock.now().mono + STORE_PAUSE)
            } else {
                let outcome = scheduler.tick(&live.registry, &way.finished, self.clock.now());
                match outcome {
                    Outcome::Commit(changes) => {
                        if self.commit(&changes).await {
                            self.tell(handle, &way.finished, &changes);
                            way.finished.clear();
                            self.take_up_given_up(&changes, &mut way);
                        }
                        continue;
                    }
                    Outcome::Book(end) => {
                        self.book(&mut scheduler, end, &mut way.bookings).await;
                        continue;
                    }
                    Outcome::Start(start) if start.books.is_none() => {
                        let looked = Looked { handle, seen };
                        self.start_booked(&mut scheduler, start, &looked, &mut way.works)
                            .await;
                        continue;
                    }
                    Outcome::Start(start) => {
                        if self.commit(&start.changes).await {
                            scheduler.started(&start);
                            way.launching.push(start);
                        } else {
                            scheduler.not_started(&start);
                        }
                        continue;
                    }
                    Outcome::Wait(until) => {
                        way.finished.clear();
                        until
                    }
                }
            };
            // Only now: until a start is committed, a submission must see its slot as open and wait.
            Looked { handle, seen }.tell(scheduler.opens_at());
            if !way.launching.is_empty() {
                let starts = std::mem::take(&mut way.launching);
                let begun = self.launch(&mut scheduler, starts, &mut way.works).await;
                self.tell_of_starts(&begun);
                continue;
            }
            tokio::select! {
                () = woken => {}
                () = way.next(&mut scheduler) => {}
                () = sleep_until(&self.clock, until) => {}
                _ = self.stopping.changed(), if !stopping => {}
                _ = terms.changed() => {}
            }
        }
    }

    /// What is given up by these changes, which are on disk, is on its way to its end.
    fn take_up_given_up(&self, changes: &[Change], way: &mut UnderWay) {
        let registry = self.live.registry.read();
        for change in changes {
            if let Change::BatchMoved {
                ingestion,
                batch,
                run,
            } = change
                && run.is_given_up()
                && let Some(it) = registry.get(ingestion.id)
            {
                self.give_up(it, *batch, way);
            }
        }
    }

    /// Has the results of a batch that is given up kept; then it ends.
    fn give_up(&self, ingestion: &Ingestion, batch: BatchIndex, way: &mut UnderWay) {
        let given_up = GivenUp {
            events: self.events.clone(),
            clock: self.clock.clone(),
            ingestion: ingestion.key(),
            batch,
            results: results::of_given_up(ingestion, batch),
        };
        way.works.spawn_on(given_up.run(), &self.workers);
    }

    /// Sends a booking on its way to the disk, before all that this queue commits later.
    async fn book(
        &self,
        scheduler: &mut Scheduler,
        end: Slot,
        bookings: &mut JoinSet<(Slot, bool)>,
    ) {
        let (store, term) = (self.store.clone(), self.term);
        let change = scheduler.slot_taken(end);
        let mut commit = Box::pin(async move { store.commit_in(term, vec![change]).await.is_ok() });
        // The first poll hands it to the writer.
        match poll_fn(|context| Poll::Ready(commit.as_mut().poll(context))).await {
            Poll::Ready(committed) => scheduler.booked(end, committed),
            Poll::Pending => {
                bookings.spawn(async move { (end, commit.await) });
            }
        }
    }

    /// A start in a slot that is on disk as used: its work begins when the pace allows it, and the
    /// start is committed meanwhile. Nothing else of the queue is decided until both is done, so
    /// the end of the attempt is recorded after its start.
    async fn start_booked(
        &self,
        scheduler: &mut Scheduler,
        start: Start,
        looked: &Looked<'_>,
        works: &mut JoinSet<Option<Finished>>,
    ) {
        let changes = start.changes.clone();
        let opens_at = scheduler.opens_at();
        let recorded = async {
            // Bounded by the end of the process: a disk that is full takes it once it has space.
            while !self.commit(&changes).await {
                if self.refusals.are_for_good() {
                    return;
                }
            }
            looked.tell(opens_at);
        };
        let launched = self.launch(scheduler, vec![start], works);
        // The commit is on its way before the thread sleeps.
        let ((), begun) = tokio::join!(biased; recorded, launched);
        self.tell_of_starts(&begun);
    }

    /// The work of starts begins, all at once, when the pace allows it. Returned is when each did.
    async fn launch(
        &self,
        scheduler: &mut Scheduler,
        mut starts: Vec<Start>,
        works: &mut JoinSet<Option<Finished>>,
    ) -> Vec<(Start, Now)> {
        let mut begun = Vec::with_capacity(starts.len());
        loop {
            let held_up = self.try_launch(scheduler, starts, works, &mut begun).await;
            if held_up.is_empty() {
                return begun;
            }
            starts = held_up;
            while !self.book_again(scheduler).await {
                if self.refusals.are_for_good() {
                    // Whoever schedules next starts them again.
                    return begun;
                }
            }
        }
    }

    /// Books more for work that was held up. Whether it was committed.
    async fn book_again(&self, scheduler: &mut Scheduler) -> bool {
        let end = scheduler.book_again(self.clock.now());
        let committed = self.commit(&[scheduler.slot_taken(end)]).await;
        scheduler.booked(end, committed);
        committed
    }

    /// The same, without those that were held up for so long that more has to be booked first.
    async fn try_launch(
        &self,
        scheduler: &mut Scheduler,
        starts: Vec<Start>,
        works: &mut JoinSet<Option<Finished>>,
        begun: &mut Vec<(Start, Now)>,
    ) -> Vec<Start> {
        let (begins_at, not_after) = (scheduler.begins_at(), scheduler.not_after());
        self.clock.approach(begins_at).await;
        let mut launched = Vec::with_capacity(starts.len());
        for start in starts {
            let (sender, beginning) = oneshot::channel();
            let gate = Gate {
                clock: self.clock.clone(),
                begins_at,
                not_after,
                begun: sender,
            };
            let attempt = Attempt {
                processor: Arc::clone(&self.processor),
                events: self.events.clone(),
                ingestion: start.ingestion,
                work: start.work.clone(),
                gate,
            };
            works.spawn_on(attempt.run(), &self.workers);
            launched.push((start, beginning));
        }
        let mut held_up = Vec::new();
        for (start, beginning) in launched {
            // Without an answer the runtime is gone, and the work with it.
            match beginning.await.unwrap_or_else(|_| Some(self.clock.now())) {
                Some(at) => {
                    scheduler.began(start.slot, at.mono);
                    begun.push((start, at));
                }
                None => held_up.push(start),
            }
        }
        held_up
    }

    /// Whether the changes were committed. If not, pauses: the disk may be full for a while.
    async fn commit(&self, changes: &[Change]) -> bool {
        match self.store.commit_in(self.term, changes.to_vec()).await {
            Ok(()) => {
                if self.refusals.are_over() {
                    tracing::info!(queue = %self.name, "what happened is recorded again");
                }
                true
            }
            Err(error) => {
                let news = self.refusals.is_news(&error);
                if error == StoreError::Closed || self.refusals.end_the_term() {
                    return false;
                }
                if news {
                    tracing::warn!(queue = %self.name, "could not record what happened, trying again: {error}");
                }
                self.clock.sleep(STORE_PAUSE).await;
                false
            }
        }
    }

    fn tell_of_starts(&self, begun: &[(Start, Now)]) {
        for (start, at) in begun {
            self.tell_of_start(start, *at);
        }
    }

    fn tell_of_start(&self, start: &Start, at: Now) {
        let Start {
            ingestion,
            work,
            slot,
            created_at,
            ..
        } = start;
        let (batch, attempt) = (work.batch, work.attempt);
        let ids: Vec<i64> = work.due.iter().map(|(_, id)| *id).collect();
        let ids = match ids.len() {
            0..=TOLD_IDS => format!("{ids:?}"),
            more => format!("{more} ids"),
        };
        let again = if attempt > 1 {
            format!(" (attempt {attempt})")
        } else {
            String::new()
        };
        tracing::info!(queue = %self.name, ingestion = %ingestion.id, "started {} with {ids}{again}", batch.batch_id());
        let waited = (attempt == 1).then(|| slot.wall.since(*created_at));
        let delay = at.mono.saturating_sub(slot.mono);
        self.metrics.started(self.name.as_str(), waited, delay);
    }

    /// Says in the log, the metrics and to the callbacks what was committed.
    fn tell(&self, handle: &QueueHandle, finished: &[Finished], changes: &[Change]) {
        for change in changes {
            match change {
                // It is told of once it has ended.
                Change::BatchMoved { run, .. } if run.is_given_up() => {}
                Change::BatchMoved {
                    ingestion,
                    batch,
                    run,
                } => {
                    let mut finished = finished.iter();
                    let ended = finished.find(|f| f.ingestion == *ingestion && f.batch == *batch);
                    let at = run.completed_at.or(ended.map(|ended| ended.at));
                    let took = at.unwrap_or(run.triggered_at).since(run.triggered_at);
                    handle.ran(took);
                    self.tell_of_batch(*ingestion, *batch, run.status, run, took);
                }
                Change::RestEnded {
                    ingestion, status, ..
                } => self.tell_of_rest(*ingestion, *status),
                Change::IngestionEnded { ingestion, at } => {
                    self.tell_of_end(*ingestion, *at);
                    self.live.registry.write().told(*ingestion, *at);
                }
                _ => {}
            }
        }
    }

    fn tell_of_batch(
        &self,
        ingestion: IngestionRef,
        batch: BatchIndex,
        status: BatchStatus,
        run: &crate::model::batch::BatchRun,
        took: Duration,
    ) {
        let (id, batch) = (ingestion.id, batch.batch_id());
        let failures = counted(run.failures.len() as u64, "id", "ids");
        let first = run
            .failures
            .first()
            .map_or("", |failure| failure.reason.as_str());
        match (status, run.retry_at) {
            (BatchStatus::Triggered, Some(at)) => {
                tracing::warn!(queue = %self.name, ingestion = %id, "{batch}: {failures} failed in attempt {}, tried again at {at}: {first}", run.attempt);
                return;
            }
            (BatchStatus::Failed, _) => {
                tracing::warn!(queue = %self.name, ingestion = %id, "{batch} failed for good in attempt {}, {failures}: {first}", run.attempt);
            }
            _ => {
                tracing::info!(queue = %self.name, ingestion = %id, "{} {batch} after {} ms", status.as_str(), took.as_millis());
            }
        }
        self.metrics.finished(self.name.as_str(), status, took);
    }

    fn tell_of_rest(&self, key: IngestionRef, status: BatchStatus) {
        let progress = self
            .live
            .registry
            .read()
            .get(key.id)
            .map(Ingestion::progress);
        let batches = progress.map_or(0, |progress| progress.cancelled + progress.expired);
        let batches_told = counted(u64::from(batches), "batch", "batches");
        let (name, status_name) = (self.name.as_str(), status.as_str());
        tracing::info!(queue = %name, ingestion = %key.id, "{status_name}: {batches_told} that had not started");
        self.metrics.ended_unstarted(name, status, batches);
    }

    fn tell_of_end(&self, key: IngestionRef, at: crate::model::time::Timestamp) {
        let registry = self.live.registry.read();
        let Some(ingestion) = registry.get(key.id) else {
            return;
        };
        let progress = ingestion.progress();
        tracing::info!(queue = %self.name, ingestion = %key.id, "{}: {} ended", progress.status().as_str(), counted(u64::from(progress.total), "batch has", "batches have"));
        if let Some(url) = ingestion
            .extras
            .as_ref()
            .and_then(|extras| extras.callback_url.as_deref())
        {
            self.callbacks.send(Callback {
                url: url.into(),
                ingestion: key.id,
                progress,
                completed_at: at,
            });
        }
    }
}

impl UnderWay {
    /// Takes up what has ended.
    fn collect(&mut self, scheduler: &mut Scheduler) {
        while self.finished.len() < FINISHED_AT_ONCE
            && let Some(attempt) = self.works.try_join_next()
        {
            self.finished.extend(attempt.ok().flatten());
        }
        while let Some(booking) = self.bookings.try_join_next() {
            if let Ok((end, committed)) = booking {
                scheduler.booked(end, committed);
            }
        }
    }

    /// Waits for something to take up.
    async fn next(&mut self, scheduler: &mut Scheduler) {
        tokio::select! {
            Some(attempt) = self.works.join_next() => self.finished.extend(attempt.ok().flatten()),
            Some(booking) = self.bookings.join_next() => if let Ok((end, committed)) = booking {
                scheduler.booked(end, committed);
            },
            else => std::future::pending().await,
        }
    }

    /// Whether nothing runs and nothing is left to record.
    fn is_over(&self) -> bool {
        self.finished.is_empty() && self.launching.is_empty() && self.works.is_empty()
    }
}

/// A look at the registry, as submissions are told of it.
struct Looked<'a> {
    handle: &'a QueueHandle,
    /// The submissions that had been applied before.
    seen: u64,
}

impl Looked<'_> {
    /// All of them were considered, and what could start has; the next slot opens at `opens_at`.
    fn tell(&self, opens_at: Duration) {
        self.handle.set_opens_at(opens_at);
        self.handle.considered.send_replace(self.seen);
    }
}

async fn sleep_until(clock: &Clock, mono: Option<Duration>) {
    match mono {
        Some(mono) => clock.sleep_until(mono).await,
        None => std::future::pending().await,
    }
}
