//! Talks to a running server.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::{RequestBuilder, Response, Url};
use serde::Deserialize;

use super::{Failure, ServerArgs, output};
use crate::clock::Clock;

/// Where a server is when nothing says otherwise.
const DEFAULT_SERVER: &str = "http://127.0.0.1:8000";

/// The environment variable that says otherwise.
const SERVER_VARIABLE: &str = "TOLLGATE_SERVER";

/// The most time for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The most time for a whole answer.
const TIMEOUT: Duration = Duration::from_mins(2);

/// The shortest and the longest pause between two attempts, where the server names none.
const MIN_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// The longest answer that is read, in bytes: the status of 1,000,000 ids fits.
const MAX_ANSWER: usize = 256 << 20;

/// The most single problems of a refused request that are shown.
const MAX_SHOWN: usize = 10;

/// One server. Cheap to clone.
#[derive(Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    /// Whether it was told that requests are sent again.
    told: Arc<AtomicBool>,
}

/// Why a request got no good answer.
pub(super) struct Refusal {
    /// For people.
    pub(super) text: String,
    /// Whether the same request may succeed later.
    pub(super) passing: bool,
    /// How long the server asks to wait before that.
    pub(super) retry_after: Option<Duration>,
    /// What is wrong with which part of the request.
    pub(super) offences: Vec<Offence>,
}

impl Refusal {
    fn new(text: String, passing: bool) -> Self {
        Self {
            text,
            passing,
            retry_after: None,
            offences: Vec::new(),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Failed(refusal.text)
    }
}

/// What is read of RFC 9457's problem details.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    detail: Option<String>,
    title: Option<String>,
    code: Option<String>,
    errors: Vec<Offence>,
}

/// One thing that is wrong with a request.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Offence {
    /// Where, as RFC 6901 writes it.
    pub(super) pointer: String,
    /// What.
    pub(super) detail: String,
}

impl Client {
    pub(super) fn new(args: &ServerArgs) -> Result<Self, Failure> {
        let server = match &args.server {
            Some(server) => server.clone(),
            None => std::env::var(SERVER_VARIABLE).unwrap_or_else(|_| DEFAULT_SERVER.to_owned()),
        };
        let base = Url::parse(&server)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some());
        let Some(mut base) = base else {
            return Err(Failure::Usage(format!(
                "{server:?} is no server: a URL such as {DEFAULT_SERVER} is allowed"
            )));
        };
        // What follows is joined below the whole path, not beside its last part.
        if !base.path().ends_with('/') {
            let path = format!("{}/", base.path());
            base.set_path(&path);
        }
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("tollgate/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT);
        // A proxy of the environment has another idea of what this machine is.
        if matches!(base.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")) {
            http = http.no_proxy();
        }
        let http = http
            .build()
            .map_err(|error| Failure::Failed(format!("no HTTP client can be made: {error}")))?;
        let told = Arc::default();
        Ok(Self { http, base, told })
    }

    /// A `GET` of a path with its query, relative to the server.
    pub(super) async fn get(&self, path: &str) -> Result<String, Refusal> {
        self.send(self.http.get(self.url(path)?)).await
    }

    /// A `POST` of JSON.
    pub(super) async fn post(
        &self,
        path: &str,
        body: Vec<u8>,
        idempotency_key: Option<&str>,
    ) -> Result<String, Refusal> {
        let mut request = self
            .http
            .post(self.url(path)?)
            .header("Content-Type", "application/json")
            .body(body);
        if let Some(key) = idempotency_key {
            request = request.header("Idempotency-Key", key);
        }
        self.send(request).await
    }

    /// A `POST` of JSON that may be sent again: while the server is away or too busy, for at most
    /// `retry_for`. That it is tried again is told once.
    pub(super) async fn post_again(
        &self,
        path: &str,
        body: &[u8],
        retry_for: Duration,
        clock: &Clock,
    ) -> Result<String, Refusal> {
        self.again(retry_for, clock, || self.post(path, body.to_vec(), None))
            .await
    }

    /// A `GET` with these parameters, sent again in the same way.
    pub(super) async fn get_again(
        &self,
        path: &str,
        query: &[(&str, &str)],
        retry_for: Duration,
        clock: &Clock,
    ) -> Result<String, Refusal> {
        let mut url = self.url(path)?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let get = || self.send(self.http.get(url.clone()));
        self.again(retry_for, clock, get).await
    }

