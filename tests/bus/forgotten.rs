//! What the store knows of committed messages goes once they can't be delivered again.

use std::time::Duration;

use tollgate::bus::Bus;
use tollgate::clock::{Clock, ManualClock};
use tollgate::events::{Events, EventsSettings};
use tollgate::model::bus::BusSettings;
use tollgate::model::time::Timestamp;
use tollgate::store::{Store, StoreSettings};
use tollgate::telemetry::Metrics;

use crate::backing::Backing;
use crate::publish_raw;
use crate::server::poll;

/// More than are forgotten together.
const MESSAGES: u64 = 300;

/// How many places of the stream are forgotten together; the first place is 1.
const STRETCH: u64 = 256;

/// The bytes that a name takes.
const NAME: u64 = 16;

/// A second passes every millisecond, until it is dropped.
struct Fast(tokio::task::JoinHandle<()>);

impl Fast {
    fn start(clock: ManualClock) -> Self {
        Self(tokio::spawn(async move {
            loop {
                clock.advance(Duration::from_secs(1));
                // sleep: lets the others go on in the time that passes.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }))
    }
}

impl Drop for Fast {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn committed_messages_are_forgotten() {
    let Some(nats) = Backing::nats() else { return };
    let home = tempfile::tempdir().unwrap();
    let settings = StoreSettings {
        dir: home.path().to_owned(),
        accept_loss: false,
    };
    let store = Store::open(&settings, |_| {}).unwrap();
    let manual = ManualClock::starting_at(Timestamp::from_micros(1_790_000_000_000_000));
    let clock = Clock::Manual(manual.clone());
    let metrics = Metrics::new();
    let bus = BusSettings {
        max_deliver: 1,
        ..BusSettings::new(vec![format!("nats://{}", nats.address())])
    };
    let bus = Bus::open(Some(&bus), &clock, &metrics).await.unwrap();
    let events = Events::new(store.clone(), clock, metrics, EventsSettings::default()).over(bus);
    let known = |which: &str| -> u64 {
        let db = rusqlite::Connection::open(home.path().join("tollgate.db")).unwrap();
        let sql = format!("SELECT coalesce(sum(length(names)), 0) FROM message WHERE {which}");
        let bytes: i64 = db.query_row(&sql, [], |row| row.get(0)).unwrap();
        bytes.cast_unsigned() / NAME
    };

    let background = events.start();
    // Nobody can read them, so each becomes a dead letter, which is a commit with its name.
    tokio::task::block_in_place(|| {
        for _ in 0..MESSAGES {
            publish_raw(nats.address(), b"\x09");
        }
        poll("all are committed", || {
            (known("true") == MESSAGES).then_some(())
        });
    });
    let passing = Fast::start(manual);
    tokio::task::block_in_place(|| {
        poll("the first ones are forgotten", || {
            (known("stretch = 0") == 0).then_some(())
        });
    });
    drop(passing);
    let (letters, _) = store.letters(0, 1_000).await.unwrap();
    assert_eq!(letters.len() as u64, MESSAGES);
    assert_eq!(known("true"), MESSAGES + 1 - STRETCH);
    background.stop(Duration::from_secs(10)).await;
    store.close().await;
}
