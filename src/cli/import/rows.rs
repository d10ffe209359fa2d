//! Splits the input into rows, and makes each row the JSON of an event.

use std::io::{self, Read};

use csv_core::ReadRecordResult;
use serde_json::value::RawValue;

use super::columns::Columns;
use super::source::Source;

/// The longest row, in bytes: a payload of the largest size, every character escaped, fits.
pub(super) const MAX_ROW: usize = 1 << 20;

/// The most columns of a CSV file.
const MAX_COLUMNS: usize = 1_024;

/// How much of a row that is too long is kept for the reject file.
const KEPT_OF_LONG: usize = 1_024;

/// What stands before the first character of some files.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One row as it was found.
pub(super) struct Row<'a> {
    /// The line on which it starts, from 1.
    pub(super) line: u64,
    /// Its bytes, without the line's end.
    pub(super) raw: &'a [u8],
    /// Why it can't be an event.
    pub(super) refused: Option<String>,
}

/// What a file is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(super) enum Format {
    /// A header, then a row a record.
    Csv,
    /// A JSON object a line.
    Ndjson,
}

/// All rows of an input.
pub(super) enum Rows {
    /// Of a CSV file.
    Csv(Box<CsvRows>),
    /// Of a file of JSON lines.
    Ndjson(JsonRows),
}

impl Rows {
    /// Reads the header. Without a format, one that starts with `{` is JSON.
    pub(super) fn new(source: Source, format: Option<Format>) -> io::Result<Self> {
        let mut window = Window::new(source);
        while window.rest().len() < BYTE_ORDER_MARK.len() && window.more()? {}
        if window.rest().starts_with(BYTE_ORDER_MARK) {
            window.start += BYTE_ORDER_MARK.len();
        }
        let first = loop {
            let mut rest = window.rest().iter();
            let found = rest.find(|byte| !byte.is_ascii_whitespace()).copied();
            if found.is_some() || !window.more()? {
                break found;
            }
        };
        let looks = if first == Some(b'{') {
            Format::Ndjson
        } else {
            Format::Csv
        };
        match format.unwrap_or(looks) {
            Format::Csv => Ok(Self::Csv(Box::new(CsvRows::new(window)?))),
            Format::Ndjson if first == Some(b'[') => Err(invalid(
                "this is a JSON array: one object a line is needed (jq -c '.[]' makes it so)",
            )),
            Format::Ndjson => Ok(Self::Ndjson(JsonRows { window, line: 0 })),
        }
    }

    /// The next row, its JSON added to `out` unless it is refused; `None` behind the last.
    pub(super) fn next(&mut self, out: &mut Vec<u8>) -> io::Result<Option<Row<'_>>> {
        match self {
            Self::Csv(rows) => rows.next(out),
            Self::Ndjson(rows) => rows.next(out),
        }
    }

    /// The header as it was found; `None` for JSON.
    pub(super) fn header(&self) -> Option<&[u8]> {
        match self {
            Self::Csv(rows) => Some(&rows.header),
            Self::Ndjson(_) => None,
        }
    }
}

