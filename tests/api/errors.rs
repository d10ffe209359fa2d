//! Every row of the contract's table of errors, as far as jobs can raise it.

use std::time::Duration;

use crate::common::{MAX_BODY, Server};

#[tokio::test]
async fn what_is_not_json_is_malformed() {
    let server = Server::start().await;
    let deep = format!(
        "{{\"ids\":[1],\"priority\":\"LOW\",\"metadata\":{}{}{}{}}}",
        "{\"a\":",
        "[".repeat(200),
        "]".repeat(200),
        "}"
    );
    let bodies: [&[u8]; 12] = [
        b"",
        b"  \n ",
        b"{",
        b"nul",
        b"\xff\xfe",
        b"{\"ids\":[1],\"priority\":\"HI\xffGH\"}",
        br#"{"ids":[1],"priority":"HIGH""#,
        br#"{"ids":[1],"priority":"HIGH"}{}"#,
        br#"{"ids":[1],"priority":"HIGH"} x"#,
        br#"{"ids":[01],"priority":"HIGH"}"#,
        br#"{"ids":[1,],"priority":"HIGH"}"#,
        deep.as_bytes(),
    ];
    for body in bodies {
        let answer = server.ingest(body).await;
        answer.assert_problem(400, "malformed_json");
    }
    server.still_serves().await;
}

