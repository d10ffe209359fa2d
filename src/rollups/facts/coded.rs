//! Facts as bytes, for a store that keeps them.
//!
//! ```text
//! length of the body (u32) · body, compressed by lz4
//! body    version (1 byte) · names · users · facts, each with their number first
//! names   tenant, source, type: length + 1, or 0 for none, and text
//! users   16 bytes each
//! facts   names · minute, zigzag difference to the one before · user + 1, or 0 for none
//! ```
//! Every number is a varint (LEB128).

use hashbrown::HashMap;

use super::{Fact, Facts, Names, Tenants, UserId, count};

/// The first byte of a body.
const VERSION: u8 = 1;

/// The longest body that is taken: far more than what is written at once.
const MAX_BODY: usize = 1 << 30;

/// What lz4 makes of a byte at best.
const MAX_RATIO: usize = 255;

impl Facts {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = vec![VERSION];
        put(&mut body, self.names.len() as u64);
        for names in &self.names {
            put_text(&mut body, Some(&names.tenant));
            put_text(&mut body, names.source.as_deref());
            put_text(&mut body, names.event_type.as_deref());
        }
        let mut numbers: HashMap<UserId, u64> = HashMap::new();
        let mut users: Vec<u8> = Vec::new();
        let mut facts: Vec<u8> = Vec::with_capacity(self.facts.len() * 6);
        let mut before = 0_i64;
        for fact in &self.facts {
            put(&mut facts, fact.names.into());
            let step = fact.minute.wrapping_sub(before);
            put(&mut facts, ((step << 1) ^ (step >> 63)).cast_unsigned());
            before = fact.minute;
            let number = fact.user.map_or(0, |user| {
                let next = numbers.len() as u64 + 1;
                *numbers.entry(user).or_insert_with(|| {
                    users.extend(user.into_iter().flat_map(u64::to_le_bytes));
                    next
                })
            });
            put(&mut facts, number);
        }
        put(&mut body, numbers.len() as u64);
        body.append(&mut users);
        put(&mut body, self.facts.len() as u64);
        body.append(&mut facts);
        lz4_flex::block::compress_prepend_size(&body)
    }

    /// What [`Self::encode`] made bytes of; `None` if it can't have made these.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (length, compressed) = bytes.split_first_chunk()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        if length > MAX_BODY || length / MAX_RATIO > compressed.len() {
            return None;
        }
        let body = lz4_flex::block::decompress(compressed, length).ok()?;
        let mut input = Input(&body);
        if body.len() != length || input.take(1)? != [VERSION] {
            return None;
        }
        let mut made = Self::default();
        for _ in 0..input.number()? {
            made.names.push(Names {
                tenant: input.text().ok()??,
                source: input.text().ok()?,
                event_type: input.text().ok()?,
            });
        }
        let mut users: Vec<UserId> = Vec::new();
        for _ in 0..input.number()? {
            users.push([input.half()?, input.half()?]);
        }
        made.facts = facts(&mut input, &made.names, &users)?;
        input.0.is_empty().then_some(made)
    }
}

