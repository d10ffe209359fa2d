//! Every answer with a status of 400 or more: RFC 9457 problem details.

mod catch;

use std::borrow::Cow;
use std::io::Cursor;
use std::time::Duration;

use rocket::fairing::AdHoc;
use rocket::http::{Header, Status};
use rocket::response::{self, Responder};
use rocket::{Request, Response};
use serde::Serialize;

use super::request_id::{HEADER, RequestId};
use crate::analytics::AnalyticsError;
use crate::bus::BusError;
use crate::events::IngestError;
use crate::events::parse::Refusal;
use crate::jobs::SubmitError;
pub(super) use crate::model::offence::{Offence, Offences, shown};
use crate::store::StoreError;

/// The media type of a problem (RFC 9457).
pub(super) const MEDIA_TYPE: &str = "application/problem+json";

/// What kind of problem it is: a closed list, stable for clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Code {
    BadRequest,
    MalformedJson,
    InvalidValue,
    ContradictoryParameters,
    BodyTooLarge,
    TooManyItems,
    TooBroad,
    EventsGone,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    UnsupportedMediaType,
    IdempotencyKeyInFlight,
    IdempotencyKeyReused,
    RateLimited,
    QueueFull,
    Internal,
    Unavailable,
}

impl Code {
    /// All of them, for the OpenAPI document.
    pub(super) const ALL: [Self; 18] = [
        Self::BadRequest,
        Self::MalformedJson,
        Self::InvalidValue,
        Self::ContradictoryParameters,
        Self::BodyTooLarge,
        Self::TooManyItems,
        Self::TooBroad,
        Self::EventsGone,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::UnsupportedMediaType,
        Self::IdempotencyKeyInFlight,
        Self::IdempotencyKeyReused,
        Self::RateLimited,
        Self::QueueFull,
        Self::Internal,
        Self::Unavailable,
    ];

    /// HTTP status, code on the wire, title.
    pub(super) const fn row(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::BadRequest => (400, "bad_request", "Bad request"),
            Self::MalformedJson => (400, "malformed_json", "The body is not JSON"),
            Self::InvalidValue => (422, "invalid_value", "A value is not valid"),
            Self::ContradictoryParameters => (
                400,
                "contradictory_parameters",
                "Two parameters contradict each other",
            ),
            Self::BodyTooLarge => (413, "body_too_large", "The body is too large"),
            Self::TooManyItems => (422, "too_many_items", "Too many items"),
            Self::TooBroad => (422, "too_broad", "The question is too broad"),
            Self::EventsGone => (422, "events_gone", "Events are gone"),
            Self::NotFound => (404, "not_found", "Not found"),
            Self::MethodNotAllowed => (405, "method_not_allowed", "Method not allowed"),
            Self::RequestTimeout => (408, "request_timeout", "The body came too slowly"),
            Self::UnsupportedMediaType => (415, "unsupported_media_type", "Unsupported media type"),
            Self::IdempotencyKeyInFlight => (
                409,
                "idempotency_key_in_flight",
                "The Idempotency-Key is in flight",
            ),
            Self::IdempotencyKeyReused => (
                422,
                "idempotency_key_reused",
                "The Idempotency-Key was used with another body",
            ),
            Self::RateLimited => (429, "rate_limited", "Too many requests"),
            Self::QueueFull => (429, "queue_full", "The queue is full"),
            Self::Internal => (500, "internal", "Internal error"),
            Self::Unavailable => (503, "unavailable", "Temporarily unavailable"),
        }
    }
}

/// A problem, ready to be sent. One pointer wide, because it rides in every `Result` of the edge.
#[derive(Debug)]
pub(super) struct Problem(Box<Inner>);

#[derive(Debug)]
struct Inner {
    code: Code,
    detail: Cow<'static, str>,
    offences: Offences,
    retry_after: Option<Duration>,
    quota: Option<Quota>,
    allow: Option<String>,
    components: Option<serde_json::Value>,
    close: bool,
}

/// A bound that was hit, for the `RateLimit` fields.
#[derive(Debug)]
struct Quota {
    policy: &'static str,
    limit: u64,
}

