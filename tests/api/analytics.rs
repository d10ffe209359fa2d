//! Questions about events: the shapes and the numbers of the answers.

use serde_json::{Value, json};
use tollgate::http::HttpLimits;

use crate::common::{Answer, MAX_BODY, Server};

/// Sends events of (tenant, source, type, user, time); an empty type or user is left out.
pub(crate) async fn send(server: &Server, events: &[(&str, &str, &str, &str, &str, &str)]) {
    let events: Vec<Value> = events
        .iter()
        .map(|(id, tenant, source, event_type, user, time)| {
            let mut event = json!({
                "event_id": id, "tenant_id": tenant, "source": source, "timestamp": time
            });
            for (name, value) in [("event_type", event_type), ("user_id", user)] {
                if !value.is_empty() {
                    event[name] = json!(value);
                }
            }
            event
        })
        .collect();
    let answer = server.post("/events", json!(events).to_string()).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
}

/// Three days of a shop, and one event of another tenant. `ann` and `ben` come back on the second
/// day, `cat` comes on the third; one event has no user, one no type.
const STORY: [(&str, &str, &str, &str, &str, &str); 9] = [
    ("1", "shop", "web", "signup", "ann", "2024-03-01T10:00:30Z"),
    ("2", "shop", "web", "buy", "ann", "2024-03-01T10:00:59.9Z"),
    ("3", "shop", "app", "view", "ben", "2024-03-01T10:01:00Z"),
    ("4", "shop", "web", "view", "ann", "2024-03-02T23:30:00Z"),
    ("5", "shop", "app", "view", "ben", "2024-03-02T23:30:10Z"),
    ("6", "shop", "app", "signup", "cat", "2024-03-03T00:10:00Z"),
    ("7", "shop", "app", "view", "", "2024-03-03T00:10:10Z"),
    ("8", "shop", "app", "", "cat", "2024-03-03T00:10:20Z"),
    ("1", "mine", "web", "view", "ann", "2024-03-01T10:00:00Z"),
];

pub(crate) async fn told() -> Server {
    let server = Server::start().await;
    send(&server, &STORY).await;
    server
}

/// The answer, without the one member that differs each time.
pub(crate) async fn ask(server: &Server, target: &str) -> Value {
    let answer = server.get(target).await;
    assert_eq!(answer.status, 200, "{target}: {}", answer.text());
    let mut json = answer.json();
    if let Some(object) = json.as_object_mut() {
        let as_of = object.remove("as_of").unwrap();
        assert_eq!(as_of, answer.header("x-as-of"), "{target}");
    }
    json
}

#[tokio::test]
async fn buckets_have_the_shape_of_the_contract() {
    let server = told().await;
    let minutes = ask(&server, "/metrics?tenant_id=shop&bucket_size=minute").await;
    let minute = |start: &str, end: &str, count: u32, users: u32| {
        json!({"start": format!("2024-03-0{start}:00Z"), "end": format!("2024-03-0{end}:00Z"),
            "count": count, "unique_users": users})
    };
    let expected = [
        minute("1T10:00", "1T10:01", 2, 1),
        minute("1T10:01", "1T10:02", 1, 1),
        minute("2T23:30", "2T23:31", 2, 2),
        minute("3T00:10", "3T00:11", 3, 1),
    ];
    assert_eq!(
        minutes,
        json!({"tenant_id": "shop", "bucket_size": "minute", "tz": "UTC", "buckets": expected})
    );
    let hours = ask(&server, "/metrics?bucket_size=hour").await;
    assert_eq!(
        hours,
        json!({"tenant_id": null, "bucket_size": "hour", "tz": "UTC", "buckets": [
            minute("1T10:00", "1T11:00", 4, 3),
            minute("2T23:00", "3T00:00", 2, 2),
            minute("3T00:00", "3T01:00", 3, 1),
        ]})
    );
    let days = "/metrics?bucket_size=day&source=app&from=2024-03-02&to=2024-03-03";
    assert_eq!(
        ask(&server, days).await["buckets"],
        json!([
            minute("2T00:00", "3T00:00", 1, 1),
            minute("3T00:00", "4T00:00", 3, 1),
        ])
    );
    // Minutes are what it is without a size, and any parameter makes it this.
    for query in ["tenant_id=shop", "from=2024-03-01", "tz=UTC"] {
        let answer = ask(&server, &format!("/metrics?{query}")).await;
        assert_eq!(answer["bucket_size"], "minute", "{query}");
    }
    let half_open = "/metrics?tenant_id=shop&from=2024-03-01T10:01:00Z&to=2024-03-02T23:30:00Z";
    let found = ask(&server, half_open).await;
    assert_eq!(
        found["buckets"],
        json!([minute("1T10:01", "1T10:02", 1, 1)])
    );
    for nobody in ["tenant_id=nobody", "event_type=none", "from=2025-01-01"] {
        let found = ask(&server, &format!("/metrics?{nobody}")).await;
        assert_eq!(found["buckets"], json!([]), "{nobody}");
    }
}

