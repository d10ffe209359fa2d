//! How values are laid out inside a row, and the digest that each row carries.
//!
//! Integers are little-endian; counts are varints (LEB128), differences are zigzag varints.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use crate::model::batch::{BatchRun, BatchStatus, IdFailure};
use crate::model::ingestion::{Ingestion, Runs};
use crate::model::time::Timestamp;

/// Byte strings up to this length go into the digest as they are, longer ones as their hash.
const DIGEST_INLINE: usize = 64;

/// The status code of "no rest".
const NO_REST: u8 = u8::MAX;

/// Collects the fields of a row, then hashes them. One is reused for many rows.
#[derive(Default)]
pub(in crate::store) struct Digest(Vec<u8>);

impl Digest {
    /// Begins a row of `table`; the name keeps equal fields of two tables apart.
    pub(in crate::store) fn row(&mut self, table: &str) -> &mut Self {
        self.0.clear();
        self.bytes(table.as_bytes())
    }

    /// Adds a number.
    pub(in crate::store) fn int(&mut self, value: i64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Adds a number or its absence.
    pub(in crate::store) fn opt_int(&mut self, value: Option<i64>) -> &mut Self {
        self.0.push(u8::from(value.is_some()));
        self.int(value.unwrap_or_default())
    }

    /// Adds bytes with their length.
    pub(in crate::store) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.0
            .extend_from_slice(&(value.len() as u64).to_le_bytes());
        if value.len() <= DIGEST_INLINE {
            self.0.extend_from_slice(value);
        } else {
            self.0.extend_from_slice(&xxh3_64(value).to_le_bytes());
        }
        self
    }

    /// Adds bytes or their absence.
    pub(in crate::store) fn opt_bytes(&mut self, value: Option<&[u8]>) -> &mut Self {
        self.0.push(u8::from(value.is_some()));
        self.bytes(value.unwrap_or_default())
    }

    /// Adds the fields of an ingestion that never change; `ids` as they are stored.
    pub(in crate::store) fn ingestion(&mut self, it: &Ingestion, ids: &[u8]) -> &mut Self {
        let extras = it.extras.as_deref();
        let metadata = extras.and_then(|extras| extras.metadata.as_deref());
        let callback = extras.and_then(|extras| extras.callback_url.as_deref());
        self.int(it.arrival.0.cast_signed())
            .bytes(it.id.uuid().as_bytes())
            .int(it.created_at.as_micros())
            .int(i64::from(it.queue.0))
            .int(i64::from(it.batch_size.get()))
            .int(i64::from(it.priority.rank()))
            .opt_bytes(metadata.map(str::as_bytes))
            .opt_bytes(callback.map(str::as_bytes))
            .opt_int(it.deadline().map(Timestamp::as_micros))
            .bytes(ids)
    }

    /// The hash of what was added, as SQLite stores it.
    pub(in crate::store) fn finish(&self) -> i64 {
        xxh3_64(&self.0).cast_signed()
    }
}

/// Ids as one byte for their width (1, 2, 4 or 8 bytes), then each in that width.
pub(in crate::store) fn encode_ids(ids: &[i64]) -> Vec<u8> {
    let (low, high) = ids
        .iter()
        .fold((0, 0), |(low, high), id| (low.min(*id), high.max(*id)));
    let fits = |min: i64, max: i64| low >= min && high <= max;
    let width: u8 = if fits(i64::from(i8::MIN), i64::from(i8::MAX)) {
        1
    } else if fits(i64::from(i16::MIN), i64::from(i16::MAX)) {
        2
    } else if fits(i64::from(i32::MIN), i64::from(i32::MAX)) {
        4
    } else {
        8
    };
    let mut out = Vec::with_capacity(1 + ids.len() * usize::from(width));
    out.push(width);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the width was chosen so that every id fits"
    )]
    match width {
        1 => out.extend(ids.iter().flat_map(|id| (*id as i8).to_le_bytes())),
        2 => out.extend(ids.iter().flat_map(|id| (*id as i16).to_le_bytes())),
        4 => out.extend(ids.iter().flat_map(|id| (*id as i32).to_le_bytes())),
        _ => out.extend(ids.iter().flat_map(|id| id.to_le_bytes())),
    }
    out
}

/// The inverse of [`encode_ids`]; `None` if `bytes` is not of its making.
pub(super) fn decode_ids(bytes: &[u8]) -> Option<Arc<[i64]>> {
    let (&width, body) = bytes.split_first()?;
    if body.is_empty() {
        return None;
    }
    match width {
        1 => Some(
            body.iter()
                .map(|byte| i64::from(byte.cast_signed()))
                .collect(),
        ),
        2 => decode_wide(body, |bytes: [u8; 2]| i64::from(i16::from_le_bytes(bytes))),
        4 => decode_wide(body, |bytes: [u8; 4]| i64::from(i32::from_le_bytes(bytes))),
        8 => decode_wide(body, i64::from_le_bytes),
        _ => None,
    }
}

