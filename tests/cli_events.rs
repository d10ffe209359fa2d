//! The commands of events: against a small server that answers as it is told, and against the real
//! one.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    missing_docs
)]

#[path = "support/home.rs"]
mod home;
#[path = "support/http.rs"]
mod http;
#[path = "support/port.rs"]
mod port;
#[path = "support/server.rs"]
mod server;
#[path = "support/stub.rs"]
mod stub;

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::process::{Output, Stdio};
use std::sync::Arc;

use home::{Home, command, counts, err, out, told};
use parking_lot::Mutex;
use serde_json::{Value, json};
use stub::Server;

/// The identities that a server knows.
type Known = Arc<Mutex<HashSet<String>>>;

/// Takes whole requests of events; refuses those with a `user_id` that is `bad`, as the server does.
fn take(known: &Known, body: &str) -> (u16, String) {
    let body: Value = serde_json::from_str(body).unwrap();
    let events = body["events"].as_array().unwrap();
    let bad: Vec<Value> = events
        .iter()
        .enumerate()
        .filter(|(_, event)| event["user_id"] == "bad")
        .map(|(index, _)| {
            let pointer = format!("/events/{index}/user_id");
            json!({"pointer": pointer, "detail": "is bad", "code": "x"})
        })
        .take(100)
        .collect();
    if !bad.is_empty() {
        let problem = json!({"detail": "some are bad", "code": "invalid_value", "errors": bad});
        return (422, problem.to_string());
    }
    let mut known = known.lock();
    let ids = events.iter().map(|it| it["event_id"].as_str().unwrap());
    let accepted = ids.filter(|id| known.insert((*id).to_owned())).count();
    let duplicates = events.len() - accepted;
    let answer =
        json!({"accepted": accepted, "duplicates": duplicates, "rejected": 0, "errors": []});
    (202, answer.to_string())
}

fn taking() -> Server {
    let known = Known::default();
    Server::start(move |_, request| Some(take(&known, &request.body)))
}

/// A header and `count` rows, every tenth from the fifth on with a user that is bad.
fn csv(count: usize) -> String {
    let rows: Vec<String> = (0..count)
        .map(|number| {
            let user = if number % 10 == 5 { "bad" } else { "good" };
            format!("e{number},2026-01-01T00:00:00Z,{user},\"{{\"\"n\"\":{number}}}\"\n")
        })
        .collect();
    format!(
        "event_id,occurred_at,user_id,properties_json\n{}",
        rows.concat()
    )
}

#[test]
fn import_tells_what_became_of_each_row() {
    let (home, server) = (Home::new(), taking());
    home.write("a.csv", &format!("{}x,y\ne0,2026,,\n", csv(30)));
    let arguments = ["import", "a.csv", "--json", "--batch", "7"];
    let output = home.run(&server.url(), &arguments);
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
    assert_eq!(told(&output), counts(32, 27, 1, 4, &json!("a.csv.rejects")));
    assert_eq!(
        err(&output),
        "error: 4 of 32 rows were refused: see a.csv.rejects\n"
    );
    let rejects = home.read("a.csv.rejects");
    let lines: Vec<&str> = rejects.lines().collect();
    assert_eq!(lines.len(), 5, "{rejects}");
    assert_eq!(
        lines[..3],
        [
            "reject_line,reject_reason,event_id,occurred_at,user_id,properties_json",
            "7,user_id: is bad,e5,2026-01-01T00:00:00Z,bad,\"{\"\"n\"\":5}\"",
            "17,user_id: is bad,e15,2026-01-01T00:00:00Z,bad,\"{\"\"n\"\":15}\"",
        ]
    );
    assert_eq!(lines[4], "32,\"it has 2 fields, and the header has 4\",x,y");
    let bodies: Vec<Value> = (0..server.requests().len())
        .map(|n| server.body(n))
        .collect();
    assert!(bodies.iter().all(|body| {
        let events = body["events"].as_array().unwrap();
        (1..=7).contains(&events.len())
    }));
    assert!(server.requests()[0].line.starts_with("POST /events/bulk "));
}