#[tokio::test]
async fn metrics_without_parameters_stay_those_of_prometheus() {
    let server = Server::alone().await;
    send(&server, &STORY).await;
    for target in ["/metrics", "/metrics?"] {
        let answer = server.get(target).await;
        assert!(answer.header("content-type").starts_with("text/plain"));
        assert!(
            answer
                .text()
                .contains("events_ingested_total{event_type=\"view\"} 5")
        );
    }
    ask(&server, "/metrics?bucket_size=day").await;
    let text = server.get("/metrics").await.text();
    // A pattern, not the path with its query.
    assert!(text.contains("endpoint=\"/metrics\",status_code=\"200\"} "));
    assert!(!text.contains("bucket_size"));
}

#[tokio::test]
async fn buckets_are_bounded() {
    let limits = HttpLimits {
        max_buckets: 3,
        ..HttpLimits::new(MAX_BODY)
    };
    let server = Server::with_limits(limits).await;
    send(&server, &STORY).await;
    assert_eq!(
        ask(&server, "/metrics?bucket_size=hour").await["buckets"][2]["count"],
        3
    );
    let answer = server.get("/metrics?bucket_size=minute").await;
    let problem = answer.assert_problem(422, "too_broad");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("bucket_size") && detail.contains("at most 3"),
        "{detail}"
    );
}

#[tokio::test]
async fn users_are_counted_by_day_week_and_month() {
    let server = told().await;
    let range = "from=2024-02-29&to=2024-03-04";
    assert_eq!(
        ask(&server, &format!("/stats/dau?tenant_id=shop&{range}")).await,
        json!([
            {"date": "2024-02-29", "dau": 0},
            {"date": "2024-03-01", "dau": 2},
            {"date": "2024-03-02", "dau": 2},
            {"date": "2024-03-03", "dau": 1},
            {"date": "2024-03-04", "dau": 0},
        ])
    );
    // The same name under two tenants is two users.
    assert_eq!(
        ask(&server, &format!("/stats/dau?{range}")).await[1]["dau"],
        3
    );
    assert_eq!(
        ask(
            &server,
            "/stats/wau?tenant_id=shop&from=2024-03-07&to=2024-03-10"
        )
        .await,
        json!([
            {"date": "2024-03-07", "wau": 3},
            {"date": "2024-03-08", "wau": 3},
            {"date": "2024-03-09", "wau": 1},
            {"date": "2024-03-10", "wau": 0},
        ])
    );
    assert_eq!(
        ask(
            &server,
            "/stats/mau?tenant_id=shop&from=2024-03-31&to=2024-04-02"
        )
        .await,
        json!([
            {"date": "2024-03-31", "mau": 3},
            {"date": "2024-04-01", "mau": 1},
            {"date": "2024-04-02", "mau": 0},
        ])
    );
    let dau = async |filter: &str| {
        let target = format!("/stats/dau?tenant_id=shop&from=2024-03-01&to=2024-03-01&{filter}");
        ask(&server, &target).await[0]["dau"].clone()
    };
    assert_eq!(dau("source=app").await, 1);
    assert_eq!(dau("event_type=view").await, 1);
    assert_eq!(dau("segment=event_type:buy").await, 1);
    assert_eq!(
        dau("segment=event_type:buy&segment=event_type:view").await,
        0
    );
    assert_eq!(dau("segment=event_type%3Aview&source=web").await, 0);
}

