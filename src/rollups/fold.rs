//! What is kept, and how an event gets into it.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;

use super::Bound;
use super::cell::Cell;
use super::days::{DAY, Days};
use super::facts::{Fact, Facts, Names};
use super::names::Interner;
use super::parts::Parts;
use super::users::Users;
use crate::model::event::Sequence;

/// The most that is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Tenants.
    pub tenants: usize,
    /// Event types; also sources.
    pub names: usize,
    /// Pairs of a source and a type, of all tenants.
    pub pairs: usize,
    /// Those that came first from one tenant.
    pub own_pairs: usize,
    /// Users of all tenants.
    pub users: usize,
    /// Hours with events of all tenants: each costs 200 bytes beside its events.
    pub hours: usize,
    /// UTC days with events.
    pub days: usize,
    /// Events of all tenants: each costs up to 14 bytes.
    pub events: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            tenants: 10_000,
            names: 10_000,
            pairs: 50_000,
            own_pairs: 2_000,
            users: 10_000_000,
            hours: 2_000_000,
            days: 40_000,
            events: 100_000_000,
        }
    }
}

/// What a tenant's events are kept in.
#[derive(Clone, Debug, Default)]
pub(super) struct Tenant {
    /// By hour since the epoch.
    pub(super) cells: BTreeMap<i64, Arc<Cell>>,
    /// Of user numbers.
    pub(super) blocks: Vec<u16>,
    /// Pairs that came first from it.
    pub(super) own_pairs: usize,
    /// How many are in the cells.
    pub(super) events: usize,
    pub(super) spilled: Option<Bound>,
}

/// See the [module's page](super).
#[derive(Debug, Default)]
pub struct Rollups {
    pub(super) bounds: Bounds,
    pub(super) covers: Sequence,
    pub(super) tenants: Vec<Arc<Tenant>>,
    pub(super) tenant_names: Interner,
    pub(super) types: Interner,
    pub(super) sources: Interner,
    /// Source and type by pair.
    pub(super) pairs: Vec<Pair>,
    pub(super) pair_numbers: HashMap<Pair, u16>,
    pub(super) users: Users,
    pub(super) days: Days,
    /// What answers have found.
    pub(super) parts: Parts,
    /// Cells of all tenants.
    pub(super) hours: usize,
    /// Events in those.
    pub(super) events: usize,
    /// Whether there are tenants beyond the bound.
    pub(super) more_tenants: bool,
}

/// The numbers of a source and a type, 0 for none; names begin at 1.
pub(super) type Pair = (u16, u16);

