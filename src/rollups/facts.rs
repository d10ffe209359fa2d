//! What the rollups need to know of events, made where events are prepared, by many threads.

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
        Self::of_users(events.into_iter().map(|(event, user)| {
            #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
            let halves = |hash: u128| [(hash >> 64) as u64, hash as u64];
            (event, user.map(halves))
        }))
    }

    fn of_users<'a>(events: impl Iterator<Item = (&'a Event<'a>, Option<UserId>)>) -> Self {
        let mut known: HashMap<_, (u32, u32)> = HashMap::new();
        let mut tenants: HashMap<&str, u32> = HashMap::new();
        let mut made = Self::default();
        for (event, user) in events {
            let tenant: &str = &event.tenant;
            let (source, event_type) = (event.source.as_deref(), event.event_type.as_deref());
            let next = count(known.len());
            let (names, tenant_number) =
                *known
                    .entry((tenant, source, event_type))
                    .or_insert_with(|| {
                        made.names.push(Names {
                            tenant: tenant.into(),
                            source: source.map(Into::into),
                            event_type: event_type.map(Into::into),
                        });
                        let number = count(tenants.len());
                        (next, *tenants.entry(tenant).or_insert(number))
                    });
            made.facts.push(Fact {
                user,
                minute: minute_of(event.time),
                names,
                tenant: tenant_number,
            });
        }
        made.facts
            .sort_unstable_by_key(|fact| (fact.tenant, fact.minute));
        made
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

/// A request has far fewer events than a `u32` can count.
fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
