//! What makes two events the same, and what makes them differ.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};
use xxhash_rust::xxh3::Xxh3;

use crate::model::event::Event;
use crate::rollups::UserKey;

/// A keyed hash of tenant, topic and event id.
pub(crate) type Identity = u128;

/// The event that came first with its identity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct First {
    /// When it was, in microseconds since 1970.
    pub(crate) time: i64,
    /// A hash of what it said.
    pub(crate) content: u32,
}

/// An identity and its event.
pub(crate) type Entry = (Identity, First);

/// The key of a store's identities. It is random and stays in the store, so nobody outside can make
/// two events that collide: 128 bits of [SipHash](https://www.aumasson.jp/siphash/siphash.pdf) under
/// a secret key are as good as the identity itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::store) struct Key(pub(in crate::store) [u8; 16]);

impl Key {
    /// A new one.
    pub(in crate::store) fn random() -> Self {
        Self(*uuid::Uuid::new_v4().as_bytes())
    }

    /// A key that is made from this one, for another purpose.
    pub(in crate::store) fn of_users(self) -> UserKey {
        UserKey(self.derived(b"users of rollups"))
    }

    /// Says of a checkpoint of the rollups whose it is.
    pub(in crate::store) fn of_checkpoints(self) -> [u8; 16] {
        self.derived(b"checkpoints of rollups")
    }

    /// The same for a store that may have several histories: of which of them it is.
    #[cfg(feature = "cluster")]
    pub(in crate::store) fn of_checkpoints_in(self, history: &str) -> [u8; 16] {
        self.derived(format!("checkpoints of rollups in {history}").as_bytes())
    }

    /// Says of a migration whose store it moves.
    #[cfg(feature = "cluster")]
    pub(in crate::store) fn of_migrations(self) -> [u8; 16] {
        self.derived(b"migrations")
    }

    fn derived(self, purpose: &[u8]) -> [u8; 16] {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        // No identity is hashed from these bytes: the length of its tenant would be their number.
        hasher.write(purpose);
        hasher.finish128().as_bytes()
    }

    /// The hash of (tenant, topic, id).
    pub(in crate::store) fn identity(self, tenant: &str, topic: &str, id: &str) -> Identity {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        // Lengths first, so that no two triples give the same bytes; each is at most 256.
        for part in [tenant, topic] {
            hasher.write(&part.len().to_le_bytes());
            hasher.write(part.as_bytes());
        }
        hasher.write(id.as_bytes());
        hasher.finish128().as_u128()
    }

    /// The identity of an event, and what is remembered about the first of it.
    pub(in crate::store) fn of(self, event: &Event<'_>) -> (Identity, First) {
        let identity = self.identity(&event.tenant, &event.topic, &event.id);
        let first = First {
            time: event.time.micros.as_micros(),
            content: content(event),
        };
        (identity, first)
    }
}

/// A hash of everything that an event says beyond its identity. White space between the tokens of
/// its JSON says nothing.
fn content(event: &Event<'_>) -> u32 {
    let mut hasher = Xxh3::new();
    hasher.update(&event.time.micros.as_micros().to_le_bytes());
    hasher.update(&event.time.nanos.to_le_bytes());
    for part in [&event.source, &event.event_type, &event.user] {
        let text = part.as_deref().unwrap_or_default();
        // Names are never empty, so an absent one differs from every other.
        hasher.update(&text.len().to_le_bytes());
        hasher.update(text.as_bytes());
    }
    json(&mut hasher, &event.payload);
    json(&mut hasher, &event.extra);
    let hash = hasher.digest();
    #[expect(clippy::cast_possible_truncation, reason = "half of it is enough")]
    let half = hash as u32;
    half
}

/// Adds JSON text without the white space outside of its strings.
fn json(hasher: &mut Xxh3, text: &str) {
    let bytes = text.as_bytes();
    if bytes.iter().any(u8::is_ascii_whitespace) {
        let (mut in_string, mut escaped) = (false, false);
        let says = |byte: &u8| {
            let says = in_string || !byte.is_ascii_whitespace();
            match byte {
                _ if escaped => escaped = false,
                b'\\' if in_string => escaped = true,
                b'"' => in_string = !in_string,
                _ => {}
            }
            says
        };
        let kept: Vec<u8> = bytes.iter().copied().filter(says).collect();
        hasher.update(&kept);
    } else {
        hasher.update(bytes);
    }
    hasher.update(b"\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::EventTime;

    fn event(payload: &'static str, extra: &'static str) -> Event<'static> {
        Event {
            tenant: "t".into(),
            topic: "a".into(),
            id: "1".into(),
            time: EventTime::default(),
            source: None,
            event_type: None,
            user: None,
            payload: payload.into(),
            extra: extra.into(),
        }
    }

    #[test]
    fn an_identity_is_its_three_parts_and_nothing_else() {
        let key = Key([7; 16]);
        let one = key.identity("ab", "c", "d");
        assert_eq!(one, key.identity("ab", "c", "d"));
        for (tenant, topic, id) in [("a", "bc", "d"), ("ab", "cd", ""), ("abc", "", "d")] {
            assert_ne!(one, key.identity(tenant, topic, id));
        }
        assert_ne!(one, Key([8; 16]).identity("ab", "c", "d"));
    }

    #[test]
    fn content_is_what_is_said_not_how_it_is_spaced() {
        let plain = content(&event(r#"{"a":"x y","b":1}"#, ""));
        assert_eq!(plain, content(&event("{ \"a\": \"x y\",\n\"b\" : 1 }", "")));
        assert_ne!(plain, content(&event(r#"{"a":"xy","b":1}"#, "")));
        assert_ne!(
            content(&event(r#"{"a":" \" "}"#, "")),
            content(&event(r#"{"a":" \""}"#, ""))
        );
        assert_ne!(content(&event("{}", "")), content(&event("", "{}")));
        let mut sourced = event("{}", "");
        sourced.source = Some("s".into());
        let mut typed = event("{}", "");
        typed.event_type = Some("s".into());
        assert_ne!(content(&sourced), content(&typed));
    }
}
