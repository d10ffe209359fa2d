//! The routes about the service itself.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::common::Server;

#[tokio::test]
async fn says_that_it_is_there() {
    let server = Server::start().await;
    let greeting = serde_json::json!({"message": "Ingestion API is live!"});
    assert_eq!(server.get("/").await.json(), greeting);
    let health = server.get("/health").await.json();
    assert_eq!(health["status"], "ok");
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));
    assert!(health["uptime_seconds"].as_f64().unwrap() >= 0.0);
    let alive = serde_json::json!({"status": "alive"});
    assert_eq!(server.get("/health/liveness").await.json(), alive);
}

#[tokio::test]
async fn is_ready_while_everything_works() {
    let server = Server::alone().await;
    let ready = server.get("/ready").await;
    assert_eq!(ready.status, 200);
    assert_eq!(ready.json()["components"]["store"]["state"], "ok");
    assert_eq!(ready.json()["components"]["scheduler"]["state"], "ok");

    let grace = Duration::from_secs(10);
    server.state.jobs.stop(grace, 6 * grace).await;
    let stopped = server.get("/ready").await;
    stopped.assert_problem(503, "unavailable");
    assert_eq!(stopped.header("retry-after"), "1");
    assert_eq!(stopped.json()["components"]["store"]["state"], "ok");
    assert_eq!(
        stopped.json()["components"]["scheduler"]["state"],
        "stopped"
    );
}

#[tokio::test]
async fn every_answer_carries_a_request_id() {
    let server = Server::start().await;
    let send = async |target: &str, id: &str| {
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX-Request-Id: {id}\r\n\r\n"
        );
        server.send(request).await.header("x-request-id").to_owned()
    };
    let longest = "x".repeat(128);
    for target in ["/health", "/nowhere", "/panics", "/docs", "/openapi.json"] {
        assert_eq!(send(target, "mine-1").await, "mine-1");
        assert_eq!(send(target, &longest).await, longest);
        for bad in ["", "a b", "ü", &"x".repeat(129)] {
            let made = send(target, bad).await;
            assert!(uuid::Uuid::parse_str(&made).is_ok(), "{made}");
        }
    }
    // Refused before the fairings run.
    let brew = "BREW / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX-Request-Id: tea\r\n\r\n";
    assert_eq!(server.send(brew).await.header("x-request-id"), "tea");
}

#[tokio::test]
async fn the_description_has_what_is_mounted_and_nothing_else() {
    let server = Server::alone().await;
    let rocket = tollgate::http::rocket(rocket::Config::figment(), server.state.clone())
        .ignite()
        .await
        .unwrap();
    let mounted: BTreeSet<String> = rocket
        .routes()
        .map(|route| {
            let path = route.uri.path().replace('<', "{").replace('>', "}");
            format!("{} {path}", route.method)
        })
        .collect();
    let document = server.get("/openapi.json").await.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
    let mut described = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            described.insert(format!("{} {path}", method.to_uppercase()));
            let responses = operation["responses"].as_object().unwrap();
            for (status, response) in responses
                .iter()
                .filter(|(status, _)| status.as_str() >= "400")
            {
                let content = &response["content"]["application/problem+json"];
                assert!(content["schema"].is_object(), "{method} {path} {status}");
                let examples = content["examples"].as_object().unwrap();
                let example = &examples.values().next().unwrap()["value"];
                let code = example["code"].as_str().unwrap();
                assert!(!code.is_empty(), "{method} {path} {status}");
                assert_eq!(example["status"].to_string(), *status, "{method} {path}");
            }
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let kind = &parameter["schema"]["type"];
                assert!(kind.is_string(), "{method} {path} {parameter}: never null");
            }
            assert!(operation["summary"].is_string(), "{method} {path}");
        }
    }
    assert_eq!(described, mounted);
}

#[tokio::test]
async fn every_reference_in_the_description_leads_somewhere() {
    let server = Server::start().await;
    let text = server.get("/openapi.json").await.text();
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut references = 0;
    for part in text.split("\"$ref\": \"#").skip(1) {
        let pointer = part.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
        references += 1;
    }
    assert!(references > 10);
}

#[tokio::test]
async fn the_pages_ask_no_other_machine() {
    let server = Server::start().await;
    for target in ["/docs", "/dashboard"] {
        let page = server.get(target).await;
        assert_eq!(page.status, 200);
        assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
        let policy = page.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        for elsewhere in ["http://", "https://", "src=\"//"] {
            assert!(!page.text().contains(elsewhere), "{target}: {elsewhere}");
        }
    }
    let script = server.get("/docs/rapidoc-min.js").await;
    assert_eq!(script.header("content-type"), "text/javascript");
    assert!(script.body.len() > 100_000);
    let licence = server.get("/docs/LICENSE.txt").await.text();
    assert!(licence.contains("MIT License"));
}

#[tokio::test]
async fn metrics_are_text_for_prometheus() {
    let server = Server::start().await;
    let metrics = server.get("/metrics").await;
    assert_eq!(metrics.status, 200);
    let media_type = metrics.header("content-type");
    assert_eq!(media_type, "text/plain; version=0.0.4; charset=utf-8");
    let request = "GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\
                   Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n\r\n";
    let metrics = server.send(request).await;
    assert!(
        metrics
            .header("content-type")
            .starts_with("application/openmetrics-text")
    );
    assert!(metrics.text().ends_with("# EOF\n"));
}

#[tokio::test]
async fn lists_queues_and_the_newest_ingestions() {
    let server = Server::start().await;
    let queues = server.get("/queues").await.json();
    let default = queues["queues"]
        .as_array()
        .unwrap()
        .iter()
        .find(|queue| queue["name"] == "default")
        .unwrap()
        .clone();
    assert_eq!(default["batch_size"], 3);
    assert_eq!(default["processor"], "simulate");
    let (first, second) = (server.submit(1..=3).await, server.submit(4..=9).await);
    let listed = server.get("/ingestions").await.json();
    assert_eq!(listed["ingestions"][0]["ingestion_id"], second.as_str());
    assert_eq!(listed["ingestions"][1]["ingestion_id"], first.as_str());
    assert_eq!(listed["ingestions"][0]["progress"]["total"], 2);
    assert!(listed["ingestions"][0].get("batches").is_none());
    let one = server.get("/ingestions?limit=1").await.json();
    assert_eq!(one["ingestions"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn head_is_get_without_a_body() {
    let server = Server::start().await;
    let request = "HEAD /docs HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let answer = server.send(request).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.is_empty());
    assert!(answer.header("content-length").parse::<usize>().unwrap() > 500);
}
