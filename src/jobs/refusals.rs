//! What the store refused of late.

use parking_lot::Mutex;

use crate::store::StoreError;

/// The store's refusals as the log tells them: each kind once until a commit succeeds, not once a
/// second for as long as the disk is full.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<Option<StoreError>>);

impl Refusals {
    /// Whether the log has to say so.
    pub(super) fn is_news(&self, error: &StoreError) -> bool {
        self.0.lock().replace(error.clone()).as_ref() != Some(error)
    }

    /// Whether no later commit can succeed either.
    pub(super) fn are_final(&self) -> bool {
        matches!(
            *self.0.lock(),
            Some(StoreError::Closed | StoreError::Failed(_))
        )
    }

    /// Whether this node schedules no more: another one does, or what it has written can't be told.
    pub(super) fn end_the_term(&self) -> bool {
        matches!(
            *self.0.lock(),
            Some(StoreError::Deposed | StoreError::Away(_))
        )
    }

    /// Whether this node can commit nothing more in its term.
    pub(super) fn are_for_good(&self) -> bool {
        self.are_final() || self.end_the_term()
    }

    /// A commit succeeded: whether the one before it did not.
    pub(super) fn are_over(&self) -> bool {
        self.0.lock().take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_stays_full_is_told_once() {
        let refusals = Refusals::default();
        assert!(!refusals.are_over());
        let told = (0..100).filter(|_| refusals.is_news(&StoreError::Full));
        assert_eq!(told.count(), 1);
        assert!(refusals.is_news(&StoreError::Failed("sync".to_owned())));
        assert!(refusals.are_over());
        assert!(!refusals.are_over());
        assert!(refusals.is_news(&StoreError::Full));
    }

    #[test]
    fn only_a_store_that_is_over_ends_the_retries() {
        let refusals = Refusals::default();
        assert!(!refusals.are_final());
        for (error, over) in [
            (StoreError::Full, false),
            (StoreError::Busy, false),
            (StoreError::Failed("sync".to_owned()), true),
            (StoreError::Closed, true),
        ] {
            refusals.is_news(&error);
            assert_eq!(refusals.are_final(), over, "{error}");
            assert_eq!(refusals.are_for_good(), over, "{error}");
        }
        for error in [StoreError::Deposed, StoreError::Away("gone".to_owned())] {
            refusals.is_news(&error);
            assert!(!refusals.are_final(), "another term may come: {error}");
            assert!(refusals.are_for_good(), "{error}");
        }
    }
}