#[tokio::test]
async fn each_bad_value_has_its_pointer() {
    let server = Server::start().await;
    let cases = [
        (r"[]", ""),
        (r#""text""#, ""),
        (r"null", ""),
        (r#"[[1],"HIGH"]"#, ""),
        (r#"{"priority":"HIGH"}"#, "/ids"),
        (r#"{"ids":[1]}"#, "/priority"),
        (r#"{"ids":[],"priority":"HIGH"}"#, "/ids"),
        (r#"{"ids":null,"priority":"HIGH"}"#, "/ids"),
        (r#"{"ids":{},"priority":"HIGH"}"#, "/ids"),
        (r#"{"ids":"1","priority":"HIGH"}"#, "/ids"),
        (r#"{"ids":[1,"2"],"priority":"HIGH"}"#, "/ids/1"),
        (r#"{"ids":[1.0],"priority":"HIGH"}"#, "/ids/0"),
        (r#"{"ids":[1e2],"priority":"HIGH"}"#, "/ids/0"),
        (r#"{"ids":[true],"priority":"HIGH"}"#, "/ids/0"),
        (r#"{"ids":[null],"priority":"HIGH"}"#, "/ids/0"),
        (r#"{"ids":[[1]],"priority":"HIGH"}"#, "/ids/0"),
        (
            r#"{"ids":[9223372036854775808],"priority":"HIGH"}"#,
            "/ids/0",
        ),
        (
            r#"{"ids":[-9223372036854775809],"priority":"HIGH"}"#,
            "/ids/0",
        ),
        (r#"{"ids":[1e999],"priority":"HIGH"}"#, "/ids/0"),
        (
            r#"{"ids":[99999999999999999999999],"priority":"HIGH"}"#,
            "/ids/0",
        ),
        (r#"{"ids":[1],"priority":"high"}"#, "/priority"),
        (r#"{"ids":[1],"priority":"URGENT"}"#, "/priority"),
        (r#"{"ids":[1],"priority":1}"#, "/priority"),
        (r#"{"ids":[1],"priority":null}"#, "/priority"),
        (r#"{"ids":[1],"priority":{"HIGH":null}}"#, "/priority"),
        (r#"{"ids":[1],"priority":"LOW","x/y~z":1}"#, "/x~1y~0z"),
        (r#"{"ids":[1],"priority":"LOW","ids":[2]}"#, "/ids"),
        (r#"{"ids":[1],"priority":"LOW","queue":7}"#, "/queue"),
        (r#"{"ids":[1],"priority":"LOW","queue":null}"#, "/queue"),
        (r#"{"ids":[1],"priority":"LOW","metadata":[]}"#, "/metadata"),
        (
            r#"{"ids":[1],"priority":"LOW","metadata":null}"#,
            "/metadata",
        ),
        (
            r#"{"ids":[1],"priority":"LOW","callback_url":"ftp://h"}"#,
            "/callback_url",
        ),
        (
            r#"{"ids":[1],"priority":"LOW","callback_url":"http://h/a\u0000b"}"#,
            "/callback_url",
        ),
        (
            r#"{"ids":[1],"priority":"LOW","callback_url":"http://h/\u000a"}"#,
            "/callback_url",
        ),
        (
            r#"{"ids":[1],"priority":"LOW","callback_url":5}"#,
            "/callback_url",
        ),
        (
            r#"{"ids":[1],"priority":"LOW","deadline":"soon"}"#,
            "/deadline",
        ),
        (
            r#"{"ids":[1],"priority":"LOW","deadline":"2999-01-01T00:00:00"}"#,
            "/deadline",
        ),
        (
            r#"{"ids":[1],"priority":"LOW","deadline":"2001-01-01T00:00:00Z"}"#,
            "/deadline",
        ),
    ];
    for (body, pointer) in cases {
        let answer = server.ingest(body).await;
        answer.assert_problem(422, "invalid_value");
        assert_eq!(answer.pointers(), [pointer], "{body}");
    }
    server.still_serves().await;
}

#[tokio::test]
async fn all_offences_come_at_once_up_to_a_hundred() {
    let server = Server::start().await;
    let answer = server
        .ingest(r#"{"extra":1,"ids":[1,"2",3,4.5],"priority":"high","metadata":3}"#)
        .await;
    answer.assert_problem(422, "invalid_value");
    let expected = ["/extra", "/ids/1", "/ids/3", "/priority", "/metadata"];
    assert_eq!(answer.pointers(), expected);
    assert_eq!(answer.json()["error_count"], 5);

    for (count, listed) in [(100, 100), (101, 100), (5000, 100)] {
        let ids = vec!["\"x\""; count].join(",");
        let answer = server
            .ingest(format!(r#"{{"ids":[{ids}],"priority":"LOW"}}"#))
            .await;
        answer.assert_problem(422, "invalid_value");
        assert_eq!(answer.pointers().len(), listed);
        assert_eq!(answer.json()["error_count"], count);
        assert_eq!(answer.pointers()[99], "/ids/99");
    }
}

#[tokio::test]
async fn metadata_has_a_bound_and_comes_back_as_sent() {
    let server = Server::start().await;
    let body = |metadata: &str| format!(r#"{{"ids":[1],"priority":"LOW","metadata":{metadata}}}"#);
    let sized = |bytes: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(bytes - 8));
    assert_eq!(server.ingest(body(&sized(4096))).await.status, 200);
    let answer = server.ingest(body(&sized(4097))).await;
    answer.assert_problem(422, "invalid_value");
    assert_eq!(answer.pointers(), ["/metadata"]);

    let odd = r#"{ "b" : 1.00,"a":[ ],"b":"\u00fc" }"#;
    let id = server.ingest(body(odd)).await.json()["ingestion_id"].clone();
    let status = server
        .get(&format!("/status/{}", id.as_str().unwrap()))
        .await;
    assert!(status.text().contains(&format!("\"metadata\":{odd}")));
}

#[tokio::test]
async fn a_million_ids_are_taken_and_one_more_is_not() {
    let server = Server::start().await;
    let body = |count| {
        let ids = vec!["7"; count].join(",");
        format!(r#"{{"ids":[{ids}],"priority":"LOW"}}"#)
    };
    let answer = server.ingest(body(1_000_001)).await;
    answer.assert_problem(422, "too_many_items");
    assert_eq!(answer.pointers(), ["/ids"]);
    assert_eq!(server.ingest(body(1_000_000)).await.status, 200);
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let server = Server::start().await;
    let unknown = uuid::Uuid::now_v7();
    for target in [
        "/nowhere".to_owned(),
        "/status".to_owned(),
        "/status/".to_owned(),
        "/status/x".to_owned(),
        "/status/%ff".to_owned(),
        format!("/status/{unknown}"),
        format!("/status/{}", unknown.simple()),
        format!("/status/{{{unknown}}}"),
        format!("/status/{unknown}/x"),
    ] {
        let answer = server.get(&target).await;
        answer.assert_problem(404, "not_found");
    }
    let body = r#"{"ids":[1],"priority":"LOW","queue":"nowhere"}"#;
    let answer = server.ingest(body).await;
    answer.assert_problem(404, "not_found");
    assert_eq!(answer.pointers(), ["/queue"]);
}

#[tokio::test]
async fn a_method_that_is_not_offered_names_those_that_are() {
    let server = Server::start().await;
    let cases = [
        ("GET", "/ingest", "POST"),
        ("HEAD", "/ingest", "POST"),
        ("DELETE", "/ingest", "POST"),
        ("POST", "/health", "GET, HEAD"),
        ("PUT", "/status/whatever", "GET, HEAD"),
        ("OPTIONS", "/", "GET, HEAD"),
        ("PATCH", "/metrics?x=1", "GET, HEAD"),
        ("BREW", "/", "GET, HEAD"),
        ("BREW", "/ingest", "POST"),
    ];
    for (method, target, allow) in cases {
        let request = format!("{method} {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        let answer = server.send(request).await;
        assert_eq!(answer.status, 405, "{method} {target}");
        assert_eq!(answer.header("allow"), allow, "{method} {target}");
        if method != "HEAD" {
            answer.assert_problem(405, "method_not_allowed");
        }
    }
    let nowhere = "BREW /nowhere HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    server.send(nowhere).await.assert_problem(404, "not_found");
}

#[tokio::test]
async fn another_media_type_is_refused() {
    let server = Server::start().await;
    let body = r#"{"ids":[1],"priority":"LOW"}"#;
    for headers in [
        "",
        "Content-Type: text/plain\r\n",
        "Content-Type: application/xml\r\n",
    ] {
        let answer = server.ingest_with(headers, body).await;
        answer.assert_problem(415, "unsupported_media_type");
    }
    // A client that is still sending gets the answer, too.
    let answer = server
        .ingest_with("Content-Type: text/csv\r\n", vec![b'1'; 8_000_000])
        .await;
    answer.assert_problem(415, "unsupported_media_type");
    let headers = "Content-Type: application/json; charset=utf-8\r\n";
    assert_eq!(server.ingest_with(headers, body).await.status, 200);
}

#[tokio::test]
async fn a_body_may_have_the_limit_and_no_byte_more() {
    let server = Server::start().await;
    let mut body = br#"{"ids":[1],"priority":"LOW"}"#.to_vec();
    body.resize(usize::try_from(MAX_BODY).unwrap(), b' ');
    assert_eq!(server.ingest(&body).await.status, 200);
    body.push(b' ');
    let answer = server.ingest(&body).await;
    answer.assert_problem(413, "body_too_large");
    server.still_serves().await;
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let server = Server::start().await;
    let body = r#"{"ids": [1, 2, 3], "priority": "LOW", "queue": "full"}"#;
    // The first one starts, the second one waits.
    let first = server.submit_to("full", 1..=3).await;
    server.until_started(&first).await;
    assert_eq!(server.ingest(body).await.status, 200);
    let answer = server.ingest(body).await;
    answer.assert_problem(429, "queue_full");
    assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
    let policy = answer.header("ratelimit-policy");
    assert!(policy.starts_with("\"waiting-batches\";q="), "{policy}");
    let limit = answer.header("ratelimit");
    assert!(limit.starts_with("\"waiting-batches\";r=0;t="), "{limit}");
}

#[tokio::test]
async fn a_submission_that_no_queue_of_its_size_could_hold_is_not_told_to_come_back() {
    let server = Server::start().await;
    let answer = server
        .ingest(r#"{"ids": [1, 2, 3, 4], "priority": "LOW", "queue": "full"}"#)
        .await;
    let problem = answer.assert_problem(422, "too_many_items");
    assert!(!answer.headers.contains_key("retry-after"));
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("at most 1 waiting batches of 3 ids"),
        "{detail}"
    );
    assert_eq!(problem["errors"][0]["pointer"], "/ids");
    let at_the_bound = r#"{"ids": [1, 2, 3], "priority": "LOW", "queue": "full"}"#;
    assert_eq!(server.ingest(at_the_bound).await.status, 200);
}

#[tokio::test]
async fn an_idempotency_key_finds_the_first_answer() {
    let server = Server::start().await;
    let send = async |key: &str, body: &str| {
        let headers = format!("Content-Type: application/json\r\nIdempotency-Key: {key}\r\n");
        server.ingest_with(&headers, body).await
    };
    let body = r#"{"ids":[1],"priority":"LOW"}"#;
    let first = send("k-1", body).await;
    assert_eq!(first.status, 200);
    assert_eq!(send("k-1", body).await.json(), first.json());
    assert_ne!(send("k-2", body).await.json(), first.json());
    let other = r#"{"ids":[2],"priority":"LOW"}"#;
    let answer = send("k-1", other).await;
    answer.assert_problem(422, "idempotency_key_reused");

    assert_eq!(send(&"k".repeat(255), body).await.status, 200);
    for bad in ["", "a b", "ü", &"k".repeat(256), "k\r\nIdempotency-Key: l"] {
        let answer = send(bad, body).await;
        answer.assert_problem(422, "invalid_value");
        assert_eq!(answer.json()["errors"][0]["header"], "Idempotency-Key");
    }
}

#[tokio::test]
async fn a_panic_is_an_internal_error_without_its_words() {
    let server = Server::start().await;
    let answer = server.get("/panics").await;
    answer.assert_problem(500, "internal");
    assert!(!answer.text().contains("on purpose"));
    server.still_serves().await;
}

#[tokio::test]
async fn parameters_are_checked() {
    let server = Server::start().await;
    let id = server.submit(1..=3).await;
    for query in [
        "wait=30",
        "wait=61s",
        "batches=3",
        "batches=2-1",
        "view=all",
    ] {
        let answer = server.get(&format!("/status/{id}?{query}")).await;
        answer.assert_problem(422, "invalid_value");
        let name = query.split('=').next().unwrap();
        assert_eq!(answer.json()["errors"][0]["parameter"], name);
    }
    let answer = server
        .get(&format!("/status/{id}?view=summary&batches=0-1"))
        .await;
    answer.assert_problem(400, "contradictory_parameters");
    for limit in ["0", "101", "x", "-1", ""] {
        let answer = server.get(&format!("/ingestions?limit={limit}")).await;
        answer.assert_problem(422, "invalid_value");
    }
    assert_eq!(server.get("/ingestions?limit=1").await.status, 200);
}

#[tokio::test]
async fn a_store_that_takes_no_writes_says_when_to_come_back() {
    let server = Server::alone().await;
    let id = server.submit(1..=3).await;
    let grace = Duration::from_secs(10);
    server.state.jobs.stop(grace, 6 * grace).await;
    let answer = server.ingest(r#"{"ids":[1],"priority":"LOW"}"#).await;
    answer.assert_problem(503, "unavailable");
    assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
    // What was accepted can still be read.
    assert_eq!(server.get(&format!("/status/{id}")).await.status, 200);
}
