//! Events that are erased: shown where what remains of them is enough.

use std::ops::ControlFlow;

use rusqlite::Connection;

use super::super::spent::span::{self, Span};
use super::super::spent::{self, Known, Remainder};
use super::Work;
use crate::model::event::{EventTime, Scan, ScannedEvent};
use crate::model::time::Timestamp;
use crate::store::embedded::fault::Fault;

impl<F: Fn(&[ScannedEvent<'_>]) -> ControlFlow<()> + Sync> Work<'_, F> {
    /// The spans of those that are to be shown, or how the scan ends.
    pub(super) fn erased(&self, db: &Connection) -> Result<Result<Vec<Span>, Scan>, Fault> {
        if !self.query.payloads {
            return Ok(span::all_of(db, self.query)?.ok_or(Scan::TooBroad));
        }
        let (mut last, mut cost): (Option<EventTime>, u64) = (None, 0);
        span::each_of(db, self.query, |span| {
            let later = |found: EventTime| found.micros.as_micros() > span.times.1;
            cost = cost.saturating_add(span.cost());
            if last.is_some_and(later) || cost > self.query.limit || self.is_over() {
                return Ok(ControlFlow::Break(()));
            }
            let erased = spent::find(db, span.id)?;
            let known = erased.known().ok_or_else(|| spent::damaged(span.id))?;
            last = last.max(self.last_of(&known));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(match last {
            Some(last) => Err(Scan::Gone(last)),
            None if cost > self.query.limit => Err(Scan::TooBroad),
            None => Ok(Vec::new()),
        })
    }

    /// Shows what remains of those that are meant.
    pub(super) fn show_erased(&self, db: &Connection, span: &Span) -> Result<(), Fault> {
        let erased = spent::find(db, span.id)?;
        match erased.known().ok_or_else(|| spent::damaged(span.id))? {
            Known::Events(events) => {
                let events = events.iter().map(Remainder::shown);
                let meant: Vec<_> = events.filter(|event| self.query.matches(event)).collect();
                if !meant.is_empty() && (self.each)(&meant).is_break() {
                    self.end_with(Ok(Scan::Left));
                }
            }
            known @ Known::Times(_) => {
                if let Some(last) = self.last_of(&known) {
                    self.end_with(Ok(Scan::Gone(last)));
                }
            }
        }
        Ok(())
    }

    /// When the last of those that are meant occurred.
    fn last_of(&self, known: &Known<'_>) -> Option<EventTime> {
        let query = self.query;
        match known {
            Known::Events(events) => {
                let events = events.iter().map(Remainder::shown);
                let meant = events.filter(|event| query.matches(event));
                meant.map(|event| event.time).max()
            }
            // Of each of these the nanoseconds and all names may be what is meant.
            Known::Times(times) => {
                let at = |micros: i64, nanos| EventTime {
                    micros: Timestamp::from_micros(micros),
                    nanos,
                };
                let meant = times.iter().filter(|time| {
                    query.from.is_none_or(|from| at(**time, 999) >= from)
                        && query.to.is_none_or(|to| at(**time, 0) < to)
                });
                meant.max().map(|time| at(*time, 999))
            }
        }
    }
}
