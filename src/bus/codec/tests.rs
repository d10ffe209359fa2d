use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

fn event(id: &str, payload: String) -> Event<'static> {
    Event {
        tenant: "default".into(),
        topic: "".into(),
        id: id.to_owned().into(),
        time: EventTime::default(),
        source: None,
        event_type: Some("click".into()),
        user: Some("".into()),
        payload: payload.into(),
        extra: "".into(),
    }
}

fn any_event() -> impl Strategy<Value = Event<'static>> {
    let name = || prop_oneof![Just(None), ".{0,12}".prop_map(Some)];
    let time = (any::<i64>(), 0_u16..1000);
    let texts = (".{0,9}", ".{0,9}", ".{1,40}", ".{0,300}", ".{0,40}");
    (time, texts, name(), name(), name()).prop_map(|(time, texts, source, kind, user)| Event {
        tenant: texts.0.into(),
        topic: texts.1.into(),
        id: texts.2.into(),
        time: EventTime {
            micros: Timestamp::from_micros(time.0),
            nanos: time.1,
        },
        source: source.map(Into::into),
        event_type: kind.map(Into::into),
        user: user.map(Into::into),
        payload: texts.3.into(),
        extra: texts.4.into(),
    })
}

/// Every event of messages, owned.
fn decode(messages: &[Vec<u8>]) -> Vec<Event<'static>> {
    let mut all = Vec::new();
    for message in messages {
        let message = Message::open(message).unwrap();
        assert_eq!(message.received_at, NOW);
        let events = message.events().unwrap();
        all.extend(events.into_iter().map(Event::into_owned));
    }
    all
}

/// Text that lz4 makes longer.
fn noise(length: usize, seed: u64) -> String {
    let mut rng = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| rng.alphanumeric())
        .take(length)
        .collect()
}

proptest! {
    #[test]
    fn what_was_sent_is_received(events in proptest::collection::vec(any_event(), 0..40)) {
        let messages = encode(&events, NOW, MAX_MESSAGE);
        prop_assert!(messages.len() <= 1);
        prop_assert_eq!(decode(&messages), events);
    }

    #[test]
    fn a_changed_byte_is_noticed(
        events in proptest::collection::vec(any_event(), 1..5),
        at in any::<prop::sample::Index>(),
        by in 1_u8..,
    ) {
        let mut message = encode(&events, NOW, MAX_MESSAGE).remove(0);
        let at = at.index(message.len());
        message[at] = message[at].wrapping_add(by);
        prop_assert!(Message::open(&message).is_err());
        message.truncate(at);
        prop_assert!(Message::open(&message).is_err());
    }

    /// The checksum does not help against who makes one that fits.
    #[test]
    fn nothing_in_a_body_makes_it_panic(
        events in proptest::collection::vec(any_event(), 0..5),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        count in prop_oneof![0_u32..8, Just(u32::MAX)],
    ) {
        let mut body = Body::default();
        for event in &events {
            body.put(event);
        }
        let mut raw = length(body.numbers.len()).to_vec();
        raw.extend_from_slice(&body.numbers);
        raw.extend_from_slice(&body.text);
        for (at, to) in changes {
            let at = at.index(raw.len());
            raw[at] = to;
        }
        raw.truncate(cut.index(raw.len() + 1));
        let message = Message::open(&seal(&raw, count, NOW)).unwrap();
        if let Ok(found) = message.events() {
            prop_assert_eq!(found.len(), count as usize);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Message::open(&bytes).is_err());
        open_len(&bytes);
    }
}

#[test]
fn many_events_are_several_messages_in_order_each_within_the_limit() {
    for limit in [MIN_MESSAGE, MAX_MESSAGE] {
        let events: Vec<Event<'_>> = (0..3_000)
            .map(|number| event(&number.to_string(), noise(700, number)))
            .collect();
        let messages = encode(&events, NOW, limit);
        assert!(messages.len() > 1);
        let longest = messages.iter().map(Vec::len).max().unwrap();
        assert!(longest <= limit, "{longest} bytes");
        // No more than a tenth of any but the last is left empty.
        assert!(
            messages[..messages.len() - 1]
                .iter()
                .all(|it| it.len() > limit / 2)
        );
        assert_eq!(decode(&messages), events);
    }
}

#[test]
fn the_largest_event_fits_into_the_smallest_message() {
    let largest = Event {
        tenant: noise(MAX_NAME, 1).into(),
        topic: noise(MAX_NAME, 2).into(),
        id: noise(MAX_NAME, 3).into(),
        time: EventTime {
            micros: Timestamp::from_micros(i64::MIN),
            nanos: 999,
        },
        source: Some(noise(MAX_NAME, 4).into()),
        event_type: Some(noise(MAX_NAME, 5).into()),
        user: Some(noise(MAX_NAME, 6).into()),
        payload: noise(MAX_PAYLOAD, 7).into(),
        extra: noise(MAX_EXTRA, 8).into(),
    };
    let events = [largest.clone(), largest];
    let messages = encode(&events, NOW, MIN_MESSAGE);
    assert_eq!(messages.len(), 2);
    assert!(messages.iter().all(|it| it.len() <= MIN_MESSAGE));
    assert_eq!(decode(&messages), events);
    let mut longer = events[0].clone();
    longer.payload = noise(MAX_PAYLOAD + 1, 9).into();
    let message = encode(&[longer], NOW, MAX_MESSAGE).remove(0);
    assert_eq!(
        Message::open(&message).unwrap().events(),
        Err(Unreadable::Damaged)
    );
}

#[test]
fn another_version_is_named() {
    let mut message = encode(&[event("1", "{}".to_owned())], NOW, MAX_MESSAGE).remove(0);
    message[0] = 9;
    assert_eq!(Message::open(&message).err(), Some(Unreadable::Version(9)));
    assert_eq!(Message::open(&[]).err(), Some(Unreadable::Damaged));
}

#[test]
fn no_more_memory_is_taken_than_a_message_may_have() {
    let raw = vec![0; MAX_MESSAGE + 1];
    assert_eq!(
        Message::open(&seal(&raw, 1, NOW)).err(),
        Some(Unreadable::Damaged)
    );
    assert_eq!(open_len(&seal(&raw, 1, NOW)), MAX_MESSAGE + 1);
    assert!(Message::open(&seal(&raw[1..], 1, NOW)).is_ok());
}

/// Run with `--release`, on a calm machine.
#[test]
#[ignore = "prints rates, checks nothing"]
fn rates() {
    let clock = crate::clock::Clock::system();
    let events: Vec<Event<'_>> = (0..5_000)
        .map(|number| {
            let payload = format!(r#"{{"number":{number},"message":"{}"}}"#, noise(20, number));
            event(&format!("event-{number}"), payload)
        })
        .collect();
    let start = clock.now().mono;
    let rounds = 200;
    let mut bytes = 0;
    let mut messages = Vec::new();
    for _ in 0..rounds {
        messages = encode(&events, NOW, MAX_MESSAGE);
        bytes += messages.iter().map(Vec::len).sum::<usize>();
    }
    let encoded = clock.now().mono;
    for _ in 0..rounds {
        assert_eq!(decode(&messages).len(), events.len());
    }
    let decoded = clock.now().mono;
    let per = |took: std::time::Duration| took.as_nanos() / (rounds * events.len()) as u128;
    println!(
        "{} bytes an event, encode {} ns, decode {} ns",
        bytes / rounds / events.len(),
        per(encoded.saturating_sub(start)),
        per(decoded.saturating_sub(encoded))
    );
}