fn decode_wide<const N: usize>(body: &[u8], one: impl Fn([u8; N]) -> i64) -> Option<Arc<[i64]>> {
    let (ids, rest) = body.as_chunks::<N>();
    // Collecting from an iterator of known length fills the shared slice without a copy.
    rest.is_empty()
        .then(|| ids.iter().map(|id| one(*id)).collect())
}

/// The ids of a batch that failed; `None` where none did, so that a plain run costs nothing.
pub(in crate::store) fn encode_failures(failures: &[IdFailure]) -> Option<Vec<u8>> {
    if failures.is_empty() {
        return None;
    }
    let mut out = Vec::new();
    put_failures(&mut out, failures);
    Some(out)
}

/// The inverse of [`encode_failures`].
pub(super) fn decode_failures(bytes: Option<&[u8]>) -> Option<Vec<IdFailure>> {
    let Some(bytes) = bytes else {
        return Some(Vec::new());
    };
    let mut input = Input(bytes);
    let failures = input.failures()?;
    input.0.is_empty().then_some(failures)
}

/// The runs of an ingestion that has ended, as one blob. Its `ended_at` is a column of the row.
pub(super) fn encode_runs(runs: &Runs) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + runs.started.len() * 12);
    let (rest, rest_at) = runs
        .rest
        .map_or((NO_REST, Timestamp::EPOCH), |(status, at)| {
            (status.code(), at)
        });
    out.push(rest);
    put_signed(&mut out, rest_at.as_micros());
    let mut previous = 0;
    put(&mut out, runs.started.len() as u64);
    for run in &runs.started {
        let flags = u8::from(run.completed_at.is_some())
            | u8::from(run.retry_at.is_some()) << 1
            | u8::from(!run.failures.is_empty()) << 2
            | u8::from(run.first_triggered_at != run.triggered_at) << 3;
        let triggered = run.triggered_at.as_micros();
        out.push(run.status.code() | flags << 4);
        put(&mut out, u64::from(run.attempt));
        put_signed(&mut out, triggered.wrapping_sub(previous));
        let first = Some(run.first_triggered_at).filter(|first| *first != run.triggered_at);
        for at in [first, run.completed_at, run.retry_at]
            .into_iter()
            .flatten()
        {
            put_signed(&mut out, at.as_micros().wrapping_sub(triggered));
        }
        if !run.failures.is_empty() {
            put_failures(&mut out, &run.failures);
        }
        previous = triggered;
    }
    out
}

/// The inverse of [`encode_runs`], with `ended_at` unset.
pub(super) fn decode_runs(bytes: &[u8]) -> Option<Runs> {
    let mut input = Input(bytes);
    let rest = input.byte()?;
    let rest_at = Timestamp::from_micros(input.signed()?);
    let count = usize::try_from(input.unsigned()?).ok()?;
    let mut runs = Runs {
        rest: match rest {
            NO_REST => None,
            code => Some((BatchStatus::from_code(code)?, rest_at)),
        },
        // A run takes three bytes at least: a wrong count can't ask for much memory.
        started: Vec::with_capacity(count.min(bytes.len() / 3)),
        ..Runs::default()
    };
    let mut previous = 0;
    for _ in 0..count {
        let run = input.run(previous)?;
        previous = run.triggered_at.as_micros();
        runs.completed += u32::from(run.status == BatchStatus::Completed);
        runs.failed += u32::from(run.status == BatchStatus::Failed);
        runs.started.push(run);
    }
    input.0.is_empty().then_some(runs)
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, (value << 1 ^ value >> 63).cast_unsigned());
}

fn put_failures(out: &mut Vec<u8>, failures: &[IdFailure]) {
    put(out, failures.len() as u64);
    for failure in failures {
        put(out, u64::from(failure.position));
        put(out, failure.reason.len() as u64);
        out.extend_from_slice(failure.reason.as_bytes());
    }
}

