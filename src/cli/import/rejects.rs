//! The reject file: rows that were not imported, where they stand, and why.
//!
//! For CSV it has the file's own columns behind two of the importer's, so that it can be corrected
//! and imported as it is. For JSON lines, which may not even be JSON, it has a line each:
//! `{"line", "reason", "row"}`, the row as a string.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::columns::REJECT_COLUMNS;
use crate::cli::csv;

/// A row that was refused.
pub(super) struct Reject {
    /// The line on which it starts.
    pub(super) line: u64,
    /// Its bytes.
    pub(super) raw: Vec<u8>,
    /// Why.
    pub(super) reason: String,
}

#[derive(Serialize)]
struct Entry<'a> {
    line: u64,
    reason: &'a str,
    row: &'a str,
}

/// The open reject file.
pub(super) struct Rejects {
    path: PathBuf,
    file: BufWriter<File>,
    bytes: u64,
    header: Option<Vec<u8>>,
    any: bool,
}

impl Rejects {
    /// Starts it anew, or keeps `kept` bytes of what is there. It has a header if there is one.
    pub(super) fn open(path: &Path, header: Option<&[u8]>, kept: Option<u64>) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.create(true).write(true).truncate(kept.is_none());
        let file = options.open(path)?;
        let bytes = kept.unwrap_or(0).min(file.metadata()?.len());
        file.set_len(bytes)?;
        let mut file = BufWriter::new(file);
        io::Seek::seek(&mut file, io::SeekFrom::Start(bytes))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            bytes,
            header: header.map(<[u8]>::to_vec),
            any: bytes > 0,
        })
    }

    /// Adds the rejects of a batch in order of their lines; they are in the file afterwards.
    pub(super) fn add(&mut self, mut rejects: Vec<Reject>) -> io::Result<()> {
        if rejects.is_empty() {
            return Ok(());
        }
        rejects.sort_by_key(|reject| reject.line);
        let mut text = Vec::new();
        if let Some(header) = self.header.as_ref().filter(|_| !self.any) {
            for name in REJECT_COLUMNS {
                text.extend_from_slice(name.as_bytes());
                text.push(b',');
            }
            text.extend_from_slice(header);
            text.push(b'\n');
        }
        for reject in &rejects {
            if self.header.is_some() {
                write!(text, "{},", reject.line)?;
                csv::field(&mut text, &reject.reason);
                text.push(b',');
                text.extend_from_slice(&reject.raw);
            } else {
                let entry = Entry {
                    line: reject.line,
                    reason: &reject.reason,
                    row: &String::from_utf8_lossy(&reject.raw),
                };
                serde_json::to_writer(&mut text, &entry)?;
            }
            text.push(b'\n');
        }
        self.any = true;
        self.file.write_all(&text)?;
        self.file.flush()?;
        self.bytes += u64::try_from(text.len()).unwrap_or(0);
        Ok(())
    }

    /// Its length.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where it is, if it has anything; an empty one is removed.
    pub(super) fn close(self) -> Option<PathBuf> {
        if self.any {
            return Some(self.path);
        }
        // What stays behind is empty and says so.
        let _ = fs::remove_file(&self.path);
        None
    }
}
