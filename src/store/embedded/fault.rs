//! What SQLite's errors mean to those above.

use rusqlite::{Error, ErrorCode, ffi};

use crate::store::error::{OpenError, StoreError};

/// The longest text of SQLite's that is passed on, in bytes.
const MAX_SENTENCE: usize = 200;

/// Something that went wrong below.
#[derive(Debug)]
pub(super) enum Fault {
    /// SQLite said so.
    Sqlite(Error),
    /// A row or a count is not what was written; the sentence says which.
    Damaged(String),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Fault {
    /// As the answer to a read or a write.
    pub(super) fn into_store_error(self) -> StoreError {
        match self {
            Self::Sqlite(error) => classify(&error),
            Self::Damaged(sentence) => StoreError::Damaged(sentence),
        }
    }

    /// As the refusal to open `name`.
    pub(super) fn into_open_error(self, name: &str) -> OpenError {
        OpenError(match self.into_store_error() {
            StoreError::Damaged(sentence) => format!("{name} is damaged: {sentence}"),
            StoreError::Busy | StoreError::Behind | StoreError::Again => {
                format!("{name} is locked by another program")
            }
            StoreError::Full => format!("{name}: the disk is full"),
            StoreError::Failed(sentence) | StoreError::Away(sentence) => {
                format!("{name}: {sentence}")
            }
            StoreError::Deposed
            | StoreError::KeyTaken
            | StoreError::MessageTaken
            | StoreError::QueueFull
            | StoreError::Refused(_)
            | StoreError::Closed => {
                format!("{name}: closed")
            }
        })
    }
}

/// What an error of SQLite means: a full disk passes, a lock of another program passes, values of
/// the wrong type are damage, and anything else is final.
pub(super) fn classify(error: &Error) -> StoreError {
    match error {
        Error::SqliteFailure(failure, _) => match failure.code {
            ErrorCode::DiskFull => StoreError::Full,
            // The log's index could not be made larger: no byte of the log was written yet.
            _ if failure.extended_code == ffi::SQLITE_IOERR_SHMSIZE => StoreError::Full,
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => StoreError::Busy,
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
                StoreError::Damaged(describe(error, failure.extended_code))
            }
            _ => StoreError::Failed(describe(error, failure.extended_code)),
        },
        Error::FromSqlConversionFailure(..)
        | Error::IntegralValueOutOfRange(..)
        | Error::InvalidColumnType(..)
        | Error::QueryReturnedNoRows
        | Error::Utf8Error(..) => StoreError::Damaged(error.to_string()),
        other => StoreError::Failed(other.to_string()),
    }
}

/// In one line: SQLite quotes whole statements.
fn describe(error: &Error, code: i32) -> String {
    let text = error.to_string();
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.truncate(line.floor_char_boundary(MAX_SENTENCE));
    format!("{line} (SQLite error {code})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: i32) -> StoreError {
        classify(&Error::SqliteFailure(ffi::Error::new(code), None))
    }

    #[test]
    fn a_full_disk_passes() {
        assert_eq!(failure(ffi::SQLITE_FULL), StoreError::Full);
        assert_eq!(failure(ffi::SQLITE_IOERR_SHMSIZE), StoreError::Full);
    }

    #[test]
    fn a_failed_write_or_sync_is_final() {
        for code in [
            ffi::SQLITE_IOERR,
            ffi::SQLITE_IOERR_WRITE,
            ffi::SQLITE_IOERR_FSYNC,
            ffi::SQLITE_IOERR_DIR_FSYNC,
            ffi::SQLITE_READONLY,
            ffi::SQLITE_NOMEM,
            ffi::SQLITE_CANTOPEN,
            ffi::SQLITE_CONSTRAINT,
        ] {
            assert!(matches!(failure(code), StoreError::Failed(_)), "{code}");
        }
    }

    #[test]
    fn a_lock_of_another_program_passes() {
        assert_eq!(failure(ffi::SQLITE_BUSY), StoreError::Busy);
        assert_eq!(failure(ffi::SQLITE_LOCKED), StoreError::Busy);
    }

    #[test]
    fn what_cannot_have_been_written_is_damage() {
        for code in [ffi::SQLITE_CORRUPT, ffi::SQLITE_NOTADB] {
            assert!(matches!(failure(code), StoreError::Damaged(_)), "{code}");
        }
        assert!(matches!(
            classify(&Error::IntegralValueOutOfRange(0, -1)),
            StoreError::Damaged(_)
        ));
    }
}
