//! Questions about events that are refused.

use crate::common::Server;

/// The parameters that the errors name.
fn named(problem: &serde_json::Value) -> Vec<String> {
    let errors = problem["errors"].as_array().unwrap();
    let named = errors
        .iter()
        .map(|it| it["parameter"].as_str().unwrap().to_owned());
    named.collect()
}

#[tokio::test]
async fn every_bad_parameter_is_named() {
    let server = Server::start().await;
    let long = "n".repeat(257);
    let all = [
        "/metrics",
        "/stats/dau",
        "/stats/wau",
        "/stats/mau",
        "/stats/top-events",
        "/stats/retention",
    ];
    let eleven = ["segment=event_type:x"; 11].join("&");
    let everywhere = [
        ("tenant_id=", "tenant_id"),
        (&format!("source={long}"), "source"),
        ("event_type=%ff", "event_type"),
        ("tz=Mars/Olympus", "tz"),
        ("tz=", "tz"),
        ("tz=Etc/Unknown", "tz"),
        ("tz=../etc/passwd", "tz"),
        ("segment=", "segment"),
        ("segment=event_type:", "segment"),
        ("segment=purchase", "segment"),
        ("segment=properties.=1", "segment"),
        ("segment=properties.country", "segment"),
        (&format!("segment=event_type:{long}"), "segment"),
        (
            &format!("segment=properties.a={}", "v".repeat(1012)),
            "segment",
        ),
        (&eleven, "segment"),
        ("tenant_id=a&tenant_id=b", "tenant_id"),
        ("tennant_id=a", "tennant_id"),
        ("limits=3", "limits"),
        ("tz", "tz"),
    ];
    for target in all {
        for (query, parameter) in everywhere {
            let answer = server.get(&format!("{target}?{query}")).await;
            let problem = answer.assert_problem(422, "invalid_value");
            assert_eq!(named(&problem), [parameter], "{target}?{query}");
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains(parameter), "{detail}");
        }
    }
    let (dates, times) = (
        [
            "",
            "2024-3-1",
            "20240301",
            "2024-02-30",
            "today",
            "1709251200",
        ],
        ["2024-03-01T00:00:00Z", "2024-03-01T00:00:00"],
    );
    for target in ["/stats/dau", "/stats/wau", "/stats/mau"] {
        for value in dates.into_iter().chain(times) {
            for name in ["from", "to"] {
                let answer = server.get(&format!("{target}?{name}={value}")).await;
                let problem = answer.assert_problem(422, "invalid_value");
                assert_eq!(named(&problem), [name], "{target} {value}");
            }
        }
    }
    for target in ["/metrics", "/stats/top-events"] {
        for value in dates {
            let answer = server.get(&format!("{target}?from={value}")).await;
            let problem = answer.assert_problem(422, "invalid_value");
            assert_eq!(named(&problem), ["from"], "{target} {value}");
        }
    }
    for (target, parameter) in [
        ("/metrics?bucket_size=week", "bucket_size"),
        ("/metrics?bucket_size=", "bucket_size"),
        ("/metrics?limit=1", "limit"),
        ("/stats/dau?bucket_size=day", "bucket_size"),
        ("/stats/top-events?limit=0", "limit"),
        ("/stats/top-events?limit=1001", "limit"),
        ("/stats/top-events?limit=+1", "limit"),
        ("/stats/retention?windows=0", "windows"),
        ("/stats/retention?windows=91", "windows"),
        ("/stats/retention?windows=x", "windows"),
        ("/stats/retention?window_type=monthly", "window_type"),
        ("/stats/retention?start_date=x", "start_date"),
        ("/stats/retention?from=2024-03-01", "from"),
        ("/stats/segments/values", "path"),
        ("/stats/segments/values?path=", "path"),
        ("/stats/segments/values?path=country", "path"),
        ("/stats/segments/values?path=event_type&limit=1001", "limit"),
        ("/stats/segments/values?path=event_type&limit=0", "limit"),
        ("/stats/stream?tenant_id=x", "tenant_id"),
    ] {
        let problem = server.get(target).await;
        let problem = problem.assert_problem(422, "invalid_value");
        assert_eq!(named(&problem), [parameter], "{target}");
    }
}

#[tokio::test]
async fn all_that_is_wrong_is_told_at_once() {
    let server = Server::start().await;
    let answer = server
        .get("/stats/top-events?limit=0&from=x&tz=Mars&nonsense=1")
        .await;
    let problem = answer.assert_problem(422, "invalid_value");
    assert_eq!(named(&problem), ["limit", "from", "tz", "nonsense"]);
    assert_eq!(problem["error_count"], 4);
    // However many there are, a hundred are listed.
    let many: Vec<String> = (0..150).map(|n| format!("p{n}=1")).collect();
    let answer = server.get(&format!("/stats/dau?{}", many.join("&"))).await;
    let problem = answer.assert_problem(422, "invalid_value");
    assert_eq!(named(&problem).len(), 100);
    assert_eq!(problem["error_count"], 150);
}

#[tokio::test]
async fn a_range_that_goes_backwards_contradicts_itself() {
    let server = Server::start().await;
    for target in [
        "/metrics?from=2024-03-02&to=2024-03-01",
        "/metrics?from=2024-03-01T00:01:00Z&to=2024-03-01T00:00:00Z",
        // The date is included, and still over.
        "/metrics?from=2024-03-02T00:00:01Z&to=2024-03-01",
        "/stats/dau?from=2024-03-02&to=2024-03-01",
        "/stats/wau?from=2024-03-02&to=2024-03-01",
        "/stats/mau?from=2024-03-02&to=2024-03-01",
        "/stats/top-events?from=2024-03-02&to=2024-03-01",
    ] {
        let answer = server.get(target).await;
        answer.assert_problem(400, "contradictory_parameters");
    }
    for target in [
        "/metrics?from=2024-03-01&to=2024-03-01",
        "/metrics?from=2024-03-01T00:00:00Z&to=2024-03-01T00:00:00Z",
        "/stats/dau?from=2024-03-01&to=2024-03-01",
        "/stats/dau?from=9000-01-01",
    ] {
        assert_eq!(server.get(target).await.status, 200, "{target}");
    }
}

#[tokio::test]
async fn the_bounds_themselves_are_allowed() {
    let server = Server::start().await;
    let ten = ["segment=event_type:x"; 10].join("&");
    for target in [
        "/stats/top-events?limit=1",
        "/stats/top-events?limit=1000",
        "/stats/retention?windows=1",
        "/stats/retention?windows=90&window_type=weekly",
        "/stats/dau?from=2014-11-14&to=2024-11-20",
        &format!("/stats/dau?{ten}"),
        &format!("/stats/dau?segment=properties.a={}", "v".repeat(1011)),
        "/stats/segments/values?path=event_type&limit=1000",
        "/metrics?to=9999-12-31",
        "/metrics?from=0000-01-01",
    ] {
        let answer = server.get(target).await;
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
    }
    let answer = server.get("/stats/dau?from=2014-11-13&to=2024-11-20").await;
    answer.assert_problem(422, "too_broad");
    // Windows that lie behind the end of the calendar.
    let answer = server.get("/stats/retention?start_date=9999-12-30").await;
    answer.assert_problem(422, "invalid_value");
    server.still_serves().await;
}
