//! The example upstream and the `http` processor, one with the other.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tollgate::clock::Clock;
use tollgate::jobs::processor::{Failure, IdResult, Processor, Work};
use tollgate::model::id::{BatchIndex, IngestionId};
use tollgate::model::queue::{HttpSettings, ProcessorSettings, UpstreamTemplate};

#[allow(dead_code, reason = "its main is not called here")]
#[path = "../examples/upstream.rs"]
mod upstream;

/// Starts the example with these arguments; returns its `host:port`.
async fn start(arguments: &[&str]) -> String {
    let options = upstream::Options::parse_from([&["upstream"], arguments].concat());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(upstream::serve(listener, options));
    address.to_string()
}

fn processor(address: &str) -> Arc<Processor> {
    let template = UpstreamTemplate::parse(&format!("http://{address}/items/{{id}}")).unwrap();
    let settings = ProcessorSettings::Http(Box::new(HttpSettings::new(template)));
    Arc::new(Processor::new(&settings, Clock::system()).unwrap())
}

async fn run(processor: &Arc<Processor>, due: Vec<(u16, i64)>) -> Vec<IdResult> {
    let work = Work {
        ingestion: IngestionId::parse("01234567-89ab-7def-8123-456789abcdef").unwrap(),
        batch: BatchIndex(0),
        attempt: 1,
        due,
    };
    processor.run(work).await
}

fn item(result: &IdResult) -> serde_json::Value {
    serde_json::from_slice(&result.result.as_ref().unwrap().body).unwrap()
}

#[tokio::test]
async fn items_are_answered_and_the_failing_ones_only_the_second_time() {
    let address = start(&["--fail-every", "3", "--slow", "1"]).await;
    let processor = processor(&address);
    let first = run(&processor, vec![(0, 2), (1, 3), (2, 4)]).await;
    assert_eq!(
        item(&first[0]),
        serde_json::json!({"id": 2, "name": "item 2"})
    );
    assert_eq!(
        item(&first[2]),
        serde_json::json!({"id": 4, "name": "item 4"})
    );
    let come_back = Failure {
        reason: "upstream answered 503 Service Unavailable".to_owned(),
        retry_after: Some(Duration::from_secs(1)),
    };
    assert_eq!(first[1].result, Err(come_back));
    let second = run(&processor, vec![(1, 3)]).await;
    assert_eq!(
        item(&second[0]),
        serde_json::json!({"id": 3, "name": "item 3"})
    );
}

/// What the example says to a request, up to the first line's end.
async fn asked(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn anything_else_is_refused() {
    let address = start(&["--fail-every=1"]).await;
    for (request, answer) in [
        ("GET /items/x HTTP/1.1\r\n\r\n", "HTTP/1.1 404 Not Found"),
        ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404 Not Found"),
        (
            "POST /items/1 HTTP/1.1\r\n\r\n",
            "HTTP/1.1 405 Method Not Allowed",
        ),
        (
            "GET /items/-9223372036854775808 HTTP/1.1\r\n\r\n",
            "HTTP/1.1 503 Service Unavailable",
        ),
        ("\r\n\r\n", "HTTP/1.1 405 Method Not Allowed"),
    ] {
        assert_eq!(asked(&address, request).await, answer, "{request:?}");
    }
    let flood = format!(
        "GET /items/1 HTTP/1.1\r\nX: {}\r\n\r\n",
        "x".repeat(16 * 1024)
    );
    let mut stream = TcpStream::connect(&address).await.unwrap();
    // The server may have closed before all of it is written.
    let _ = stream.write_all(flood.as_bytes()).await;
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text).await;
    assert_eq!(text, b"", "a head past the bound is not answered");
}
