//! A Parquet file of events of one UTC day, as DuckDB and pandas read it.
//!
//! A Parquet file is *row groups*, each with all its columns one after the other, so the rows of a
//! group are kept in memory until it is written. Groups are bounded in rows and bytes, files in rows
//! and groups. Compression is Snappy: every reader has it, and it is little to build.

mod columns;
mod day;
mod rows;

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::{Compression, Encoding};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnPath;

use self::columns::Columns;
pub use self::day::Day;
pub use self::rows::PartRows;
use crate::model::event::{Event, Sequence};

/// The columns. `arrival` is absent from what a running server was asked for; `nanos` are the
/// nanoseconds beyond `timestamp`; `extra` has the keys that have no column.
const SCHEMA: &str = "
message event {
  optional int64 arrival;
  required binary tenant_id (STRING);
  required binary topic (STRING);
  required binary event_id (STRING);
  optional binary source (STRING);
  optional binary event_type (STRING);
  optional binary user_id (STRING);
  required int64 timestamp (TIMESTAMP(MICROS,true));
  required int32 nanos;
  required binary payload (STRING);
  optional binary extra (STRING);
}";

/// How large a file gets.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most rows of a group.
    pub group_rows: usize,
    /// With so many bytes of text a group is written; the row that has them is its last.
    pub group_bytes: usize,
    /// The most rows of a file.
    pub rows: usize,
    /// The most groups of a file.
    pub groups: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            group_rows: 131_072,
            group_bytes: 16 << 20,
            rows: 262_144,
            groups: 16,
        }
    }
}

/// A file in the making.
pub struct PartWriter {
    file: SerializedFileWriter<File>,
    columns: Columns,
    rows: usize,
    groups: usize,
    limits: Limits,
}

impl PartWriter {
    /// An empty file at `path`; what was there is lost.
    pub fn create(path: &Path, limits: Limits) -> io::Result<Self> {
        Self::over(File::create(path)?, limits)
    }

    /// A new file at `path`; an error if there is one.
    pub fn create_new(path: &Path, limits: Limits) -> io::Result<Self> {
        Self::over(File::create_new(path)?, limits)
    }

    /// Writes to `file`, which is empty.
    pub(super) fn over(file: File, limits: Limits) -> io::Result<Self> {
        let schema = parse_message_type(SCHEMA).map_err(into_io)?;
        let file = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties()));
        Ok(Self {
            file: file.map_err(into_io)?,
            columns: Columns::default(),
            rows: 0,
            groups: 0,
            limits,
        })
    }

    /// Adds a row. Writes when a group is full.
    pub fn push(&mut self, arrival: Option<Sequence>, event: &Event<'_>) -> io::Result<()> {
        self.columns.push(arrival, event);
        self.rows += 1;
        if self.columns.rows() >= self.limits.group_rows
            || self.columns.bytes() >= self.limits.group_bytes
        {
            self.write_group()?;
        }
        Ok(())
    }

    /// Whether nothing may be added any more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.rows >= self.limits.rows || self.groups >= self.limits.groups
    }

    /// How many rows were added.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Writes the rest and syncs the file.
    pub fn finish(mut self) -> io::Result<()> {
        if self.columns.rows() > 0 {
            self.write_group()?;
        }
        self.file.into_inner().map_err(into_io)?.sync_all()
    }

    fn write_group(&mut self) -> io::Result<()> {
        let columns = std::mem::take(&mut self.columns);
        let written = self.file.next_row_group().and_then(|mut group| {
            columns.write(&mut group)?;
            group.close()
        });
        written.map_err(into_io)?;
        self.groups += 1;
        Ok(())
    }
}

/// Renames a finished file into `folder` of `root`, under `name`, and makes that durable.
pub fn publish(temporary: &Path, root: &Path, folder: &str, name: &str) -> io::Result<()> {
    let inside = root.join(folder);
    fs::create_dir_all(&inside)?;
    fs::rename(temporary, inside.join(name))?;
    sync_names(root, folder)
}

/// Makes the names of the files in `folder` of `root` durable.
pub(super) fn sync_names(root: &Path, folder: &str) -> io::Result<()> {
    sync_dir(&root.join(folder))?;
    sync_dir(root)?;
    // These may have been made just now, too. One that can't be synced was not.
    let _ = root.ancestors().skip(1).try_for_each(sync_dir);
    Ok(())
}

/// Makes the names in `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    };
    File::open(dir)?.sync_all()
}

fn properties() -> WriterProperties {
    let column = |name: &str| ColumnPath::from(name);
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("tollgate version ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::SNAPPY);
    // Ascending numbers: their differences are small.
    for name in ["arrival", "timestamp"] {
        properties = properties
            .set_column_dictionary_enabled(column(name), false)
            .set_column_encoding(column(name), Encoding::DELTA_BINARY_PACKED);
    }
    // Nobody looks for a range of texts of JSON.
    for name in ["payload", "extra"] {
        properties =
            properties.set_column_statistics_enabled(column(name), EnabledStatistics::None);
    }
    properties.build()
}

/// What the disk said, if it was the disk.
fn into_io(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(source) => io::Error::other(source),
        },
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests;
