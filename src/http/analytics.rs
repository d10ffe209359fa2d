//! Questions about events: `/stats/...`, and `/metrics` with parameters.
//!
//! Every question is read in whole before anything is computed, and refused for each parameter that
//! is bad or unknown: a mistyped filter that is ignored gives wrong numbers. Answers carry an `ETag`
//! that changes with every event that is accepted, so asking again costs nothing while none was.

pub(super) mod active_users;
mod answer;
pub(super) mod buckets;
mod common;
mod query;
pub(super) mod retention;
pub(super) mod stream;
pub(super) mod top;
pub(super) mod values;

use rocket::fairing::AdHoc;
use rocket::routes;

pub(super) use self::answer::Answer;
pub(super) use self::common::Scoped;
pub(super) use self::query::Query;
use super::quota;

/// Mounts the resources.
pub(super) fn stage() -> AdHoc {
    AdHoc::on_ignite("analytics", |rocket| async {
        quota::mount(
            rocket,
            routes![
                active_users::dau,
                active_users::wau,
                active_users::mau,
                top::top_events,
                retention::retention,
                values::values,
                stream::stream,
            ],
        )
    })
}
