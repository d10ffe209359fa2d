//! `tollgate export --format parquet`, read back here and by the Parquet readers of others: DuckDB, and
//! pandas with `PyArrow`.
//!
//! Those need Python with the packages of `.ci/requirements.txt`: the one that `TEST_PYTHON` names,
//! else `python3`. Where neither has them, the test says that it skips this; not where
//! `TEST_PYTHON` is set.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![allow(clippy::print_stderr, reason = "says what is skipped")]

#[path = "support/home.rs"]
mod home;
#[path = "support/http.rs"]
mod http;
#[path = "support/port.rs"]
mod port;
#[path = "support/server.rs"]
mod server;

use std::fs;
use std::path::Path;
use std::process::Command;

use home::{Home, err};
use serde_json::{Value, json};
use server::Setup;
use tollgate::events::part::PartRows;

/// The events as they are sent, and the row of each: what the columns have behind `arrival`.
fn events() -> Vec<(String, Value)> {
    let row =
        |fields: [Option<&str>; 6], micros: i64, nanos: u16, texts: [Option<&str>; 2], day| {
            let [tenant, topic, id, source, event_type, user] = fields;
            let [payload, extra] = texts;
            json!([
                tenant, topic, id, source, event_type, user, micros, nanos, payload, extra, day
            ])
        };
    let least = |id: &'static str, at: &str, micros, nanos, day| {
        let sent = format!(r#"{{"event_id":"{id}","timestamp":"{at}","tenant_id":"t"}}"#);
        let fields = [Some("t"), Some(""), Some(id), None, None, None];
        (sent, row(fields, micros, nanos, [Some("{}"), None], day))
    };
    let payload = concat!(
        r#"{"huge":1e400,"long":12345678901234567890,"f":1.0,"f":-0.0,"#,
        r#""text":"\u0000\ud83e\udd80 日本語 \"'","deep":[[{}]],"none":null}"#
    );
    let extra = r#"{"x/y":{"z":1e5},"ключ":null,"n":0.10}"#;
    let members = &extra[1..extra.len() - 1];
    let full = format!(
        r#"{{"event_id":"e,\"\n1","timestamp":"2026-11-21T04:11:21.123456789+01:00",
            "tenant_id":"täglich","topic":"t/ü","source":"\ud83e\udd80","event_type":"it's",
            "user_id":"NULL","payload":{payload},{members}}}"#
    );
    let fields = [
        Some("täglich"),
        Some("t/ü"),
        Some("e,\"\n1"),
        Some("\u{1f980}"),
        Some("it's"),
        Some("NULL"),
    ];
    let texts = [Some(payload), Some(extra)];
    vec![
        least(
            "first",
            "0001-01-01T00:00:00Z",
            -62_135_596_800_000_000,
            0,
            "0001-01-01",
        ),
        least(
            "old",
            "1969-12-31T23:59:59.999999999Z",
            -1,
            999,
            "1969-12-31",
        ),
        least("epoch", "1970-01-01T00:00:00Z", 0, 0, "1970-01-01"),
        least(
            "a",
            "2026-11-20T23:59:59.999999Z",
            1_795_219_199_999_999,
            0,
            "2026-11-20",
        ),
        least(
            "b",
            "2026-11-21T00:00:00Z",
            1_795_219_200_000_000,
            0,
            "2026-11-21",
        ),
        (
            full,
            row(fields, 1_795_230_681_123_456, 789, texts, "2026-11-21"),
        ),
        least(
            "last",
            "9999-12-30T21:59:59.999999Z",
            253_402_207_199_999_999,
            0,
            "9999-12-30",
        ),
    ]
}

/// The rows with their arrivals before, in order of time.
fn expected(arrivals: bool) -> Value {
    let rows = events().into_iter().enumerate().map(|(index, (_, row))| {
        let arrival = arrivals.then_some(index + 1);
        let mut all = vec![json!(arrival)];
        all.extend(row.as_array().unwrap().iter().cloned());
        Value::Array(all)
    });
    rows.collect()
}

