//! The days as they follow from the cells.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cell::Cell;
use super::days::{Day, Sets};
use super::fold::{Pair, Rollups, Tenant, day_of};
use super::set::{Dense, UserSet};

impl Rollups {
    /// Makes all days anew.
    pub(super) fn derive_days(&mut self) {
        let days = &mut self.days;
        each_day(&self.tenants, &self.pairs, |number, day, sets| {
            days.restore(number, day, sets);
        });
    }
}

/// Calls `f` with each day that has events, ascending.
pub(super) fn each_day(tenants: &[Arc<Tenant>], pairs: &[Pair], mut f: impl FnMut(i32, Day, Sets)) {
    let mut cells: Vec<(i64, u16, &Cell)> = Vec::new();
    for (number, tenant) in (0..).zip(tenants) {
        let own = tenant.cells.iter();
        cells.extend(own.map(|(hour, cell)| (*hour, number, cell.as_ref())));
    }
    cells.sort_unstable_by_key(|(hour, tenant, _)| (*hour, *tenant));
    let day = |hour: i64| day_of(hour * 60);
    for cells in cells.chunk_by(|a, b| day(a.0) == day(b.0)) {
        let Some(number) = cells.first().map(|first| day(first.0)) else {
            continue;
        };
        let (made, sets) = day_of_cells(cells, pairs);
        f(number, made, sets);
    }
}

fn day_of_cells(cells: &[(i64, u16, &Cell)], pairs: &[Pair]) -> (Day, Sets) {
    let mut day = Day::default();
    let mut types: BTreeMap<u16, Dense> = BTreeMap::new();
    for (_, tenant, cell) in cells {
        let cell = cell.settled();
        cell.totals(|pair, n| day.count(*tenant, pair, n));
        for (pair, _, users) in cell.columns() {
            let event_type = pairs.get(usize::from(pair)).map_or(0, |pair| pair.1);
            let known = types.entry(event_type).or_default();
            known.insert_all(users.iter());
        }
    }
    let types: BTreeMap<u16, UserSet> = types
        .into_iter()
        .map(|(event_type, users)| (event_type, users.into_set()))
        .collect();
    let mut all = UserSet::default();
    for users in types.values() {
        all.join(users);
    }
    (day, Sets { all, types })
}
