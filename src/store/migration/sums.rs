//! What a store has, as numbers of rows and digests that don't depend on their order.

use super::super::embedded::source::{Kept, Queue};
use super::super::embedded::{Digest, GoneEvent, Tally, encode_failures, encode_ids};
use super::super::identity::{Entry, Identity, Key};
use super::Compared;
use crate::model::batch::BatchRun;
use crate::model::bus::MessageName;
use crate::model::event::{DeadLetter, Event, Sequence};
use crate::model::ingestion::Ingestion;
use crate::model::time::Timestamp;
use crate::rollups::{Bounds, Facts, Rollups, TenantComparison};

/// Of one store.
pub(in crate::store) struct Sums {
    queues: Tally,
    ingestions: Tally,
    runs: Tally,
    answers: Tally,
    events: Tally,
    erased: Tally,
    identities: Tally,
    topics: Tally,
    letters: Tally,
    messages: Tally,
    counts: Tally,
    rollups: Rollups,
    digest: Digest,
}

impl Sums {
    pub(super) fn new() -> Self {
        Self {
            queues: Tally::default(),
            ingestions: Tally::default(),
            runs: Tally::default(),
            answers: Tally::default(),
            events: Tally::default(),
            erased: Tally::default(),
            identities: Tally::default(),
            topics: Tally::default(),
            letters: Tally::default(),
            messages: Tally::default(),
            counts: Tally::default(),
            rollups: Rollups::new(Bounds::default()),
            digest: Digest::default(),
        }
    }

    pub(in crate::store) fn queue(&mut self, it: &Queue) {
        let row = self.digest.row("queue").int(i64::from(it.id.0));
        row.bytes(it.name.as_str().as_bytes())
            .opt_int(it.last_slot.map(Timestamp::as_micros));
        self.queues.add(self.digest.finish());
    }

    /// Without the batches that were started.
    pub(in crate::store) fn ingestion(&mut self, it: &Ingestion) {
        let runs = it.runs.as_deref();
        let rest = runs.and_then(|runs| runs.rest);
        let ended_at = runs.and_then(|runs| runs.ended_at);
        let row = self.digest.row("ingestion");
        row.ingestion(it, &encode_ids(&it.ids))
            .opt_int(rest.map(|(status, _)| i64::from(status.code())))
            .opt_int(rest.map(|(_, at)| at.as_micros()))
            .opt_int(ended_at.map(Timestamp::as_micros));
        self.ingestions.add(self.digest.finish());
    }

    pub(in crate::store) fn run(&mut self, arrival: u64, batch: u32, it: &BatchRun) {
        let row = self.digest.row("run").int(arrival.cast_signed());
        row.int(i64::from(batch))
            .int(i64::from(it.status.code()))
            .int(i64::from(it.attempt))
            .int(it.first_triggered_at.as_micros())
            .int(it.triggered_at.as_micros())
            .opt_int(it.completed_at.map(Timestamp::as_micros))
            .opt_int(it.retry_at.map(Timestamp::as_micros))
            .opt_bytes(encode_failures(&it.failures).as_deref());
        self.runs.add(self.digest.finish());
    }

    pub(in crate::store) fn answer(&mut self, it: &Kept) {
        let row = self.digest.row("answer");
        row.bytes(&it.record.key.to_be_bytes())
            .bytes(&it.record.body.to_be_bytes())
            .bytes(it.ingestion.uuid().as_bytes())
            .int(it.record.expires_at.as_micros());
        self.answers.add(self.digest.finish());
    }

    /// An event at its place in the order of arrival.
    pub(in crate::store) fn event(&mut self, sequence: Sequence, event: &Event<'_>) {
        let row = self.digest.row("event").int(sequence.0.cast_signed());
        row.int(event.time.micros.as_micros())
            .int(i64::from(event.time.nanos));
        for text in [&event.tenant, &event.topic, &event.id] {
            row.bytes(text.as_bytes());
        }
        for text in [&event.source, &event.event_type, &event.user] {
            row.opt_bytes(text.as_deref().map(str::as_bytes));
        }
        row.bytes(event.payload.as_bytes())
            .bytes(event.extra.as_bytes());
        self.events.add(self.digest.finish());
    }

