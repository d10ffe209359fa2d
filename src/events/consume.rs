//! Commits what is on the bus.
//!
//! ```text
//! stream ──▶ take what has come ──▶ open ──▶ Store::prepare ──▶ Store::append ──▶ acknowledge
//!                                    │                              │
//!                                    │                              ├── known: acknowledge, and commit the others
//!                                    │                              └── refused: in hand until it is not
//!                                    └── can't be read: again later, at last a dead letter
//! ```
//! Several messages are one commit, which has their names. A message is acknowledged after it, so what was
//! taken and not acknowledged is delivered again, here or on another node; there the store knows it, and it
//! is not committed again.
//!
//! A store that takes nothing is no fault of a message: messages stay in hand, however long that is,
//! and no more are taken. So only a message that itself can't be read, or whose events make the store
//! panic, ever becomes a dead letter.

mod recent;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::recent::{Known, Recent};
use super::Events;
use super::ingest::Tally;
use crate::bus::codec::Message;
use crate::bus::{Delivery, Nats, Pull, Sign, sign};
use crate::model::bus::MessageName;
use crate::model::offence::Offences;
use crate::model::time::Timestamp;
use crate::store::{NewLetter, Prepared, Store, StoreError};

/// The most tasks that commit: while one waits for the disk, another prepares.
const MAX_TASKS: usize = 4;

/// The pause after the store or the bus refused.
const PAUSE: Duration = Duration::from_secs(1);

/// How often the server hears that messages are in hand; well within what it waits.
const SIGN_EVERY: Duration = Duration::from_secs(5);

/// The first pause before a message that can't be read is tried again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// How often that pause doubles.
const MAX_DOUBLINGS: u32 = 5;

/// How many committed messages are remembered.
const MAX_RECENT: usize = 100_000;

/// How often messages are prepared anew because other requests held some of their events.
const ROUNDS: u32 = 8;

/// Starts the tasks.
pub(super) fn start(events: &Events, nats: &Nats, stopping: &watch::Sender<bool>) -> JoinSet<()> {
    let recent = Arc::new(Mutex::new(Recent::new(MAX_RECENT)));
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let mut tasks = JoinSet::new();
    for _ in 0..cores.clamp(2, MAX_TASKS) {
        let consumer = Consumer {
            events: events.clone(),
            nats: nats.clone(),
            recent: Arc::clone(&recent),
            stopping: stopping.subscribe(),
        };
        tasks.spawn(consumer.run());
    }
    tasks
}

/// One of the tasks.
struct Consumer {
    events: Events,
    nats: Nats,
    recent: Arc<Mutex<Recent>>,
    stopping: watch::Receiver<bool>,
}

/// What messages came to, ready to be written.
struct Opened {
    prepared: Prepared,
    tally: Tally,
    received: Vec<Timestamp>,
    /// Per message, in order.
    readable: Vec<bool>,
    /// Those that are done with once it is written.
    names: Vec<MessageName>,
}

/// Why messages were not committed.
enum Refused {
    /// The store takes nothing now.
    Store(StoreError),
    /// The store panicked over them.
    Panicked,
}

impl Consumer {
    async fn run(self) {
        let mut stopping = self.stopping.clone();
        let stopped = async move { drop(stopping.wait_for(|stop| *stop).await) };
        tokio::pin!(stopped);
        loop {
            let pull = tokio::select! {
                biased;
                () = &mut stopped => return,
                pull = self.nats.pull() => pull,
            };
            let error = match pull {
                Ok(mut pull) => loop {
                    let taken = tokio::select! {
                        biased;
                        () = &mut stopped => {
                            self.take_rest(&mut pull).await;
                            return;
                        }
                        taken = pull.next() => taken,
                    };
                    match taken {
                        Ok(taken) => self.take(taken).await,
                        Err(error) => break error,
                    }
                },
                Err(error) => error,
            };
            tracing::debug!("no messages come: {error}");
            tokio::select! {
                biased;
                () = &mut stopped => return,
                () = self.events.clock.sleep(PAUSE) => {}
            }
        }
    }

    /// What had come before the end: some more is committed, all else is for others.
    async fn take_rest(&self, pull: &mut Pull) {
        let rest = pull.rest().await;
        if !rest.is_empty() {
            self.take(rest).await;
        }
        sign(&pull.rest().await, Sign::Again(Duration::ZERO)).await;
    }

