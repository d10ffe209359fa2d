//! `/dead-letters`: what `partial=true` left behind.

use serde_json::{Value, json};

use crate::common::Server;

const TIME: &str = "2026-11-21T04:11:21Z";

/// Leaves three dead letters: two events without a time, and a line that is no JSON.
async fn leave(server: &Server) {
    let lines = format!(
        "{}\n{}\n{{oops\n{}\n",
        json!({"event_id": "1"}),
        json!({"event_id": "2", "timestamp": "soon"}),
        json!({"event_id": "3", "timestamp": TIME}),
    );
    let target = "/events?partial=true";
    let answer = server.post_as(target, "application/x-ndjson", lines).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let said = answer.json();
    assert_eq!(
        (&said["accepted"], &said["rejected"]),
        (&json!(1), &json!(3))
    );
    let pointers: Vec<&Value> = said["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["pointer"])
        .collect();
    assert_eq!(pointers, ["/0/timestamp", "/1/timestamp", "/2"]);
    assert_eq!(said["error_count"], 3);
}

#[tokio::test]
async fn refused_events_are_listed_as_they_were_sent() {
    let server = Server::start().await;
    assert_eq!(
        server.get("/dead-letters").await.json()["dead_letters"],
        json!([])
    );
    leave(&server).await;
    let listed = server.get("/dead-letters").await.json();
    let letters = listed["dead_letters"].as_array().unwrap();
    assert_eq!(letters.len(), 3);
    assert_eq!(
        (&listed["has_more"], &listed["next_cursor"]),
        (&json!(false), &json!(null))
    );
    assert_eq!(
        letters[1]["body"],
        json!({"event_id": "2", "timestamp": "soon"})
    );
    assert_eq!(letters[1]["errors"][0]["pointer"], "/timestamp");
    assert_eq!(letters[1]["errors"][0]["code"], "unparseable_date");
    assert_eq!(letters[2]["body"], "{oops");
    assert_eq!(letters[2]["errors"][0]["code"], "malformed_json");
    let id = letters[1]["id"].as_u64().unwrap();
    assert_eq!(
        server.get(&format!("/dead-letters/{id}")).await.json(),
        letters[1]
    );

    let first = server.get("/dead-letters?page_size=2").await.json();
    assert_eq!(first["dead_letters"], json!(letters[..2]));
    assert_eq!(first["has_more"], true);
    let cursor = first["next_cursor"].as_str().unwrap();
    let rest = server
        .get(&format!("/dead-letters?cursor={cursor}"))
        .await
        .json();
    assert_eq!(rest["dead_letters"], json!(letters[2..]));
    for query in ["page_size=0", "page_size=1001", "cursor=x"] {
        let answer = server.get(&format!("/dead-letters?{query}")).await;
        answer.assert_problem(422, "invalid_value");
    }
}

#[tokio::test]
async fn a_letter_is_put_right_and_sent_again() {
    let server = Server::start().await;
    leave(&server).await;
    // As it is, it is still wrong, and stays.
    let answer = server.call("POST", "/dead-letters/1/retry").await;
    answer.assert_problem(422, "invalid_value");
    assert_eq!(answer.pointers(), ["/timestamp"]);
    assert_eq!(server.get("/dead-letters/1").await.status, 200);

    let right = json!({"event_id": "1", "timestamp": TIME}).to_string();
    let answer = server.post("/dead-letters/1/retry", &right).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(
        answer.json(),
        json!({"event_id": "1", "status": "accepted"})
    );
    assert_eq!(server.get("/events/1").await.status, 200);
    let answer = server.get("/dead-letters/1").await;
    answer.assert_problem(404, "not_found");
    let answer = server.post("/dead-letters/1/retry", &right).await;
    answer.assert_problem(404, "not_found");

    let cloud = json!({"specversion": "1.0", "id": "1", "source": "s", "type": "t", "time": TIME});
    let media_type = "application/cloudevents+json";
    let target = "/dead-letters/2/retry";
    let answer = server.post_as(target, media_type, cloud.to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["status"], "duplicate");
    let answer = server
        .post_as("/dead-letters/3/retry", "text/plain", "x")
        .await;
    answer.assert_problem(415, "unsupported_media_type");
    let answer = server.call("POST", "/dead-letters/3/retry").await;
    answer.assert_problem(400, "malformed_json");
    let answer = server
        .post("/dead-letters/3/retry", format!("[{right}]"))
        .await;
    answer.assert_problem(422, "invalid_value");
}

#[tokio::test]
async fn a_letter_is_discarded_once() {
    let server = Server::start().await;
    leave(&server).await;
    let answer = server.call("DELETE", "/dead-letters/2").await;
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    for id in ["2", "99", "x", "-1", "99999999999999999999"] {
        let answer = server.call("DELETE", &format!("/dead-letters/{id}")).await;
        answer.assert_problem(404, "not_found");
        let answer = server.get(&format!("/dead-letters/{id}")).await;
        answer.assert_problem(404, "not_found");
    }
    let left = server.get("/dead-letters").await.json();
    assert_eq!(left["dead_letters"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn one_bad_event_can_be_left_behind_too() {
    let server = Server::start().await;
    let answer = server
        .post("/events?partial=true", r#"{"event_id":"1"}"#)
        .await;
    assert_eq!(answer.status, 202);
    assert_eq!(answer.json()["rejected"], 1);
    let letter = server.get("/dead-letters/1").await.json();
    assert_eq!(letter["body"], json!({"event_id": "1"}));
    // Nothing is left behind by a request that is refused as a whole.
    let answer = server.post("/events", r#"{"event_id":"1"}"#).await;
    answer.assert_problem(422, "invalid_value");
    let answer = server.post("/events?partial=true", "{").await;
    answer.assert_problem(400, "malformed_json");
    let letters = server.get("/dead-letters").await.json();
    assert_eq!(letters["dead_letters"].as_array().unwrap().len(), 1);
}
