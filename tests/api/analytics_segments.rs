//! Questions about segments, which are answered from the events.

use serde_json::{Value, json};

use crate::analytics::{ask, told};
use crate::common::Server;

/// Sends purchases with a payload each: user, time, payload.
async fn buy(server: &Server, events: &[(&str, &str, Value)]) {
    let events: Vec<Value> = events
        .iter()
        .enumerate()
        .map(|(n, (user, time, payload))| {
            json!({"event_id": format!("buy-{n}"), "tenant_id": "shop", "event_type": "buy",
                "user_id": user, "timestamp": time, "payload": payload})
        })
        .collect();
    let answer = server.post("/events", json!(events).to_string()).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
}

async fn told_with_payloads() -> Server {
    let server = told().await;
    let purchases = [
        (
            "ann",
            "2024-03-01T12:00:00Z",
            json!({"country": "UA", "cart": {"n": 1}}),
        ),
        (
            "ben",
            "2024-03-01T12:00:10Z",
            json!({"country": "PL", "cart": {"n": 1.0}}),
        ),
        (
            "ann",
            "2024-03-02T12:00:00Z",
            json!({"country": "UA", "cart": {"n": 2}}),
        ),
        (
            "cat",
            "2024-03-02T12:00:20Z",
            json!({"country": "U & A", "gift": true}),
        ),
    ];
    buy(&server, &purchases).await;
    server
}

#[tokio::test]
async fn a_segment_may_be_a_value_of_the_payload() {
    let server = told_with_payloads().await;
    let days = "from=2024-03-01&to=2024-03-02";
    let dau = async |segments: &str| {
        let found = ask(
            &server,
            &format!("/stats/dau?tenant_id=shop&{days}&{segments}"),
        )
        .await;
        [0, 1].map(|n| found[n]["dau"].as_u64().unwrap())
    };
    assert_eq!(dau("segment=properties.country=UA").await, [1, 1]);
    assert_eq!(dau("segment=payload.country%3DPL").await, [1, 0]);
    assert_eq!(dau("segment=properties.country=U+%26+A").await, [0, 1]);
    assert_eq!(dau("segment=properties.cart.n=1").await, [2, 0]);
    assert_eq!(dau("segment=properties.gift=true").await, [0, 1]);
    let both = "segment=properties.country=UA&segment=properties.cart.n=2";
    assert_eq!(dau(both).await, [0, 1]);
    assert_eq!(
        dau("segment=properties.country=UA&event_type=view").await,
        [0, 0]
    );
    assert_eq!(
        dau("segment=properties.country=UA&segment=event_type:buy").await,
        [1, 1]
    );
    let segment = "segment=properties.country=UA&tenant_id=shop";
    let buckets = ask(&server, &format!("/metrics?bucket_size=day&{segment}")).await;
    assert_eq!(buckets["buckets"][0]["start"], "2024-03-01T00:00:00Z");
    assert_eq!(buckets["buckets"].as_array().unwrap().len(), 2);
    let top = ask(&server, &format!("/stats/top-events?{segment}")).await;
    assert_eq!(
        top,
        json!([{"event_type": "buy", "count": 2, "unique_users": 1}])
    );
    let cohorts = format!("/stats/retention?start_date=2024-03-01&windows=2&{segment}");
    let cohorts = ask(&server, &cohorts).await["cohorts"].clone();
    assert_eq!(cohorts[0]["retained"], json!([1, 1]));
    // Bounds within a minute, which the rollups don't know.
    let top = "/stats/top-events?from=2024-03-01T12:00:01Z&to=2024-03-01T12:00:11Z";
    assert_eq!(ask(&server, top).await[0]["count"], 1);
}

