//! Times as PostgreSQL has them: `timestamptz` counts microseconds from the year 2000.

use std::error::Error;

use bytes::BytesMut;
use postgres_types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};

use crate::model::time::Timestamp;

/// 2000-01-01T00:00:00Z in microseconds since the Unix epoch.
pub(super) const Y2K: i64 = 946_684_800_000_000;

/// A `timestamptz`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct At(pub(super) Timestamp);

impl ToSql for At {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        (self.0.as_micros().saturating_sub(Y2K)).to_sql(ty, out)
    }

    accepts!(TIMESTAMPTZ);
    to_sql_checked!();
}

impl<'a> FromSql<'a> for At {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let micros = i64::from_sql(ty, raw)?;
        Ok(Self(Timestamp::from_micros(micros.saturating_add(Y2K))))
    }

    accepts!(TIMESTAMPTZ);
}
