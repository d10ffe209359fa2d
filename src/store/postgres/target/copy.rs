//! Rows as a binary `COPY` takes them.

use std::ops::Range;

use bytes::{BufMut, Bytes};
use futures_util::{SinkExt, pin_mut};

use super::super::connect::Session;
use super::super::events::escape::escape;
use super::super::events::prepare::{ARRIVAL, put_row};
use super::super::events::write::{SIGNATURE, TRAILER};
use super::super::time::Y2K;
use crate::model::event::{Event, Sequence};
use crate::model::time::Timestamp;

/// The type of `bigint`, as an array names it.
const INT8: i32 = 20;

/// Rows of one table.
pub(super) struct CopyRows {
    out: Vec<u8>,
    rows: u64,
}

impl CopyRows {
    pub(super) fn new() -> Self {
        Self {
            out: SIGNATURE.to_vec(),
            rows: 0,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.out.len()
    }

    /// Begins a row; its values follow in the order of the columns.
    pub(super) fn row(&mut self, columns: i16) -> &mut Self {
        self.rows += 1;
        self.out.put_i16(columns);
        self
    }

    pub(super) fn int2(&mut self, value: i16) -> &mut Self {
        self.value(&value.to_be_bytes())
    }

    pub(super) fn int4(&mut self, value: i32) -> &mut Self {
        self.value(&value.to_be_bytes())
    }

    pub(super) fn int8(&mut self, value: i64) -> &mut Self {
        self.value(&value.to_be_bytes())
    }

    pub(super) fn uuid(&mut self, value: u128) -> &mut Self {
        self.value(&value.to_be_bytes())
    }

    pub(super) fn at(&mut self, value: Timestamp) -> &mut Self {
        self.int8(value.as_micros().saturating_sub(Y2K))
    }

    pub(super) fn opt_at(&mut self, value: Option<Timestamp>) -> &mut Self {
        match value {
            Some(value) => self.at(value),
            None => self.null(),
        }
    }

    /// Text without U+0000.
    pub(super) fn text(&mut self, value: &str) -> &mut Self {
        self.value(value.as_bytes())
    }

    pub(super) fn opt_text(&mut self, value: Option<&str>) -> &mut Self {
        match value {
            Some(value) => self.text(value),
            None => self.null(),
        }
    }

    /// Any text, in its stored form.
    pub(super) fn escaped(&mut self, value: &str) -> &mut Self {
        self.text(&escape(value))
    }

    pub(super) fn opt_escaped(&mut self, value: Option<&str>) -> &mut Self {
        match value {
            Some(value) => self.escaped(value),
            None => self.null(),
        }
    }

    pub(super) fn value(&mut self, value: &[u8]) -> &mut Self {
        self.out.put_i32(length(value.len()));
        self.out.put_slice(value);
        self
    }

    pub(super) fn null(&mut self) -> &mut Self {
        self.out.put_i32(-1);
        self
    }

    pub(super) fn int8s(&mut self, values: &[i64]) -> &mut Self {
        // One dimension, no nulls, counted from 1.
        self.out.put_i32(length(20 + values.len() * 12));
        for head in [1, 0, INT8, length(values.len()), 1] {
            self.out.put_i32(head);
        }
        for value in values {
            self.out.put_i32(8);
            self.out.put_i64(*value);
        }
        self
    }

    /// Sends them, if there are any; `table` with its columns.
    pub(super) async fn send(
        mut self,
        session: &Session,
        table: &str,
    ) -> Result<(), tokio_postgres::Error> {
        if self.rows == 0 {
            return Ok(());
        }
        self.out.put_slice(TRAILER);
        let statement = format!("COPY {table} FROM STDIN BINARY");
        let sink = session.copy_in::<_, Bytes>(&statement).await?;
        pin_mut!(sink);
        sink.send(self.out.into()).await?;
        sink.finish().await.map(drop)
    }
}

/// Rows of table `event`. They lie in the order of their arrival where that can be had, so that
/// summaries find them.
pub(super) struct EventCopy {
    rows: Vec<u8>,
    /// The arrival of each, and where it lies.
    places: Vec<(u64, Range<usize>)>,
}

impl EventCopy {
    pub(super) fn new() -> Self {
        Self {
            rows: Vec::new(),
            places: Vec::new(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn push(&mut self, sequence: Sequence, event: &Event<'_>) {
        let begin = self.rows.len();
        put_row(&mut self.rows, event);
        let at = begin + ARRIVAL;
        if let Some(slot) = self.rows.get_mut(at..at + 8) {
            slot.copy_from_slice(&sequence.0.to_be_bytes());
        }
        self.places.push((sequence.0, begin..self.rows.len()));
    }

    /// In the order of their arrival.
    pub(super) fn sorted(mut self) -> CopyRows {
        self.places.sort_unstable_by_key(|(arrival, _)| *arrival);
        let mut copy = CopyRows::new();
        copy.out.reserve(self.rows.len() + TRAILER.len());
        for (_, place) in &self.places {
            copy.rows += 1;
            let row = self.rows.get(place.clone());
            copy.out.extend_from_slice(row.unwrap_or_default());
        }
        copy
    }
}

/// Everything that is accepted is far shorter.
fn length(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}
