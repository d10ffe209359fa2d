//! Compares rollups with others made of the same events, and what is derived in them with what it
//! is derived from.
//!
//! Two that took the same events in another order have other numbers for the same names and users:
//! so everything is compared by name, and users by their hash.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;

use super::cell::{Cell, Entry, Extra};
use super::days::Days;
use super::derive::each_day;
use super::fold::{Rollups, Tenant};
use super::set::Dense;

/// What two rollups have of a tenant: each pair is of the one and of the other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TenantComparison {
    /// Its name.
    pub tenant: String,
    /// Its events.
    pub events: (u64, u64),
    /// Whose they are.
    pub users: (u64, u64),
    /// Hours with events.
    pub hours: (u64, u64),
    /// Hours in which any minute, source, type or user has other events.
    pub differing_hours: u64,
    /// Whether it has gone past a bound: then there is nothing else of it.
    pub spilled: (bool, bool),
}

impl TenantComparison {
    /// Whether both have the same.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.differing_hours == 0 && self.spilled.0 == self.spilled.1
    }
}

/// The numbers of the one for the numbers of the other; what the one doesn't know has none.
struct Numbers {
    pairs: Vec<Option<u16>>,
    users: HashMap<u32, u32>,
}

/// A cell by the numbers of the one.
type Content = (Vec<Entry>, Vec<Extra>);

impl Rollups {
    /// Compares each tenant that either has, by name.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Vec<TenantComparison> {
        let numbers = self.numbers_for(other);
        let names = [self, other].map(|it| it.tenant_names.names().iter());
        let names: BTreeSet<&str> = names.into_iter().flatten().map(AsRef::as_ref).collect();
        let compared = names.into_iter().map(|name| {
            let (one, two) = (self.tenant(name), other.tenant(name));
            let of = |tenant: Option<&Tenant>| tenant.map(totals).unwrap_or_default();
            let ((events, users, hours), others) = (of(one), of(two));
            let spilled = |tenant: Option<&Tenant>| tenant.is_some_and(|it| it.spilled.is_some());
            TenantComparison {
                tenant: name.to_owned(),
                events: (events, others.0),
                users: (users, others.1),
                hours: (hours, others.2),
                differing_hours: differing(one, two, &numbers),
                spilled: (spilled(one), spilled(two)),
            }
        });
        compared.collect()
    }

    fn tenant(&self, name: &str) -> Option<&Tenant> {
        let number = self.tenant_names.find(name)?;
        self.tenants.get(usize::from(number)).map(AsRef::as_ref)
    }

    fn numbers_for(&self, other: &Self) -> Numbers {
        let source = |number: u16| match number.checked_sub(1) {
            None => Some(0),
            Some(place) => Some(self.sources.find(other.sources.name(place)?)? + 1),
        };
        let event_type = |number: u16| match number.checked_sub(1) {
            None => Some(0),
            Some(place) => Some(self.types.find(other.types.name(place)?)? + 1),
        };
        let pair = |pair: &(u16, u16)| {
            let pair = (source(pair.0)?, event_type(pair.1)?);
            self.pair_numbers.get(&pair).copied()
        };
        let users = other.users.iter();
        Numbers {
            pairs: other.pairs.iter().map(pair).collect(),
            users: users
                .filter_map(|(id, number)| Some((number, self.users.find(id)?)))
                .collect(),
        }
    }

    /// How many days, unions of 8 and of 64 days don't have the events and users that follow from
    /// the cells.
    #[must_use]
    pub fn wrong_days(&self) -> u64 {
        let mut derived = Days::default();
        each_day(&self.tenants, &self.pairs, |number, day, sets| {
            derived.restore(number, day, sets);
        });
        // Of a tenant that has gone past a bound the cells are gone, and the days are not.
        let gone = self.tenants.iter().filter(|it| it.spilled.is_some());
        let mut gone: Vec<u16> = gone.flat_map(|it| it.blocks.iter().copied()).collect();
        gone.sort_unstable();
        let mut wrong = BTreeSet::new();
        for (days, types) in self.days.unions().chain(derived.unions()) {
            let same = |of: &Option<u16>| {
                let mut kept = self.days.users(*of, days.clone());
                kept.remove_blocks(&gone);
                kept == derived.users(*of, days.clone())
            };
            if !types.iter().all(same) {
                wrong.insert((days.start, days.end));
            }
        }
        let counts = |days: &Days| {
            let mut counts = BTreeMap::new();
            for (number, day) in days.range(i32::MIN..i32::MAX) {
                for ((tenant, pair), n) in &day.counts {
                    let tenant_kept = self.tenants.get(usize::from(*tenant));
                    if tenant_kept.is_some_and(|it| it.spilled.is_none()) {
                        counts.insert((number, *tenant, *pair), *n);
                    }
                }
            }
            counts
        };
        let (kept, derived) = (counts(&self.days), counts(&derived));
        let differ = |key: &&(i32, u16, u16)| kept.get(*key) != derived.get(*key);
        for (day, ..) in kept.keys().chain(derived.keys()).filter(differ) {
            wrong.insert((*day, day.saturating_add(1)));
        }
        wrong.len() as u64
    }
}

/// Events, users and hours.
fn totals(tenant: &Tenant) -> (u64, u64, u64) {
    let mut events = 0;
    let mut users = Dense::default();
    for cell in tenant.cells.values() {
        let cell = cell.settled();
        cell.totals(|_, n| events += n);
        for (_, _, own) in cell.columns() {
            users.insert_all(own.iter());
        }
    }
    (events, users.into_set().len(), tenant.cells.len() as u64)
}

fn differing(one: Option<&Tenant>, other: Option<&Tenant>, numbers: &Numbers) -> u64 {
    let cells = |tenant: Option<&Tenant>| tenant.map(|it| it.cells.clone()).unwrap_or_default();
    let (one, mut other) = (cells(one), cells(other));
    let mut differing = 0;
    for (hour, cell) in one {
        let same = other.remove(&hour).and_then(|it| numbers.content(&it));
        differing += u64::from(same != Some(content(&cell)));
    }
    differing + other.len() as u64
}

fn content(cell: &Cell) -> Content {
    let cell = cell.settled();
    (cell.sorted().collect(), cell.extras().to_vec())
}

impl Numbers {
    /// What is in a cell of the other; `None` if the one can't have it.
    fn content(&self, cell: &Cell) -> Option<Content> {
        let pair = |pair: u16| self.pairs.get(usize::from(pair)).copied().flatten();
        let (entries, extras) = content(cell);
        let entries = entries.into_iter().map(|it| {
            let user = self.users.get(&it.user())?;
            Some(Entry::new(pair(it.pair())?, it.minute(), *user))
        });
        let mut entries = entries.collect::<Option<Vec<Entry>>>()?;
        entries.sort_unstable();
        let extras = extras.into_iter().map(|it| {
            let pair = pair(it.pair)?;
            Some(Extra { pair, ..it })
        });
        let mut extras = extras.collect::<Option<Vec<Extra>>>()?;
        extras.sort_unstable_by_key(|it| (it.pair, it.minute));
        Some((entries, extras))
    }
}
