use std::process::Command;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Barrier;
use uuid::Uuid;

use super::*;
use crate::clock::ManualClock;
use crate::jobs::outbound::stub::{Answer, Stub};
use crate::jobs::processor::Processor;
use crate::model::id::{BatchIndex, IngestionId};
use crate::model::queue::ProcessorSettings;
use crate::model::time::Timestamp;

fn settings(upstream: &str) -> HttpSettings {
    HttpSettings::new(UpstreamTemplate::parse(upstream).unwrap())
}

fn of(stub: &Stub) -> HttpSettings {
    settings(&format!("http://{}/items/{{id}}", stub.address))
}

fn work(due: Vec<(u16, i64)>) -> Work {
    Work {
        ingestion: IngestionId::new(Uuid::from_u128(1)),
        batch: BatchIndex(4),
        attempt: 2,
        due,
    }
}

async fn run(settings: HttpSettings, due: Vec<(u16, i64)>) -> Vec<IdResult> {
    let settings = ProcessorSettings::Http(Box::new(settings));
    let processor = Arc::new(Processor::new(&settings, Clock::system()).unwrap());
    processor.run(work(due)).await
}

/// The outcome of id 1.
async fn outcome(settings: HttpSettings) -> Result<Response, Failure> {
    run(settings, vec![(0, 1)]).await.remove(0).result
}

/// The reason why id 1 failed, which must not say where the upstream is.
async fn reason(settings: HttpSettings) -> String {
    let failure = outcome(settings).await.unwrap_err();
    for secret in ["127.0.0.1", "http://", "items/1"] {
        assert!(!failure.reason.contains(secret), "{}", failure.reason);
    }
    assert_eq!(failure.retry_after, None);
    failure.reason
}

async fn answering(status: &'static str, head: &'static str, body: &'static str) -> Stub {
    Stub::start(move |_| async move { Answer::with(status, head, body) }).await
}

#[tokio::test]
async fn the_ids_of_a_batch_are_requested_concurrently() {
    // Nobody is answered before all three are there.
    let barrier = Arc::new(Barrier::new(3));
    let stub = Stub::start(move |seen| {
        let barrier = Arc::clone(&barrier);
        async move {
            barrier.wait().await;
            Answer::ok(&seen.line)
        }
    })
    .await;
    let results = run(of(&stub), vec![(0, 10), (1, 20), (2, 30)]).await;
    let bodies: Vec<_> = results
        .into_iter()
        .map(|it| (it.position, it.id, it.result.unwrap().body))
        .collect();
    let body = |id: i64| format!("GET /items/{id}").into_bytes();
    assert_eq!(
        bodies,
        [(0, 10, body(10)), (1, 20, body(20)), (2, 30, body(30))]
    );
}

#[tokio::test]
async fn no_more_than_the_bound_are_requested_at_once() {
    let (stub, most) = Stub::holding(MAX_CONCURRENT).await;
    let due: Vec<_> = (0..200).map(|n| (n, i64::from(n))).collect();
    let results = run(of(&stub), due.clone()).await;
    assert!(results.iter().all(|it| it.result.is_ok()));
    let answered: Vec<_> = results.iter().map(|it| (it.position, it.id)).collect();
    assert_eq!(answered, due);
    assert_eq!(most.load(Ordering::SeqCst), MAX_CONCURRENT);
}

#[tokio::test]
async fn only_due_ids_are_requested_each_with_its_own_key() {
    let stub = answering("204 No Content", "", "").await;
    let results = run(of(&stub), vec![(1, -5), (7, 8)]).await;
    assert!(
        results
            .iter()
            .all(|it| it.result.as_ref().unwrap().status == 204)
    );
    let seen = stub.seen();
    let lines: Vec<_> = seen.iter().map(|it| it.line.as_str()).collect();
    assert_eq!(lines, ["GET /items/-5", "GET /items/8"]);
    let key = seen[0].header("idempotency-key").unwrap();
    assert_eq!(key, "00000000-0000-0000-0000-000000000001:4:1");
    let key = seen[1].header("idempotency-key").unwrap();
    assert_eq!(key, "00000000-0000-0000-0000-000000000001:4:7");
    let agent = concat!("tollgate/", env!("CARGO_PKG_VERSION"));
    assert_eq!(seen[0].header("user-agent"), Some(agent));
}

