use jiff::civil::{Date, date};
use jiff::tz::TimeZone;

use super::*;
use crate::model::event::{Event, EventTime, Sequence};
use crate::model::time::Timestamp;

mod bounds;
mod checkpoint;
mod cohorts;
mod compare;
mod figure;
mod model;
mod zones;

const KEY: UserKey = UserKey([7; 16]);

/// An event of `user` under `tenant`; an empty name stands for none.
fn event(tenant: &str, source: &str, event_type: &str, user: &str, time: &str) -> Event<'static> {
    let named = |name: &str| (!name.is_empty()).then(|| name.to_owned().into());
    Event {
        tenant: tenant.to_owned().into(),
        topic: "".into(),
        id: "1".into(),
        time: at(time),
        source: named(source),
        event_type: named(event_type),
        user: named(user),
        payload: "{}".into(),
        extra: "".into(),
    }
}

fn at(time: &str) -> EventTime {
    EventTime {
        micros: Timestamp::parse(time).unwrap(),
        nanos: 0,
    }
}

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

/// Folds `events` as one commit.
fn fold(rollups: &mut Rollups, events: &[Event<'_>]) {
    let last = Sequence(rollups.covers().0 + events.len() as u64);
    rollups.fold(&Facts::of(KEY, events), last);
}

fn rollups_of(events: &[Event<'_>]) -> Rollups {
    let mut rollups = Rollups::new(Bounds::default());
    fold(&mut rollups, events);
    rollups
}

fn of_tenant(tenant: &str) -> Filter {
    Filter {
        tenant: Some(tenant.to_owned()),
        ..Filter::default()
    }
}

const IDENTITY: [u8; 16] = *b"the events of me";

fn written(rollups: &Rollups) -> Vec<u8> {
    let mut bytes = Vec::new();
    rollups.snapshot().write_to(IDENTITY, &mut bytes).unwrap();
    bytes
}

fn restored(bounds: Bounds, bytes: &[u8]) -> Result<Rollups, Unrestored> {
    Rollups::read_from(bounds, IDENTITY, &mut &*bytes)
}
