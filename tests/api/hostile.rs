//! Clients that are broken or hostile: each gets a clear answer, and the server still serves.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tollgate::http::HttpLimits;

use crate::common::{Answer, MAX_BODY, Server};

const HEAD: &str = "POST /ingest HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\
                    Content-Type: application/json\r\n";

#[tokio::test]
async fn a_hundred_thousand_nested_brackets() {
    let server = Server::start().await;
    let open = "[".repeat(100_000);
    let close = "]".repeat(100_000);
    let inside =
        format!("{{\"ids\":[1],\"priority\":\"LOW\",\"metadata\":{{\"a\":{open}{close}}}}}");
    for body in [open.clone(), format!("{open}{close}"), inside] {
        let answer = server.ingest(body).await;
        answer.assert_problem(400, "malformed_json");
    }
    server.still_serves().await;
}

#[tokio::test]
async fn a_body_cut_in_the_middle() {
    let server = Server::start().await;
    for sent in [0, 5, 20, 100_000] {
        let mut stream = server.connect().await;
        let body = vec![b' '; sent];
        let announced = sent + 10;
        let head = format!("{HEAD}Content-Length: {announced}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body).await.unwrap();
        stream.shutdown().await.unwrap();
        let answer = Answer::read(&mut stream).await;
        answer.assert_problem(400, "malformed_json");
        server.still_serves().await;
    }
}

#[tokio::test]
async fn a_whole_value_in_a_body_that_was_cut_is_not_taken() {
    let server = Server::start().await;
    let mut stream = server.connect().await;
    let body = r#"{"ids":[1],"priority":"LOW"}"#;
    let request = format!("{HEAD}Content-Length: {}\r\n\r\n{body}", body.len() + 1);
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let answer = Answer::read(&mut stream).await;
    answer.assert_problem(400, "malformed_json");
    assert!(server.state.jobs.recent(1).is_empty());
}

#[tokio::test]
async fn a_body_that_comes_a_byte_at_a_time() {
    let limits = HttpLimits {
        body_deadline: Duration::from_millis(200),
        ..HttpLimits::new(MAX_BODY)
    };
    let server = Server::with_limits(limits).await;
    let mut stream = server.connect().await;
    let head = format!("{HEAD}Content-Length: 1000000\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let drip = async {
        loop {
            let _ = writing.write_all(b" ").await;
            // sleep: the client is slow on purpose.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let answer = tokio::select! {
        answer = Answer::read(&mut reading) => answer,
        () = drip => unreachable!(),
    };
    answer.assert_problem(408, "request_timeout");
    server.still_serves().await;
}

#[tokio::test]
async fn forty_megabytes_of_ids() {
    let server = Server::start().await;
    let mut body = br#"{"priority":"LOW","ids":[1"#.to_vec();
    while body.len() < 40_000_000 {
        body.extend_from_slice(b",123456789");
    }
    body.extend_from_slice(b"]}");
    server
        .ingest(&body)
        .await
        .assert_problem(413, "body_too_large");

    // The same without an announced length.
    let mut request = format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
    for chunk in body.chunks(1_000_000) {
        request.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        request.extend_from_slice(chunk);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    let answer = server.send(request).await;
    answer.assert_problem(413, "body_too_large");
    server.still_serves().await;
}

#[tokio::test]
async fn a_body_without_an_announced_length_is_taken() {
    let server = Server::start().await;
    let body = r#"{"ids":[1],"priority":"LOW"}"#;
    let request = format!(
        "{HEAD}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    assert_eq!(server.send(request).await.status, 200);
}

#[tokio::test]
async fn bodies_in_flight_have_a_bound_together() {
    let limits = HttpLimits {
        max_bodies: 100_000,
        ..HttpLimits::new(MAX_BODY)
    };
    let server = Server::with_limits(limits).await;
    let answer = server.ingest(vec![b' '; 9_000_000]).await;
    answer.assert_problem(503, "unavailable");
    assert_eq!(answer.header("retry-after"), "1");
    // What it held is free again.
    let body = format!(r#"{{"ids":[1],"priority":"LOW"}}{}"#, " ".repeat(60_000));
    assert_eq!(server.ingest(body).await.status, 200);
}

/// hyper answers these itself, before the framework sees a request: no body, no headers of ours.
/// No setting of Rocket reaches there, so a problem document is not possible.
#[tokio::test]
async fn a_flood_of_headers_ends_with_hyper_s_own_answer() {
    let server = Server::start().await;
    let many = "X-Flood: 1\r\n".repeat(5_000);
    let request = format!("GET /health HTTP/1.1\r\nHost: h\r\n{many}\r\n");
    let answer = server.send(request).await;
    assert_eq!(answer.status, 431);
    assert!(answer.body.is_empty());

    let mut stream = server.connect().await;
    let long = format!("GET /health HTTP/1.1\r\nX-Long: {}", "x".repeat(2_000_000));
    // The server may close before all is written.
    let _ = stream.write_all(long.as_bytes()).await;
    let answer = Answer::read(&mut stream).await;
    assert_eq!(answer.status, 431);
    server.still_serves().await;
}

#[tokio::test]
async fn what_is_not_http_ends_with_hyper_s_own_answer() {
    let server = Server::start().await;
    let answer = server.send("hello\r\n\r\n").await;
    assert_eq!(answer.status, 400);
    assert!(answer.body.is_empty());
    server.still_serves().await;
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_harms_nobody() {
    let server = Server::start().await;
    for _ in 0..20 {
        let mut stream = server.connect().await;
        let head = format!("{HEAD}Content-Length: 1000\r\n\r\n{{\"ids\":[");
        stream.write_all(head.as_bytes()).await.unwrap();
        drop(stream);
    }
    server.still_serves().await;
}
