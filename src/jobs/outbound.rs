//! Requests to other people's servers: one way to make a client, and to say what went wrong.

#[cfg(test)]
pub(crate) mod stub;

use std::error::Error;
use std::io;
use std::time::{Duration, UNIX_EPOCH};

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Response, StatusCode};

use crate::model::time::Timestamp;

/// The longest `Retry-After` that is honoured: a mistaken one must not park a batch for a year.
pub(crate) const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);

/// Idle connections kept to one host; more than a batch uses at once would only be a leak.
const MAX_IDLE: usize = 64;

/// Who is asked, and for how long.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// What to call the server in sentences: `upstream`.
    pub(crate) peer: &'static str,
    /// The most time for a connection.
    pub(crate) connect_timeout: Duration,
    /// The most time for a request, with all its redirects and the whole answer.
    pub(crate) timeout: Duration,
    /// The most redirects that are followed; with 0, a redirect is an answer like any other.
    pub(crate) redirects: usize,
}

/// A client with its limits. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub(crate) struct Outbound {
    client: Client,
    limits: Limits,
}

impl Outbound {
    /// Certificates are checked against the machine's roots. A machine without any can still use
    /// `http` URLs: with `needs_https` unset, every `https` connection then fails by itself.
    ///
    /// # Errors
    /// A sentence, if no client can be made; on a machine without roots only with `needs_https`.
    pub(crate) fn new(limits: Limits, needs_https: bool) -> Result<Self, String> {
        // An error says that a provider was installed before: then that one serves.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = match builder(&limits).build() {
            Ok(client) => client,
            Err(error) if needs_https => {
                let (peer, cause) = (limits.peer, innermost(&error));
                return Err(format!("no TLS client for the {peer} can be made: {cause}"));
            }
            Err(_) => builder(&limits)
                .tls_certs_only([])
                .build()
                .map_err(|error| innermost(&error))?,
        };
        Ok(Self { client, limits })
    }

    /// The client itself.
    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    /// One sentence on why a request or the reading of its answer failed. It names no URL: that
    /// may hold credentials, and the sentence is shown to clients.
    pub(crate) fn sentence(&self, error: &reqwest::Error) -> String {
        let Limits {
            peer,
            connect_timeout,
            timeout,
            redirects,
        } = &self.limits;
        if error.is_timeout() {
            return if error.is_connect() && connect_timeout < timeout {
                format!("timed out: no connection to the {peer} within {connect_timeout:?}")
            } else {
                format!("timed out: no complete answer from the {peer} within {timeout:?}")
            };
        }
        if error.is_dns() {
            return format!("the host name of the {peer} could not be resolved");
        }
        if error.is_redirect() {
            return format!(
                "the {peer} redirected more than {redirects} times, or to no usable URL"
            );
        }
        if let Some(tls) = find::<rustls::Error>(error) {
            return format!("TLS with the {peer} failed: {tls}");
        }
        match find::<io::Error>(error).map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionRefused) => format!("the {peer} refused the connection"),
            Some(
                io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe,
            ) => format!("the {peer} reset the connection"),
            Some(io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) => {
                format!("the {peer} can't be reached")
            }
            _ => format!("the request to the {peer} failed: {}", innermost(error)),
        }
    }

    /// One sentence on an answer that is no success.
    pub(crate) fn answered(&self, status: StatusCode) -> String {
        let peer = self.limits.peer;
        match status.canonical_reason() {
            Some(reason) => format!("{peer} answered {} {reason}", status.as_u16()),
            None => format!("{peer} answered {}", status.as_u16()),
        }
    }

    /// The next piece of a body, or the sentence on why there is none.
    pub(crate) async fn chunk(
        &self,
        response: &mut Response,
    ) -> Result<Option<impl AsRef<[u8]> + use<>>, String> {
        response
            .chunk()
            .await
            .map_err(|error| self.sentence(&error))
    }
}

/// What is common to both kinds of roots.
fn builder(limits: &Limits) -> ClientBuilder {
    let policy = match limits.redirects {
        0 => Policy::none(),
        most => Policy::limited(most),
    };
    Client::builder()
        .user_agent(concat!("tollgate/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(limits.connect_timeout)
        .timeout(limits.timeout)
        .redirect(policy)
        .pool_max_idle_per_host(MAX_IDLE)
        // The URL before a redirect is nobody else's business.
        .referer(false)
        // The URL says where a request goes, not the environment of whoever started the process.
        .no_proxy()
}

/// The first error of type `E` in the chain, also where an `io::Error` wraps it (its `source`
/// skips the error that it wraps).
fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        let wrapped = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
            .map(|wrapped| wrapped as &(dyn Error + 'static));
        next = wrapped.or_else(|| error.source());
    }
    None
}

/// The last error of the chain in its own words: the ones before it say the URL.
fn innermost(error: &reqwest::Error) -> String {
    let mut last: Option<&dyn Error> = error.source();
    while let Some(next) = last.and_then(Error::source) {
        last = Some(next);
    }
    last.map_or_else(|| "no cause is known".to_owned(), ToString::to_string)
}

/// How long the server asks to be left alone (RFC 9110, 10.2.3): whole seconds, or a date in any
/// of HTTP's three forms, at most [`MAX_RETRY_AFTER`]. A date that has passed is zero; anything
/// else is as good as none.
pub(crate) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let date = httpdate::parse_http_date(text).ok()?;
        let since_epoch = date.duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::EPOCH.plus(since_epoch).since(now)
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(value: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, value.parse().unwrap());
        retry_after(&headers, Timestamp::parse("1994-11-06T08:49:07Z").unwrap())
    }

    #[test]
    fn retry_after_is_read_in_every_form() {
        assert_eq!(asked("0"), Some(Duration::ZERO));
        assert_eq!(asked(" 120 "), Some(Duration::from_mins(2)));
        for date in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(asked(date), Some(Duration::from_secs(30)), "{date}");
        }
        assert_eq!(
            asked("Sun, 06 Nov 1994 08:49:00 GMT"),
            Some(Duration::ZERO),
            "a date that has passed"
        );
        for nothing in ["", "-1", "1.5", "soon", "Sun, 06 Nov"] {
            assert_eq!(asked(nothing), None, "{nothing:?}");
        }
        assert_eq!(
            retry_after(&HeaderMap::new(), Timestamp::EPOCH),
            None,
            "no header"
        );
    }

    #[tokio::test]
    async fn a_server_that_speaks_no_tls_is_called_so() {
        let limits = Limits {
            peer: "upstream",
            connect_timeout: Duration::from_secs(2),
            timeout: Duration::from_secs(10),
            redirects: 0,
        };
        let outbound = Outbound::new(limits, false).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        let answer = async {
            use tokio::io::AsyncWriteExt;
            let (mut stream, _) = listener.accept().await.unwrap();
            stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                .await
                .unwrap();
            stream
        };
        let (sent, _open) = tokio::join!(outbound.client().get(url).send(), answer);
        let sentence = outbound.sentence(&sent.unwrap_err());
        assert!(
            sentence.starts_with("TLS with the upstream failed: "),
            "{sentence}"
        );
    }

    #[test]
    fn retry_after_is_bounded() {
        assert_eq!(asked("3600"), Some(MAX_RETRY_AFTER));
        for long in ["3601", "99999999999999999999999999"] {
            assert_eq!(asked(long), Some(MAX_RETRY_AFTER), "{long}");
        }
        assert_eq!(
            asked("Sat, 06 Nov 2094 08:49:37 GMT"),
            Some(MAX_RETRY_AFTER)
        );
    }
}