    /// What remains of an erased event.
    pub(in crate::store) fn erased(
        &mut self,
        identity: Identity,
        (Sequence(sequence), event, user): &GoneEvent<'_>,
    ) {
        let row = self.digest.row("erased");
        row.int(sequence.cast_signed())
            .bytes(&identity.to_be_bytes())
            .int(event.time.micros.as_micros())
            .int(i64::from(event.time.nanos))
            .bytes(event.tenant.as_bytes());
        for text in [&event.source, &event.event_type] {
            row.opt_bytes(text.as_deref().map(str::as_bytes));
        }
        row.opt_bytes(
            user.map(u128::to_be_bytes)
                .as_ref()
                .map(<[u8; 16]>::as_slice),
        );
        self.erased.add(self.digest.finish());
    }

    pub(in crate::store) fn identity(&mut self, (identity, first): Entry) {
        let row = self.digest.row("identity");
        row.bytes(&identity.to_be_bytes())
            .int(first.time)
            .int(i64::from(first.content));
        self.identities.add(self.digest.finish());
    }

    pub(in crate::store) fn topic(&mut self, name: &str) {
        self.digest.row("topic").bytes(name.as_bytes());
        self.topics.add(self.digest.finish());
    }

    pub(in crate::store) fn letter(&mut self, it: &DeadLetter) {
        let row = self.digest.row("letter").int(it.id.cast_signed());
        row.int(it.refused_at.as_micros())
            .bytes(it.errors.as_bytes())
            .bytes(it.body.as_bytes());
        self.letters.add(self.digest.finish());
    }

    pub(in crate::store) fn message(&mut self, it: MessageName) {
        let row = self.digest.row("message").int(it.place.cast_signed());
        row.int(it.published);
        self.messages.add(self.digest.finish());
    }

    /// The arrival of the last ingestion; of events: accepted, duplicates, conflicting, erased, the
    /// topics, the last letter. And the key of identities.
    pub(in crate::store) fn counts(&mut self, numbers: [u64; 7], key: Option<Key>) {
        let row = self.digest.row("counts");
        for number in numbers {
            row.int(number.cast_signed());
        }
        row.opt_bytes(key.as_ref().map(|key| key.0.as_slice()));
        self.counts.add(self.digest.finish());
    }

    /// What the rollups need of events, each once.
    pub(in crate::store) fn facts(&mut self, facts: &Facts) {
        self.rollups.add(facts);
    }

    /// How many there are: queues, ingestions, answers, events, erased ones, topics, letters.
    pub(super) fn rows(&self) -> [u64; 7] {
        [
            &self.queues,
            &self.ingestions,
            &self.answers,
            &self.events,
            &self.erased,
            &self.topics,
            &self.letters,
        ]
        .map(Tally::rows)
    }

    /// With those of the database that everything was moved to.
    pub(super) fn compare(&self, to: &Self) -> (Vec<Compared>, Vec<TenantComparison>) {
        let line = |what, from: Tally, to: Tally| Compared {
            what,
            rows: (from.rows(), to.rows()),
            digests: (from.sum(), to.sum()),
        };
        let lines = vec![
            line("queues", self.queues, to.queues),
            line("ingestions", self.ingestions, to.ingestions),
            line("batches that were started", self.runs, to.runs),
            line("kept answers", self.answers, to.answers),
            line("events by arrival", self.events, to.events),
            line("erased events", self.erased, to.erased),
            line("identities", self.identities, to.identities),
            line("topics", self.topics, to.topics),
            line("dead letters", self.letters, to.letters),
            line("messages of the bus", self.messages, to.messages),
            line("counts and the key", self.counts, to.counts),
        ];
        (lines, self.rollups.compare(&to.rollups))
    }
}
