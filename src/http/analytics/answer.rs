//! Answers that a client may keep, and ask again whether they still hold.

use std::fmt::Write as _;
use std::io::Cursor;

use jiff::tz::TimeZone;
use rocket::http::{ContentType, Header, Status};
use rocket::response::{self, Responder};
use rocket::{Request, Response};
use serde::Serialize;

use super::common::Zone;
use crate::http::HttpState;
use crate::http::call::Call;
use crate::http::error::Problem;
use crate::model::time::Timestamp;

/// Which answer it is: as of when, and its tag.
pub(in crate::http) struct Fresh {
    /// The answer covers every event that was acknowledged before.
    pub(super) as_of: Timestamp,
    tag: String,
}

/// An answer, or that the client has it already.
pub(in crate::http) struct Answer {
    fresh: Fresh,
    body: Option<Vec<u8>>,
}

impl Fresh {
    /// The tag of the answer to a question that is put now. `zone` is where the answer also depends
    /// on which day it is.
    ///
    /// The tag has a number of this run of the process in it: a store that was replaced may count as
    /// many events, and a new version of the service may answer in another form. Where nodes share a
    /// store it is the store's number instead, so that all have the same tags.
    pub(super) async fn now(state: &HttpState, zone: Option<&Zone>) -> Result<Self, Problem> {
        // Before the time: what is acknowledged in between makes the answer newer than its tag, and
        // the next question is then answered once too often, not once too seldom.
        let version = state.analytics.version().await?;
        let as_of = state.analytics.now();
        let mut tag = format!(
            "{:x}-{:x}-{:x}",
            state.run, version.last.0, version.erasures
        );
        if let Some(zone) = zone {
            let now = zone.local(as_of);
            // The offset, too: where clocks go back over midnight, a date comes twice.
            let _ = write!(tag, "-{}-{}", now.date(), now.offset().seconds());
        }
        Ok(Self { as_of, tag })
    }

    /// Whether the client has this answer.
    pub(super) fn is_known(&self, call: Call<'_>) -> bool {
        call.headers("If-None-Match")
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .any(|tag| {
                let opaque = tag.strip_prefix("W/").unwrap_or(tag);
                let opaque = opaque.strip_prefix('"').and_then(|it| it.strip_suffix('"'));
                tag == "*" || opaque == Some(&self.tag)
            })
    }

    /// That the client has the answer.
    pub(super) fn unchanged(self) -> Answer {
        Answer {
            fresh: self,
            body: None,
        }
    }

    /// The answer.
    pub(super) fn answer<T: Serialize>(self, make: impl FnOnce() -> T) -> Answer {
        Answer {
            body: Some(serde_json::to_vec(&make()).unwrap_or_default()),
            fresh: self,
        }
    }

    /// A long answer, made on a thread for blocking work.
    pub(super) async fn long_answer<T: Serialize>(
        self,
        make: impl FnOnce() -> T + Send + 'static,
    ) -> Answer {
        let work = rocket::tokio::task::spawn_blocking(move || serde_json::to_vec(&make()));
        let body = work.await.ok().and_then(Result::ok).unwrap_or_default();
        Answer {
            fresh: self,
            body: Some(body),
        }
    }
}

impl<'r> Responder<'r, 'static> for Answer {
    fn respond_to(self, _: &'r Request<'_>) -> response::Result<'static> {
        let mut response = Response::build();
        response
            .raw_header("ETag", format!("W/\"{}\"", self.fresh.tag))
            .raw_header("Cache-Control", "no-cache")
            .raw_header("X-As-Of", self.fresh.as_of.to_string());
        match self.body {
            None => response.status(Status::NotModified),
            Some(body) => response
                .header(Header::from(ContentType::JSON))
                .sized_body(body.len(), Cursor::new(body)),
        };
        Ok(response.finalize())
    }
}

/// A time as an answer shows it: `Z` in UTC, else with the offset of its zone, so that a day begins
/// with its own midnight.
pub(super) fn shown(time: Timestamp, zone: &TimeZone) -> String {
    let Ok(time) = jiff::Timestamp::from_microsecond(time.as_micros()) else {
        return time.to_string();
    };
    if zone.to_fixed_offset().is_ok_and(jiff::tz::Offset::is_zero) {
        time.to_string()
    } else {
        let offset = zone.to_offset(time);
        time.display_with_offset(offset).to_string()
    }
}
