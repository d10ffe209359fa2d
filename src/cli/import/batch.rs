//! Rows on their way: one request's worth, with what it takes to say which row was refused.

use std::collections::BTreeMap;
use std::mem;

use super::rejects::Reject;
use super::rows::Row;
use crate::cli::client::Offence;
use crate::events::parse::{self, Format, Refusal, Request, Route};
use crate::model::event::Event;

/// What the body begins with, and what ends it in place of the last comma.
const HEAD: &[u8] = br#"{"events":["#;
const TAIL: &[u8] = b"]}";

/// What rows are held to where no server does it. Batches have a bound of their own.
const RULES: Request = Request {
    format: Format::Json,
    route: Route::Bulk,
    max: usize::MAX,
    partial: true,
};

/// How much a batch may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Rows.
    pub(super) rows: usize,
    /// Bytes, beyond its last row.
    pub(super) bytes: usize,
}

/// Some rows, one behind the other.
pub(super) struct Batch {
    /// `{"events":[...,`: every row followed by a comma.
    events: Vec<u8>,
    /// The same rows as they were found.
    raw: Vec<u8>,
    spans: Vec<Span>,
    refused_bytes: usize,
    /// Those that were refused.
    pub(super) rejects: Vec<Reject>,
}

/// Where a row ends.
struct Span {
    line: u64,
    event: usize,
    raw: usize,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            events: HEAD.to_vec(),
            raw: Vec::new(),
            spans: Vec::new(),
            refused_bytes: 0,
            rejects: Vec::new(),
        }
    }
}

impl Batch {
    /// Where the next row's JSON goes.
    pub(super) fn events(&mut self) -> &mut Vec<u8> {
        &mut self.events
    }

    /// Takes a row whose JSON was added, or which was refused.
    pub(super) fn push(&mut self, row: Row<'_>) {
        match row.refused {
            Some(reason) => {
                self.refused_bytes += row.raw.len();
                self.rejects.push(Reject {
                    line: row.line,
                    raw: row.raw.to_vec(),
                    reason,
                });
            }
            None => self.keep(row.line, row.raw),
        }
    }

    fn keep(&mut self, line: u64, raw: &[u8]) {
        self.events.push(b',');
        self.raw.extend_from_slice(raw);
        self.spans.push(Span {
            line,
            event: self.events.len(),
            raw: self.raw.len(),
        });
    }

    /// Good rows and refused ones.
    pub(super) fn rows(&self) -> usize {
        self.spans.len() + self.rejects.len()
    }

    /// Whether a row more is too much.
    pub(super) fn is_full(&self, limits: Limits) -> bool {
        let bytes = self.events.len() + self.raw.len() + self.refused_bytes;
        self.rows() >= limits.rows || bytes >= limits.bytes
    }

    /// The body of a request; `None` if no row is good.
    pub(super) fn body(&self) -> Option<Vec<u8>> {
        let events = self.events.strip_suffix(b",")?;
        Some([events, TAIL].concat())
    }

