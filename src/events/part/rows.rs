//! Reading a part back: what is removed from the store was first found again in its file.

use std::fs::File;
use std::io;
use std::path::Path;

use parquet::errors::ParquetError;
use parquet::file::reader::SerializedFileReader;
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};

use super::into_io;
use crate::model::event::{Event, EventTime, Sequence};
use crate::model::time::Timestamp;

/// The rows of a file in the order in which they were written.
pub struct PartRows(RowIter<'static>);

impl PartRows {
    /// Opens the file at `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let reader = SerializedFileReader::new(File::open(path)?).map_err(into_io)?;
        Ok(Self(reader.into_iter()))
    }
}

impl Iterator for PartRows {
    type Item = io::Result<(Option<Sequence>, Event<'static>)>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.0.next()?;
        Some(row.and_then(event).map_err(into_io))
    }
}

fn event(row: Row) -> Result<(Option<Sequence>, Event<'static>), ParquetError> {
    let mut arrival = None;
    let mut event = Event {
        tenant: "".into(),
        topic: "".into(),
        id: "".into(),
        time: EventTime::default(),
        source: None,
        event_type: None,
        user: None,
        payload: "".into(),
        extra: "".into(),
    };
    for (name, field) in row.into_columns() {
        match (name.as_str(), field) {
            ("arrival", Field::Long(number)) => arrival = Some(Sequence(number.cast_unsigned())),
            ("tenant_id", Field::Str(text)) => event.tenant = text.into(),
            ("topic", Field::Str(text)) => event.topic = text.into(),
            ("event_id", Field::Str(text)) => event.id = text.into(),
            ("source", Field::Str(text)) => event.source = Some(text.into()),
            ("event_type", Field::Str(text)) => event.event_type = Some(text.into()),
            ("user_id", Field::Str(text)) => event.user = Some(text.into()),
            ("timestamp", Field::TimestampMicros(micros)) => {
                event.time.micros = Timestamp::from_micros(micros);
            }
            ("nanos", Field::Int(nanos)) => {
                event.time.nanos = u16::try_from(nanos)?;
            }
            ("payload", Field::Str(text)) => event.payload = text.into(),
            ("extra", Field::Str(text)) => event.extra = text.into(),
            ("arrival" | "source" | "event_type" | "user_id" | "extra", Field::Null) => {}
            (name, _) => {
                let text = format!("column {name} is none of events");
                return Err(ParquetError::General(text));
            }
        }
    }
    Ok((arrival, event))
}
