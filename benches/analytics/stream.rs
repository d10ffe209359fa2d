//! The events: each a function of its number, over 90 days, in the order in which they arrive.

use std::fmt::Write as _;

use super::figures::variable;

/// The first instant, in seconds since the epoch: 2026-01-01.
pub(crate) const START: u64 = 1_767_225_600;

/// Over so many days they are spread.
pub(crate) const DAYS: u64 = 90;

const TYPES: [&str; 8] = [
    "pageview", "add_item", "checkout", "purchase", "register", "wishlist", "download", "feedback",
];

const COUNTRIES: [&str; 10] = ["UA", "PL", "DE", "FR", "US", "GB", "IT", "ES", "RO", "CZ"];

/// How many there are.
pub(crate) fn total() -> u64 {
    variable("BENCH_EVENTS", 20_000_000)
}

/// One event.
pub(crate) struct Event {
    pub(crate) id: u128,
    /// Since the epoch.
    pub(crate) millis: u64,
    pub(crate) tenant: u64,
    pub(crate) kind: &'static str,
    pub(crate) user: u64,
    pub(crate) country: &'static str,
}

impl Event {
    /// Of a stream of `total`. A user belongs to one tenant, and one of twenty events is a day late.
    pub(crate) fn new(number: u64, total: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let late = if rng.u8(..20) == 0 {
            86_400_000
        } else {
            60_000
        };
        let along = DAYS * 86_400_000 * number / total.max(1);
        let user = rng.u64(..(total / 20).max(1));
        Self {
            id: rng.u128(..),
            millis: START * 1_000 + along.saturating_sub(rng.u64(..late)),
            tenant: user % 20,
            kind: TYPES[rng.usize(..TYPES.len())],
            user,
            country: COUNTRIES[rng.usize(..COUNTRIES.len())],
        }
    }

    pub(crate) fn tenant(&self) -> String {
        format!("shop-{:02}", self.tenant)
    }

    pub(crate) fn payload(&self) -> String {
        let (country, page) = (self.country, self.user % 2_000);
        format!(r#"{{"country":"{country}","page":"/products/{page}","items":[1,2,3]}}"#)
    }

    pub(crate) fn json(&self, out: &mut String) {
        let seconds = self.millis / 1_000;
        let time = jiff::Timestamp::from_second(seconds.cast_signed()).unwrap();
        let (millis, tenant, kind, user) =
            (self.millis % 1_000, self.tenant(), self.kind, self.user);
        write!(
            out,
            r#"{{"event_id":"{:032x}","timestamp":"{}.{millis:03}Z","tenant_id":"{tenant}","#,
            self.id,
            time.strftime("%Y-%m-%dT%H:%M:%S"),
        )
        .unwrap();
        write!(
            out,
            r#""event_type":"{kind}","user_id":"u-{user}","properties":{}}}"#,
            self.payload()
        )
        .unwrap();
    }
}