pub(super) fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// A part of the input, at most [`MAX_ROW`] long.
struct Window {
    source: Source,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Window {
    fn new(source: Source) -> Self {
        Self {
            source,
            buffer: vec![0; MAX_ROW],
            start: 0,
            end: 0,
        }
    }

    /// What was read and not yet used.
    fn rest(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    fn is_full(&self) -> bool {
        self.start == 0 && self.end == self.buffer.len()
    }

    /// Reads on; `false` at the end of the input, and when the window is full.
    fn more(&mut self) -> io::Result<bool> {
        // Moving what is left is cheap only if it is little or seldom.
        if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let space = self.buffer.get_mut(self.end..).unwrap_or_default();
        if space.is_empty() {
            return Ok(false);
        }
        loop {
            match self.source.read(space) {
                Ok(got) => {
                    self.end += got;
                    return Ok(got > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The rows of a CSV file.
pub(super) struct CsvRows {
    window: Window,
    reader: csv_core::Reader,
    /// Whether the window holds the last of the input.
    ended: bool,
    fields: Fields,
    header: Vec<u8>,
    columns: Columns,
}

/// The fields of one record, without their quotes.
struct Fields {
    text: Vec<u8>,
    ends: Vec<usize>,
    count: usize,
}

impl Fields {
    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let ends = self.ends.iter().take(self.count);
        ends.scan(0, |start, end| {
            let field = self.text.get(*start..*end).unwrap_or_default();
            *start = *end;
            Some(field)
        })
    }
}

/// Where a record was found: its line, and the number of its bytes in the window.
struct Found {
    line: u64,
    length: usize,
}

impl CsvRows {
    fn new(window: Window) -> io::Result<Self> {
        let mut rows = Self {
            window,
            reader: csv_core::Reader::new(),
            ended: false,
            fields: Fields {
                text: vec![0; MAX_ROW],
                ends: vec![0; MAX_COLUMNS],
                count: 0,
            },
            header: Vec::new(),
            columns: Columns::default(),
        };
        let Some(found) = rows.record()? else {
            return Err(invalid("it is empty: a header is needed"));
        };
        let raw = rows.window.rest().get(..found.length).unwrap_or_default();
        rows.header = raw.trim_ascii().to_vec();
        rows.columns = Columns::of(rows.fields.iter()).map_err(invalid)?;
        rows.window.start += found.length;
        Ok(rows)
    }

    /// Finds the next record, which then starts where the window does.
    fn record(&mut self) -> io::Result<Option<Found>> {
        let (mut length, mut text, mut ends) = (0, 0, 0);
        let before = self.reader.line();
        loop {
            let input = self.window.rest().get(length..).unwrap_or_default();
            if input.is_empty() && !self.ended {
                // No input means the end to the reader.
                self.ended = !self.window.more()?;
                if self.window.is_full() && self.ended {
                    return Err(too_long(before));
                }
                continue;
            }
            let (result, read, wrote, found) = self.reader.read_record(
                input,
                self.fields.text.get_mut(text..).unwrap_or_default(),
                self.fields.ends.get_mut(ends..).unwrap_or_default(),
            );
            (length, text, ends) = (length + read, text + wrote, ends + found);
            match result {
                ReadRecordResult::Record => {
                    self.fields.count = ends;
                    // The blank lines before it are no part of it.
                    let blank = self.window.rest().iter().take(length);
                    let blank = blank.take_while(|byte| matches!(byte, b'\r' | b'\n'));
                    let lines = blank.filter(|byte| **byte == b'\n').count();
                    let line = before + u64::try_from(lines).unwrap_or(0);
                    return Ok(Some(Found { line, length }));
                }
                ReadRecordResult::End => return Ok(None),
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => return Err(too_long(before)),
                ReadRecordResult::OutputEndsFull => {
                    return Err(invalid(format!(
                        "line {before}: it has more than {MAX_COLUMNS} columns"
                    )));
                }
            }
        }
    }

    fn next(&mut self, out: &mut Vec<u8>) -> io::Result<Option<Row<'_>>> {
        let Some(Found { line, length }) = self.record()? else {
            return Ok(None);
        };
        let mark = out.len();
        let made = self
            .columns
            .render(self.fields.iter(), self.fields.count, out);
        if made.is_err() {
            out.truncate(mark);
        }
        let place = self.window.start..self.window.start + length;
        self.window.start = place.end;
        let raw = self.window.buffer.get(place).unwrap_or_default();
        Ok(Some(Row {
            line,
            raw: trim_line_ends(raw),
            refused: made.err(),
        }))
    }
}

fn too_long(line: u64) -> io::Error {
    invalid(format!(
        "line {line}: a record is longer than 1 MiB: is a quote never closed?"
    ))
}

/// Without the line ends around it; a quoted field keeps its own.
fn trim_line_ends(mut raw: &[u8]) -> &[u8] {
    while let [b'\r' | b'\n', rest @ ..] | [rest @ .., b'\r' | b'\n'] = raw {
        raw = rest;
    }
    raw
}

/// The rows of a file of JSON lines.
pub(super) struct JsonRows {
    window: Window,
    line: u64,
}

impl JsonRows {
    fn next(&mut self, out: &mut Vec<u8>) -> io::Result<Option<Row<'_>>> {
        let place = loop {
            let Some(length) = self.line()? else {
                return Ok(None);
            };
            let start = self.window.start;
            if self.window.is_full() && length == self.window.buffer.len() {
                self.skip_line()?;
                let raw = self.window.buffer.get(..KEPT_OF_LONG).unwrap_or_default();
                return Ok(Some(Row {
                    line: self.line,
                    raw,
                    refused: Some("the line is longer than 1 MiB".to_owned()),
                }));
            }
            let place = start..start + length;
            // Behind the line's end, which the last line may lack.
            self.window.start = (place.end + 1).min(self.window.end);
            let line = self.window.buffer.get(place.clone()).unwrap_or_default();
            if !line.trim_ascii().is_empty() {
                break place;
            }
        };
        let raw = self.window.buffer.get(place).unwrap_or_default();
        let raw = raw.trim_ascii();
        let refused = object(raw).err();
        if refused.is_none() {
            out.extend_from_slice(raw);
        }
        Ok(Some(Row {
            line: self.line,
            raw,
            refused,
        }))
    }

    /// The length of the next line, as much of it as the window holds.
    fn line(&mut self) -> io::Result<Option<usize>> {
        let mut looked = 0;
        loop {
            let rest = self.window.rest();
            let found = rest.get(looked..).unwrap_or_default();
            if let Some(end) = memchr::memchr(b'\n', found) {
                self.line += 1;
                return Ok(Some(looked + end));
            }
            looked = rest.len();
            if !self.window.more()? {
                self.line += u64::from(looked > 0);
                return Ok((looked > 0).then_some(looked));
            }
        }
    }

    /// Leaves out what is left of a line that fills the window; its first bytes stay where they are.
    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            self.window.end = KEPT_OF_LONG;
            if !self.window.more()? {
                self.window.start = self.window.end;
                return Ok(());
            }
            let rest = self.window.buffer.get(KEPT_OF_LONG..self.window.end);
            if let Some(end) = memchr::memchr(b'\n', rest.unwrap_or_default()) {
                self.window.start = KEPT_OF_LONG + end + 1;
                return Ok(());
            }
        }
    }
}

/// Whether it is one JSON object; the server's rules say whether it is an event.
fn object(raw: &[u8]) -> Result<(), String> {
    let value: &RawValue =
        serde_json::from_slice(raw).map_err(|error| format!("it is no JSON: {error}"))?;
    if value.get().starts_with('{') {
        Ok(())
    } else {
        Err("it is no JSON object".to_owned())
    }
}

#[cfg(test)]
mod tests;