    async fn again<F: Future<Output = Result<String, Refusal>>>(
        &self,
        retry_for: Duration,
        clock: &Clock,
        send: impl Fn() -> F,
    ) -> Result<String, Refusal> {
        let started = clock.now().mono;
        let mut backoff = MIN_BACKOFF;
        loop {
            let refusal = match send().await {
                Ok(text) => return Ok(text),
                Err(refusal) => refusal,
            };
            let pause = refusal.retry_after.unwrap_or(backoff).max(MIN_BACKOFF);
            let gone_for = clock.now().mono.saturating_sub(started);
            if !refusal.passing || gone_for + pause > retry_for {
                return Err(refusal);
            }
            if !self.told.swap(true, Ordering::Relaxed) {
                output::note(&format!(
                    "{}; trying again for up to {retry_for:?}",
                    refusal.text
                ));
            }
            clock.sleep(pause).await;
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    }

    /// A `DELETE`.
    pub(super) async fn delete(&self, path: &str) -> Result<String, Refusal> {
        self.send(self.http.delete(self.url(path)?)).await
    }

    /// The server, for people.
    pub(super) fn name(&self) -> &str {
        self.base.as_str()
    }

    fn url(&self, path: &str) -> Result<Url, Refusal> {
        let url = self.base.join(path);
        url.map_err(|error| Refusal::new(format!("{path:?} is no path: {error}"), false))
    }

    async fn send(&self, request: RequestBuilder) -> Result<String, Refusal> {
        let lost = |error: reqwest::Error| {
            let text = format!("{} does not answer: {}", self.base, cause(&error));
            Refusal::new(text, !error.is_builder())
        };
        let response = request
            .header("Accept", "application/json")
            .send()
            .await
            .map_err(lost)?;
        let status = response.status();
        let retry_after = response.headers().get("Retry-After");
        let retry_after = retry_after
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs);
        let text = self.text(response).await?;
        if status.is_success() {
            return Ok(text);
        }
        let (text, offences) = refused(status.as_u16(), &text);
        Err(Refusal {
            text,
            passing: status.is_server_error() || status.as_u16() == 429,
            retry_after,
            offences,
        })
    }

    async fn text(&self, mut response: Response) -> Result<String, Refusal> {
        let mut bytes = Vec::new();
        let broken = |why: String, passing| {
            let text = format!("the answer of {} can't be used: {why}", self.base);
            Refusal::new(text, passing)
        };
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| broken(cause(&error), true))?
        {
            if bytes.len() + chunk.len() > MAX_ANSWER {
                return Err(broken("it is longer than 256 MiB".to_owned(), false));
            }
            bytes.extend_from_slice(&chunk);
        }
        String::from_utf8(bytes).map_err(|_| broken("it is not UTF-8".to_owned(), false))
    }
}

/// A refused request in words, and all that is wrong with it.
fn refused(status: u16, body: &str) -> (String, Vec<Offence>) {
    let problem: Problem = serde_json::from_str(body).unwrap_or_default();
    let said = problem.detail.or(problem.title);
    let said = said.unwrap_or_else(|| "the server refused the request".to_owned());
    let code = problem
        .code
        .map(|code| format!(" {code}"))
        .unwrap_or_default();
    let mut text = format!("{said} ({status}{code})");
    if let [only] = problem.errors.as_slice()
        && said.contains(&only.detail)
    {
        // The sentence has said it; where it is remains.
        text = format!("{text}\n  at {}", only.pointer);
        return (text, problem.errors);
    }
    // Writing to a string can't fail.
    for offence in problem.errors.iter().take(MAX_SHOWN) {
        let _ = write!(text, "\n  {}: {}", offence.pointer, offence.detail);
    }
    if let Some(more) = problem
        .errors
        .len()
        .checked_sub(MAX_SHOWN)
        .filter(|n| *n > 0)
    {
        let _ = write!(text, "\n  and {more} more");
    }
    (text, problem.errors)
}

/// The innermost cause: it alone says what happened.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_told_with_its_offences() {
        let offences: Vec<String> = (0..12)
            .map(|n| format!(r#"{{"pointer": "/ids/{n}", "detail": "no integer"}}"#))
            .collect();
        let body = format!(
            r#"{{"detail": "bad ids", "code": "invalid_value", "errors": [{}]}}"#,
            offences.join(",")
        );
        let (text, all) = refused(422, &body);
        assert_eq!(all.len(), 12);
        assert!(
            text.starts_with("bad ids (422 invalid_value)\n  /ids/0: no integer\n"),
            "{text}"
        );
        assert!(text.ends_with("/ids/9: no integer\n  and 2 more"), "{text}");
        let once = r#"{"detail": "it must be whole", "errors": [
            {"pointer": "/ids/0", "detail": "must be whole"}]}"#;
        assert_eq!(refused(422, once).0, "it must be whole (422)\n  at /ids/0");
        assert_eq!(
            refused(502, "<html>").0,
            "the server refused the request (502)"
        );
    }
}
