//! Events for tests.

use proptest::prelude::*;

use crate::model::event::{Event, EventTime};
use crate::model::time::Timestamp;

/// A plain event.
pub(super) fn event(tenant: &str, id: impl ToString, micros: i64) -> Event<'static> {
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