#[test]
fn a_second_import_adds_nothing_whatever_the_file_is_packed_in() {
    let (home, server) = (Home::new(), taking());
    let text = csv(5);
    home.write("a.csv", &text);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text.as_bytes()).unwrap();
    fs::write(home.path("a.csv.gz"), gzip.finish().unwrap()).unwrap();
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    let zstd = ruzstd::encoding::compress_to_vec(text.as_bytes(), level);
    fs::write(home.path("packed"), zstd).unwrap();
    let lines: Vec<String> = (0..5)
        .map(|number| format!("{{\"event_id\":\"e{number}\",\"timestamp\":\"2026-01-01\"}}\n"))
        .collect();
    home.write("a.ndjson", &lines.concat());
    for (file, accepted) in [
        ("a.csv", 5),
        ("a.csv.gz", 0),
        ("packed", 0),
        ("a.ndjson", 0),
    ] {
        let output = home.run(&server.url(), &["import", file, "--json"]);
        assert_eq!(output.status.code(), Some(0), "{file}: {}", err(&output));
        assert_eq!(
            told(&output),
            counts(5, accepted, 5 - accepted, 0, &Value::Null)
        );
        assert!(!home.path(&format!("{file}.rejects")).exists());
    }
    assert_eq!(server.body(0)["events"], server.body(1)["events"]);
    assert_eq!(server.body(0)["events"], server.body(2)["events"]);
}