impl Problem {
    /// With one sentence a person can act on.
    pub(super) fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            code,
            detail: detail.into(),
            offences: Offences::default(),
            retry_after: None,
            quota: None,
            allow: None,
            components: None,
            close: false,
        }))
    }

    /// Lists what is wrong with which value.
    pub(super) fn with_offences(mut self, offences: Offences) -> Self {
        self.0.offences = offences;
        self
    }

    /// What is wrong with which value.
    #[cfg(test)]
    pub(super) fn offences(&self) -> &Offences {
        &self.0.offences
    }

    /// When it is worth trying again; sent as whole seconds, rounded up.
    pub(super) fn retry_after(mut self, after: Duration) -> Self {
        self.0.retry_after = Some(after);
        self
    }

    /// Names the bound that was hit, with its limit.
    pub(super) fn quota(mut self, policy: &'static str, limit: u64) -> Self {
        self.0.quota = Some(Quota { policy, limit });
        self
    }

    /// The methods that are offered.
    pub(super) fn allow(mut self, methods: String) -> Self {
        self.0.allow = Some(methods);
        self
    }

    /// The state of each component, for `/ready`.
    pub(super) fn components(mut self, components: serde_json::Value) -> Self {
        self.0.components = Some(components);
        self
    }

    /// Ends the connection after the answer: the rest of the request is not read.
    pub(super) fn closing(mut self) -> Self {
        self.0.close = true;
        self
    }

    /// Text that is no JSON: 400.
    pub(super) fn malformed(reason: &str) -> Self {
        Self::new(
            Code::MalformedJson,
            format!("The body is not one JSON value in UTF-8: {reason}."),
        )
    }

    /// JSON with bad values: 422.
    pub(super) fn invalid(offences: Offences) -> Self {
        let count = offences.count().unwrap_or_default();
        let detail = match offences.listed() {
            [one] => format!("A value is not valid: it {}.", one.detail()),
            _ => format!("{count} values are not valid; errors says which."),
        };
        Self::new(Code::InvalidValue, detail).with_offences(offences)
    }

    /// One bad query parameter: 422.
    pub(super) fn parameter(name: &'static str, detail: impl Into<String>) -> Self {
        Self::parameters(Offence::in_parameter(name, detail.into()).into())
    }

    /// Bad query parameters: 422.
    pub(super) fn parameters(offences: Offences) -> Self {
        let detail = match offences.listed() {
            [only] => format!(
                "The parameter {} is not valid: it {}.",
                only.parameter().unwrap_or_default(),
                only.detail()
            ),
            _ => return Self::invalid(offences),
        };
        Self::new(Code::InvalidValue, detail).with_offences(offences)
    }

    /// One bad header: 422.
    pub(super) fn header(name: &'static str, detail: impl Into<String>) -> Self {
        let offence = Offence::in_header(name, detail.into());
        Self::new(
            Code::InvalidValue,
            format!("The header {name} is not valid: it {}.", offence.detail()),
        )
        .with_offences(offence.into())
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let wait = match &error {
            StoreError::Damaged(_) => {
                tracing::error!(%error, "a read from the store failed");
                return Self::new(
                    Code::Internal,
                    "What was asked for can't be read from the store; the operator's log says why.",
                );
            }
            StoreError::Refused(_) => {
                tracing::error!(%error, "a write to the store was refused");
                return Self::new(
                    Code::Internal,
                    "Nothing was stored: the store does not take this; the operator's log says why.",
                );
            }
            StoreError::Busy | StoreError::Again => Duration::from_secs(1),
            StoreError::Behind => {
                return Self::new(
                    Code::Unavailable,
                    "The events that were accepted last are not counted yet. Ask again later.",
                )
                .retry_after(Duration::from_secs(5));
            }
            StoreError::Closed
            | StoreError::Away(_)
            | StoreError::Deposed
            | StoreError::KeyTaken
            | StoreError::MessageTaken
            | StoreError::QueueFull => Duration::from_secs(5),
            StoreError::Full => Duration::from_secs(10),
            StoreError::Failed(_) => Duration::from_mins(1),
        };
        let detail = match &error {
            // The reason names files of the server: the log has it, a client has no use for it.
            StoreError::Failed(_) => {
                "Nothing was stored: the store takes no writes until the service is restarted."
                    .to_owned()
            }
            // Nor for the server's.
            StoreError::Away(_) => {
                "The database does not answer: whether this was stored can't be \
                 told. Send it again later; an event is stored once however often it is sent, a \
                 submission with an Idempotency-Key too."
                    .to_owned()
            }
            other => format!("Nothing was stored: {other}. Send it again later."),
        };
        Self::new(Code::Unavailable, detail).retry_after(wait)
    }
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::TooLarge {
                queue,
                limit,
                batch_size,
            } => {
                let ids = limit.saturating_mul(batch_size.into());
                let mut offences = Offences::default();
                offences.add(&["ids"], "too_many_items", || {
                    format!("may have {ids} ids in this queue")
                });
                Self::new(
                    Code::TooManyItems,
                    format!(
                        "Queue {queue:?} takes at most {limit} waiting batches of {batch_size} ids, so a \
                         submission to it may have {ids} ids. Send it in smaller parts."
                    ),
                )
                .with_offences(offences)
            }
            SubmitError::QueueFull {
                queue,
                waiting,
                limit,
                retry_after,
            } => Self::new(
                Code::QueueFull,
                format!(
                    "Queue {queue:?} holds {waiting} waiting batches and takes at most {limit}; \
                     nothing of this request was stored. Send it again later, or in smaller parts."
                ),
            )
            .retry_after(retry_after)
            .quota("waiting-batches", limit),
            SubmitError::KeyReused => Self::new(
                Code::IdempotencyKeyReused,
                "This Idempotency-Key was used with another body. Use a new key for a new request.",
            ),
            SubmitError::KeyInFlight => Self::new(
                Code::IdempotencyKeyInFlight,
                "A request with this Idempotency-Key is still being answered. \
                 Repeat this one when that has ended.",
            )
            .retry_after(Duration::from_secs(1)),
            SubmitError::Store(error) => error.into(),
        }
    }
}

