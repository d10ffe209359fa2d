//! The most frequent event types.

use std::cmp::Reverse;

use hashbrown::HashMap;

use super::Unanswered;
use super::calendar::Span;
use super::fold::Rollups;
use super::query::{Filter, Wanted};

/// An event type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopType {
    /// Its name.
    pub event_type: String,
    /// Its events.
    pub count: u64,
    /// Whose they are.
    pub unique_users: u64,
}

impl Rollups {
    /// The `limit` types with the most events in `span`; of those with equally many the first by
    /// name. Events without a type are left out.
    pub fn top_types(
        &self,
        filter: &Filter,
        span: Span,
        limit: usize,
    ) -> Result<Vec<TopType>, Unanswered> {
        let wanted = self.wanted(filter)?;
        let mut by_type: HashMap<u16, u64> = HashMap::new();
        for (n, (_, event_type)) in self.counts(&wanted, span).into_iter().zip(&self.pairs) {
            *by_type.entry(*event_type).or_default() += n;
        }
        let mut top: Vec<(Reverse<u64>, &str, u16)> = by_type
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .filter_map(|(number, count)| {
                let name = self.types.name(number.checked_sub(1)?)?;
                Some((Reverse(count), name, number))
            })
            .collect();
        top.sort_unstable();
        top.truncate(limit);
        Ok(top
            .into_iter()
            .map(|(Reverse(count), name, number)| TopType {
                event_type: name.to_owned(),
                count,
                unique_users: self.count_users(&self.of_type(&wanted, number), span),
            })
            .collect())
    }

    /// What is `wanted`, of one type.
    fn of_type(&self, wanted: &Wanted, event_type: u16) -> Wanted {
        let pairs = (0..).zip(&self.pairs);
        let of_type = pairs.map(|(number, pair)| pair.1 == event_type && wanted.pair(number));
        wanted.narrowed(event_type, of_type.collect())
    }
}
