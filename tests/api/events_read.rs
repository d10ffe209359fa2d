//! Events read back: pages, filters, one alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::common::Server;

pub(crate) async fn store(server: &Server, events: &Value) {
    let answer = server.post("/events/bulk", events.to_string()).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
}

/// The identifiers on a page.
async fn ids(server: &Server, query: &str) -> Vec<String> {
    let page = server.get(&format!("/events?{query}")).await.json();
    ids_of(&page)
}

pub(crate) fn ids_of(page: &Value) -> Vec<String> {
    let events = page["events"]
        .as_array()
        .unwrap_or_else(|| panic!("{page}"));
    let id = |event: &Value| event["event_id"].as_str().unwrap().to_owned();
    events.iter().map(id).collect()
}

#[tokio::test]
async fn an_event_comes_back_as_it_was_sent() {
    let server = Server::start().await;
    let sent = concat!(
        r#"{"x-first":[ 1,2.0 ],"event_id":"a b/ü","occurred_at":"2026-11-21T04:11:21.123456789+02:00","#,
        r#""topic":"t/1","tenant_id":"n","source":"s","event_type":"c","user_id":"u","#,
        r#""properties":{ "b" : 1.00,"a":{"n":1e5,"s":"\u00fc"} },"last":null}"#
    );
    assert_eq!(server.post("/events", sent).await.status, 201);
    let expected = concat!(
        r#"{"event_id":"a b/ü","timestamp":"2026-11-21T02:11:21.123456789Z","#,
        r#""topic":"t/1","tenant_id":"n","source":"s","event_type":"c","user_id":"u","#,
        r#""payload":{ "b" : 1.00,"a":{"n":1e5,"s":"\u00fc"} },"x-first":[ 1,2.0 ],"last":null}"#
    );
    let target = "/events/a%20b%2F%C3%BC?tenant_id=n&topic=t%2F1";
    assert_eq!(server.get(target).await.text(), expected);
    let page = server.get("/events").await.text();
    let whole = format!(
        r#"{{"events":[{expected}],"page":1,"page_size":1000,"has_more":false,"next_cursor":null}}"#
    );
    assert_eq!(page, whole);
    for target in [
        "/events/a%20b%2F%C3%BC",
        "/events/a%20b%2F%C3%BC?tenant_id=n",
        "/events/x?tenant_id=n&topic=t%2F1",
    ] {
        server.get(target).await.assert_problem(404, "not_found");
    }
    let answer = server.get("/events/x?tenant_id=").await;
    answer.assert_problem(422, "invalid_value");
}

#[tokio::test]
async fn filters_combine() {
    let server = Server::start().await;
    let event = |id: &str, second: u32, more: Value| {
        let mut event =
            json!({"event_id": id, "timestamp": format!("2026-11-21T00:00:{second:02}Z")});
        event
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        event
    };
    let events = json!([
        event("late", 9, json!({"topic": "t", "source": "s"})),
        event("early", 1, json!({"topic": "t", "event_type": "a"})),
        event("same-1", 5, json!({"user_id": "u", "event_type": "a"})),
        event("same-2", 5, json!({"user_id": "u", "tenant_id": "n"})),
    ]);
    store(&server, &events).await;
    for (query, expected) in [
        ("", &["early", "same-1", "same-2", "late"][..]),
        ("order=asc", &["early", "same-1", "same-2", "late"]),
        ("order=desc", &["late", "same-2", "same-1", "early"]),
        ("topic=t", &["early", "late"]),
        ("topic=", &["same-1", "same-2"]),
        ("topic=t&event_type=a", &["early"]),
        ("tenant_id=n", &["same-2"]),
        ("tenant_id=default&user_id=u", &["same-1"]),
        ("source=s", &["late"]),
        ("source=other", &[]),
        // Half open, in any offset, and with a plus that was not escaped.
        (
            "from=2026-11-21T00:00:05Z&to=2026-11-21T00:00:09Z",
            &["same-1", "same-2"],
        ),
        (
            "from=2026-11-21T02:00:05%2B02:00",
            &["same-1", "same-2", "late"],
        ),
        (
            "from=2026-11-21T02:00:05+02:00",
            &["same-1", "same-2", "late"],
        ),
        ("to=2026-11-21", &[]),
        (
            "from=2026-11-21&to=2026-11-22",
            &["early", "same-1", "same-2", "late"],
        ),
        ("from=2026-11-21T00:00:05Z&to=2026-11-21T00:00:05Z", &[]),
    ] {
        assert_eq!(ids(&server, query).await, expected, "{query}");
    }
}

