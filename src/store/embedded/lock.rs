//! Keeps other processes out of a data directory.

use std::fs::{self, File, TryLockError};
use std::path::Path;

use crate::store::error::OpenError;

/// The file that is locked.
const LOCK: &str = "LOCK";

/// The lock of a directory, until it is dropped.
#[derive(Debug)]
pub(super) struct DirLock(File);

impl DirLock {
    /// Makes the directory where needed; refused while another process has it.
    pub(super) fn take(dir: &Path) -> Result<Self, OpenError> {
        let refuse = |error: std::io::Error| {
            OpenError(format!(
                "can't use the data directory {}: {error}",
                dir.display()
            ))
        };
        fs::create_dir_all(dir).map_err(refuse)?;
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join(LOCK))
            .map_err(refuse)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(OpenError(format!(
                "the data directory {} is in use by another tollgate process",
                dir.display()
            ))),
            Err(TryLockError::Error(error)) => Err(refuse(error)),
        }
    }
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // Closing it is not enough: a program that is being started has a copy of every open file of this
        // process until it begins, and the lock is that of all copies.
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_has_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirLock::take(dir.path()).unwrap();
        let refused = DirLock::take(dir.path()).unwrap_err();
        assert!(refused.0.contains("is in use by another"), "{refused}");
        // As a program has one that is being started.
        let copy = first.0.try_clone().unwrap();
        drop(first);
        DirLock::take(dir.path()).unwrap();
        drop(copy);
    }
}