impl Rollups {
    /// Empty ones.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            ..Self::default()
        }
    }

    /// The arrival of the last event that they know.
    #[must_use]
    pub fn covers(&self) -> Sequence {
        self.covers
    }

    /// Takes the facts of exactly the events after [`Self::covers`] up to `last`. Facts up to
    /// what is covered are known, and left out.
    pub fn fold(&mut self, facts: &Facts, last: Sequence) {
        if last > self.covers {
            self.add(facts);
            self.covered(last);
        }
    }

    /// Takes the facts of any events that are not known, in any order. Once all up to an arrival
    /// are added, say so with [`Self::covered`]; until then answers and checkpoints are of no use.
    pub fn add(&mut self, facts: &Facts) {
        let tenants = self.tenants_of(&facts.names);
        let known: Vec<Option<u16>> = tenants
            .iter()
            .zip(&facts.names)
            .map(|(tenant, names)| self.pair(*tenant, names))
            .collect();
        let hour = |fact: &Fact| (fact.tenant, fact.minute.div_euclid(60));
        for run in facts.facts.chunk_by(|a, b| hour(a) == hour(b)) {
            let Some(first) = run.first() else { continue };
            let tenant = tenants.get(first.names as usize).copied().flatten();
            if let Some(tenant) = tenant
                && let Err(bound) = self.fold_hour(tenant, hour(first).1, run, &known)
            {
                self.spill(tenant, bound);
            }
        }
    }

    /// Says that all events up to `last` were added.
    pub fn covered(&mut self, last: Sequence) {
        self.covers = self.covers.max(last);
    }

    /// Takes the facts of a tenant in an hour.
    fn fold_hour(
        &mut self,
        number: u16,
        hour: i64,
        run: &[Fact],
        known: &[Option<u16>],
    ) -> Result<(), Bound> {
        let Some(tenant) = self.tenants.get_mut(usize::from(number)) else {
            return Err(Bound::Tenants);
        };
        if tenant.spilled.is_some() {
            return Ok(());
        }
        if self.events + run.len() > self.bounds.events {
            return Err(Bound::Events);
        }
        let tenant = Arc::make_mut(tenant);
        let day_number = day_of(hour * 60);
        if self.days.len() >= self.bounds.days && !self.days.contains(day_number) {
            return Err(Bound::Days);
        }
        if !tenant.cells.contains_key(&hour) {
            if self.hours >= self.bounds.hours {
                return Err(Bound::Hours);
            }
            self.hours += 1;
        }
        let cell = Arc::make_mut(tenant.cells.entry(hour).or_default());
        let day = self.days.day(day_number);
        // All at once: the processor then waits for memory once for several of them.
        let found: Vec<Option<u32>> = run
            .iter()
            .map(|fact| fact.user.and_then(|user| self.users.find(user)))
            .collect();
        let mut pairs: Vec<u16> = Vec::with_capacity(run.len());
        for (fact, found) in run.iter().zip(found) {
            let Some(pair) = known.get(fact.names as usize).copied().flatten() else {
                return Err(Bound::Names);
            };
            let mut user = found;
            if let (None, Some(id)) = (found, fact.user) {
                let bound = self.bounds.users;
                let number = self.users.number(id, &mut tenant.blocks, bound);
                user = Some(number.ok_or(Bound::Users)?);
            }
            cell.push(pair, minute_in_hour(fact.minute), user);
            pairs.push(pair);
            if let Some(user) = user {
                let event_type = self.pairs.get(usize::from(pair)).map_or(0, |pair| pair.1);
                day.add(event_type, user);
            }
        }
        cell.pushed();
        pairs.sort_unstable();
        for same in pairs.chunk_by(|a, b| a == b) {
            if let Some(pair) = same.first() {
                day.count(number, *pair, same.len() as u64);
            }
        }
        self.days.added(day_number, run.len());
        tenant.events += run.len();
        self.events += run.len();
        Ok(())
    }

    fn tenants_of(&mut self, names: &[Names]) -> Vec<Option<u16>> {
        let mut found = Vec::with_capacity(names.len());
        for names in names {
            let tenant = self.tenant_names.number(&names.tenant, self.bounds.tenants);
            self.more_tenants |= tenant.is_none();
            self.tenants
                .resize_with(self.tenant_names.names().len(), Arc::default);
            found.push(tenant);
        }
        found
    }

    /// The pair that `tenant` means by `names`; `None` past the bound.
    fn pair(&mut self, tenant: Option<u16>, names: &Names) -> Option<u16> {
        let bound = self.bounds.names;
        let number = |interner: &mut Interner, name: Option<&str>| match name {
            None => Some(0),
            Some(name) => interner.number(name, bound)?.checked_add(1),
        };
        let tenant = self.tenants.get_mut(usize::from(tenant?))?;
        if tenant.own_pairs >= self.bounds.own_pairs {
            // Nothing new may come from it, neither a name nor a pair.
            let find = |interner: &Interner, name: Option<&str>| match name {
                None => Some(0),
                Some(name) => interner.find(name)?.checked_add(1),
            };
            let source = find(&self.sources, names.source.as_deref())?;
            let pair = (source, find(&self.types, names.event_type.as_deref())?);
            return self.pair_numbers.get(&pair).copied();
        }
        let source = number(&mut self.sources, names.source.as_deref())?;
        let pair = (
            source,
            number(&mut self.types, names.event_type.as_deref())?,
        );
        if let Some(known) = self.pair_numbers.get(&pair) {
            return Some(*known);
        }
        if self.pairs.len() >= self.bounds.pairs {
            return None;
        }
        let new = u16::try_from(self.pairs.len()).ok()?;
        Arc::make_mut(tenant).own_pairs += 1;
        self.pairs.push(pair);
        self.pair_numbers.insert(pair, new);
        Some(new)
    }

    fn spill(&mut self, tenant: u16, bound: Bound) {
        if let Some(tenant) = self.tenants.get_mut(usize::from(tenant)) {
            let tenant = Arc::make_mut(tenant);
            tenant.spilled.get_or_insert(bound);
            self.hours -= tenant.cells.len();
            self.events -= std::mem::take(&mut tenant.events);
            tenant.cells.clear();
        }
    }
}

/// The UTC day of a minute; those that no timestamp has are in the first or last one.
pub(super) fn day_of(minute: i64) -> i32 {
    i32::try_from(minute.div_euclid(DAY).clamp(-FAR, FAR)).unwrap_or_default()
}

/// In days; a hundred times as far as a timestamp can be, and far from where sums overflow.
const FAR: i64 = 500_000_000;

pub(super) fn minute_in_hour(minute: i64) -> u8 {
    u8::try_from(minute.rem_euclid(60)).unwrap_or_default()
}
