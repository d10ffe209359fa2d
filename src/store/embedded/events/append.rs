//! Has what was prepared written.
//!
//! What was new is committed first; only then the others are waited for that hold identities which this
//! request wants, and the rest is prepared anew. That keeps two requests that hold what the other wants
//! from waiting for ever.
//!
//! What messages of the bus brought can't be two commits: their names say that all of it was committed.
//! Where others hold some of it, nothing of it is held while they are waited for, and all of it is
//! prepared anew by the caller.

use super::super::Embedded;
use super::write::Append;
use super::{Prepared, Ready};
use crate::model::event::{Event, Receipt};
use crate::store::error::StoreError;

/// How often a request waits for others that hold identities it wants, before it is refused.
const ROUNDS: usize = 8;

impl Embedded {
    pub(in crate::store) async fn append(
        &self,
        prepared: Prepared,
    ) -> Result<Vec<Receipt>, StoreError> {
        let Ready {
            append,
            mut receipts,
            mut held,
        } = match prepared {
            Prepared::Ready(ready) => *ready,
            Prepared::Waiting(holders) => {
                for holder in holders {
                    self.events.seen.ended(holder).await;
                }
                return Err(StoreError::Again);
            }
        };
        if append.says_something() {
            self.write_events(append).await?;
        } else {
            drop(append);
        }
        for _ in 0..ROUNDS {
            if held.is_empty() {
                return receipts
                    .into_iter()
                    .map(|receipt| receipt.ok_or(StoreError::Busy))
                    .collect();
            }
            for event in &held {
                self.events.seen.ended(event.by).await;
            }
            let (places, events): (Vec<usize>, Vec<Event<'static>>) =
                held.into_iter().map(|it| (it.place, it.event)).unzip();
            let Prepared::Ready(again) = self.prepare(&events, Vec::new(), Vec::new())? else {
                return Err(StoreError::Again);
            };
            let again = *again;
            for (receipt, place) in again.receipts.iter().zip(&places) {
                if let Some(slot) = receipts.get_mut(*place) {
                    *slot = *receipt;
                }
            }
            held = again.held;
            for event in &mut held {
                event.place = places.get(event.place).copied().unwrap_or(event.place);
            }
            if again.append.says_something() {
                self.write_events(again.append).await?;
            }
        }
        Err(StoreError::Busy)
    }

    async fn write_events(&self, append: Append) -> Result<(), StoreError> {
        let bytes = append.bytes();
        self.write(Vec::new(), Some(append), bytes).await
    }
}