impl From<IngestError> for Problem {
    fn from(error: IngestError) -> Self {
        match error {
            // Lines, too: those are more than one value.
            IngestError::Refused(Refusal::Malformed(reason)) => Self::new(
                Code::MalformedJson,
                format!("The body is not JSON in UTF-8: {reason}."),
            ),
            IngestError::Refused(Refusal::Invalid(offences)) => Self::invalid(offences),
            IngestError::Refused(Refusal::TooMany {
                count,
                max,
                pointer,
            }) => {
                let path: Vec<&str> = pointer.split('/').skip(1).collect();
                let mut offences = Offences::default();
                offences.add(&path, "too_many_items", || {
                    format!("has {count} events and may have {max}")
                });
                Self::new(
                    Code::TooManyItems,
                    format!(
                        "There are {count} events, and one request takes at most {max}. \
                         Send them in several requests."
                    ),
                )
                .with_offences(offences)
            }
            IngestError::Busy => Self::new(
                Code::QueueFull,
                "Too many large requests wait to be stored; nothing of this one was. \
                 Send it again in a moment.",
            )
            .retry_after(Duration::from_secs(1))
            .quota("waiting-events", IngestError::MAX_WAITING as u64),
            IngestError::Store(error) => error.into(),
            IngestError::Bus(error) => error.into(),
        }
    }
}

impl From<BusError> for Problem {
    fn from(error: BusError) -> Self {
        let (code, detail, wait) = match error {
            BusError::Busy => (
                Code::QueueFull,
                "Too many events are on their way to the bus; nothing of this request was taken. \
                 Send it again in a moment.",
                1,
            ),
            BusError::Full => (
                Code::QueueFull,
                "The bus is full of events that wait to be committed. \
                 Send this request again later: what was taken of it is then a duplicate.",
                5,
            ),
            BusError::Away => (
                Code::Unavailable,
                "The bus does not answer. \
                 Send this request again later: what was taken of it is then a duplicate.",
                5,
            ),
        };
        Self::new(code, detail).retry_after(Duration::from_secs(wait))
    }
}

impl From<AnalyticsError> for Problem {
    fn from(error: AnalyticsError) -> Self {
        match error {
            AnalyticsError::TooBroad { limit, of } => Self::new(
                Code::TooBroad,
                format!(
                    "More than {limit} {of} would have to be read one by one for this answer. \
                     Ask for a shorter time (from, to), for one tenant_id, or without segments by a \
                     property."
                ),
            ),
            AnalyticsError::EventsGone { last, cohorts } => {
                let instead = if cohorts {
                    "Cohorts need all events from the first one on: ask without segments by a \
                     property."
                } else {
                    "Ask only about times after that (a trailing window begins before from), or \
                     without segments by a property."
                };
                Self::new(
                    Code::EventsGone,
                    format!(
                        "Events that this answer needs are gone from the store, erased or moved to \
                         the cold tier, the last of them at {last}. {instead}"
                    ),
                )
            }
            AnalyticsError::Store(StoreError::Busy) => Self::new(
                Code::Unavailable,
                "Too many questions wait for the events to be read. Ask again in a moment, or \
                 without segments by a property.",
            )
            .retry_after(Duration::from_secs(1)),
            AnalyticsError::Range => Self::new(
                Code::InvalidValue,
                "The days of this question go beyond the calendar, which ends with the year 9999. \
                 Ask for earlier ones.",
            ),
            AnalyticsError::Store(error) => error.into(),
        }
    }
}

