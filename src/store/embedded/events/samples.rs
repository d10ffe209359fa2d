//! Events for tests.

use proptest::prelude::*;
use rusqlite::Connection;

use super::super::codec::Digest;
use super::super::meta::{Meta, Table, Tally};
use super::super::schema;
use super::{block, pack};
use crate::model::event::{Event, EventTime, Sequence, StoredEvent};
use crate::model::time::Timestamp;

/// A plain event.
pub(super) fn event(tenant: &str, id: impl ToString + Copy, micros: i64) -> Event<'static> {
    Event {
        tenant: tenant.to_owned().into(),
        topic: "".into(),
        id: id.to_string().into(),
        time: EventTime {
            micros: Timestamp::from_micros(micros),
            nanos: 0,
        },
        source: None,
        event_type: None,
        user: None,
        payload: "{}".into(),
        extra: "".into(),
    }
}

/// One of few names, or none.
fn few() -> impl Strategy<Value = Option<String>> {
    prop_oneof![
        Just(None),
        (0..4).prop_map(|number| Some(format!("name-{number}"))),
        ".{0,6}".prop_map(Some),
    ]
}

/// Times that are often equal, often near, sometimes far apart, and of any age.
pub(super) fn time() -> impl Strategy<Value = EventTime> {
    let micros = prop_oneof![
        3 => Just(0),
        3 => -3_i64..3,
        2 => -5_000_000_i64..5_000_000,
        1 => -200_000_000_000_000_000_i64..200_000_000_000_000_000,
    ];
    let nanos = prop_oneof![4 => Just(0), 1 => 0_u16..1000];
    (micros, nanos).prop_map(|(micros, nanos)| EventTime {
        micros: Timestamp::from_micros(micros),
        nanos,
    })
}

/// Any event.
pub(super) fn any_event() -> impl Strategy<Value = Event<'static>> {
    let id = prop_oneof![
        any::<u128>().prop_map(|id| uuid::Uuid::from_u128(id).to_string()),
        any::<u128>().prop_map(|id| uuid::Uuid::from_u128(id).to_string().to_uppercase()),
        ".{0,40}",
    ];
    let names = (few(), few(), few(), few(), few());
    (names, id, time(), ".{0,80}", ".{0,20}").prop_map(|(names, id, time, payload, extra)| Event {
        tenant: names.0.unwrap_or_default().into(),
        topic: names.1.unwrap_or_default().into(),
        id: id.into(),
        time,
        source: names.2.map(Into::into),
        event_type: names.3.map(Into::into),
        user: names.4.map(Into::into),
        payload: payload.into(),
        extra: extra.into(),
    })
}

/// About 250 bytes of JSON each, in order of time; half of the payload is random.
pub(super) fn typical(count: usize, seed: u64) -> Vec<Event<'static>> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut micros = 1_790_000_000_000_000;
    let mut one = || {
        micros += random.i64(0..2000);
        let note: String = (0..48).map(|_| random.alphanumeric()).collect();
        let payload = format!(
            r#"{{"path":"/shop/item/{}","amount":{}.{:02},"currency":"EUR","note":"{note}"}}"#,
            random.u32(0..100_000),
            random.u32(0..1000),
            random.u32(0..100),
        );
        let mut event = event(
            &format!("tenant-{}", random.u32(0..8)),
            uuid::Uuid::from_u128(random.u128(..)),
            micros,
        );
        event.topic = format!("topic-{}", random.u32(0..5)).into();
        event.source = Some(format!("service-{}", random.u32(0..20)).into());
        event.event_type = Some(format!("type-{}", random.u32(0..12)).into());
        event.user = Some(format!("user-{}", random.u32(0..50_000)).into());
        event.payload = payload.into();
        event
    };
    (0..count).map(|_| one()).collect()
}

/// A store of blocks, and what was put into it.
pub(super) struct Blocks {
    _dir: tempfile::TempDir,
    pub(super) db: Connection,
    pub(super) meta: Meta,
    pub(super) digest: Digest,
    /// By arrival; the first has 1.
    pub(super) model: Vec<StoredEvent>,
    last: u64,
}

impl Blocks {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        schema::create(dir.path()).unwrap();
        let db = schema::open_writer(&dir.path().join(schema::DATABASE)).unwrap();
        // What these tests test is no matter of syncs.
        db.pragma_update(None, "synchronous", "OFF").unwrap();
        Self {
            _dir: dir,
            db,
            meta: Meta::default(),
            digest: Digest::default(),
            model: Vec::new(),
            last: 0,
        }
    }

    /// Adds the events of one request.
    pub(super) fn append(&mut self, events: &[Event<'static>]) -> Vec<i64> {
        let base = self.last + 1;
        let ids = block::build((0..).zip(events), 0)
            .iter()
            .map(|block| self.insert(block, base))
            .collect();
        self.model
            .extend((base..).zip(events).map(|(sequence, event)| StoredEvent {
                sequence: Sequence(sequence),
                event: event.clone(),
            }));
        self.last += events.len() as u64;
        ids
    }

    pub(super) fn insert(&mut self, block: &block::Block, base: u64) -> i64 {
        block::insert(&self.db, &mut self.meta, &mut self.digest, block, base).unwrap()
    }

    pub(super) fn remove(&mut self, id: i64) -> bool {
        block::remove(&self.db, &mut self.meta, &mut self.digest, id).unwrap()
    }

    /// Merges as the packer does.
    pub(super) fn merge(&mut self, ids: &[i64]) {
        let merged = pack::merge(&self.db, ids).unwrap();
        for block in &merged.blocks {
            self.insert(block, 0);
        }
        for id in &merged.ids {
            assert!(self.remove(*id));
        }
    }

    pub(super) fn ids(&self) -> Vec<i64> {
        let mut statement = self.db.prepare("SELECT id FROM block ORDER BY id").unwrap();
        let ids = statement.query_map([], |row| row.get(0)).unwrap();
        ids.map(Result::unwrap).collect()
    }

    /// Removes the events for which `gone` is true, as an erasure does.
    pub(super) fn erase(&mut self, gone: impl Fn(&StoredEvent) -> bool) {
        for id in self.ids() {
            let contents = block::read(&self.db, id).unwrap();
            let kept: Vec<StoredEvent> = contents
                .events()
                .unwrap()
                .map(Result::unwrap)
                .map(|(sequence, event)| StoredEvent {
                    sequence,
                    event: event.into_owned(),
                })
                .filter(|stored| !gone(stored))
                .collect();
            self.remove(id);
            let numbered = kept.iter().map(|stored| (stored.sequence.0, &stored.event));
            for block in block::build(numbered, contents.packed()) {
                self.insert(&block, 0);
            }
        }
        self.model.retain(|stored| !gone(stored));
    }

    /// Whether the table's tally is that of its rows.
    pub(super) fn assert_tallied(&self) {
        let mut tally = Tally::default();
        let mut statement = self.db.prepare("SELECT digest FROM block").unwrap();
        let digests = statement.query_map([], |row| row.get(0)).unwrap();
        digests.for_each(|digest| tally.add(digest.unwrap()));
        self.meta.check(Table::Block, tally).unwrap();
        let data: i64 = self
            .db
            .query_row("SELECT count(*) FROM block_data", [], |row| row.get(0))
            .unwrap();
        assert_eq!(data, i64::try_from(self.ids().len()).unwrap());
    }
}
