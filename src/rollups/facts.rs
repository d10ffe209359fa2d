//! What the rollups need to know of events, made where events are prepared, by many threads.

mod coded;

use std::hash::Hasher;

use hashbrown::HashMap;
use siphasher::sip128::{Hasher128, SipHasher13};

use super::calendar::minute_of;
use crate::model::event::Event;

/// The key under which users are hashed. It is random and stays in the store, so that nobody
/// outside can make two users that collide.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UserKey(pub [u8; 16]);

/// A user of a tenant: the keyed hash of both.
pub(super) type UserId = [u64; 2];

impl UserKey {
    /// What remains of a user when its events are erased: enough to tell it from others.
    #[must_use]
    pub fn hash(self, tenant: &str, user: &str) -> u128 {
        let [first, second] = self.id(tenant, user);
        u128::from(first) << 64 | u128::from(second)
    }

    fn id(self, tenant: &str, user: &str) -> UserId {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        // The length first, so that no two pairs give the same bytes.
        hasher.write(&tenant.len().to_le_bytes());
        hasher.write(tenant.as_bytes());
        hasher.write(user.as_bytes());
        let hash = hasher.finish128();
        [hash.h1, hash.h2]
    }
}

/// The names of some events.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Names {
    pub(super) tenant: Box<str>,
    pub(super) source: Option<Box<str>>,
    pub(super) event_type: Option<Box<str>>,
}

/// One event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fact {
    pub(super) user: Option<UserId>,
    pub(super) minute: i64,
    /// Its place in the names.
    pub(super) names: u32,
    /// Numbers the tenants of the facts.
    pub(super) tenant: u32,
}

impl Names {
    fn key(&self) -> Key<'_> {
        (
            &self.tenant,
            self.source.as_deref(),
            self.event_type.as_deref(),
        )
    }
}

/// Tenant, source and type.
type Key<'a> = (&'a str, Option<&'a str>, Option<&'a str>);

/// Numbers of tenants.
type Tenants<'a> = HashMap<&'a str, u32>;

/// The facts of events in their order, for a choice among them.
#[derive(Clone, Debug, Default)]
pub struct Notes(Facts);

impl Notes {
    /// Of `events`.
    #[must_use]
    pub fn of<'a>(key: UserKey, events: impl IntoIterator<Item = &'a Event<'a>>) -> Self {
        Self(Facts::unsorted(events.into_iter().map(|event| {
            let user = event.user.as_deref();
            (event, user.map(|user| key.id(&event.tenant, user)))
        })))
    }

    /// Of events whose users are known by their [hashes](UserKey::hash) only.
    #[must_use]
    pub fn of_hashed<'a>(events: impl IntoIterator<Item = (&'a Event<'a>, Option<u128>)>) -> Self {
        let events = events.into_iter();
        Self(Facts::unsorted(
            events.map(|(event, user)| (event, user.map(halves))),
        ))
    }

    /// What they take in memory, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

/// The facts of some events, sorted by (tenant, minute).
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub(super) names: Vec<Names>,
    pub(super) facts: Vec<Fact>,
}

impl Facts {
    /// Of `events`.
    #[must_use]
    pub fn of<'a>(key: UserKey, events: impl IntoIterator<Item = &'a Event<'a>>) -> Self {
        Self::of_users(events.into_iter().map(|event| {
            let user = event.user.as_deref();
            (event, user.map(|user| key.id(&event.tenant, user)))
        }))
    }

    /// Of events whose users are known by their [hashes](UserKey::hash) only.
    #[must_use]
    pub fn of_hashed<'a>(events: impl IntoIterator<Item = (&'a Event<'a>, Option<u128>)>) -> Self {
        let events = events.into_iter();
        Self::of_users(events.map(|(event, user)| (event, user.map(halves))))
    }

    fn of_users<'a>(events: impl Iterator<Item = (&'a Event<'a>, Option<UserId>)>) -> Self {
        let mut made = Self::unsorted(events);
        made.sort();
        made
    }

    fn unsorted<'a>(events: impl Iterator<Item = (&'a Event<'a>, Option<UserId>)>) -> Self {
        let mut known = HashMap::new();
        let mut made = Self::default();
        let mut tenants = Tenants::default();
        for (event, user) in events {
            let key: Key<'_> = (
                &event.tenant,
                event.source.as_deref(),
                event.event_type.as_deref(),
            );
            let numbers = *known
                .entry(key)
                .or_insert_with(|| made.name(key, &mut tenants));
            made.note(user, minute_of(event.time), numbers);
        }
        made
    }

    /// Of some of the events that were noted: each time those at these places, ascending.
    #[must_use]
    pub fn of_noted<'n>(chosen: impl IntoIterator<Item = (&'n Notes, &'n [u32])>) -> Self {
        let mut known = HashMap::new();
        let mut made = Self::default();
        let mut tenants = Tenants::default();
        for (Notes(notes), places) in chosen {
            let mut numbers: Vec<Option<(u32, u32)>> = vec![None; notes.names.len()];
            for place in places {
                let Some(fact) = notes.facts.get(*place as usize) else {
                    continue;
                };
                let own = fact.names as usize;
                let (Some(slot), Some(names)) = (numbers.get_mut(own), notes.names.get(own)) else {
                    continue;
                };
                let found = *slot.get_or_insert_with(|| {
                    let key = names.key();
                    *known
                        .entry(key)
                        .or_insert_with(|| made.name(key, &mut tenants))
                });
                made.note(fact.user, fact.minute, found);
            }
        }
        made.sort();
        made
    }

    /// Adds names; their number and that of their tenant.
    fn name<'a>(&mut self, key: Key<'a>, tenants: &mut Tenants<'a>) -> (u32, u32) {
        let (tenant, source, event_type) = key;
        let number = count(self.names.len());
        self.names.push(Names {
            tenant: tenant.into(),
            source: source.map(Into::into),
            event_type: event_type.map(Into::into),
        });
        let next = count(tenants.len());
        (number, *tenants.entry(tenant).or_insert(next))
    }

    fn note(&mut self, user: Option<UserId>, minute: i64, (names, tenant): (u32, u32)) {
        self.facts.push(Fact {
            user,
            minute,
            names,
            tenant,
        });
    }

    fn sort(&mut self) {
        self.facts
            .sort_unstable_by_key(|fact| (fact.tenant, fact.minute));
    }

    /// How many events they are of.
    #[must_use]
    pub fn len(&self) -> usize {
        self.facts.len()
    }

    /// What they take in memory, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.facts.len() * size_of::<Fact>() + self.names.len() * size_of::<Names>()
    }

    /// Whether they are of no event.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.facts.is_empty()
    }
}

/// A user by its [hash](UserKey::hash).
fn halves(hash: u128) -> UserId {
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
    let halves = [(hash >> 64) as u64, hash as u64];
    halves
}

/// A request has far fewer events than a `u32` can count.
fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