#[tokio::test]
async fn without_dates_the_last_thirty_days_are_meant() {
    let server = told().await;
    let answer = server.get("/stats/dau?tz=Pacific/Kiritimati").await;
    let now: jiff::Timestamp = answer.header("x-as-of").parse().unwrap();
    let zone = jiff::tz::TimeZone::get("Pacific/Kiritimati").unwrap();
    let today = now.to_zoned(zone).date();
    let days = answer.json();
    assert_eq!(days.as_array().unwrap().len(), 30);
    assert_eq!(days[29]["date"], today.to_string());
    let until = ask(&server, "/stats/dau?to=2024-03-03").await;
    assert_eq!(until[0], json!({"date": "2024-02-03", "dau": 0}));
    assert_eq!(until[29], json!({"date": "2024-03-03", "dau": 1}));
}

#[tokio::test]
async fn types_come_by_count_and_then_by_name() {
    let server = told().await;
    assert_eq!(
        ask(&server, "/stats/top-events?tenant_id=shop").await,
        json!([
            {"event_type": "view", "count": 4, "unique_users": 2},
            {"event_type": "signup", "count": 2, "unique_users": 2},
            {"event_type": "buy", "count": 1, "unique_users": 1},
        ])
    );
    let names = async |query: &str| {
        let found = ask(
            &server,
            &format!("/stats/top-events?tenant_id=shop&{query}"),
        )
        .await;
        let found = found.as_array().unwrap();
        let names = found.iter().map(|it| it["event_type"].as_str().unwrap());
        names.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names("limit=1").await, "view");
    // One each: by name. A date is included, a time is not.
    assert_eq!(
        names("from=2024-03-01&to=2024-03-01").await,
        "buy signup view"
    );
    assert_eq!(
        names("from=2024-03-01&to=2024-03-01T10:01:00Z").await,
        "buy signup"
    );
    assert_eq!(names("from=2024-03-03").await, "signup view");
    assert_eq!(names("to=2024-03-01T12:00:00%2B02:00").await, "");
    // A plus that is not escaped is meant as one.
    assert_eq!(names("to=2024-03-01T12:01:00+02:00").await, "buy signup");
    assert_eq!(
        names("from=2024-03-01&to=2024-03-01&source=app").await,
        "view"
    );
    assert_eq!(names("event_type=buy").await, "buy");
}

#[tokio::test]
async fn retention_has_the_shape_of_the_contract() {
    let server = told().await;
    let found = ask(
        &server,
        "/stats/retention?tenant_id=shop&start_date=2024-03-01",
    )
    .await;
    let all = json!([true, true, true]);
    assert_eq!(
        found,
        json!({"window_type": "daily", "tz": "UTC", "cohorts": [
            {"cohort_start": "2024-03-01", "size": 2, "retained": [2, 2, 0],
                "rates": [1.0, 1.0, 0.0], "complete": all},
            {"cohort_start": "2024-03-02", "size": 0, "retained": [0, 0, 0],
                "rates": [0.0, 0.0, 0.0], "complete": all},
            {"cohort_start": "2024-03-03", "size": 1, "retained": [1, 0, 0],
                "rates": [1.0, 0.0, 0.0], "complete": all},
        ]})
    );
    let weekly = "/stats/retention?start_date=2024-02-26&windows=1&window_type=weekly";
    let weekly = ask(&server, weekly).await;
    assert_eq!(weekly["window_type"], "weekly");
    assert_eq!(weekly["cohorts"][0]["size"], 4);
    // Whoever was there before is in no cohort.
    let later = ask(
        &server,
        "/stats/retention?start_date=2024-03-02&tenant_id=shop",
    )
    .await;
    assert_eq!(later["cohorts"][0]["size"], 0);
    // Without a date the last window is the one that goes on.
    let answer = server.get("/stats/retention?windows=2").await;
    let cohorts = answer.json()["cohorts"].clone();
    assert_eq!(cohorts[1]["cohort_start"], answer.header("x-as-of")[..10]);
    assert_eq!(cohorts[0]["complete"], json!([true, false]));
    assert_eq!(cohorts[1]["complete"], json!([false, false]));
}

