//! Connections that read while the writer writes.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::fault::Fault;
use super::schema;
use crate::store::error::StoreError;

/// How many reads run at once. Each is short: a long one would keep the log from starting over.
const READERS: usize = 2;

/// A few connections, opened when they are first needed.
pub(super) struct Readers {
    path: PathBuf,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            path,
            permits: Arc::new(Semaphore::new(READERS)),
            idle: Mutex::new(Vec::with_capacity(READERS)),
        })
    }

    /// Runs `read` on a thread for blocking work. It goes on to its end when the caller leaves.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_| StoreError::Closed)?;
        let readers = Arc::clone(self);
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let idle = readers.idle.lock().pop();
            let db = match idle {
                Some(db) => db,
                None => schema::open_reader(&readers.path)?,
            };
            let answer = read(&db);
            // After an error the connection may be the cause: the next read gets a new one.
            if answer.is_ok() {
                readers.idle.lock().push(db);
            }
            answer
        });
        match task.await {
            Ok(answer) => answer.map_err(Fault::into_store_error),
            Err(_) => Err(StoreError::Closed),
        }
    }

    /// Refuses further reads and closes the connections.
    pub(super) fn close(&self) {
        self.permits.close();
        self.idle.lock().clear();
    }
}