    /// Gives the events of `body`, which is this batch's, to `good` if no row breaks a rule; else
    /// moves those that do to the rejects.
    pub(super) fn check<T>(
        &mut self,
        body: &[u8],
        good: impl FnOnce(&[Event<'_>]) -> T,
    ) -> Option<T> {
        let mut reasons = Reasons::default();
        match parse::parse(body, &RULES) {
            Ok(parsed) if parsed.refused.is_empty() => return Some(good(&parsed.events)),
            Ok(parsed) => {
                for refused in &parsed.refused {
                    for offence in refused.offences.listed() {
                        reasons.add(refused.index, offence.pointer(), offence.detail());
                    }
                }
            }
            Err(_) => self.read_one_by_one(&mut reasons),
        }
        self.refuse(reasons);
        None
    }

    /// Finds the rows that spoil the whole body for a reader: nested too deep, say.
    fn read_one_by_one(&self, reasons: &mut Reasons) {
        let mut start = HEAD.len();
        for (index, span) in self.spans.iter().enumerate() {
            let event = self.events.get(start..span.event - 1).unwrap_or_default();
            start = span.event;
            match parse::parse(&[HEAD, event, TAIL].concat(), &RULES) {
                Ok(_) => {}
                Err(Refusal::Malformed(why)) => reasons.add(index, "", &why),
                Err(Refusal::Invalid(_) | Refusal::TooMany { .. }) => {
                    reasons.add(index, "", "it is no event");
                }
            }
        }
    }

    /// Moves the rows that `offences` point at to the rejects; whether there is any.
    pub(super) fn refuse_offences(&mut self, offences: &[Offence]) -> bool {
        let mut reasons = Reasons::default();
        for offence in offences {
            if let Some((index, place)) = pointed_at(&offence.pointer) {
                reasons.add(index, place, &offence.detail);
            }
        }
        self.refuse(reasons)
    }

    fn refuse(&mut self, Reasons(mut reasons): Reasons) -> bool {
        let before = mem::take(self);
        self.rejects = before.rejects;
        let (mut event, mut raw) = (HEAD.len(), 0);
        let mut found = false;
        for (index, span) in before.spans.iter().enumerate() {
            // Without its comma.
            let json = before.events.get(event..span.event - 1).unwrap_or_default();
            let text = before.raw.get(raw..span.raw).unwrap_or_default();
            (event, raw) = (span.event, span.raw);
            if let Some(reason) = reasons.remove(&index) {
                found = true;
                self.rejects.push(Reject {
                    line: span.line,
                    raw: text.to_vec(),
                    reason,
                });
            } else {
                self.events.extend_from_slice(json);
                self.keep(span.line, text);
            }
        }
        found
    }
}

/// Why rows are refused, by their number in the batch.
#[derive(Default)]
struct Reasons(BTreeMap<usize, String>);

impl Reasons {
    fn add(&mut self, index: usize, place: &str, detail: &str) {
        let reason = self.0.entry(index).or_default();
        if !reason.is_empty() {
            reason.push_str("; ");
        }
        let place = place.trim_start_matches('/');
        if !place.is_empty() {
            reason.push_str(place);
            reason.push_str(": ");
        }
        reason.push_str(detail);
    }
}

/// The number of the event that a pointer goes to or into, and the rest of it.
fn pointed_at(pointer: &str) -> Option<(usize, &str)> {
    let rest = pointer.strip_prefix("/events").unwrap_or(pointer);
    let rest = rest.strip_prefix('/')?;
    let (index, place) = rest.split_once('/').unwrap_or((rest, ""));
    Some((index.parse().ok()?, place))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(count: usize) -> Batch {
        let mut batch = Batch::default();
        for number in 0..count {
            let raw = format!("row {number}");
            batch
                .events()
                .extend_from_slice(format!("[{number}]").as_bytes());
            batch.push(Row {
                line: u64::try_from(number).unwrap() + 2,
                raw: raw.as_bytes(),
                refused: None,
            });
        }
        batch
    }

    fn body(batch: &Batch) -> Option<String> {
        batch.body().map(|body| String::from_utf8(body).unwrap())
    }

    fn offence(pointer: &str, detail: &str) -> Offence {
        Offence {
            pointer: pointer.to_owned(),
            detail: detail.to_owned(),
        }
    }

    #[test]
    fn what_is_pointed_at_leaves_with_its_line_and_reasons() {
        let mut batch = batch(4);
        assert_eq!(body(&batch).unwrap(), r#"{"events":[[0],[1],[2],[3]]}"#);
        assert!(batch.refuse_offences(&[
            offence("/events/1/timestamp", "is no time"),
            offence("/events/1/user_id", "is blank"),
            offence("/3", "is no object"),
        ]));
        assert_eq!(body(&batch).unwrap(), r#"{"events":[[0],[2]]}"#);
        let rejects: Vec<_> = batch
            .rejects
            .iter()
            .map(|it| (it.line, it.raw.as_slice(), it.reason.as_str()))
            .collect();
        assert_eq!(
            rejects,
            [
                (3, &b"row 1"[..], "timestamp: is no time; user_id: is blank"),
                (5, &b"row 3"[..], "is no object"),
            ]
        );
        assert_eq!(batch.rows(), 4);
        assert!(batch.refuse_offences(&[offence("/events/0", "x"), offence("/events/1", "y")]));
        assert_eq!(body(&batch), None);
        assert_eq!(batch.rejects.last().unwrap().line, 4);
    }

    #[test]
    fn what_points_at_no_row_changes_nothing() {
        let mut batch = batch(2);
        for pointer in ["", "/", "/events", "/events/2", "/x/0", "/events/-"] {
            assert!(
                !batch.refuse_offences(&[offence(pointer, "bad")]),
                "{pointer}"
            );
            assert_eq!(body(&batch).unwrap(), r#"{"events":[[0],[1]]}"#);
        }
    }

    #[test]
    fn it_is_full_at_a_number_of_rows_and_of_bytes() {
        let limits = |rows, bytes| Limits { rows, bytes };
        let mut batch = batch(2);
        assert!(!batch.is_full(limits(3, usize::MAX)));
        batch.push(Row {
            line: 9,
            raw: b"x",
            refused: Some("bad".to_owned()),
        });
        assert!(batch.is_full(limits(3, usize::MAX)));
        for refused in [None, Some("bad".to_owned())] {
            let mut batch = Batch::default();
            batch.push(Row {
                line: 2,
                raw: &[0; 100],
                refused,
            });
            let bytes = batch.events.len() + 100;
            assert!(batch.is_full(limits(2, bytes)));
            assert!(!batch.is_full(limits(2, bytes + 1)));
        }
    }
}