#[tokio::test]
async fn values_of_a_segment_can_be_listed() {
    let server = told_with_payloads().await;
    let country = "/stats/segments/values?path=properties.country";
    assert_eq!(
        ask(&server, country).await,
        json!({"path": "properties.country", "truncated": false, "values": [
            {"value": "UA", "count": 2, "unique_users": 1},
            {"value": "PL", "count": 1, "unique_users": 1},
            {"value": "U & A", "count": 1, "unique_users": 1},
        ]})
    );
    let first = ask(&server, &format!("{country}&limit=1&from=2024-03-02")).await;
    assert_eq!(first["truncated"], true);
    assert_eq!(
        first["values"],
        json!([{"value": "U & A", "count": 1, "unique_users": 1}])
    );
    let types = "/stats/segments/values?path=event_type&tenant_id=shop&to=2024-03-01";
    let types = ask(&server, types).await;
    assert_eq!(
        types["values"][0],
        json!({"value": "buy", "count": 3, "unique_users": 2})
    );
    let none = ask(&server, "/stats/segments/values?path=payload.nothing").await;
    assert_eq!(none["values"], json!([]));
}

#[tokio::test]
async fn a_question_that_reads_too_much_is_refused() {
    let server = Server::reading_at_most(512).await;
    let event = |n: u32| {
        json!({"event_id": n.to_string(), "tenant_id": "shop", "user_id": "u",
        "event_type": "buy", "timestamp": "2024-03-01T12:00:00Z", "payload": {"a": 1}})
    };
    let send = async |numbers: std::ops::Range<u32>| {
        let events: Vec<Value> = numbers.map(event).collect();
        let answer = server.post("/events", json!(events).to_string()).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
    };
    send(0..100).await;
    let segment = "segment=properties.a=1&tenant_id=shop";
    let targets = [
        format!("/stats/dau?{segment}&from=2024-03-01&to=2024-03-31"),
        format!("/metrics?bucket_size=day&{segment}"),
        format!("/stats/top-events?{segment}"),
        format!("/stats/retention?{segment}&start_date=2024-03-01&windows=9"),
        "/stats/segments/values?path=properties.a".to_owned(),
    ];
    for target in &targets {
        ask(&server, target).await;
    }
    send(0..600).await;
    for target in &targets {
        let problem = server.get(target).await;
        let problem = problem.assert_problem(422, "too_broad");
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            detail.contains("More than 512") && detail.contains("tenant_id"),
            "{detail}"
        );
    }
    // What the rollups know needs no reading.
    let top = ask(&server, "/stats/top-events").await;
    assert_eq!(top[0]["count"], 600);
}

#[tokio::test]
async fn what_was_erased_is_missed_where_payloads_are_needed() {
    let server = told_with_payloads().await;
    let erased = server
        .call("DELETE", "/events?tenant_id=shop&user_id=ben")
        .await;
    assert_eq!(erased.status, 200);
    let segment = "tenant_id=shop&event_type=buy&segment=properties.country=UA";
    let gone = async |question: &str| {
        let answer = server.get(&format!("{question}&{segment}")).await;
        let problem = answer.assert_problem(422, "events_gone");
        problem["detail"].as_str().unwrap().to_owned()
    };
    for question in [
        "/metrics?bucket_size=day",
        "/stats/dau?from=2024-03-01&to=2024-03-02",
        "/stats/wau?from=2024-03-02&to=2024-03-02",
        "/stats/top-events?limit=1",
        "/stats/segments/values?path=properties.country",
    ] {
        let detail = gone(question).await;
        assert!(
            detail.contains("the last of them at 2024-03-01T12:00:10Z"),
            "{detail}"
        );
        assert!(
            detail.contains("Ask only about times after that"),
            "{detail}"
        );
    }
    let detail = gone("/stats/retention?start_date=2024-03-02&windows=1").await;
    assert!(
        detail.contains("all events from the first one on"),
        "{detail}"
    );
    // Other times, other types, other tenants, and no segment.
    let target = format!("/stats/dau?from=2024-03-02&to=2024-03-02&{segment}");
    assert_eq!(ask(&server, &target).await[0]["dau"], 1);
    for others in ["event_type=none&tenant_id=shop", "tenant_id=nobody"] {
        let target = format!("/metrics?bucket_size=day&segment=properties.country=UA&{others}");
        assert_eq!(server.get(&target).await.status, 200, "{others}");
    }
    let target = "/metrics?bucket_size=day&event_type=buy&from=2024-03-01T12:00:10Z";
    let days = ask(&server, target).await;
    assert_eq!(days["buckets"][0]["unique_users"], 1, "ben remains counted");
}