#[test]
fn import_reads_standard_input_and_prints_a_summary() {
    let (home, server) = (Home::new(), taking());
    let mut child = command(home.dir.path(), &server.url(), &["import", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(csv(6).as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "a row was refused");
    let text = out(&output);
    let expected = "rows       6\naccepted   5\nduplicates 0\nrejected   1\nseconds    ";
    assert!(text.starts_with(expected), "{text}");
    assert!(
        home.read("import.rejects")
            .contains("\n7,user_id: is bad,e5,")
    );
}

#[test]
fn a_corrected_reject_file_can_be_imported() {
    let (home, server) = (Home::new(), taking());
    home.write("a.csv", &csv(20));
    let arguments = ["import", "a.csv", "--allow-rejects", "--rejects", "bad.csv"];
    let output = home.run(&server.url(), &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    home.write("good.csv", &home.read("bad.csv").replace(",bad,", ",good,"));
    let output = home.run(&server.url(), &["import", "good.csv", "--json"]);
    assert_eq!(told(&output), counts(2, 2, 0, 0, &Value::Null));
    let last = server.body(server.requests().len() - 1);
    assert_eq!(
        last["events"][0],
        json!({"event_id": "e5", "timestamp": "2026-01-01T00:00:00Z", "user_id": "good",
            "payload": {"n": 5}})
    );
}

#[test]
fn json_lines_that_are_refused_are_kept_as_they_are() {
    let (home, server) = (Home::new(), taking());
    let bad = "{\"event_id\":\"2\",\"user_id\":\"bad\"}";
    home.write(
        "a.ndjson",
        &format!("{{\"event_id\":\"1\"}}\n{bad}\nno \"json\"\n"),
    );
    let output = home.run(&server.url(), &["import", "a.ndjson"]);
    assert_eq!(output.status.code(), Some(1));
    let rejects: Vec<Value> = home
        .read("a.ndjson.rejects")
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let lines: Vec<&Value> = rejects.iter().map(|it| &it["line"]).collect();
    // The first has no time, which the rules here find while they look for the second.
    assert_eq!(lines, [1, 2, 3]);
    assert_eq!(rejects[1]["row"], bad);
    assert_eq!(rejects[2]["row"], "no \"json\"");
}

#[test]
fn a_busy_server_is_asked_again_and_a_lost_one_for_a_while() {
    let known = Known::default();
    let home = Home::new();
    home.write("a.csv", &csv(3));
    let busy = Server::start(move |n, request| match n {
        0 => Some((429, json!({"detail": "the queue is full"}).to_string())),
        1 => None,
        2 => Some((503, json!({"detail": "the disk is full"}).to_string())),
        _ => Some(take(&known, &request.body)),
    });
    let output = home.run(&busy.url(), &["import", "a.csv", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(told(&output), counts(3, 3, 0, 0, &Value::Null));
    let text = err(&output);
    assert_eq!(text.matches("trying again").count(), 1, "{text}");
    let away = Server::start(|_, _| Some((503, json!({"detail": "away"}).to_string())));
    let arguments = ["import", "a.csv", "--json", "--retry-for", "3s"];
    let output = home.run(&away.url(), &arguments);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(told(&output), counts(0, 0, 0, 0, &Value::Null));
    assert_eq!(
        err(&output),
        "away (503); trying again for up to 3s\nerror: a.csv: away (503)\n"
    );
    // With pauses of 0.1, 0.2, 0.4 and 0.8 s; the next would be too long.
    assert!((2..=5).contains(&away.requests().len()));
}

#[test]
fn an_interrupted_import_goes_on_where_it_was() {
    let home = Home::new();
    home.write("a.csv", &csv(30));
    let (known, whole) = (Known::default(), Arc::new(Mutex::new(false)));
    let switch = Arc::clone(&whole);
    let server = Server::start(move |n, request| {
        let fails = n >= 3 && !*switch.lock();
        Some(if fails {
            (400, json!({"detail": "no more"}).to_string())
        } else {
            take(&known, &request.body)
        })
    });
    let arguments = ["import", "a.csv", "--resume", "--json", "--batch", "10"];
    let arguments = [&arguments[..], &["--connections", "1"]].concat();
    let output = home.run(&server.url(), &arguments);
    assert_eq!(output.status.code(), Some(1));
    // Two requests for the first ten rows, of which one is bad, and one for those behind.
    assert_eq!(told(&output)["rows"], 10, "{}", err(&output));
    assert!(home.path("a.csv.import").exists());
    let other = taking();
    let output = home.run(&other.url(), &arguments);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("another target"), "{}", err(&output));
    assert!(other.requests().is_empty());
    *whole.lock() = true;
    let asked = server.requests().len();
    let output = home.run(&server.url(), &arguments);
    assert_eq!(output.status.code(), Some(1), "rows were refused");
    assert_eq!(told(&output), counts(30, 27, 0, 3, &json!("a.csv.rejects")));
    assert_eq!(server.body(asked)["events"][0]["event_id"], "e10");
    assert!(!home.path("a.csv.import").exists());
    let rejects = home.read("a.csv.rejects");
    let lines: Vec<&str> = rejects.lines().skip(1).map(|it| &it[..2]).collect();
    assert_eq!(lines, ["7,", "17", "27"]);
}

#[test]
fn wrong_usage_and_files_that_are_none() {
    let (home, server) = (Home::new(), taking());
    home.write("a.csv", "event_id,user_id\n1,2\n");
    home.write("open.csv", "event_id,timestamp\n1,t\n");
    for (code, message, arguments) in [
        (2, "can't be resumed", &["import", "-", "--resume"][..]),
        (
            2,
            "can't be the file that is read",
            &["import", "a.csv", "--rejects", "./a.csv"],
        ),
        (
            2,
            "--server",
            &["import", "a.csv", "--data-dir", "d", "--server", "http://h"],
        ),
        (2, "--batch", &["import", "a.csv", "--batch", "5001"]),
        (2, "FILE", &["import"]),
        (
            1,
            "no column timestamp or occurred_at",
            &["import", "a.csv"],
        ),
        (
            1,
            "No such file",
            &["import", "nowhere.csv", "--data-dir", "d"],
        ),
        (2, "a share", &["publish", "--duplicates", "1"]),
        (2, "a time", &["export", "--from", "yesterday"]),
        (2, "<IDS>", &["dead-letters", "discard"]),
    ] {
        let output = home.run(&server.url(), arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert!(
            err(&output).contains(message),
            "{arguments:?}: {}",
            err(&output)
        );
    }
    assert!(server.requests().is_empty());
    assert!(!home.path("d").exists(), "no directory for nothing");
}

#[test]
fn export_goes_from_page_to_page() {
    let home = Home::new();
    let server = Server::start(|_, request| {
        let second = request.line.contains("cursor=a%2Bb");
        let id = if second { "2" } else { "1" };
        let next = if second { Value::Null } else { json!("a+b") };
        let event = json!({"event_id": id, "timestamp": "2026-01-01T00:00:00Z", "topic": "",
            "tenant_id": "default", "payload": {"n": [1]}, "x": null});
        let page = json!({"events": [event], "page": null, "page_size": 1000,
            "has_more": !second, "next_cursor": next});
        Some((200, page.to_string()))
    });
    let arguments = [
        "export",
        "--tenant-id",
        "a b",
        "--from",
        "2026-01-01T00:00:00+01:00",
    ];
    let output = home.run(&server.url(), &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let ids: Vec<Value> = out(&output)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|event| event["event_id"].clone())
        .collect();
    assert_eq!(ids, ["1", "2"]);
    let line = &server.requests()[0].line;
    assert!(
        line.contains("tenant_id=a+b&from=2025-12-31T23%3A00%3A00Z"),
        "{line}"
    );
    let arguments = ["export", "--format", "csv", "-o", "all.csv"];
    let output = home.run(&server.url(), &arguments);
    assert_eq!((out(&output), err(&output)), ("", "2 events\n"));
    let expected = "event_id,timestamp,tenant_id,topic,source,event_type,user_id,payload,extra_json\n\
        1,2026-01-01T00:00:00Z,default,,,,,\"{\"\"n\"\":[1]}\",\"{\"\"x\"\":null}\"\n\
        2,2026-01-01T00:00:00Z,default,,,,,\"{\"\"n\"\":[1]}\",\"{\"\"x\"\":null}\"\n";
    assert_eq!(home.read("all.csv"), expected);
}

/// Counts what is published; says `lost` fewer in `GET /stats`.
fn counting(lost: u64) -> Server {
    let known = Known::default();
    let dropped = Mutex::new(0_u64);
    Server::start(move |_, request| {
        let mut dropped = dropped.lock();
        if request.line.starts_with("GET /stats") {
            let unique = u64::try_from(known.lock().len()).unwrap();
            let unique = unique.saturating_sub(lost);
            let stats = json!({"received": unique + *dropped, "unique_processed": unique,
                "duplicate_dropped": *dropped, "topics": []});
            return Some((200, stats.to_string()));
        }
        let events: Value = serde_json::from_str(&request.body).unwrap();
        let count = events.as_array().unwrap().len();
        let (_, answer) = take(&known, &json!({"events": events}).to_string());
        let mut answer: Value = serde_json::from_str(&answer).unwrap();
        *dropped += answer["duplicates"].as_u64().unwrap();
        answer["enqueued"] = json!(count);
        Some((200, answer.to_string()))
    })
}

#[test]
fn publish_sends_5000_events_with_a_fifth_of_them_twice() {
    let (home, server) = (Home::new(), counting(0));
    let output = home.run(&server.url(), &["publish", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let report: Value = serde_json::from_str(out(&output)).unwrap();
    let sent = json!({"enqueued": 5000, "accepted": 4000, "duplicates": 1000});
    assert_eq!(report["sent"], sent);
    assert_eq!(report["answered"], sent);
    assert_eq!(report["after"]["unique_processed"], 4000);
    let seed = report["seed"].to_string();
    let output = home.run(&server.url(), &["publish", "--seed", &seed]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let last = "duplicate_dropped   1000 -> 6000 (+5000)\n";
    assert!(out(&output).ends_with(last), "{}", out(&output));
}

#[test]
fn publish_fails_if_the_server_counts_wrong() {
    let (home, server) = (Home::new(), counting(1));
    let output = home.run(&server.url(), &["publish", "--events", "10"]);
    assert_eq!(output.status.code(), Some(1));
    let message = "unique_processed was 0 and is 7, which is less than 8 more";
    assert!(err(&output).contains(message), "{}", err(&output));
}

#[test]
fn dead_letters_are_listed_shown_sent_again_and_discarded() {
    let home = Home::new();
    let letter = |id: u64| {
        json!({"id": id, "refused_at": "2026-01-01T00:00:00.000000Z",
            "errors": [{"pointer": "/timestamp", "detail": "is no time", "code": "x"}],
            "body": {"event_id": "e"}})
    };
    let server = Server::start(move |_, request| {
        let line = &request.line;
        let answer = if line.starts_with("GET /dead-letters?cursor=1 ") {
            json!({"dead_letters": [letter(2)], "has_more": false, "next_cursor": null})
        } else if line.starts_with("GET /dead-letters ") {
            json!({"dead_letters": [letter(1)], "has_more": true, "next_cursor": "1"})
        } else if line.starts_with("GET ") {
            letter(1)
        } else if line.starts_with("POST ") {
            json!({"event_id": "e", "status": "accepted"})
        } else {
            return Some((204, String::new()));
        };
        Some((200, answer.to_string()))
    });
    let run = |arguments: &[&str]| {
        let output = home.run(&server.url(), &[&["dead-letters"], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        out(&output).to_owned()
    };
    let line = "2026-01-01T00:00:00.000000Z  /timestamp: is no time  {\"event_id\":\"e\"}\n";
    assert_eq!(run(&["list"]), format!("1  {line}2  {line}"));
    assert_eq!(run(&["list", "--json"]).lines().count(), 2);
    assert!(run(&["show", "1"]).contains("wrong    /timestamp: is no time\n"));
    home.write("event.json", "{\"event_id\": \"e\"}");
    let accepted = "{\"event_id\":\"e\",\"status\":\"accepted\"}\n";
    assert_eq!(run(&["retry", "1", "--event", "event.json"]), accepted);
    assert_eq!(run(&["discard", "1", "2"]), "");
    let requests = server.requests();
    let retry = requests
        .iter()
        .find(|it| it.line.starts_with("POST"))
        .unwrap();
    assert!(retry.line.starts_with("POST /dead-letters/1/retry "));
    assert_eq!(retry.body, "{\"event_id\": \"e\"}");
    let discarded = requests.iter().filter(|it| it.line.starts_with("DELETE"));
    assert_eq!(discarded.count(), 2);
}

/// A server over `home`, which has the right to be the only one.
fn serving(home: &Home) -> (server::Server, String) {
    let server = server::Setup::new(home.dir.path()).start();
    let url = format!("http://{}", server.address());
    (server, url)
}

fn done(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{}", err(output));
}

/// Events in every shape that is legal.
const SHAPES: &str = r#"{"event_id":"1","timestamp":"2026-01-01T00:00:00.123456789Z","topic":"t","tenant_id":"ü","source":"s","event_type":"c","user_id":"u","payload":{ "b" : 1.00,"a":"x\n,\"y\"" },"more":{"y":1e5},"a/b":null}
{"event_id":"2","timestamp":"2026-01-01T00:00:00","payload":{"topic":""}}
{"event_id":" 3, \"x\"","occurred_at":"2026-01-01T01:00:00+01:00","properties":{}}
"#;

#[test]
fn what_is_exported_is_imported_as_the_same_events() {
    let first = Home::new();
    let (running, url) = serving(&first);
    first.write("shapes.ndjson", SHAPES);
    done(&first.run(&url, &["import", "shapes.ndjson"]));
    done(&first.run(&url, &["export", "-o", "a.ndjson"]));
    done(&first.run(&url, &["export", "--format", "csv", "-o", "a.csv"]));
    let events = first.read("a.ndjson");
    assert_eq!(events.lines().count(), 3);
    assert!(
        events.contains(r#""payload":{ "b" : 1.00,"a":"x\n,\"y\"" }"#),
        "{events}"
    );
    let output = first.run(&url, &["import", "a.ndjson", "--json"]);
    assert_eq!(told(&output), counts(3, 0, 3, 0, &Value::Null));
    // Not while the server has it.
    let data = ["import", "a.csv", "--data-dir", "data"];
    let output = first.run(&url, &data);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(err(&output).lines().count(), 1, "{}", err(&output));
    running.kill();
    let output = first.run(&url, &["export", "--data-dir", "data"]);
    done(&output);
    assert_eq!(out(&output), events);
    for (file, arguments) in [("a.ndjson", &[][..]), ("a.csv", &["--format", "csv"])] {
        // Into a directory, and out of a server over it.
        let second = Home::new();
        fs::copy(first.path(file), second.path(file)).unwrap();
        let output = second.run(&url, &["import", file, "--data-dir", "data", "--json"]);
        assert_eq!(
            told(&output),
            counts(3, 3, 0, 0, &Value::Null),
            "{}",
            err(&output)
        );
        let (_running, url) = serving(&second);
        let output = second.run(&url, &[&["export"], arguments].concat());
        assert_eq!(out(&output), first.read(file));
        let output = second.run(&url, &["import", file, "--json"]);
        assert_eq!(told(&output), counts(3, 0, 3, 0, &Value::Null));
    }
}

#[test]
fn the_rules_are_the_same_into_a_server_and_into_a_directory() {
    let bad = [
        "event_id,timestamp,tenant_id,payload".to_owned(),
        "1,2026-01-01T00:00:00Z,t,{}".to_owned(),
        "2,yesterday,t,{}".to_owned(),
        format!("3,2026-01-01T00:00:00Z,{},", "x".repeat(257)),
        format!(
            "4,2026-01-01T00:00:00Z,,\"{{\"\"a\"\":{}1{}}}\"",
            "[".repeat(200),
            "]".repeat(200)
        ),
        ",2026-01-01T00:00:00Z,,".to_owned(),
        "6,2026-01-01T00:00:00Z,,".to_owned(),
    ]
    .join("\n");
    let home = Home::new();
    home.write("a.csv", &bad);
    let output = home.run("", &["import", "a.csv", "--data-dir", "other", "--json"]);
    assert_eq!(told(&output), counts(6, 2, 0, 4, &json!("a.csv.rejects")));
    let rejects = home.read("a.csv.rejects");
    let (_running, url) = serving(&home);
    let output = home.run(&url, &["import", "a.csv", "--json"]);
    assert_eq!(told(&output), counts(6, 2, 0, 4, &json!("a.csv.rejects")));
    assert_eq!(home.read("a.csv.rejects"), rejects);
    let lines: Vec<&str> = rejects.lines().skip(1).map(|it| &it[..2]).collect();
    assert_eq!(lines, ["3,", "4,", "5,", "6,"]);
}

#[test]
fn the_sample_file_and_the_stress_run_go_into_a_server() {
    let home = Home::new();
    let (_running, url) = serving(&home);
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/events.csv");
    let arguments = ["import", sample, "--rejects", "bad.csv", "--json"];
    let output = home.run(&url, &arguments);
    done(&output);
    assert_eq!(told(&output), counts(10, 9, 1, 0, &Value::Null));
    let output = home.run(&url, &["publish"]);
    done(&output);
    assert!(
        out(&output).contains("unique_processed    9 -> 4009 (+4000)\n"),
        "{}",
        out(&output)
    );
}

#[test]
fn a_dead_letter_is_put_right() {
    let home = Home::new();
    let (running, url) = serving(&home);
    let bad = r#"[{"event_id": "1", "timestamp": "yesterday"}]"#;
    let mut connection = running.connect().unwrap();
    let reply = connection.post_json("/events?partial=true", bad).unwrap();
    assert_eq!(reply.status, 202);
    let run = |arguments: &[&str]| home.run(&url, &[&["dead-letters"], arguments].concat());
    assert!(out(&run(&["list"])).contains("timestamp"));
    assert_eq!(run(&["retry", "1"]).status.code(), Some(1));
    home.write(
        "event.json",
        r#"{"event_id": "1", "timestamp": "2026-01-01T00:00:00Z"}"#,
    );
    done(&run(&["retry", "1", "--event", "event.json"]));
    assert_eq!(out(&run(&["list"])), "");
    assert_eq!(run(&["show", "1"]).status.code(), Some(1));
    assert!(out(&home.run(&url, &["export"])).contains(r#""event_id":"1""#));
}
