//! Dead letters: refused events, kept to be put right.

use tokio_postgres::Row;

use super::super::Postgres;
use super::super::connect::fault;
use super::super::time::At;
use super::escape::unescape;
use crate::model::event::DeadLetter;
use crate::store::error::StoreError;

/// The most bytes of letters that are listed at once: each may be as large as a request. One larger
/// letter is listed alone.
const MAX_LISTED: i64 = 32 << 20;

impl Postgres {
    pub(in crate::store) async fn letters(
        &self,
        after: u64,
        limit: usize,
    ) -> Result<(Vec<DeadLetter>, bool), StoreError> {
        let failed = |error: tokio_postgres::Error| fault(&error);
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX - 1);
        let reader = self.readers.get().await?;
        let rows = reader
            .session()?
            .query(
                "SELECT * FROM (
                     SELECT *, sum(octet_length(errors) + octet_length(body)) OVER line AS total,
                            row_number() OVER line AS place, count(*) OVER () AS found
                     FROM (SELECT number, refused_at, errors, body FROM letter WHERE number > $1
                           ORDER BY number LIMIT $2::bigint + 1) AS it
                     WINDOW line AS (ORDER BY number ROWS UNBOUNDED PRECEDING)) AS it
                 WHERE place = 1 OR (place <= $2 AND total <= $3::bigint) ORDER BY place",
                &[&after, &limit, &MAX_LISTED],
            )
            .await
            .map_err(failed)?;
        let Some(first) = rows.first() else {
            return Ok((Vec::new(), false));
        };
        let found: i64 = first.try_get("found").map_err(failed)?;
        let listed = rows
            .iter()
            .take(usize::try_from(limit).unwrap_or(usize::MAX));
        let letters: Vec<DeadLetter> = listed.map(letter).collect::<Result<_, _>>()?;
        let more = (letters.len() as u64) < found.cast_unsigned();
        Ok((letters, more))
    }

    pub(in crate::store) async fn letter(&self, id: u64) -> Result<Option<DeadLetter>, StoreError> {
        let Ok(id) = i64::try_from(id) else {
            return Ok(None);
        };
        let reader = self.readers.get().await?;
        let found = reader
            .session()?
            .query_opt(
                "SELECT number, refused_at, errors, body FROM letter WHERE number = $1",
                &[&id],
            )
            .await;
        let found = found.map_err(|error| fault(&error))?;
        found.as_ref().map(letter).transpose()
    }

    pub(in crate::store) async fn discard_letter(&self, id: u64) -> Result<bool, StoreError> {
        let Ok(id) = i64::try_from(id) else {
            return Ok(false);
        };
        let reader = self.readers.get().await?;
        let session = reader.session()?;
        let gone = session
            .execute("DELETE FROM letter WHERE number = $1", &[&id])
            .await;
        Ok(gone.map_err(|error| fault(&error))? == 1)
    }
}

pub(in crate::store::postgres) fn letter(row: &Row) -> Result<DeadLetter, StoreError> {
    let failed = |error: tokio_postgres::Error| fault(&error);
    let id: i64 = row.try_get(0).map_err(failed)?;
    let At(refused_at) = row.try_get(1).map_err(failed)?;
    let text = |column: usize| {
        let text: &str = row.try_get(column).map_err(failed)?;
        let plain = unescape(text).ok_or_else(|| {
            StoreError::Damaged(format!("letter {id} is not one that was written"))
        })?;
        Ok::<_, StoreError>(plain.into_owned())
    };
    Ok(DeadLetter {
        id: id.cast_unsigned(),
        refused_at,
        errors: text(2)?,
        body: text(3)?,
    })
}