#[tokio::test]
async fn a_day_has_the_hours_of_its_zone() {
    let server = Server::start().await;
    // New York: the 10th of March has 23 hours, the 3rd of November 25.
    let times = [
        ("2024-03-10T04:59:00Z", "9th"),
        ("2024-03-10T05:00:00Z", "a"),
        ("2024-03-11T03:59:59Z", "b"),
        ("2024-03-11T04:00:00Z", "11th"),
        ("2024-11-03T04:00:00Z", "c"),
        ("2024-11-04T04:59:59Z", "d"),
        ("2024-11-04T05:00:00Z", "4th"),
    ];
    let events = times.map(|(time, user)| (user, "t", "s", "x", user, time));
    send(&server, &events).await;
    let zone = "tz=America/New_York";
    let day = async |date: &str| {
        let range = format!("from={date}&to={date}&{zone}");
        let dau = ask(&server, &format!("/stats/dau?{range}")).await;
        let days = ask(&server, &format!("/metrics?bucket_size=day&{range}")).await;
        assert_eq!(days["tz"], "America/New_York");
        (dau[0]["dau"].clone(), days["buckets"].clone())
    };
    assert_eq!(
        day("2024-03-10").await,
        (
            json!(2),
            json!([{"start": "2024-03-10T00:00:00-05:00", "end": "2024-03-11T00:00:00-04:00",
            "count": 2, "unique_users": 2}])
        )
    );
    assert_eq!(
        day("2024-11-03").await,
        (
            json!(2),
            json!([{"start": "2024-11-03T00:00:00-04:00", "end": "2024-11-04T00:00:00-05:00",
            "count": 2, "unique_users": 2}])
        )
    );
    let top = format!("/stats/top-events?from=2024-03-10&to=2024-03-10&{zone}");
    assert_eq!(ask(&server, &top).await[0]["count"], 2);
    let cohorts = format!("/stats/retention?start_date=2024-03-09&windows=3&{zone}");
    let cohorts = ask(&server, &cohorts).await["cohorts"].clone();
    let sizes = [0, 1, 2].map(|n| cohorts[n]["size"].as_u64().unwrap());
    assert_eq!(sizes, [1, 2, 1]);
    // A zone is known by any case, and a plus in its name may stand as it is.
    let tz = |answer: Value| answer["tz"].clone();
    assert_eq!(
        tz(ask(&server, "/metrics?tz=america/new_york").await),
        "America/New_York"
    );
    assert_eq!(tz(ask(&server, "/metrics?tz=Etc/GMT+5").await), "Etc/GMT+5");
}

#[tokio::test]
async fn a_late_event_corrects_and_a_duplicate_does_not_count() {
    let server = told().await;
    let cohorts = "/stats/retention?tenant_id=shop&start_date=2024-02-28&windows=3";
    let before = ask(&server, cohorts).await;
    let sizes = |answer: &Value| [0, 1, 2].map(|n| answer["cohorts"][n]["size"].as_u64().unwrap());
    assert_eq!(sizes(&before), [0, 0, 2]);
    let dau = "/stats/dau?tenant_id=shop&from=2024-02-29&to=2024-02-29";
    assert_eq!(ask(&server, dau).await[0]["dau"], 0);
    // Sent again, and as another day's: the first one stands.
    send(&server, &STORY).await;
    send(
        &server,
        &[("1", "shop", "web", "signup", "ann", "2024-02-29T10:00:00Z")],
    )
    .await;
    assert_eq!(ask(&server, cohorts).await, before);
    assert_eq!(ask(&server, dau).await[0]["dau"], 0);
    let late = ("9", "shop", "web", "view", "ann", "2024-02-29T10:00:00Z");
    send(&server, &[late]).await;
    assert_eq!(sizes(&ask(&server, cohorts).await), [0, 1, 1]);
    assert_eq!(ask(&server, dau).await[0]["dau"], 1);
}