    fn stops(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Commits messages that are not known, and tells the server what became of each.
    async fn take(&self, delivered: Vec<Delivery>) {
        let (mut taken, mut committed, mut in_hand) = (Vec::new(), Vec::new(), Vec::new());
        {
            let mut recent = self.recent.lock();
            for delivery in delivered {
                let place = match recent.take(delivery.name) {
                    Known::New => &mut taken,
                    Known::InHand => &mut in_hand,
                    Known::Committed => &mut committed,
                };
                place.push(delivery);
            }
        }
        sign(&committed, Sign::Done).await;
        sign(&in_hand, Sign::Again(PAUSE)).await;
        if taken.is_empty() {
            return;
        }
        self.commit_or_give_up(&taken).await;
        let mut recent = self.recent.lock();
        for delivery in &taken {
            recent.release(delivery.name);
        }
    }

    async fn commit_or_give_up(&self, taken: &[Delivery]) {
        match self.commit_in_time(taken).await {
            Ok(()) => {}
            // One of them is the cause.
            Err(Refused::Panicked) => {
                for one in taken.chunks(1) {
                    let alone = if taken.len() > 1 {
                        self.commit_in_time(one).await
                    } else {
                        Err(Refused::Panicked)
                    };
                    match alone {
                        Ok(()) => {}
                        Err(Refused::Panicked) => self.give_up(one).await,
                        Err(Refused::Store(_)) => sign(one, Sign::Again(Duration::ZERO)).await,
                    }
                }
            }
            // The end: somebody else shall have them at once.
            Err(Refused::Store(_)) => sign(taken, Sign::Again(Duration::ZERO)).await,
        }
    }

    /// Commits messages, however often it takes; the server hears meanwhile that they are in hand.
    /// Gives up on the store only when the service stops.
    async fn commit_in_time(&self, taken: &[Delivery]) -> Result<(), Refused> {
        let committing = async {
            let mut told = false;
            loop {
                match self.commit_new(taken).await {
                    Err(Refused::Store(error)) if !self.stops() => {
                        if !std::mem::replace(&mut told, true) {
                            tracing::warn!("events of the bus wait for the store: {error}");
                        }
                        self.pause().await;
                    }
                    done => return done,
                }
            }
        };
        tokio::pin!(committing);
        loop {
            tokio::select! {
                biased;
                done = &mut committing => return done,
                () = self.events.clock.sleep(SIGN_EVERY) => sign(taken, Sign::InHand).await,
            }
        }
    }

    async fn pause(&self) {
        let mut stopping = self.stopping.clone();
        tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => {}
            () = self.events.clock.sleep(PAUSE) => {}
        }
    }

    /// Commits those that were not committed before, by this process or another one.
    async fn commit_new(&self, taken: &[Delivery]) -> Result<(), Refused> {
        let mut left: Vec<&Delivery> = taken.iter().collect();
        let mut again = 0;
        while !left.is_empty() {
            let known = match self.commit(&left).await {
                Err(Refused::Store(StoreError::Again)) if again < ROUNDS => {
                    again += 1;
                    continue;
                }
                done => done?,
            };
            if known.is_empty() {
                return Ok(());
            }
            let (done, others): (Vec<_>, Vec<_>) =
                left.into_iter().partition(|it| known.contains(&it.name));
            self.remember(&done);
            sign(done, Sign::Done).await;
            left = others;
        }
        Ok(())
    }

    /// One commit, and what follows from it. Nothing is committed if some were before: then it returns
    /// those.
    async fn commit(&self, taken: &[&Delivery]) -> Result<HashSet<MessageName>, Refused> {
        let opened = self.open(taken).await?;
        let Opened {
            prepared,
            mut tally,
            received,
            readable,
            names,
        } = opened;
        let receipts = match self.events.store.append(prepared).await {
            Ok(receipts) => receipts,
            Err(StoreError::MessageTaken) => return self.known(names).await,
            Err(error) => return Err(Refused::Store(error)),
        };
        tally.count(&self.events, &receipts);
        let now = self.events.clock.now().wall;
        for at in received {
            self.events.metrics.ingestion(now.since(at));
        }
        let (mut done, mut gone, mut later) = (Vec::new(), Vec::new(), Vec::new());
        for (delivery, readable) in taken.iter().copied().zip(readable) {
            if readable {
                done.push(delivery);
            } else if self.is_last(delivery) {
                gone.push(delivery);
            } else {
                later.push(delivery);
            }
        }
        self.remember(done.iter().chain(&gone));
        self.events.metrics.bus_dead_lettered(gone.len() as u64);
        sign(done, Sign::Done).await;
        sign(gone, Sign::Gone).await;
        for delivery in later {
            sign([delivery], Sign::Again(pause_after(delivery.times))).await;
        }
        Ok(HashSet::new())
    }

    /// Those of which the store says that they were committed: one at least.
    async fn known(&self, names: Vec<MessageName>) -> Result<HashSet<MessageName>, Refused> {
        match self.events.store.known_messages(names).await {
            Ok(known) if known.is_empty() => Err(Refused::Store(StoreError::MessageTaken)),
            Ok(known) => Ok(known.into_iter().collect()),
            Err(error) => Err(Refused::Store(error)),
        }
    }