/// What is left to decode.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn unsigned(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn signed(&mut self) -> Option<i64> {
        let value = self.unsigned()?;
        Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    fn time_after(&mut self, micros: i64) -> Option<Timestamp> {
        let difference = self.signed()?;
        Some(Timestamp::from_micros(micros.wrapping_add(difference)))
    }

    fn run(&mut self, previous: i64) -> Option<BatchRun> {
        let head = self.byte()?;
        let attempt = u32::try_from(self.unsigned()?).ok()?;
        let triggered_at = self.time_after(previous)?;
        let triggered = triggered_at.as_micros();
        let optional = |bit: u8, input: &mut Self| match head >> 4 & bit {
            0 => Some(None),
            _ => input.time_after(triggered).map(Some),
        };
        Some(BatchRun {
            status: BatchStatus::from_code(head & 0x0f)?,
            attempt,
            first_triggered_at: optional(8, self)?.unwrap_or(triggered_at),
            triggered_at,
            completed_at: optional(1, self)?,
            retry_at: optional(2, self)?,
            failures: match head >> 4 & 4 {
                0 => Vec::new(),
                _ => self.failures()?,
            },
        })
    }

    fn failures(&mut self) -> Option<Vec<IdFailure>> {
        let count = usize::try_from(self.unsigned()?).ok()?;
        let mut failures = Vec::with_capacity(count.min(self.0.len() / 2));
        for _ in 0..count {
            let position = u16::try_from(self.unsigned()?).ok()?;
            let length = usize::try_from(self.unsigned()?).ok()?;
            let (reason, rest) = self.0.split_at_checked(length)?;
            self.0 = rest;
            let reason = String::from_utf8(reason.to_vec()).ok()?;
            failures.push(IdFailure { position, reason });
        }
        Some(failures)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn time() -> impl Strategy<Value = Timestamp> {
        any::<i64>().prop_map(Timestamp::from_micros)
    }

    fn failure() -> impl Strategy<Value = IdFailure> {
        (any::<u16>(), ".{0,40}").prop_map(|(at, reason)| IdFailure::new(at, reason))
    }

    fn run() -> impl Strategy<Value = BatchRun> {
        let status = prop::sample::select(vec![
            BatchStatus::Triggered,
            BatchStatus::Completed,
            BatchStatus::Failed,
        ]);
        let times = (
            time(),
            time(),
            proptest::option::of(time()),
            proptest::option::of(time()),
        );
        let failures = prop::collection::vec(failure(), 0..3);
        (status, any::<u32>(), times, failures).prop_map(|(status, attempt, times, failures)| {
            BatchRun {
                status,
                attempt,
                first_triggered_at: times.0,
                triggered_at: times.1,
                completed_at: times.2,
                retry_at: times.3,
                failures,
            }
        })
    }

    proptest! {
        #[test]
        fn ids_round_trip(
            ids in prop::collection::vec(any::<i64>(), 1..40),
            shift in 0_u32..64,
        ) {
            let ids: Vec<i64> = ids.into_iter().map(|id| id >> shift).collect();
            let bytes = encode_ids(&ids);
            prop_assert!(bytes.len() <= 1 + 8 * ids.len());
            prop_assert_eq!(decode_ids(&bytes).unwrap().to_vec(), ids);
        }

        #[test]
        fn runs_round_trip(
            started in prop::collection::vec(run(), 0..8),
            rest in proptest::option::of(time()),
        ) {
            let count = |status| started.iter().filter(|run| run.status == status).count();
            let runs = Runs {
                completed: u32::try_from(count(BatchStatus::Completed)).unwrap(),
                failed: u32::try_from(count(BatchStatus::Failed)).unwrap(),
                rest: rest.map(|at| (BatchStatus::Expired, at)),
                ended_at: None,
                started,
            };
            prop_assert_eq!(decode_runs(&encode_runs(&runs)), Some(runs));
        }

        #[test]
        fn nonsense_is_refused_and_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode_runs(&bytes);
            let _ = decode_failures(Some(&bytes));
            if let Some(ids) = decode_ids(&bytes) {
                prop_assert!(ids.len() < bytes.len());
            }
        }
    }

    #[test]
    fn small_ids_take_little_room() {
        assert_eq!(encode_ids(&[1, -2, 3]).len(), 4);
        assert_eq!(encode_ids(&[1, 200]).len(), 5);
        assert_eq!(encode_ids(&[i64::MIN, i64::MAX]).len(), 17);
    }

    #[test]
    fn a_digest_tells_fields_apart() {
        let mut digest = Digest::default();
        let one = digest.row("t").bytes(b"ab").bytes(b"c").finish();
        let other = digest.row("t").bytes(b"a").bytes(b"bc").finish();
        let absent = digest.row("t").opt_bytes(None).finish();
        let empty = digest.row("t").opt_bytes(Some(b"")).finish();
        assert_ne!(one, other);
        assert_ne!(absent, empty);
        assert_ne!(digest.row("t").finish(), digest.row("u").finish());
    }
}