#[tokio::test]
async fn one_failure_leaves_the_others_alone() {
    let stub = Stub::start(|seen| async move {
        match seen.line.as_str() {
            "GET /items/2" => Answer::with("404 Not Found", "", "no"),
            _ => Answer::ok("yes"),
        }
    })
    .await;
    let results = run(of(&stub), vec![(0, 1), (1, 2), (2, 3)]).await;
    let ok: Vec<bool> = results.iter().map(|it| it.result.is_ok()).collect();
    assert_eq!(ok, [true, false, true]);
    assert_eq!(
        results[1].result.as_ref().unwrap_err().reason,
        "upstream answered 404 Not Found"
    );
}

#[tokio::test]
async fn nothing_due_asks_nobody() {
    assert_eq!(run(settings("http://127.0.0.1:1/{id}"), vec![]).await, []);
}

#[tokio::test]
async fn retry_after_is_taken_from_any_failure() {
    for (status, text) in [
        ("503 Service Unavailable", "503 Service Unavailable"),
        ("429 Too Many Requests", "429 Too Many Requests"),
        ("500 Internal Server Error", "500 Internal Server Error"),
        ("599 Own Words", "599"),
    ] {
        let stub = answering(status, "Retry-After: 7\r\n", "").await;
        assert_eq!(
            outcome(of(&stub)).await.unwrap_err(),
            Failure {
                reason: format!("upstream answered {text}"),
                retry_after: Some(Duration::from_secs(7)),
            }
        );
    }
}

#[tokio::test]
async fn a_retry_after_date_is_counted_from_the_project_s_clock() {
    let stub = answering(
        "503 Service Unavailable",
        "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
        "",
    )
    .await;
    let noon = Timestamp::parse("1994-11-06T08:49:00Z").unwrap();
    let clock = Clock::Manual(ManualClock::starting_at(noon));
    let http = Http::new(&of(&stub), clock).unwrap();
    let results = http.run(work(vec![(0, 1)])).await;
    let failure = results[0].result.as_ref().unwrap_err();
    assert_eq!(failure.retry_after, Some(Duration::from_secs(37)));
}

#[tokio::test]
async fn a_response_at_the_bound_is_kept_and_one_past_it_fails() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
                   4\r\n0123\r\n6\r\n456789\r\n0\r\n\r\n";
    for declared in [true, false] {
        let stub = Stub::start(move |_| async move {
            if declared {
                Answer::ok("0123456789")
            } else {
                Answer::Text(chunked.to_owned())
            }
        })
        .await;
        let limited = |max_response| HttpSettings {
            max_response,
            ..of(&stub)
        };
        let kept = outcome(limited(10)).await.unwrap();
        assert_eq!(kept.body, b"0123456789");
        assert_eq!(
            reason(limited(9)).await,
            "the upstream's response is larger than 9 bytes"
        );
    }
}

#[tokio::test]
async fn the_responses_of_a_batch_are_bounded_together() {
    let stub = answering("200 OK", "", "0123456789").await;
    for (limit, fit) in [(30, 3), (29, 2)] {
        let http = Http::with_batch_limit(&of(&stub), Clock::system(), limit).unwrap();
        let results = http.run(work(vec![(0, 1), (1, 2), (2, 3)])).await;
        let ok = results.iter().filter(|it| it.result.is_ok()).count();
        assert_eq!(ok, fit, "{results:?}");
    }
}

#[tokio::test]
async fn malformed_and_cut_answers_fail_with_a_sentence() {
    for answer in [
        "",
        "SSH-2.0-OpenSSH_9.9\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: ten\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\ncut",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let stub = Stub::start(move |_| async move { Answer::Text(answer.to_owned()) }).await;
        let reason = reason(of(&stub)).await;
        let start = "the request to the upstream failed: ";
        assert!(
            reason.starts_with(start) && reason.len() > start.len(),
            "{answer:?}: {reason}"
        );
    }
}

