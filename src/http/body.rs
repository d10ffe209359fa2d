//! Reads a request body, within a size, a time, and a share of memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rocket::data::{DataStream, ToByteUnit};
use rocket::{Data, Request};
use tokio::io::AsyncReadExt;

use super::HttpState;
use super::call::Call;
use super::error::{Code, Problem, shown};

/// The media type of JSON.
pub(super) const JSON: &str = "application/json";

/// What is reserved at first for a body, at most.
const FIRST: usize = 16 * 1024;

/// How much of a body that is refused is read and thrown away. Without that, a client that is
/// still sending sees a reset connection instead of the answer.
const MAX_DRAINED: u64 = 64 * 1024 * 1024;

/// How long that may take.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// A whole body. Its memory is counted until it is dropped.
pub(super) struct Body {
    bytes: Vec<u8>,
    _share: Share,
}

impl Body {
    /// The bytes, as sent.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The memory of all bodies together.
pub(super) struct Budget {
    used: AtomicUsize,
    max: usize,
}

impl Budget {
    /// `max` bytes for all bodies.
    pub(super) const fn new(max: usize) -> Self {
        Self {
            used: AtomicUsize::new(0),
            max,
        }
    }

    fn take(&self, bytes: usize) -> Result<(), Problem> {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) <= self.max {
            return Ok(());
        }
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        Err(Problem::new(
            Code::Unavailable,
            "The bodies of the requests in flight take all the memory there is for them. \
             Send it again in a moment.",
        )
        .retry_after(Duration::from_secs(1))
        .closing())
    }
}

