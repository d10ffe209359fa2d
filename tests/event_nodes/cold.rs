//! Two nodes with one cold tier, of which now the one and now the other leads.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tollgate::clock::Clock;
use tollgate::events::Events;
use tollgate::events::part::PartRows;
use tollgate::model::event::{ColdSettings, Event, EventFilter, EventTime, EventsSettings};
use tollgate::model::time::Timestamp;
use tollgate::telemetry::Metrics;

use super::backing::{database, psql};
use super::claims::until;
use super::verify::wrong;
use super::{Node, all, append, event, node};

/// So many days are old, with so many events each.
const DAYS: u64 = 5;
const EVENTS: u64 = 40;

fn of_day(id: u64, day: u64) -> Event<'static> {
    let start = Timestamp::parse("2020-01-30T00:00:00Z").unwrap();
    Event {
        time: EventTime {
            micros: start.plus(Duration::from_hours(24 * day) + Duration::from_secs(id)),
            nanos: 7,
        },
        ..event(id)
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let inside = |dir: &Path| {
        let entries = fs::read_dir(dir).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path())
    };
    let folders = inside(dir).filter(|path| path.is_dir());
    folders.flat_map(|folder| inside(&folder)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_is_in_one_place_whoever_leads() {
    let Some(url) = database() else { return };
    let nodes = [node(&url).await, node(&url).await];
    let dir = tempfile::tempdir().unwrap();
    let mut sent = BTreeMap::new();
    for day in 0..DAYS {
        let ids = day * EVENTS..(day + 1) * EVENTS;
        let events: Vec<_> = ids.map(|id| of_day(id, day)).collect();
        append(&nodes[0].store, &events).await.unwrap();
        sent.extend(events.into_iter().map(|it| (it.id.to_string(), it)));
    }
    let house = |node: &Node| {
        let settings = EventsSettings {
            cold: Some(ColdSettings {
                after: Duration::from_hours(24),
                dir: dir.path().to_owned(),
            }),
            ..EventsSettings::default()
        };
        let events = Events::new(
            node.store.clone(),
            Clock::system(),
            Metrics::new(),
            settings,
        );
        events.start()
    };
    let houses = nodes.each_ref().map(house);
    for day in 0..DAYS {
        let moved = usize::try_from(day + 1).unwrap();
        let mut looks = 0;
        while files(dir.path()).len() < moved {
            looks += 1;
            assert!(looks < 6_000, "day {day} is not moved within a minute");
            // sleep: the pause between two looks at the directory.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // A late event comes, and is there when the next term begins.
        let late = of_day(1_000 + day, day / 2);
        append(&nodes[1].store, std::slice::from_ref(&late))
            .await
            .unwrap();
        sent.insert(late.id.to_string(), late);
        // The leader loses its lock, and believes for up to a second that it leads.
        psql(
            &url,
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        )
        .unwrap();
    }
    until(&url, "SELECT count(*) FROM event", "0").await;
    for house in houses {
        house.stop(Duration::ZERO).await;
    }
    let mut found = BTreeMap::new();
    for file in files(dir.path()) {
        for row in PartRows::open(&file).unwrap() {
            let (_, event) = row.unwrap();
            let twice = found.insert(event.id.to_string(), event);
            assert_eq!(twice, None, "{}", file.display());
        }
    }
    assert_eq!(found, sent);
    let left = all(&nodes[0].store, EventFilter::default()).await.unwrap();
    assert_eq!(left, []);
    assert_eq!(wrong(&nodes[0].store).await, [""; 0]);
}