/// A question with a tag that the client has.
async fn ask_again(server: &Server, method: &str, target: &str, tag: &str) -> Answer {
    server
        .send(format!(
            "{method} {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nIf-None-Match: {tag}\r\n\r\n"
        ))
        .await
}

/// The number of the day, by UTC.
fn today() -> i64 {
    jiff::Timestamp::now().as_second().div_euclid(86_400)
}

#[tokio::test]
async fn an_answer_holds_until_an_event_is_accepted() {
    // Answers about the days up to today are others after midnight: then it is begun anew.
    let day = today();
    if let Err(failed) = tokio::spawn(answers_hold()).await {
        if today() == day {
            std::panic::resume_unwind(failed.into_panic());
        }
        answers_hold().await;
    }
}

async fn answers_hold() {
    let server = told().await;
    for (n, target) in [
        "/metrics?bucket_size=day",
        "/stats/dau",
        "/stats/wau?from=2024-03-01&to=2024-03-02",
        "/stats/mau?from=2024-03-01",
        "/stats/top-events",
        "/stats/retention",
        "/stats/segments/values?path=event_type",
        "/stats/dau?segment=properties.country=UA",
    ]
    .into_iter()
    .enumerate()
    {
        let first = server.get(target).await;
        let tag = first.header("etag").to_owned();
        assert!(tag.starts_with("W/\"") && tag.ends_with('"'), "{tag}");
        assert_eq!(first.header("cache-control"), "no-cache");
        let strong = tag.trim_start_matches("W/").to_owned();
        for known in [
            &tag,
            &strong,
            "*",
            &format!("\"x\", {tag}"),
            &format!("\"x\",{tag} , \"y\""),
        ] {
            for method in ["GET", "HEAD"] {
                let again = ask_again(&server, method, target, known).await;
                assert_eq!(again.status, 304, "{method} {target} {known}");
                assert!(again.body.is_empty());
                assert_eq!(again.header("etag"), tag);
                assert!(again.header("x-as-of") > first.header("x-as-of"));
                assert_eq!(again.header("cache-control"), "no-cache");
            }
        }
        for other in ["", "\"x\"", "W/\"\"", tag.trim_matches('"')] {
            let again = ask_again(&server, "GET", target, other).await;
            assert_eq!(again.status, 200, "{target} {other}");
            assert_eq!(again.header("etag"), tag);
        }
        let head = server.call("HEAD", target).await;
        assert_eq!((head.status, head.header("etag")), (200, tag.as_str()));
        assert!(head.body.is_empty());
        // Neither a duplicate nor a refused event.
        send(&server, &STORY[..1]).await;
        let bad = r#"[{"event_id": "x", "timestamp": "never"}]"#;
        assert_eq!(server.post("/events?partial=true", bad).await.status, 202);
        assert_eq!(ask_again(&server, "GET", target, &tag).await.status, 304);
        let id = format!("new-{n}");
        send(
            &server,
            &[(&id, "new", "s", "x", "u", "2024-05-01T00:00:00Z")],
        )
        .await;
        let again = ask_again(&server, "GET", target, &tag).await;
        assert_eq!(again.status, 200, "{target}");
        assert_ne!(again.header("etag"), tag);
    }
    // Erasing events may change answers.
    let target = "/stats/segments/values?path=event_type";
    let tag = server.get(target).await.header("etag").to_owned();
    let erased = server
        .call("DELETE", "/events?tenant_id=new&user_id=u")
        .await;
    assert_eq!(erased.status, 200);
    assert_eq!(ask_again(&server, "GET", target, &tag).await.status, 200);
    // A question that is wrong is wrong, whatever the client has.
    let wrong = ask_again(&server, "GET", "/stats/dau?from=x", "*").await;
    wrong.assert_problem(422, "invalid_value");
}