#[tokio::test]
async fn parameters_are_checked() {
    let server = Server::start().await;
    let event = json!([{"event_id": "1", "timestamp": "2026-11-21T00:00:00Z"},
        {"event_id": "2", "timestamp": "2026-11-21T00:00:00Z"}]);
    store(&server, &event).await;
    let page = server.get("/events?page_size=1&order=desc").await.json();
    let cursor = page["next_cursor"].as_str().unwrap();
    let long = "x".repeat(257);
    for query in [
        "order=up",
        "page_size=0",
        "page_size=10001",
        "page_size=+1",
        "page=0",
        "page=x",
        "cursor=",
        "cursor=x",
        "from=now",
        "to=",
        "tenant_id=",
        "user_id=",
        &format!("source={long}"),
    ] {
        let answer = server.get(&format!("/events?{query}")).await;
        answer.assert_problem(422, "invalid_value");
        let name = query.split('=').next().unwrap();
        assert_eq!(answer.json()["errors"][0]["parameter"], name, "{query}");
    }
    for query in [
        "from=2026-11-22&to=2026-11-21",
        &format!("cursor={cursor}&page=1"),
        &format!("cursor={cursor}&order=asc"),
    ] {
        let answer = server.get(&format!("/events?{query}")).await;
        answer.assert_problem(400, "contradictory_parameters");
    }
    assert_eq!(ids(&server, &format!("cursor={cursor}")).await, ["1"]);
    assert_eq!(ids(&server, "page_size=10000").await, ["1", "2"]);
}

#[tokio::test]
async fn pages_by_number_and_by_cursor_say_the_same() {
    let server = Server::start().await;
    let events: Vec<Value> = (0..25)
        .map(|n| json!({"event_id": n.to_string(), "timestamp": format!("2026-11-21T00:00:{:02}Z", n % 4)}))
        .collect();
    store(&server, &json!(events)).await;
    for order in ["asc", "desc"] {
        let all = ids(&server, &format!("order={order}")).await;
        assert_eq!(all.len(), 25);
        let (mut by_cursor, mut by_number) = (Vec::new(), Vec::new());
        let mut target = format!("/events?order={order}&page_size=10");
        for number in 1..=3 {
            let page = server.get(&target).await.json();
            by_cursor.extend(ids_of(&page));
            assert_eq!(page["has_more"], number < 3);
            assert_eq!(
                page["page"],
                if number == 1 { json!(1) } else { json!(null) }
            );
            target = match page["next_cursor"].as_str() {
                Some(cursor) => format!("/events?cursor={cursor}&page_size=10"),
                None => break,
            };
            let query = format!("/events?order={order}&page_size=10&page={number}");
            let page = server.get(&query).await.json();
            assert_eq!(
                (&page["page"], &page["page_size"]),
                (&json!(number), &json!(10))
            );
            by_number.extend(ids_of(&page));
        }
        assert_eq!(by_cursor, all);
        assert_eq!(by_number, all[..20]);
        assert_eq!(ids(&server, "page=4&page_size=10").await, [""; 0]);
    }
}

#[tokio::test]
async fn pages_by_cursor_are_stable_while_events_arrive() {
    let server = Arc::new(Server::start().await);
    let event = |id: String, millis: usize| json!({"event_id": id, "timestamp": format!("2026-11-21T00:00:00.{millis:03}Z")});
    let old: Vec<Value> = (0..300).map(|n| event(format!("old-{n}"), n)).collect();
    store(&server, &json!(old)).await;
    let writing = {
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            for n in 0..100_usize {
                // Among the old ones in time.
                let new = json!([event(format!("new-{n}"), n * 37 % 300)]);
                store(&server, &new).await;
            }
        })
    };
    let mut seen = Vec::new();
    let mut target = "/events?page_size=20".to_owned();
    loop {
        let page = server.get(&target).await.json();
        seen.extend(ids_of(&page));
        match page["next_cursor"].as_str() {
            Some(cursor) => target = format!("/events?page_size=20&cursor={cursor}"),
            None => break,
        }
    }
    writing.await.unwrap();
    let distinct: BTreeSet<&String> = seen.iter().collect();
    assert_eq!(distinct.len(), seen.len(), "no event comes twice");
    let old_seen: Vec<_> = seen.iter().filter(|id| id.starts_with("old-")).collect();
    let expected: Vec<String> = (0..300).map(|n| format!("old-{n}")).collect();
    assert!(
        old_seen.iter().copied().eq(expected.iter()),
        "none is missed, and the order holds"
    );
}

#[tokio::test]
async fn a_page_by_number_begins_behind_a_million_events_at_most() {
    let server = Server::start().await;
    for query in [
        "page=101&page_size=10000",
        "page=1001",
        "page=1000001&page_size=1",
    ] {
        let answer = server.get(&format!("/events?{query}")).await;
        assert_eq!(answer.status, 200, "{query}: {}", answer.text());
    }
    for query in [
        "page=102&page_size=10000",
        "page=1002",
        "page=18446744073709551615&page_size=10000",
    ] {
        let problem = server.get(&format!("/events?{query}")).await;
        let problem = problem.assert_problem(422, "invalid_value");
        assert!(
            problem["detail"].as_str().unwrap().contains("cursor"),
            "{problem}"
        );
        assert_eq!(problem["errors"][0]["parameter"], "page");
    }
}
