//! Rows of events, and what of them is asked for.

use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::super::connect::fault;
use super::super::time::At;
use super::escape::{escape, unescape};
use crate::model::event::{Event, EventFilter, EventTime, Sequence, StoredEvent};
use crate::store::error::StoreError;

/// The columns of an event, in the order in which [`event`] reads them.
pub(in crate::store::postgres) const COLUMNS: &str =
    "sequence, time, nanos, tenant, topic, id, source, type, user_id, payload, extra";

/// What an event weighs in a page: its texts, and something for itself.
pub(super) const BYTES: &str = "octet_length(payload) + octet_length(extra) + octet_length(tenant)
    + octet_length(topic) + octet_length(id) + 64";

/// Whether an event is meant, by the parameters 1 to 9, which [`Meant`] has.
pub(super) const IS_MEANT: &str = "($1::text IS NULL OR tenant = $1)
    AND ($2::text IS NULL OR topic = $2) AND ($3::text IS NULL OR source = $3)
    AND ($4::text IS NULL OR type = $4) AND ($5::text IS NULL OR user_id = $5)
    AND ($6::timestamptz IS NULL OR (time, nanos) >= ($6, $7::smallint))
    AND ($8::timestamptz IS NULL OR (time, nanos) < ($8, $9::smallint))";

/// A parameter and its type.
pub(super) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// The parameters of [`IS_MEANT`].
pub(super) struct Meant {
    texts: [Option<String>; 5],
    times: [Option<At>; 2],
    nanos: [i16; 2],
}

impl Meant {
    pub(super) fn of(filter: &EventFilter) -> Self {
        let text = |text: &Option<String>| text.as_deref().map(|it| escape(it).into_owned());
        let ends = [filter.from, filter.to];
        Self {
            texts: [
                &filter.tenant,
                &filter.topic,
                &filter.source,
                &filter.event_type,
                &filter.user,
            ]
            .map(text),
            times: ends.map(|end| end.map(|end| At(end.micros))),
            nanos: ends.map(|end| end.map_or(0, |end| end.nanos.cast_signed())),
        }
    }

    pub(super) fn parameters(&self) -> Vec<Parameter<'_>> {
        let [from, to] = &self.times;
        let [from_nanos, to_nanos] = &self.nanos;
        let texts = self.texts.iter();
        let mut all: Vec<Parameter<'_>> = texts.map(|it| (it as _, Type::TEXT)).collect();
        all.push((from, Type::TIMESTAMPTZ));
        all.push((from_nanos, Type::INT2));
        all.push((to, Type::TIMESTAMPTZ));
        all.push((to_nanos, Type::INT2));
        all
    }
}

/// The event that a row begins with.
pub(in crate::store::postgres) fn event(row: &Row) -> Result<StoredEvent, StoreError> {
    let failed = |error: tokio_postgres::Error| fault(&error);
    let sequence: i64 = row.try_get(0).map_err(failed)?;
    let damaged = || StoreError::Damaged(format!("event {sequence} is not one that was written"));
    let text = |column: usize| {
        let text: Option<&str> = row.try_get(column).map_err(failed)?;
        let plain = text.map(|text| unescape(text).ok_or_else(damaged));
        Ok::<_, StoreError>(plain.transpose()?.map(|text| text.into_owned().into()))
    };
    let there = |column: usize| text(column)?.ok_or_else(damaged);
    let event = Event {
        tenant: there(3)?,
        topic: there(4)?,
        id: there(5)?,
        time: time(row, 1)?,
        source: text(6)?,
        event_type: text(7)?,
        user: text(8)?,
        payload: there(9)?,
        extra: there(10)?,
    };
    let sequence = Sequence(sequence.cast_unsigned());
    Ok(StoredEvent { sequence, event })
}

/// The time at `column` and its nanoseconds behind it.
pub(in crate::store::postgres) fn time(row: &Row, column: usize) -> Result<EventTime, StoreError> {
    let failed = |error: tokio_postgres::Error| fault(&error);
    let At(micros) = row.try_get(column).map_err(failed)?;
    let nanos: i16 = row.try_get(column + 1).map_err(failed)?;
    Ok(EventTime {
        micros,
        nanos: nanos.cast_unsigned(),
    })
}
