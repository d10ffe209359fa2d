//! The rows of a group, column by column.

use std::io::Write;

use parquet::column::writer::ColumnWriterImpl;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::{ParquetError, Result};
use parquet::file::writer::SerializedRowGroupWriter;

use crate::model::event::{Event, Sequence};

/// One field for each column of the schema.
#[derive(Default)]
pub(super) struct Columns {
    rows: usize,
    bytes: usize,
    arrival: Vec<i64>,
    arrival_levels: Vec<i16>,
    tenant: Text,
    topic: Text,
    id: Text,
    source: Text,
    event_type: Text,
    user: Text,
    timestamp: Vec<i64>,
    nanos: Vec<i32>,
    payload: Text,
    extra: Text,
}

impl Columns {
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// How many bytes of text there are.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(&mut self, arrival: Option<Sequence>, event: &Event<'_>) {
        self.rows += 1;
        self.arrival_levels.push(i16::from(arrival.is_some()));
        self.arrival
            .extend(arrival.map(|Sequence(arrival)| arrival.cast_signed()));
        self.timestamp.push(event.time.micros.as_micros());
        self.nanos.push(i32::from(event.time.nanos));
        let extra = Some(&*event.extra).filter(|extra| !extra.is_empty());
        for (column, text) in [
            (&mut self.tenant, Some(&*event.tenant)),
            (&mut self.topic, Some(&*event.topic)),
            (&mut self.id, Some(&*event.id)),
            (&mut self.source, event.source.as_deref()),
            (&mut self.event_type, event.event_type.as_deref()),
            (&mut self.user, event.user.as_deref()),
            (&mut self.payload, Some(&*event.payload)),
            (&mut self.extra, extra),
        ] {
            column.push(text);
            self.bytes += text.map_or(0, str::len);
        }
    }

    /// Writes all of them, in the order of the schema.
    pub(super) fn write<W: Write + Send>(
        self,
        group: &mut SerializedRowGroupWriter<'_, W>,
    ) -> Result<()> {
        let levels = Some(self.arrival_levels.as_slice());
        next::<Int64Type, W>(group, &self.arrival, levels)?;
        self.tenant.write(group, false)?;
        self.topic.write(group, false)?;
        self.id.write(group, false)?;
        self.source.write(group, true)?;
        self.event_type.write(group, true)?;
        self.user.write(group, true)?;
        next::<Int64Type, W>(group, &self.timestamp, None)?;
        next::<Int32Type, W>(group, &self.nanos, None)?;
        self.payload.write(group, false)?;
        self.extra.write(group, true)
    }
}

/// A column of text.
#[derive(Default)]
struct Text {
    /// All texts, one after the other,
    bytes: Vec<u8>,
    /// and how long each is.
    lengths: Vec<usize>,
    /// For each row 1 if it has a text, else 0.
    levels: Vec<i16>,
}

impl Text {
    fn push(&mut self, text: Option<&str>) {
        self.levels.push(i16::from(text.is_some()));
        if let Some(text) = text {
            self.bytes.extend_from_slice(text.as_bytes());
            self.lengths.push(text.len());
        }
    }

    fn write<W: Write + Send>(
        self,
        group: &mut SerializedRowGroupWriter<'_, W>,
        optional: bool,
    ) -> Result<()> {
        let all = ByteArray::from(self.bytes);
        let texts = self.lengths.iter().scan(0, |at, &length| {
            let text = all.slice(*at, length);
            *at += length;
            Some(text)
        });
        let texts: Vec<ByteArray> = texts.collect();
        let levels = optional.then_some(self.levels.as_slice());
        next::<ByteArrayType, W>(group, &texts, levels)
    }
}

/// Writes the next column: the values that are there, and for an optional one which rows have them.
fn next<T: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &[T::T],
    levels: Option<&[i16]>,
) -> Result<()> {
    let Some(mut column) = group.next_column()? else {
        return Err(ParquetError::General("there is a column too many".into()));
    };
    let writer: &mut ColumnWriterImpl<'_, T> = column.typed::<T>();
    writer.write_batch(values, levels, None)?;
    column.close()
}