    fn remember<'d>(&self, committed: impl IntoIterator<Item = &'d &'d Delivery>) {
        let mut recent = self.recent.lock();
        for delivery in committed {
            recent.add(delivery.name);
        }
    }

    /// Whether a message that can't be read was tried often enough.
    fn is_last(&self, delivery: &Delivery) -> bool {
        delivery.times >= self.nats.max_deliver()
    }

    async fn open(&self, taken: &[&Delivery]) -> Result<Opened, Refused> {
        let store = self.events.store.clone();
        let now = self.events.clock.now().wall;
        let messages: Vec<_> = taken
            .iter()
            .map(|it| (it.shared(), it.name, it.times, self.is_last(it)))
            .collect();
        let opening = tokio::task::spawn_blocking(move || {
            let messages = messages.iter().map(|(bytes, name, times, last)| Brought {
                bytes: bytes.as_ref(),
                name: *name,
                times: *times,
                last: *last,
            });
            open(&store, messages, now)
        });
        match opening.await {
            Ok(opened) => opened.map_err(Refused::Store),
            Err(error) if error.is_panic() => Err(Refused::Panicked),
            // The runtime ends.
            Err(_) => Err(Refused::Store(StoreError::Closed)),
        }
    }

    /// Messages that the store can't take, and no others are the reason: again later, at last dead
    /// letters.
    async fn give_up(&self, refused: &[Delivery]) {
        let now = self.events.clock.now().wall;
        for delivery in refused {
            if !self.is_last(delivery) {
                sign([delivery], Sign::Again(pause_after(delivery.times))).await;
                continue;
            }
            let reason = "makes the store fail; the log says where";
            let letter = letter(delivery.bytes(), reason, delivery.times, now);
            let (store, name) = (&self.events.store, vec![delivery.name]);
            let stored = match store.prepare_messages(&[], vec![letter], name) {
                Ok(prepared) => store.append(prepared).await.map(drop),
                Err(error) => Err(error),
            };
            match stored {
                Ok(()) => self.events.metrics.bus_dead_lettered(1),
                // It is one already.
                Err(StoreError::MessageTaken) => {}
                Err(error) => {
                    tracing::warn!("a dead letter waits for the store: {error}");
                    sign([delivery], Sign::Again(PAUSE)).await;
                    continue;
                }
            }
            self.recent.lock().add(delivery.name);
            sign([delivery], Sign::Gone).await;
        }
    }
}

/// A message as it came.
struct Brought<'m> {
    bytes: &'m [u8],
    name: MessageName,
    times: u64,
    /// Whether it is not delivered again, readable or not.
    last: bool,
}

/// Opens messages and prepares all that can be read, with dead letters of those that can't and
/// were tried often enough.
fn open<'m>(
    store: &Store,
    messages: impl Iterator<Item = Brought<'m>>,
    now: Timestamp,
) -> Result<Opened, StoreError> {
    let messages: Vec<_> = messages.map(|it| (Message::open(it.bytes), it)).collect();
    let (mut events, mut letters, mut names) = (Vec::new(), Vec::new(), Vec::new());
    let (mut received, mut readable) = (Vec::new(), Vec::new());
    for (message, brought) in &messages {
        let message = message.as_ref().map_err(|error| *error);
        match message.and_then(|it| Ok((it.received_at, it.events()?))) {
            Ok((at, found)) => {
                received.push(at);
                readable.push(true);
                names.push(brought.name);
                events.extend(found);
            }
            Err(error) => {
                readable.push(false);
                if brought.last {
                    let reason = error.to_string();
                    letters.push(letter(brought.bytes, &reason, brought.times, now));
                    names.push(brought.name);
                }
            }
        }
    }
    let prepared = store.prepare_messages(&events, letters, names.clone())?;
    Ok(Opened {
        prepared,
        tally: Tally::of(&events),
        received,
        readable,
        names,
    })
}

/// The message as a dead letter: as text where it is text.
fn letter(bytes: &[u8], reason: &str, times: u64, now: Timestamp) -> NewLetter {
    let mut offences = Offences::default();
    offences.add(&[], "unreadable_message", || {
        format!("{reason}; it was delivered {times} times")
    });
    let body = match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => json!({"base64": STANDARD.encode(bytes)}).to_string(),
    };
    NewLetter {
        refused_at: now,
        errors: serde_json::to_string(offences.listed()).unwrap_or_default(),
        body,
    }
}

/// How long after so many deliveries the next one comes.
fn pause_after(times: u64) -> Duration {
    let doublings = u32::try_from(times.saturating_sub(1)).unwrap_or(u32::MAX);
    FIRST_PAUSE * (1 << doublings.min(MAX_DOUBLINGS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound() {
        let seconds = [1, 2, 3, 6, 7, u64::MAX].map(|times| pause_after(times).as_secs());
        assert_eq!(seconds, [1, 2, 4, 32, 32, 32]);
    }

    #[test]
    fn a_letter_keeps_every_byte() {
        let now = Timestamp::EPOCH;
        let text = letter(b"{\"a\":1}", "is odd", 5, now);
        assert_eq!(text.body, "{\"a\":1}");
        assert_eq!(
            text.errors,
            r#"[{"pointer":"","detail":"is odd; it was delivered 5 times","code":"unreadable_message"}]"#
        );
        assert_eq!(letter(&[0xff, 0], "", 1, now).body, r#"{"base64":"/wA="}"#);
    }
}
