//! Events as they are sent: every form of a body, and what is said to each.

use serde_json::{Value, json};

use crate::common::{Answer, Server};

const TIME: &str = "2026-11-21T04:11:21Z";
const NDJSON: &str = "application/x-ndjson";
const CLOUD: &str = "application/cloudevents+json";
const CLOUDS: &str = "application/cloudevents-batch+json";

fn event(id: &str) -> Value {
    json!({"event_id": id, "timestamp": TIME, "event_type": "click", "tenant_id": "t"})
}

fn list(count: usize) -> String {
    let events: Vec<Value> = (0..count).map(|n| event(&n.to_string())).collect();
    json!(events).to_string()
}

/// The three counts of a list's answer.
fn counts(answer: &Answer) -> (u64, u64, u64) {
    let json = answer.json();
    let count = |name: &str| json[name].as_u64().unwrap_or_else(|| panic!("{json}"));
    (count("accepted"), count("duplicates"), count("rejected"))
}

#[tokio::test]
async fn one_event_is_accepted_once() {
    let server = Server::start().await;
    let first = server.post("/events", event("1").to_string()).await;
    assert_eq!(first.status, 201);
    assert_eq!(first.text(), r#"{"event_id":"1","status":"accepted"}"#);
    let mut other = event("1");
    other["payload"] = json!({"says": "something else"});
    for body in [event("1"), other] {
        let again = server.post("/events", body.to_string()).await;
        assert_eq!(again.status, 200);
        assert_eq!(again.text(), r#"{"event_id":"1","status":"duplicate"}"#);
    }
    // The identity is tenant, topic and event_id.
    for (key, value) in [("tenant_id", "u"), ("topic", "x")] {
        let mut other = event("1");
        other[key] = json!(value);
        let answer = server.post("/events", other.to_string()).await;
        assert_eq!(answer.status, 201, "{key}");
    }
    let stats = server.get("/stats").await.json();
    for (name, count) in [
        ("received", 5),
        ("unique_processed", 3),
        ("duplicate_dropped", 2),
        ("conflicting", 1),
    ] {
        assert_eq!(stats[name], count, "{stats}");
    }
    assert_eq!(stats["topics"], json!(["x"]));
    assert!(stats["uptime_seconds"].as_f64().unwrap() >= 0.0);
}

#[tokio::test]
async fn lists_are_counted() {
    let server = Server::start().await;
    let three = json!([event("1"), event("2"), event("1")]);
    for (target, body, expected) in [
        ("/events", three.to_string(), (2, 1, 0)),
        (
            "/events",
            json!({"events": [event("3")]}).to_string(),
            (1, 0, 0),
        ),
        ("/events", json!([event("3")]).to_string(), (0, 1, 0)),
        (
            "/events/bulk",
            json!({"events": three}).to_string(),
            (0, 3, 0),
        ),
        ("/events/bulk", json!([event("4")]).to_string(), (1, 0, 0)),
    ] {
        let answer = server.post(target, body).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        assert_eq!(counts(&answer), expected);
        assert_eq!(answer.json()["errors"], json!([]));
    }
}

#[tokio::test]
async fn publishing_counts_duplicates_as_enqueued() {
    let server = Server::start().await;
    let event = |id: &str| json!({"topic": "orders", "event_id": id, "timestamp": TIME, "source": "s", "payload": {"a": 1}});
    for (body, expected) in [
        (event("1"), [1, 1, 0]),
        (json!([event("1"), event("2")]), [2, 1, 1]),
        (json!({"events": [event("2")]}), [1, 0, 1]),
    ] {
        let answer = server.post("/publish", body.to_string()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let said = answer.json();
        let found = ["enqueued", "accepted", "duplicates"].map(|name| said[name].as_u64().unwrap());
        assert_eq!(found, expected);
    }
    for missing in ["topic", "event_id", "timestamp", "source", "payload"] {
        let mut body = event("3");
        body.as_object_mut().unwrap().remove(missing);
        let answer = server.post("/publish", body.to_string()).await;
        answer.assert_problem(422, "invalid_value");
        assert_eq!(answer.pointers(), [format!("/{missing}")]);
    }
    assert_eq!(
        server.get("/stats").await.json()["topics"],
        json!(["orders"])
    );
}

#[tokio::test]
async fn as_many_events_as_may_be_and_no_more() {
    let server = Server::start().await;
    for (target, max) in [("/events", 1_000), ("/events/bulk", 5_000)] {
        let answer = server.post(target, list(max)).await;
        assert_eq!(answer.status, 202, "{target}");
        let answer = server.post(target, list(max + 1)).await;
        answer.assert_problem(422, "too_many_items");
        assert_eq!(answer.pointers(), [""]);
        assert!(
            answer.json()["detail"]
                .as_str()
                .unwrap()
                .contains(&max.to_string())
        );
        let answer = server.post(target, "[]").await;
        answer.assert_problem(422, "invalid_value");
    }
    let events: Vec<Value> = (0..10_001)
        .map(|n| json!({"topic": "t", "event_id": n.to_string(), "timestamp": TIME, "source": "s", "payload": {}}))
        .collect();
    let answer = server.post("/publish", json!(events).to_string()).await;
    answer.assert_problem(422, "too_many_items");
    let answer = server
        .post("/publish", json!(events[1..]).to_string())
        .await;
    assert_eq!(answer.json()["enqueued"], 10_000);
    let answer = server
        .post(
            "/events",
            json!({"events": vec![event("1"); 1_001]}).to_string(),
        )
        .await;
    assert_eq!(answer.pointers(), ["/events"]);
}

#[tokio::test]
async fn lines_may_end_as_on_windows_and_begin_with_a_byte_order_mark() {
    let server = Server::start().await;
    let mark = "\u{feff}";
    let line = |id: &str| format!(r#"{{"event_id":"{id}","timestamp":"2026-11-21T00:00:00Z"}}"#);
    let lines = format!("{mark}{}\r\n\r\n{}", line("1"), line("2"));
    let answer = server
        .post_as("/events?receipts=true", "application/x-ndjson", lines)
        .await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let accepted = |id: &str| json!({"event_id": id, "status": "accepted"});
    assert_eq!(
        answer.json()["receipts"],
        json!([accepted("1"), accepted("2")])
    );
    let list = format!("{mark}[{}]", line("3"));
    assert_eq!(server.post("/events", list).await.json()["accepted"], 1);
    for twice in ["{mark}{mark}[]", "[{mark}]"] {
        let body = twice.replace("{mark}", mark);
        server
            .post("/events", body)
            .await
            .assert_problem(400, "malformed_json");
    }
}

#[tokio::test]
async fn events_come_as_lines_too() {
    let server = Server::start().await;
    let lines = format!("{}\r\n\n  \n{}", event("1"), event("2"));
    let answer = server.post_as("/events", NDJSON, &lines).await;
    assert_eq!((answer.status, counts(&answer)), (202, (2, 0, 0)));
    let answer = server.post_as("/events/bulk", NDJSON, &lines).await;
    assert_eq!((answer.status, counts(&answer)), (202, (0, 2, 0)));
    let published =
        json!({"topic": "t", "event_id": "1", "timestamp": TIME, "source": "s", "payload": {}});
    let answer = server
        .post_as("/publish", NDJSON, published.to_string())
        .await;
    assert_eq!(
        (answer.status, &answer.json()["enqueued"]),
        (200, &json!(1))
    );

    let bad = format!(
        "{}\n\n{}\n",
        event("3"),
        json!({"event_id": "", "timestamp": TIME})
    );
    let answer = server.post_as("/events", NDJSON, bad).await;
    answer.assert_problem(422, "invalid_value");
    assert_eq!(answer.pointers(), ["/2/event_id"]);
    let cut = format!("{}\n{{\"event_id\"", event("4"));
    let answer = server.post_as("/events", NDJSON, cut).await;
    let problem = answer.assert_problem(400, "malformed_json");
    assert!(
        problem["detail"].as_str().unwrap().contains("line 1 "),
        "{problem}"
    );
    assert_eq!(server.get("/stats").await.json()["unique_processed"], 3);
}

#[tokio::test]
async fn cloud_events_are_events() {
    let server = Server::start().await;
    let cloud = |id: &str| {
        json!({"specversion": "1.0", "id": id, "source": "/ctx", "type": "com.example", "time": TIME,
            "subject": "k", "data": {"a": 1}})
    };
    let answer = server
        .post_as("/events", CLOUD, cloud("1").to_string())
        .await;
    assert_eq!(
        (answer.status, answer.json()["event_id"].as_str()),
        (201, Some("1"))
    );
    let answer = server
        .post_as("/events", CLOUD, cloud("1").to_string())
        .await;
    assert_eq!(answer.status, 200);
    let batch = json!([cloud("1"), cloud("2")]).to_string();
    let answer = server.post_as("/events", CLOUDS, &batch).await;
    assert_eq!((answer.status, counts(&answer)), (202, (1, 1, 0)));
    let answer = server.post_as("/events/bulk", CLOUDS, &batch).await;
    assert_eq!((answer.status, counts(&answer)), (202, (0, 2, 0)));
    let answer = server.post_as("/publish", CLOUDS, &batch).await;
    assert_eq!(
        (answer.status, &answer.json()["enqueued"]),
        (200, &json!(2))
    );

    let read = server.get("/events/1").await.json();
    let expected = json!({"event_id": "1", "timestamp": TIME, "topic": "", "tenant_id": "default",
        "source": "/ctx", "event_type": "com.example", "payload": {"a": 1}, "specversion": "1.0",
        "subject": "k"});
    assert_eq!(read, expected);

    let with = |key: &str, value: Value| {
        let mut event = cloud("3");
        event[key] = value;
        event.to_string()
    };
    for (key, value) in [
        ("specversion", json!("0.3")),
        ("data", json!("text")),
        ("id", json!(3)),
    ] {
        let answer = server.post_as("/events", CLOUD, with(key, value)).await;
        answer.assert_problem(422, "invalid_value");
        assert_eq!(answer.pointers(), [format!("/{key}")]);
    }
}

#[tokio::test]
async fn one_bad_event_refuses_all_of_them() {
    let server = Server::start().await;
    let bad =
        json!([event("1"), {"event_id": " ", "timestamp": "soon", "payload": []}, event("2"), 7]);
    for (target, body, prefix) in [
        ("/events", bad.to_string(), ""),
        (
            "/events/bulk",
            json!({"events": bad}).to_string(),
            "/events",
        ),
    ] {
        let answer = server.post(target, body).await;
        answer.assert_problem(422, "invalid_value");
        let expected = ["/1/event_id", "/1/payload", "/1/timestamp", "/3"];
        let mut found = answer.pointers();
        found.sort();
        assert_eq!(found, expected.map(|it| format!("{prefix}{it}")));
    }
    let answer = server.post("/events", r#"{"event_id":"1"}"#).await;
    answer.assert_problem(422, "invalid_value");
    assert_eq!(
        answer.pointers(),
        ["/event_type", "/timestamp", "/tenant_id"]
    );
    let many = format!("[{}]", vec!["7"; 101].join(","));
    let answer = server.post("/events", many).await;
    assert_eq!(
        (answer.pointers().len(), &answer.json()["error_count"]),
        (100, &json!(101))
    );
    assert_eq!(server.get("/stats").await.json()["received"], 0);
}

#[tokio::test]
async fn bodies_that_are_no_events_get_their_status() {
    let server = Server::start().await;
    for target in ["/events", "/events/bulk", "/publish"] {
        for body in ["", "{", "[1] 2", &"[".repeat(100_000)] {
            server
                .post(target, body)
                .await
                .assert_problem(400, "malformed_json");
        }
        let latin = server.post(target, b"{\"event_id\":\"\xff\"}").await;
        latin.assert_problem(400, "malformed_json");
        for media_type in ["text/plain", "text/csv", "application/xml"] {
            let answer = server
                .post_as(target, media_type, event("1").to_string())
                .await;
            answer.assert_problem(415, "unsupported_media_type");
        }
        let answer = server.call("POST", target).await;
        answer.assert_problem(415, "unsupported_media_type");
        server
            .post(target, "7")
            .await
            .assert_problem(422, "invalid_value");
        for option in ["partial=yes", "receipts=1", "partial="] {
            let answer = server.post(&format!("{target}?{option}"), "[]").await;
            answer.assert_problem(422, "invalid_value");
            let name = option.split('=').next().unwrap();
            assert_eq!(answer.json()["errors"][0]["parameter"], name);
        }
        let large = vec![b' '; 16 * 1024 * 1024 + 1];
        server
            .post(target, large)
            .await
            .assert_problem(413, "body_too_large");
    }
    let answer = server.post("/events/bulk", event("1").to_string()).await;
    answer.assert_problem(422, "invalid_value");
    for (method, target, allow) in [
        ("PUT", "/events", "DELETE, GET, HEAD, POST"),
        ("GET", "/events/bulk", "POST"),
        ("GET", "/publish", "POST"),
        ("POST", "/events/stream", "GET, HEAD"),
        ("DELETE", "/events/x", "GET, HEAD"),
        ("POST", "/stats", "GET, HEAD"),
        ("PUT", "/dead-letters/1", "DELETE, GET, HEAD"),
    ] {
        let answer = server.call(method, target).await;
        answer.assert_problem(405, "method_not_allowed");
        assert_eq!(answer.header("allow"), allow, "{method} {target}");
    }
}

#[tokio::test]
async fn receipts_say_what_became_of_each_event() {
    let server = Server::start().await;
    let mut other = event("1");
    other["event_type"] = json!("view");
    let body = json!([event("1"), event("2"), other, event("2"), {"event_id": "bad"}, 7]);
    let target = "/events?receipts=true&partial=true";
    let answer = server.post(target, body.to_string()).await;
    assert_eq!(counts(&answer), (2, 2, 2));
    let expected = json!([
        {"event_id": "1", "status": "accepted"},
        {"event_id": "2", "status": "accepted"},
        {"event_id": "1", "status": "duplicate", "conflict": true},
        {"event_id": "2", "status": "duplicate"},
        {"event_id": "bad", "status": "rejected"},
        {"status": "rejected"},
    ]);
    assert_eq!(answer.json()["receipts"], expected);
    assert!(
        server
            .post("/events", list(1))
            .await
            .json()
            .get("receipts")
            .is_none()
    );
    let mut other = event("2");
    other["user_id"] = json!("u");
    let one = server
        .post("/events?receipts=true", other.to_string())
        .await;
    let expected = json!({"event_id": "2", "status": "duplicate", "conflict": true});
    assert_eq!(one.json(), expected);
}

#[tokio::test]
async fn two_hundred_equal_events_at_once_are_one() {
    let server = std::sync::Arc::new(Server::start().await);
    let mut sending = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let server = std::sync::Arc::clone(&server);
        sending.spawn(async move { server.post("/events", event("1").to_string()).await.status });
    }
    let statuses = sending.join_all().await;
    let accepted = statuses.iter().filter(|status| **status == 201).count();
    let duplicates = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!((accepted, duplicates), (1, 199));
}

#[tokio::test]
async fn metrics_count_events() {
    let server = Server::alone().await;
    let mut other = event("1");
    other["event_type"] = json!("view");
    let body = json!([event("1"), event("2"), other, {"event_id": "3", "timestamp": TIME}, 7]);
    let answer = server.post("/events?partial=true", body.to_string()).await;
    assert_eq!(counts(&answer), (3, 1, 1));
    server
        .post("/events", "{")
        .await
        .assert_problem(400, "malformed_json");
    server
        .post("/events", list(1_001))
        .await
        .assert_problem(422, "too_many_items");
    let text = server.get("/metrics").await.text();
    for line in [
        r#"events_received_total{event_type="click"} 2"#,
        r#"events_ingested_total{event_type="click"} 2"#,
        r#"events_received_total{event_type="view"} 1"#,
        r#"events_ingested_total{event_type="view"} 0"#,
        r#"events_received_total{event_type="none"} 1"#,
        "events_duplicate_total 1",
        "events_conflicting_total 1",
        r#"events_failed_total{reason="invalid"} 1"#,
        r#"events_failed_total{reason="malformed"} 1"#,
        r#"events_failed_total{reason="too_many"} 1001"#,
        "ingestion_duration_seconds_count 1",
    ] {
        assert!(text.lines().any(|it| it == line), "no {line} in\n{text}");
    }
}

#[tokio::test]
async fn a_store_that_takes_no_writes_says_when_to_come_back() {
    let server = Server::alone().await;
    let grace = std::time::Duration::from_secs(10);
    server.state.jobs.stop(grace, 6 * grace).await;
    let large: Vec<Value> = (0..1_000).map(|n| event(&n.to_string())).collect();
    for body in [event("1").to_string(), json!(large).to_string()] {
        let answer = server.post("/events", body).await;
        answer.assert_problem(503, "unavailable");
        assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
    }
    let text = server.get("/metrics").await.text();
    let line = r#"events_failed_total{reason="unavailable"} 1001"#;
    assert!(text.lines().any(|it| it == line), "{text}");
}

#[tokio::test]
async fn erased_events_are_gone_and_their_identities_are_spent() {
    let server = Server::start().await;
    let events = [("1", "a", "u"), ("2", "a", "v"), ("3", "b", "u")].map(|(id, tenant, user)| {
        json!({"event_id": id, "timestamp": TIME, "tenant_id": tenant, "user_id": user})
    });
    let body = json!(events).to_string();
    assert_eq!(counts(&server.post("/events", &body).await), (3, 0, 0));
    for (query, erased) in [
        ("tenant_id=a&user_id=u", 1),
        ("user_id=u", 1),
        ("tenant_id=a", 1),
        ("tenant_id=a", 0),
    ] {
        let answer = server.call("DELETE", &format!("/events?{query}")).await;
        assert_eq!(
            (answer.status, answer.json()),
            (200, json!({"erased": erased}))
        );
    }
    assert_eq!(server.get("/events").await.json()["events"], json!([]));
    assert_eq!(counts(&server.post("/events", &body).await), (0, 3, 0));
    for query in [
        "",
        "?",
        "?tenant_id=",
        "?tenant_id=a&event_type=x",
        "?topic=x",
        "?user=u",
    ] {
        let answer = server.call("DELETE", &format!("/events{query}")).await;
        answer.assert_problem(422, "invalid_value");
    }
}