/// The members of a problem, in the order in which they are sent.
#[derive(Serialize)]
struct Wire<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: &'static str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "<[Offence]>::is_empty")]
    errors: &'a [Offence],
    #[serde(skip_serializing_if = "Option::is_none")]
    error_count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    components: Option<&'a serde_json::Value>,
}

impl<'r> Responder<'r, 'static> for Problem {
    fn respond_to(self, request: &'r Request<'_>) -> response::Result<'static> {
        let inner = *self.0;
        let (status, code, title) = inner.code.row();
        let request_id = RequestId::of(request).as_str();
        let wire = Wire {
            r#type: format!("urn:tollgate:problem:{code}"),
            title,
            status,
            detail: &inner.detail,
            code,
            request_id,
            errors: inner.offences.listed(),
            error_count: inner.offences.count(),
            components: inner.components.as_ref(),
        };
        let body = serde_json::to_vec(&wire).map_err(|_| Status::InternalServerError)?;

        let mut response = Response::build();
        response
            .status(Status::new(status))
            .raw_header("Content-Type", MEDIA_TYPE)
            .raw_header("Cache-Control", "no-store")
            // A failure before routing passes by the fairing that sets it elsewhere.
            .header(Header::new(HEADER, request_id.to_owned()))
            .sized_body(body.len(), Cursor::new(body));
        let seconds = inner.retry_after.map(|after| {
            let whole = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            whole.max(1)
        });
        if let Some(seconds) = seconds {
            response.raw_header("Retry-After", seconds.to_string());
        }
        if let Some(Quota { policy, limit }) = inner.quota {
            // draft-ietf-httpapi-ratelimit-headers: quota, remaining, seconds to a reset.
            let reset = seconds.unwrap_or(1);
            response
                .raw_header("RateLimit-Policy", format!("\"{policy}\";q={limit}"))
                .raw_header("RateLimit", format!("\"{policy}\";r=0;t={reset}"));
        }
        if let Some(allow) = inner.allow {
            response.raw_header("Allow", allow);
        }
        if inner.close {
            response.raw_header("Connection", "close");
        }
        Ok(response.finalize())
    }
}

/// Turns what the framework refuses into problems.
pub(super) fn stage() -> AdHoc {
    AdHoc::on_ignite("problems", |rocket| async {
        rocket.register("/", rocket::catchers![catch::anything])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(problem: &Problem) -> (u16, &'static str, bool) {
        let (status, code, _) = problem.0.code.row();
        (status, code, problem.0.retry_after.is_some())
    }

    #[test]
    fn each_refusal_of_a_submission_has_its_status() {
        let full = SubmitError::QueueFull {
            queue: "mail".to_owned(),
            waiting: 9,
            limit: 10,
            retry_after: Duration::from_millis(1),
        };
        assert_eq!(row(&full.into()), (429, "queue_full", true));
        let large = SubmitError::TooLarge {
            queue: "mail".to_owned(),
            limit: u64::MAX,
            batch_size: 3,
        };
        assert_eq!(row(&large.into()), (422, "too_many_items", false));
        let reused = SubmitError::KeyReused.into();
        assert_eq!(row(&reused), (422, "idempotency_key_reused", false));
        let in_flight = SubmitError::KeyInFlight.into();
        assert_eq!(row(&in_flight), (409, "idempotency_key_in_flight", true));
        for error in [
            StoreError::Busy,
            StoreError::Full,
            StoreError::Closed,
            StoreError::Deposed,
            StoreError::Away("no host \"/secret/path\"".to_owned()),
            StoreError::Failed("io error on /secret/path".to_owned()),
        ] {
            let problem = SubmitError::Store(error).into();
            assert_eq!(row(&problem), (503, "unavailable", true));
            assert!(!problem.0.detail.contains("secret"));
        }
        let busy = IngestError::Busy.into();
        assert_eq!(row(&busy), (429, "queue_full", true));
        let why = "page 7 of /secret/path".to_owned();
        for error in [StoreError::Damaged(why.clone()), StoreError::Refused(why)] {
            let problem = error.into();
            assert_eq!(row(&problem), (500, "internal", false));
            assert!(!problem.0.detail.contains("secret"));
        }
    }

    #[test]
    fn codes_are_distinct_and_lower_case() {
        let codes: std::collections::BTreeSet<_> = Code::ALL.map(|code| code.row().1).into();
        assert_eq!(codes.len(), Code::ALL.len());
        let legal = |code: &&str| code.bytes().all(|c| c == b'_' || c.is_ascii_lowercase());
        assert!(codes.iter().all(legal));
    }
}