fn facts(input: &mut Input<'_>, names: &[Names], users: &[UserId]) -> Option<Vec<Fact>> {
    let mut tenants = Tenants::default();
    let numbers: Vec<u32> = names
        .iter()
        .map(|names| {
            let next = count(tenants.len());
            *tenants.entry(&names.tenant).or_insert(next)
        })
        .collect();
    let mut facts: Vec<Fact> = Vec::new();
    let mut minute = 0_i64;
    for _ in 0..input.number()? {
        let names = u32::try_from(input.number()?).ok()?;
        let step = input.number()?;
        minute = minute.wrapping_add((step >> 1).cast_signed() ^ -(step & 1).cast_signed());
        let user = match input.number()?.checked_sub(1) {
            None => None,
            Some(place) => Some(*users.get(usize::try_from(place).ok()?)?),
        };
        facts.push(Fact {
            user,
            minute,
            names,
            tenant: *numbers.get(names as usize)?,
        });
    }
    Some(facts)
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn put_text(out: &mut Vec<u8>, text: Option<&str>) {
    put(out, text.map_or(0, |text| text.len() as u64 + 1));
    out.extend_from_slice(text.unwrap_or_default().as_bytes());
}

/// What is left to read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.take(1)?.first()?;
            let bits = u64::from(byte & 0x7f);
            if (bits << shift) >> shift != bits {
                return None;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// A text, if there is one; `Err` if it can't have been written.
    fn text(&mut self) -> Result<Option<Box<str>>, ()> {
        let Some(length) = self.number().ok_or(())?.checked_sub(1) else {
            return Ok(None);
        };
        let length = usize::try_from(length).map_err(drop)?;
        let bytes = self.take(length).ok_or(())?;
        let text = std::str::from_utf8(bytes).map_err(drop)?;
        Ok(Some(text.into()))
    }

    fn half(&mut self) -> Option<u64> {
        let bytes = self.take(8)?;
        Some(u64::from_le_bytes(*bytes.first_chunk()?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Notes, UserKey};
    use super::*;
    use crate::model::event::{Event, EventTime};
    use crate::model::time::Timestamp;

    const KEY: UserKey = UserKey([3; 16]);

    fn event(micros: i64, tenant: u8, kind: Option<u8>, user: Option<u8>) -> Event<'static> {
        Event {
            tenant: format!("t{tenant}").into(),
            topic: "".into(),
            id: "1".into(),
            time: EventTime {
                micros: Timestamp::from_micros(micros),
                nanos: 0,
            },
            source: kind.filter(|kind| kind % 2 == 0).map(|_| "s".into()),
            event_type: kind.map(|kind| format!("k{kind}").into()),
            user: user.map(|user| format!("u{user}").into()),
            payload: "{}".into(),
            extra: "".into(),
        }
    }

    /// Each fact with its names, in no order that matters.
    fn told(facts: &Facts) -> Vec<String> {
        let mut told: Vec<String> = facts
            .facts
            .iter()
            .map(|it| {
                format!(
                    "{:?} {} {:?}",
                    facts.names[it.names as usize], it.minute, it.user
                )
            })
            .collect();
        told.sort();
        told
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            events in prop::collection::vec((any::<i64>(), 0_u8..4, any::<Option<u8>>(), any::<Option<u8>>()), 0..60),
            cut in any::<prop::sample::Index>(),
        ) {
            let events: Vec<_> = events.into_iter().map(|(m, t, k, u)| event(m, t, k, u)).collect();
            let facts = Facts::of(KEY, &events);
            let bytes = facts.encode();
            let decoded = Facts::decode(&bytes).unwrap();
            prop_assert_eq!(told(&decoded), told(&facts));
            prop_assert_eq!(decoded.encode(), bytes.clone());
            prop_assert!(Facts::decode(&bytes[..cut.index(bytes.len())]).is_none());
        }

        #[test]
        fn notes_give_the_facts_of_those_that_are_chosen(
            events in prop::collection::vec((0..1_000_000_000_i64, 0_u8..3, any::<Option<u8>>(), any::<Option<u8>>(), any::<bool>()), 0..60),
            split in any::<prop::sample::Index>(),
        ) {
            let all: Vec<_> = events.iter().map(|(m, t, k, u, _)| event(*m, *t, *k, *u)).collect();
            let at = split.index(all.len() + 1);
            let wanted = |range: std::ops::Range<usize>| -> Vec<u32> {
                let chosen = range.clone().filter(|place| events[*place].4);
                chosen.map(|place| u32::try_from(place - range.start).unwrap()).collect()
            };
            let parts = [(Notes::of(KEY, &all[..at]), wanted(0..at)), (Notes::of(KEY, &all[at..]), wanted(at..all.len()))];
            let merged = Facts::of_noted(parts.iter().map(|(notes, places)| (notes, places.as_slice())));
            let chosen = all.iter().zip(&events).filter(|(_, it)| it.4).map(|(event, _)| event);
            prop_assert_eq!(told(&merged), told(&Facts::of(KEY, chosen)));
        }
    }
}
