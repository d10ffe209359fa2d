use super::*;

fn lines(metrics: &Metrics) -> Vec<String> {
    metrics.encode().lines().map(str::to_owned).collect()
}

fn assert_line(metrics: &Metrics, line: &str) {
    let all = metrics.encode();
    assert!(all.lines().any(|it| it == line), "no {line} in\n{all}");
}

#[test]
fn counts_a_batch_s_life_under_the_names_of_the_contract() {
    let metrics = Metrics::new();
    metrics.submitted("default", Priority::High);
    metrics.set_waiting("default", Priority::High, 7);
    metrics.started(
        "default",
        Some(Duration::from_secs(3)),
        Duration::from_millis(2),
    );
    metrics.finished("default", BatchStatus::Failed, Duration::from_millis(300));
    for line in [
        r#"ingestions_submitted_total{queue="default",priority="HIGH"} 1"#,
        r#"ingestions_submitted_total{queue="default",priority="LOW"} 0"#,
        r#"batches_started_total{queue="default"} 1"#,
        r#"batches_finished_total{queue="default",status="failed"} 1"#,
        r#"batches_waiting{queue="default",priority="HIGH"} 7"#,
        "batch_wait_seconds_sum 3.0",
        r#"batch_wait_seconds_bucket{le="1.0"} 0"#,
        r#"batch_wait_seconds_bucket{le="5.0"} 1"#,
        "batch_run_seconds_sum 0.3",
        "dispatch_delay_seconds_count 1",
        "# EOF",
    ] {
        assert_line(&metrics, line);
    }
}

#[test]
fn counts_requests_by_method_endpoint_and_status() {
    let metrics = Metrics::new();
    for status in [200, 200, 404] {
        metrics.api_request("GET", "/status/<id>", status, Duration::from_millis(2));
    }
    metrics.api_request("BREW", "/status/<id>", 405, Duration::ZERO);
    for line in [
        r#"api_requests_total{method="GET",endpoint="/status/<id>",status_code="200"} 2"#,
        r#"api_requests_total{method="GET",endpoint="/status/<id>",status_code="404"} 1"#,
        r#"api_requests_total{method="other",endpoint="/status/<id>",status_code="405"} 1"#,
        r#"api_request_duration_seconds_count{method="GET",endpoint="/status/<id>"} 3"#,
    ] {
        assert_line(&metrics, line);
    }
}

#[test]
fn names_past_the_bound_are_counted_as_other() {
    let metrics = Metrics::new();
    for n in 0..MAX_ENDPOINTS + 2 {
        metrics.api_request("GET", &format!("/{n}"), 200, Duration::ZERO);
    }
    for n in 0..MAX_QUEUES + 3 {
        metrics.submitted(&format!("q{n}"), Priority::Low);
    }
    let last = MAX_ENDPOINTS - 1;
    for line in [
        &format!(r#"api_requests_total{{method="GET",endpoint="/{last}",status_code="200"}} 1"#),
        r#"api_requests_total{method="GET",endpoint="other",status_code="200"} 2"#,
        r#"ingestions_submitted_total{queue="q999",priority="LOW"} 1"#,
        r#"ingestions_submitted_total{queue="other",priority="LOW"} 3"#,
    ] {
        assert_line(&metrics, line);
    }
    let endpoints = lines(&metrics)
        .iter()
        .filter(|line| line.starts_with("api_requests_total"))
        .count();
    assert_eq!(endpoints, MAX_ENDPOINTS + 1);
    // A name from before the bound keeps its own count.
    metrics.submitted("q0", Priority::Low);
    assert_line(
        &metrics,
        r#"ingestions_submitted_total{queue="q0",priority="LOW"} 2"#,
    );
}

#[test]
fn a_queue_called_other_takes_one_place_at_most() {
    let metrics = Metrics::new();
    metrics.submitted("other", Priority::High);
    for n in 0..=MAX_QUEUES {
        metrics.submitted(&format!("q{n}"), Priority::High);
    }
    assert_line(
        &metrics,
        r#"ingestions_submitted_total{queue="q999",priority="HIGH"} 1"#,
    );
    assert_line(
        &metrics,
        r#"ingestions_submitted_total{queue="other",priority="HIGH"} 2"#,
    );
}

#[test]
fn counts_events_under_the_names_of_the_contract() {
    let metrics = Metrics::new();
    metrics.events("click", 5, 3);
    metrics.events_duplicate(2, 1);
    metrics.events_failed(Failure::Invalid, 7);
    metrics.ingestion(Duration::from_millis(3));
    for line in [
        r#"events_received_total{event_type="click"} 5"#,
        r#"events_ingested_total{event_type="click"} 3"#,
        "events_duplicate_total 2",
        "events_conflicting_total 1",
        r#"events_failed_total{reason="invalid"} 7"#,
        "ingestion_duration_seconds_count 1",
    ] {
        assert_line(&metrics, line);
    }
    for n in 0..events::MAX_TYPES + 2 {
        metrics.events(&format!("type {n}"), 1, 1);
    }
    // One place was taken before.
    assert_line(&metrics, r#"events_received_total{event_type="other"} 3"#);
}

#[test]
fn counts_refusals_and_tells_of_redis_only_where_there_is_one() {
    let metrics = Metrics::new();
    metrics.rate_limited();
    assert_line(&metrics, "rate_limit_exceeded_total 1");
    let told = |metrics: &Metrics| {
        lines(metrics)
            .iter()
            .any(|it| it.starts_with("quota_redis_up{}"))
    };
    assert!(!told(&metrics));
    metrics.set_redis_up(false);
    assert_line(&metrics, "quota_redis_up{} 0");
    metrics.set_redis_up(true);
    assert_line(&metrics, "quota_redis_up{} 1");
}
