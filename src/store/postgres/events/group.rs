//! Requests that are written together: which of their events are new, and what becomes of the others.

use std::collections::BTreeSet;

use super::claims::Contents;
use super::parts::Month;
use super::prepare::Prepared;
use crate::model::bus::MessageName;
use crate::model::event::Receipt;
use crate::store::identity::{First, Identity};

/// Some requests, in the order in which their events arrive.
pub(super) struct Group<'r> {
    pub(super) requests: &'r [Prepared],
    /// Every event by its identity, then in the order of arrival.
    order: Vec<Member>,
    /// The first event of each identity, in the order of identities: of any two transactions that claim
    /// the same ones, both claim them in one order, so they can't wait for each other in a circle.
    pub(super) firsts: Vec<(Identity, First)>,
}

#[derive(Clone, Copy)]
struct Member {
    identity: Identity,
    request: u32,
    place: u32,
    first: First,
}

/// What a group's claim of its identities came to.
pub(super) struct Claimed {
    /// What became of each event, by request.
    pub(super) receipts: Vec<Vec<Receipt>>,
    /// The places of the new ones, by request, ascending.
    pub(super) new: Vec<Vec<u32>>,
    pub(super) accepted: u64,
    pub(super) duplicates: u64,
    pub(super) conflicting: u64,
}

impl<'r> Group<'r> {
    pub(super) fn of(requests: &'r [Prepared]) -> Self {
        let mut order = Vec::new();
        for (request, prepared) in (0..).zip(requests) {
            let places = prepared.order.iter().filter_map(|place| {
                let (identity, first) = *prepared.entries.get(*place as usize)?;
                Some(Member {
                    identity,
                    request,
                    place: *place,
                    first,
                })
            });
            order.extend(places);
        }
        // Runs that are sorted already are merged; equal ones stay in order.
        order.sort_by_key(|member| member.identity);
        let firsts = order.chunk_by(|a, b| a.identity == b.identity);
        let firsts = firsts.filter_map(|same| same.first());
        Self {
            requests,
            firsts: firsts.map(|it| (it.identity, it.first)).collect(),
            order,
        }
    }

    pub(super) fn months(&self) -> BTreeSet<Month> {
        let months = self.requests.iter().flat_map(|it| &it.months);
        months.copied().collect()
    }

    /// Those that may be new.
    pub(super) fn topics(&self) -> BTreeSet<&str> {
        let topics = self.requests.iter().flat_map(|it| &it.topics);
        topics.map(String::as_str).collect()
    }

    /// The messages that the requests are of; `None` if two are of the same.
    pub(super) fn names(&self) -> Option<Vec<MessageName>> {
        let names = self.requests.iter().flat_map(|it| &it.names);
        let mut names: Vec<MessageName> = names.copied().collect();
        names.sort_unstable();
        let each_once = names.array_windows().all(|[one, next]| one != next);
        each_once.then_some(names)
    }

    /// `spent` has the content of the first event of every identity that is not new.
    pub(super) fn claimed(&self, spent: &Contents) -> Claimed {
        let requests = self.requests.iter();
        let mut claimed = Claimed {
            receipts: requests
                .map(|it| vec![Receipt::Accepted; it.entries.len()])
                .collect(),
            new: vec![Vec::new(); self.requests.len()],
            accepted: 0,
            duplicates: 0,
            conflicting: 0,
        };
        for same in self.order.chunk_by(|a, b| a.identity == b.identity) {
            let Some(first) = same.first() else { continue };
            let known = spent.get(&first.identity);
            let content = known.copied().unwrap_or(first.first.content);
            if known.is_none() {
                claimed.accepted += 1;
                if let Some(new) = claimed.new.get_mut(first.request as usize) {
                    new.push(first.place);
                }
            }
            for again in same.iter().skip(usize::from(known.is_none())) {
                let conflicting = again.first.content != content;
                claimed.duplicates += 1;
                claimed.conflicting += u64::from(conflicting);
                let receipts = claimed.receipts.get_mut(again.request as usize);
                let slot = receipts.and_then(|it| it.get_mut(again.place as usize));
                if let Some(slot) = slot {
                    *slot = Receipt::Duplicate { conflicting };
                }
            }
        }
        for new in &mut claimed.new {
            new.sort_unstable();
        }
        claimed
    }
}
