//! Tickets: each call that reserved something has one until it has ended.

use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::watch;

/// Names a ticket, also after it has ended. None is ever used twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct TicketId(u64);

/// Those that have not ended.
#[derive(Default)]
pub(super) struct Tickets {
    next: AtomicU64,
    /// With a sender, once somebody waits; its drop is the message.
    live: Mutex<HashMap<TicketId, Option<watch::Sender<()>>>>,
}

impl Tickets {
    /// A new one.
    pub(super) fn begin(&self) -> TicketId {
        let id = TicketId(self.next.fetch_add(1, Ordering::Relaxed));
        self.live.lock().insert(id, None);
        id
    }

    /// Its reservations are committed or free.
    pub(super) fn end(&self, id: TicketId) {
        self.live.lock().remove(&id);
    }

    /// Returns once it has ended.
    pub(super) async fn ended(&self, id: TicketId) {
        let mut end = match self.live.lock().get_mut(&id) {
            Some(sender) => sender.get_or_insert_default().subscribe(),
            None => return,
        };
        // Nothing is ever sent: this returns when the sender is dropped.
        while end.changed().await.is_ok() {}
    }

    /// How many have not ended.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.live.lock().len()
    }
}
