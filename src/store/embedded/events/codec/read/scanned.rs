//! The columns that a scan needs: what else there is of a block is not decoded.

use super::{Field, Garbage, Input, Texts, decompress, split};
use crate::model::event::{EventTime, ScannedEvent, ScannedUser};
use crate::model::time::Timestamp;

/// The decompressed data of a block, for a scan.
#[derive(Debug)]
pub(in crate::store::embedded::events) struct ScanBody(Vec<u8>);

impl ScanBody {
    /// Decompresses the data of a block.
    pub(in crate::store::embedded::events) fn new(data: &[u8]) -> Result<Self, Garbage> {
        decompress(data).map(Self)
    }

    /// The block's events, in its order, and how many they are. After an error there are no more.
    pub(in crate::store::embedded::events) fn events(&self) -> Result<Scanned<'_>, Garbage> {
        self.start().ok_or(Garbage)
    }

    fn start(&self) -> Option<Scanned<'_>> {
        let (left, columns) = split(&self.0)?;
        let [tenant, _, source, kind, user] = columns.fields;
        Some(Scanned {
            left,
            micros: 0,
            times: Input(columns.times),
            nanos: Input(columns.nanos),
            tenant: Field::new(tenant)?,
            source: Field::new(source)?,
            kind: Field::new(kind)?,
            user: Field::new(user)?,
            payloads: Texts::new(columns.payloads)?,
        })
    }
}

/// The events of a block, one after the other.
pub(in crate::store::embedded::events) struct Scanned<'a> {
    left: usize,
    micros: i64,
    times: Input<'a>,
    nanos: Input<'a>,
    tenant: Field<'a>,
    source: Field<'a>,
    kind: Field<'a>,
    user: Field<'a>,
    payloads: Texts<'a>,
}

impl<'a> Iterator for Scanned<'a> {
    type Item = Result<ScannedEvent<'a>, Garbage>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let decoded = self.decode();
        if decoded.is_none() {
            self.left = 0;
        }
        Some(decoded.ok_or(Garbage))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left))
    }
}

impl<'a> Scanned<'a> {
    fn decode(&mut self) -> Option<ScannedEvent<'a>> {
        self.micros = self.micros.wrapping_add(self.times.signed()?);
        let nanos = u16::try_from(self.nanos.unsigned()?).ok()?;
        Some(ScannedEvent {
            time: EventTime {
                micros: Timestamp::from_micros(self.micros),
                nanos,
            },
            tenant: self.tenant.next().ok()??,
            source: self.source.next().ok()?,
            event_type: self.kind.next().ok()?,
            user: self.user.next().ok()?.map(ScannedUser::Named),
            payload: self.payloads.next()?,
        })
    }
}
