//! The data directory of a server that does not run.

use std::path::Path;

use super::Failure;
use crate::store::{Store, StoreSettings};

/// Opens the store; while a server has it, it refuses.
pub(super) fn open(directory: &Path) -> Result<Store, Failure> {
    let settings = StoreSettings {
        dir: directory.to_owned(),
        accept_loss: false,
    };
    // The jobs of the directory are left as they are.
    Store::open(&settings, drop).map_err(|error| Failure::Failed(error.to_string()))
}
