//! The processor that requests each id from an upstream server.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::Url;
use tokio::task::JoinSet;

use super::{Failure, IdResult, Response, Work};
use crate::clock::Clock;
use crate::jobs::outbound::{Limits, Outbound, retry_after};
use crate::model::queue::{HttpSettings, UpstreamTemplate};

/// The most requests of one batch that are under way at once.
const MAX_CONCURRENT: usize = 64;

/// The most bytes that the responses of one attempt may have together: a batch has up to 65,535
/// ids, and all responses are in memory until it ends. The ids past it fail, and are tried again.
const MAX_BATCH_BYTES: u64 = 256 * 1024 * 1024;

/// The most redirects of one request.
const MAX_REDIRECTS: usize = 5;

/// Requests each id with `GET`, the ids of a batch concurrently. A 2xx answer is a success.
///
/// The URL alone says where a request goes: proxies named in the environment are not used.
#[derive(Debug)]
pub struct Http(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    outbound: Outbound,
    upstream: UpstreamTemplate,
    max_response: u64,
    max_batch: u64,
    clock: Clock,
}

impl Http {
    /// # Errors
    /// A sentence, if the template makes no URL, or is an `https` one and this machine has no
    /// root certificates.
    pub(super) fn new(settings: &HttpSettings, clock: Clock) -> Result<Self, String> {
        Self::with_batch_limit(settings, clock, MAX_BATCH_BYTES)
    }

    fn with_batch_limit(
        settings: &HttpSettings,
        clock: Clock,
        max_batch: u64,
    ) -> Result<Self, String> {
        let url = Url::parse(&settings.upstream.url(1))
            .map_err(|error| format!("the upstream is not a URL: {error}"))?;
        let limits = Limits {
            peer: "upstream",
            connect_timeout: settings.connect_timeout,
            timeout: settings.timeout,
            redirects: MAX_REDIRECTS,
        };
        Ok(Self(Arc::new(Inner {
            outbound: Outbound::new(limits, url.scheme() == "https")?,
            upstream: settings.upstream.clone(),
            max_response: settings.max_response,
            max_batch,
            clock,
        })))
    }

    /// Ends after at most the timeout of a request times the rounds of [`MAX_CONCURRENT`].
    pub(super) async fn run(&self, work: Work) -> Vec<IdResult> {
        let bytes = Arc::new(AtomicU64::new(0));
        let mut results: Vec<IdResult> = work.due.iter().copied().map(unfinished).collect();
        let mut requests = JoinSet::new();
        for (index, &(position, id)) in work.due.iter().enumerate() {
            if requests.len() >= MAX_CONCURRENT {
                keep(&mut results, requests.join_next().await);
            }
            let (inner, bytes) = (Arc::clone(&self.0), Arc::clone(&bytes));
            let key = format!("{}:{}:{position}", work.ingestion, work.batch.0);
            requests.spawn(async move { (index, inner.request(id, key, &bytes).await) });
        }
        while !requests.is_empty() {
            keep(&mut results, requests.join_next().await);
        }
        results
    }
}

/// What stands for an id until its request has ended, and ever if that broke down.
fn unfinished((position, id): (u16, i64)) -> IdResult {
    IdResult {
        position,
        id,
        result: Err(failed(
            "the request broke down inside the service".to_owned(),
        )),
    }
}

/// A failure that says nothing of when to come back.
const fn failed(reason: String) -> Failure {
    Failure {
        reason,
        retry_after: None,
    }
}

/// One request's outcome, with its index in the results.
type Joined = Result<(usize, Result<Response, Failure>), tokio::task::JoinError>;

/// Puts an outcome in its place. A request that broke down has left `unfinished` there.
fn keep(results: &mut [IdResult], joined: Option<Joined>) {
    if let Some(Ok((index, result))) = joined
        && let Some(slot) = results.get_mut(index)
    {
        slot.result = result;
    }
}

impl Inner {
    /// One request. `key` lets the upstream drop repeats: delivery is at least once.
    async fn request(&self, id: i64, key: String, batch: &AtomicU64) -> Result<Response, Failure> {
        let mut response = self
            .outbound
            .client()
            .get(self.upstream.url(id))
            .header("Idempotency-Key", key)
            .send()
            .await
            .map_err(|error| failed(self.outbound.sentence(&error)))?;
        let status = response.status();
        if !status.is_success() {
            return Err(Failure {
                reason: self.outbound.answered(status),
                retry_after: self.retry_after(&response),
            });
        }
        let body = self.body(&mut response, batch).await.map_err(failed)?;
        Ok(Response {
            status: status.as_u16(),
            body,
        })
    }

    fn retry_after(&self, response: &reqwest::Response) -> Option<Duration> {
        retry_after(response.headers(), self.clock.now().wall)
    }

    /// The body, read piece by piece so that no more than the bound is ever held.
    async fn body(
        &self,
        response: &mut reqwest::Response,
        batch: &AtomicU64,
    ) -> Result<Vec<u8>, String> {
        let too_large = || {
            let most = self.max_response;
            format!("the upstream's response is larger than {most} bytes")
        };
        if response.content_length() > Some(self.max_response) {
            return Err(too_large());
        }
        let mut body = Vec::new();
        while let Some(chunk) = self.outbound.chunk(response).await? {
            let chunk = chunk.as_ref();
            let more = chunk.len() as u64;
            if body.len() as u64 + more > self.max_response {
                return Err(too_large());
            }
            if batch.fetch_add(more, Ordering::Relaxed) + more > self.max_batch {
                let most = self.max_batch;
                return Err(format!(
                    "the responses of this batch are larger than {most} bytes together"
                ));
            }
            body.extend_from_slice(chunk);
        }
        Ok(body)
    }
}