#[tokio::test]
async fn a_reset_connection_is_called_so() {
    let stub = Stub::start(|_| async { Answer::Reset }).await;
    assert_eq!(reason(of(&stub)).await, "the upstream reset the connection");
}

#[tokio::test]
async fn a_refused_connection_is_called_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    assert_eq!(
        reason(settings(&format!("http://{address}/{{id}}"))).await,
        "the upstream refused the connection"
    );
}

#[tokio::test]
async fn an_unknown_host_is_called_so() {
    // Longer than a label may be, so that no name server is even asked.
    let host = "a".repeat(64);
    assert_eq!(
        reason(settings(&format!("http://{host}.invalid/{{id}}"))).await,
        "the host name of the upstream could not be resolved"
    );
}

#[tokio::test]
async fn an_upstream_that_stops_talking_is_left_after_the_timeout() {
    for said in ["", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"] {
        let stub = Stub::start(move |_| async move { Answer::Stall(said.to_owned()) }).await;
        let impatient = HttpSettings {
            timeout: Duration::from_millis(50),
            ..of(&stub)
        };
        assert_eq!(
            reason(impatient).await,
            "timed out: no complete answer from the upstream within 50ms"
        );
    }
}

/// Linux leaves a connection unanswered while a listener's queue is full.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_upstream_that_accepts_no_connection_is_left_after_the_connect_timeout() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let _full = [
        TcpStream::connect(address).await.unwrap(),
        TcpStream::connect(address).await.unwrap(),
    ];
    let impatient = HttpSettings {
        connect_timeout: Duration::from_millis(50),
        ..settings(&format!("http://{address}/{{id}}"))
    };
    assert_eq!(
        reason(impatient).await,
        "timed out: no connection to the upstream within 50ms"
    );
}

#[tokio::test]
async fn redirects_are_followed_up_to_the_bound() {
    // `/items/1` redirects to `/items/11` and so on until there are as many ones as asked.
    let hops = |most: usize| {
        Stub::start(move |seen| async move {
            if seen.line.matches('1').count() > most {
                return Answer::ok("there");
            }
            let (_, path) = seen.line.split_once(' ').unwrap();
            Answer::with("302 Found", &format!("Location: {path}1\r\n"), "")
        })
    };
    let five = hops(MAX_REDIRECTS).await;
    assert_eq!(outcome(of(&five)).await.unwrap().body, b"there");
    assert_eq!(five.seen().len(), MAX_REDIRECTS + 1);
    assert_eq!(five.seen()[1].header("referer"), None);
    let six = hops(MAX_REDIRECTS + 1).await;
    assert_eq!(
        reason(of(&six)).await,
        "the upstream redirected more than 5 times, or to no usable URL"
    );
}

#[tokio::test]
async fn a_redirect_to_nowhere_is_a_failure() {
    let stub = answering("302 Found", "", "").await;
    assert_eq!(reason(of(&stub)).await, "upstream answered 302 Found");
}

#[test]
fn a_template_that_makes_no_url_is_refused() {
    let error = Http::new(&settings("http://h:99999/{id}"), Clock::system()).unwrap_err();
    assert_eq!(error, "the upstream is not a URL: invalid port number");
}

/// The machine's roots are found through the environment, which a test can't change for itself:
/// this one runs `on_a_machine_without_roots` again, in a process that finds none.
#[test]
fn a_machine_without_roots_uses_http_and_refuses_https() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact"])
        .arg("jobs::processor::http::tests::on_a_machine_without_roots")
        .env("SSL_CERT_FILE", "/nonexistent/roots.pem")
        .env("SSL_CERT_DIR", "/nonexistent/roots")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}

#[tokio::test]
#[ignore = "started by a_machine_without_roots_uses_http_and_refuses_https"]
async fn on_a_machine_without_roots() {
    let stub = answering("200 OK", "", "served").await;
    assert_eq!(outcome(of(&stub)).await.unwrap().body, b"served");
    let error = Http::new(&settings("https://localhost/{id}"), Clock::system()).unwrap_err();
    assert!(
        error.starts_with("no TLS client for the upstream can be made: "),
        "{error}"
    );
}
