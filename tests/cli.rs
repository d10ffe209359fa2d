//! The client commands of the real binary against a small server that answers as it is told.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    missing_docs
)]

#[path = "support/port.rs"]
mod port;
#[path = "support/stub.rs"]
mod stub;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Output, Stdio};

use port::Port;
use stub::Server;

const ID: &str = "0193f5a0-0000-7000-8000-000000000001";

/// Accepts every submission.
fn accepting() -> Server {
    Server::start(|_, _| Some((200, format!(r#"{{"ingestion_id": "{ID}"}}"#))))
}

fn tollgate(server: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command
        .args(arguments)
        .env("TOLLGATE_SERVER", server)
        .stdin(Stdio::null());
    command
}

fn run(server: &Server, arguments: &[&str]) -> Output {
    tollgate(&server.url(), arguments).output().unwrap()
}

fn run_with_input(server: &Server, arguments: &[&str], input: &str) -> Output {
    let mut child = tollgate(&server.url(), arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn err(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn summary(status: &str, completed: u32, failed: u32) -> String {
    format!(
        r#"{{"ingestion_id": "{ID}", "status": "{status}", "queue": "default",
            "priority": "HIGH", "position": 2, "eta_seconds": 9.6,
            "waiting_reason": "waits for its slot",
            "progress": {{"total": 3, "completed": {completed}, "failed": {failed}}}}}"#
    )
}

#[test]
fn submit_sends_ids_as_they_are_written_and_prints_the_id() {
    let server = accepting();
    let output = run(&server, &["submit", "7", "-3", "1..=3", "8-9", "4,5"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(out(&output), format!("{ID}\n"));
    assert_eq!(err(&output), "");
    assert!(server.requests()[0].line.starts_with("POST /ingest "));
    assert_eq!(
        server.body(0),
        serde_json::json!({"ids": [7, -3, 1, 2, 3, 8, 9, 4, 5], "priority": "MEDIUM"})
    );
}

#[test]
fn submit_passes_every_option_on() {
    let server = accepting();
    let arguments = [
        "submit",
        "1",
        "--priority",
        "high",
        "--queue",
        "mail",
        "--metadata",
        r#"{"a": 1}"#,
        "--deadline",
        "2030-01-01T00:00:00Z",
        "--callback-url",
        "http://h/",
        "--idempotency-key",
        "k1",
        "--json",
        "--",
        "-5..=-4",
    ];
    let output = run(&server, &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(out(&output), format!("{{\"ingestion_id\": \"{ID}\"}}\n"));
    let request = &server.requests()[0];
    assert!(request.headers.contains(&"idempotency-key: k1".to_owned()));
    assert_eq!(
        server.body(0),
        serde_json::json!({
            "ids": [1, -5, -4], "priority": "HIGH", "queue": "mail", "metadata": {"a": 1},
            "deadline": "2030-01-01T00:00:00Z", "callback_url": "http://h/",
        })
    );
}

#[test]
fn submit_reads_files_and_standard_input() {
    let server = accepting();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ids.txt");
    std::fs::write(&file, "10\n11, 12\r\n\n13-14\n").unwrap();
    let file = file.to_str().unwrap();
    assert!(
        run(&server, &["submit", "9", "--file", file])
            .status
            .success()
    );
    assert!(
        run_with_input(&server, &["submit", "-"], "1 2\n3")
            .status
            .success()
    );
    assert!(
        run_with_input(&server, &["submit", "--file", "-"], "-4\n")
            .status
            .success()
    );
    assert_eq!(
        server.body(0)["ids"],
        serde_json::json!([9, 10, 11, 12, 13, 14])
    );
    assert_eq!(server.body(1)["ids"], serde_json::json!([1, 2, 3]));
    assert_eq!(server.body(2)["ids"], serde_json::json!([-4]));
}

#[test]
fn wrong_usage_exits_2_and_sends_nothing() {
    let server = accepting();
    for (arguments, message) in [
        (vec!["submit"], "no ids are given"),
        (vec!["submit", "x"], "\"x\" is no id"),
        (vec!["submit", "1-1000001"], "more than 1000000 ids"),
        (vec!["submit", "9-1"], "ends before it starts"),
        (
            vec!["submit", "1", "--metadata", "[1]"],
            "must be a JSON object",
        ),
        (
            vec!["submit", "1", "--priority", "URGENT"],
            "HIGH, MEDIUM, LOW",
        ),
        (
            vec!["submit", "1", "--server", "nowhere"],
            "\"nowhere\" is no server",
        ),
        (vec!["submit", "1", "--colour"], "--colour"),
        (vec!["status", "x"], "UUID"),
        (vec!["status"], "INGESTION_ID"),
        (vec!["nonsense"], "nonsense"),
    ] {
        let output = run(&server, &arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(
            err(&output).contains(message),
            "{arguments:?}: {}",
            err(&output)
        );
        assert_eq!(out(&output), "", "{arguments:?}");
    }
    let output = run_with_input(&server, &["submit", "-"], "1\n2\nx y\n");
    assert_eq!(output.status.code(), Some(2));
    assert!(
        err(&output).contains("standard input, line 3"),
        "{}",
        err(&output)
    );
    assert!(server.requests().is_empty());
}

#[test]
fn what_the_server_refuses_exits_1_with_its_words() {
    let server = Server::start(|_, _| {
        Some((
            422,
            r#"{"detail": "one id is wrong", "code": "invalid_value", "status": 422,
                "errors": [{"pointer": "/ids/0", "detail": "too odd", "code": "x"}]}"#
                .to_owned(),
        ))
    });
    let output = run(&server, &["submit", "1"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        err(&output),
        "error: one id is wrong (422 invalid_value)\n  /ids/0: too odd\n"
    );
    assert_eq!(server.requests().len(), 1, "a refusal is final");
}

#[test]
fn failures_exit_1() {
    let port = Port::claim();
    let nobody = format!("http://{}", port.address());
    for arguments in [
        &["submit", "1"][..],
        &["status", ID],
        &["status", ID, "--follow"],
    ] {
        let output = tollgate(&nobody, arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(err(&output).contains("does not answer"), "{}", err(&output));
    }
    let output = run(&accepting(), &["submit", "--file", "/nowhere/ids"]);
    assert_eq!(output.status.code(), Some(1));
    let other = Server::start(|_, _| Some((200, "<html>".to_owned())));
    let output = run(&other, &["submit", "1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("is it a Tollgate server?"),
        "{}",
        err(&output)
    );
}

#[test]
fn status_shows_what_is_known() {
    let server = Server::start(|_, _| Some((200, summary("triggered", 1, 0))));
    let output = run(&server, &["status", ID]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(
        out(&output),
        format!(
            "ingestion  {ID}\nstatus     triggered\nqueue      default, HIGH\n\
             batches    1 of 3 completed\nahead      2 batches\nleft       about 10 s\n\
             waiting    waits for its slot\n"
        )
    );
    let output = run(&server, &["status", ID, "--json"]);
    assert_eq!(out(&output).lines().count(), 1);
    let json: serde_json::Value = serde_json::from_str(out(&output)).unwrap();
    assert_eq!(json["progress"]["total"], 3);
    let lines: Vec<String> = server.requests().into_iter().map(|it| it.line).collect();
    assert!(
        lines[0].starts_with(&format!("GET /status/{ID}?view=summary ")),
        "{lines:?}"
    );
    assert!(
        lines[1].starts_with(&format!("GET /status/{ID} ")),
        "{lines:?}"
    );
}

#[test]
fn follow_prints_one_line_a_change_until_it_is_done() {
    let server = Server::start(|n, request| {
        Some((
            200,
            match (n, request.line.starts_with("POST")) {
                (_, true) => format!(r#"{{"ingestion_id": "{ID}"}}"#),
                (1, _) => summary("yet_to_start", 0, 0),
                (2 | 3, _) => summary("triggered", 1, 0),
                _ => summary("completed", 3, 0),
            },
        ))
    });
    let output = run(&server, &["submit", "1-9", "--follow"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(
        out(&output),
        format!(
            "{ID}\nyet_to_start: 0 of 3 completed, 2 ahead, about 10 s left\n\
             triggered: 1 of 3 completed, 2 ahead, about 10 s left\n\
             completed: 3 of 3 completed, 2 ahead\n"
        )
    );
    assert_eq!(server.requests().len(), 5);
}

#[test]
fn follow_prints_json_lines() {
    let server = Server::start(|n, _| {
        let (status, completed) = [("triggered", 1), ("triggered", 1), ("completed", 3)][n.min(2)];
        Some((200, summary(status, completed, 0)))
    });
    let output = run(&server, &["status", ID, "--follow", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let statuses: Vec<String> = out(&output)
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|json| json["status"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(statuses, ["triggered", "completed"]);
}

#[test]
fn a_followed_ingestion_that_ends_badly_exits_1() {
    for status in ["failed", "cancelled", "expired"] {
        let server = Server::start(move |_, _| Some((200, summary(status, 1, 2))));
        let output = run(&server, &["status", ID, "--follow"]);
        assert_eq!(output.status.code(), Some(1));
        let message = format!("ended {status}: 1 of 3 completed, 2 failed");
        assert!(err(&output).contains(&message), "{}", err(&output));
        // Without following, it was asked and it was told.
        assert_eq!(run(&server, &["status", ID]).status.code(), Some(0));
    }
}

#[test]
fn follow_survives_a_server_that_goes_away() {
    let server = Server::start(|n, _| match n {
        0 => Some((200, summary("triggered", 1, 0))),
        1 | 2 => None,
        3 => Some((503, r#"{"detail": "shutting down"}"#.to_owned())),
        _ => Some((200, summary("completed", 3, 0))),
    });
    let output = run(&server, &["status", ID, "--follow"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(out(&output).lines().count(), 2);
    assert_eq!(err(&output).matches("trying again for 60s").count(), 1);
}

#[test]
fn follow_gives_up_on_a_server_that_stays_away() {
    let server = Server::start(|n, _| (n == 0).then(|| (200, summary("triggered", 1, 0))));
    let output = run(&server, &["status", ID, "--follow", "--retry-for", "500ms"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("does not answer"), "{}", err(&output));
    let gone = Server::start(|n, _| match n {
        0 => Some((200, summary("triggered", 1, 0))),
        _ => Some((404, r#"{"detail": "no such ingestion"}"#.to_owned())),
    });
    let output = run(&gone, &["status", ID, "--follow"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(gone.requests().len(), 2, "a 404 is final");
}

#[test]
fn a_reader_that_leaves_ends_it_in_silence() {
    let server = Server::start(|n, _| {
        let completed = u32::try_from(n).unwrap();
        Some((200, summary("triggered", completed, 0)))
    });
    let mut child = tollgate(&server.url(), &["status", ID, "--follow"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(line.starts_with("triggered: "));
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(err(&output), "");
}

#[test]
fn ready_waits_for_a_server_and_its_parts() {
    let parts = r#"{"status": "ready", "components": {"store": {"state": "ok"}, "redis": {"state": "away"}}}"#;
    let server = Server::start(|n, _| match n {
        0 => Some((503, r#"{"detail": "the store is full"}"#.to_owned())),
        _ => Some((200, parts.to_owned())),
    });
    let output = run(&server, &["ready"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(out(&output), "ready\nredis      away\nstore      ok\n");
    assert!(server.requests()[1].line.starts_with("GET /ready "));
}

#[test]
fn ready_asks_once_where_it_may_not_wait() {
    let server = Server::start(|_, _| {
        let body = r#"{"detail": "the store is full", "code": "unavailable"}"#;
        Some((503, body.to_owned()))
    });
    let output = run(&server, &["ready", "--retry-for", "0s"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("the store is full (503 unavailable)"));
    assert_eq!(server.requests().len(), 1);
}
