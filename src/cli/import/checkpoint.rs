//! How far an import came, in a small file beside the input, for `--resume`.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::Tally;

/// How much of the input's beginning tells it from others.
const BEGINNING: u64 = 64 << 10;

/// What an import is of, and where it goes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Subject {
    bytes: u64,
    beginning: u64,
    target: String,
}

impl Subject {
    /// The file at `path` into `target`.
    pub(super) fn of(path: &Path, target: &str) -> io::Result<Self> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let mut beginning = Vec::new();
        file.take(BEGINNING).read_to_end(&mut beginning)?;
        Ok(Self {
            bytes,
            beginning: xxh3_64(&beginning),
            target: target.to_owned(),
        })
    }
}

/// Everything before it is imported or in the reject file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    /// What was imported.
    pub(super) subject: Subject,
    /// Its counts.
    pub(super) tally: Tally,
    /// The length of the reject file.
    pub(super) rejects_bytes: u64,
}

/// Where it is: the input's name and `.import`.
pub(super) fn path(input: &Path) -> PathBuf {
    let mut name = input.as_os_str().to_owned();
    name.push(".import");
    name.into()
}

impl Checkpoint {
    /// The one at `path`; `None` if there is none.
    pub(super) fn load(path: &Path) -> Result<Option<Self>, String> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| format!("it is damaged ({error}): remove it to start anew"))
    }

    /// Replaces the one at `path`, all or nothing.
    pub(super) fn save(&self, path: &Path) -> io::Result<()> {
        let mut next = path.as_os_str().to_owned();
        next.push(".new");
        fs::write(&next, serde_json::to_vec(self)?)?;
        fs::rename(&next, path)
    }
}