/// What the files below `directory` have, read by the library that wrote them.
fn read(directory: &Path) -> Value {
    let mut folders: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    folders.sort();
    let mut rows = Vec::new();
    for folder in folders {
        let day = folder.file_name().unwrap().to_str().unwrap();
        let day = day.strip_prefix("day=").unwrap();
        let files: Vec<_> = fs::read_dir(&folder).unwrap().collect();
        assert_eq!(files.len(), 1, "{day}");
        for row in PartRows::open(&folder.join("part-00000.parquet")).unwrap() {
            let (arrival, event) = row.unwrap();
            let extra = Some(&*event.extra).filter(|extra| !extra.is_empty());
            rows.push(json!([
                arrival.map(|arrival| arrival.0),
                event.tenant,
                event.topic,
                event.id,
                event.source,
                event.event_type,
                event.user,
                event.time.micros.as_micros(),
                event.time.nanos,
                event.payload,
                extra,
                day,
            ]));
        }
    }
    Value::Array(rows)
}

/// What others read, by the name of the reader; `None` where they are not installed.
fn read_by_others(directory: &Path) -> Option<[(&'static str, Value); 2]> {
    let named = std::env::var("TEST_PYTHON").ok();
    let python = named.as_deref().unwrap_or("python3");
    let there = Command::new(python)
        .args(["-c", "import duckdb, pandas, pyarrow"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !there && named.is_none() {
        eprintln!("skipped: python3 with duckdb, pandas and pyarrow is not there");
        return None;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/read_parquet.py");
    let output = Command::new(python)
        .arg(script)
        .arg(directory)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", err(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    Some([
        ("DuckDB", lines.next().unwrap()),
        ("pandas", lines.next().unwrap()),
    ])
}

fn check(directory: &Path, arrivals: bool) {
    let expected = expected(arrivals);
    assert_eq!(read(directory), expected);
    for (reader, rows) in read_by_others(directory).into_iter().flatten() {
        assert_eq!(rows, expected, "read by {reader}");
    }
}

#[test]
fn others_read_every_row_and_value_of_an_export() {
    let home = Home::new();
    let setup = Setup::new(home.dir.path());
    let server = setup.start();
    for (sent, _) in events() {
        let reply = server
            .connect()
            .unwrap()
            .post_json("/events/bulk", &format!("[{sent}]"));
        let reply = reply.unwrap();
        assert_eq!(reply.status, 202, "{}", reply.text());
    }
    let url = format!("http://{}", server.address());
    let parquet = ["export", "--format", "parquet", "--partition", "day", "-o"];
    let export = |to: &str, more: &[&str]| {
        let output = home.run(&url, &[&parquet[..], &[to], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        assert_eq!(err(&output), "7 events\n");
    };
    export("a", &[]);
    check(&home.path("a"), false);
    export("a", &["--desc"]);
    let (status, log) = server.terminate();
    assert!(status.success(), "{log}");
    export("b", &["--data-dir", "data"]);
    check(&home.path("b"), true);
    // Again, over what the other export wrote.
    export("a", &["--data-dir", "data"]);
    check(&home.path("a"), true);
}

#[test]
fn what_can_t_be_meant_is_wrong_usage() {
    let home = Home::new();
    for (arguments, text) in [
        (
            &["export", "--format", "parquet"][..],
            "error: --format parquet needs a directory: --output DIR\n",
        ),
        (
            &["export", "--partition", "day", "-o", "x"],
            "error: --partition is for --format parquet\n",
        ),
    ] {
        let output = home.run("http://127.0.0.1:9", arguments);
        assert_eq!(output.status.code(), Some(2));
        assert!(err(&output).starts_with(text), "{}", err(&output));
    }
    home.write("file", "");
    let parquet = ["export", "--format", "parquet", "-o", "file"];
    let output = home.run("http://127.0.0.1:9", &parquet);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).starts_with("error: file: "),
        "{}",
        err(&output)
    );
}