/// What one body holds of the budget.
struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Share {
    fn grow(&mut self, by: usize) -> Result<(), Problem> {
        self.budget.take(by)?;
        self.bytes += by;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Reads the JSON body of a request; see [`read`].
pub(super) async fn read_json(
    call: Call<'_>,
    data: Data<'_>,
    state: &HttpState,
) -> Result<Body, Problem> {
    let (body, ()) = read(call, data, state, &[(JSON, ())]).await?;
    Ok(body)
}

/// Reads the body of a request that has one of these media types; returns what stands beside the
/// media type, too.
///
/// 415 for another media type, 413 past the limit, 408 past the deadline, 400 for a body that is
/// shorter than announced, 503 when the bodies in flight take all the memory there is for them.
pub(super) async fn read<T: Copy>(
    call: Call<'_>,
    data: Data<'_>,
    state: &HttpState,
    types: &[(&'static str, T)],
) -> Result<(Body, T), Problem> {
    let right_type = check_media_type(call.header("content-type"), types);
    let announced = call
        .header("content-length")
        .and_then(|length| length.parse::<u64>().ok());
    let limit = state.limits.max_body;
    let mut stream = data.open(limit.saturating_add(1 + MAX_DRAINED).bytes());
    let fits = announced.is_none_or(|length| length <= limit);
    let found = match right_type {
        Ok(found) if fits => found,
        refused => {
            drain(&mut stream, state).await;
            return Err(refused.err().unwrap_or_else(|| too_large(limit)));
        }
    };
    let reading = read_up_to(&mut stream, announced, state);
    let body = tokio::select! {
        // A body that has arrived already costs no timer.
        biased;
        body = reading => body,
        () = state.clock.sleep(state.limits.body_deadline) => return Err(too_slow(state)),
    };
    let body = match body {
        Ok(Some(body)) => body,
        refused => {
            drain(&mut stream, state).await;
            return Err(refused.err().unwrap_or_else(|| too_large(limit)));
        }
    };
    if announced.is_some_and(|length| length != body.bytes.len() as u64) {
        return Err(cut_off(announced, body.bytes.len()));
    }
    Ok((body, found))
}

/// The whole body; `None` if it is larger than the limit.
async fn read_up_to(
    stream: &mut DataStream<'_>,
    announced: Option<u64>,
    state: &HttpState,
) -> Result<Option<Body>, Problem> {
    let limit = usize::try_from(state.limits.max_body).unwrap_or(usize::MAX);
    let announced_len = announced.and_then(|length| usize::try_from(length).ok());
    let mut share = Share {
        budget: Arc::clone(&state.bodies),
        bytes: 0,
    };
    // One more than announced, so that the end is seen without growing.
    let first = announced_len.map_or(FIRST, |length| length.min(FIRST) + 1);
    share.grow(first)?;
    let mut bytes = Vec::with_capacity(first);
    loop {
        if bytes.len() > limit {
            return Ok(None);
        }
        if bytes.len() == bytes.capacity() {
            // Memory follows what has come, not what was announced.
            let by = bytes.capacity();
            share.grow(by)?;
            bytes.reserve_exact(by);
        }
        match stream.read_buf(&mut bytes).await {
            Ok(0) => break,
            Ok(_) => {}
            Err(_) => return Err(cut_off(announced, bytes.len())),
        }
    }
    Ok(Some(Body {
        bytes,
        _share: share,
    }))
}

/// Throws away the body of a request that was refused before it was looked at, within the bounds of
/// [`drain`].
pub(super) async fn discard(request: &Request<'_>, data: Data<'_>) {
    let headers = request.headers();
    let none = headers.get_one("Content-Length").unwrap_or("0") == "0"
        && !headers.contains("Transfer-Encoding");
    if none {
        return;
    }
    if let Some(state) = request.rocket().state::<HttpState>() {
        drain(&mut data.open(MAX_DRAINED.bytes()), state).await;
    }
}

/// Reads on without keeping anything, within its bounds.
async fn drain(stream: &mut DataStream<'_>, state: &HttpState) {
    let mut scratch = vec![0; 64 * 1024];
    let reading = async { while matches!(stream.read(&mut scratch).await, Ok(1..)) {} };
    tokio::select! {
        () = reading => {}
        () = state.clock.sleep(DRAIN_DEADLINE) => {}
    }
}

/// One of `types`, with any parameters.
fn check_media_type<T: Copy>(
    given: Option<&str>,
    types: &[(&'static str, T)],
) -> Result<T, Problem> {
    let essence = given.and_then(|value| value.split(';').next());
    let essence = essence.map(str::trim);
    let right = types.iter().find(|(name, _)| {
        let same = |essence: &str| essence.eq_ignore_ascii_case(name);
        essence.is_some_and(same)
    });
    if let Some((_, found)) = right {
        return Ok(*found);
    }
    let is = match essence {
        Some(other) => format!("The body is {}", shown(other)),
        None => "The request has no Content-Type".to_owned(),
    };
    let names: Vec<&str> = types.iter().map(|(name, _)| *name).collect();
    let names = names.join(" or ");
    Err(Problem::new(
        Code::UnsupportedMediaType,
        format!("{is}; send the body as Content-Type: {names}."),
    ))
}

fn too_large(limit: u64) -> Problem {
    Problem::new(
        Code::BodyTooLarge,
        format!("The body is larger than {limit} bytes. Send it in smaller parts."),
    )
    .closing()
}

fn too_slow(state: &HttpState) -> Problem {
    Problem::new(
        Code::RequestTimeout,
        format!(
            "The body did not arrive within {:?}.",
            state.limits.body_deadline
        ),
    )
    .closing()
}

fn cut_off(announced: Option<u64>, got: usize) -> Problem {
    let detail = match announced {
        Some(length) => {
            format!("The body ended after {got} bytes, and Content-Length announced {length}.")
        }
        None => format!("The body broke off after {got} bytes."),
    };
    Problem::new(Code::MalformedJson, detail).closing()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_is_taken_with_any_parameters() {
        let types = [(JSON, 0), ("application/x-ndjson", 1)];
        let lines = Some("application/X-NDJSON; charset=utf-8");
        assert_eq!(check_media_type(lines, &types).ok(), Some(1));
        for good in [
            "application/json",
            "Application/JSON",
            "application/json; charset=utf-8",
            "application/json;x=y",
        ] {
            assert!(check_media_type(Some(good), &types).is_ok(), "{good}");
        }
        for bad in ["", "text/plain", "application/jsonx", "application/ndjson"] {
            assert!(check_media_type(Some(bad), &types).is_err(), "{bad}");
        }
        assert!(check_media_type(None, &types).is_err());
    }

    #[test]
    fn the_budget_is_exact_and_comes_back() {
        let budget = Arc::new(Budget::new(10));
        let mut share = Share {
            budget: Arc::clone(&budget),
            bytes: 0,
        };
        assert!(share.grow(10).is_ok());
        assert!(budget.take(1).is_err());
        drop(share);
        assert!(budget.take(10).is_ok());
    }
}
