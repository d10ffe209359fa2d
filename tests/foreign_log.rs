//! A log of another's making, imported, and its answers compared with those of pandas over the same
//! rows: see `tests/support/foreign_log.py`.
//!
//! That needs Python with the packages of `.ci/requirements.txt` and `lifetimes`: the one that
//! `TEST_PYTHON` names, else `python3`. Where it has them not, the test says that it is skipped; not
//! where `TEST_PYTHON` is set.
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

use std::path::Path;
use std::process::Command;

use home::{Home, err};
use serde_json::{Value, json};
use server::{Server, Setup};

/// Runs the script; `None` where its packages are not installed.
fn script(arguments: &[&str]) -> Option<String> {
    let named = std::env::var("TEST_PYTHON").ok();
    let python = named.as_deref().unwrap_or("python3");
    let there = Command::new(python)
        .args([
            "-c",
            "import pandas, importlib.metadata as it; it.files('lifetimes')",
        ])
        .output()
        .is_ok_and(|output| output.status.success());
    if !there && named.is_none() {
        eprintln!("skipped: python3 with pandas and lifetimes is not there");
        return None;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/foreign_log.py");
    let output = Command::new(python)
        .arg(path)
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", err(&output));
    Some(String::from_utf8(output.stdout).unwrap())
}

fn ask(server: &Server, path: &str) -> Value {
    let reply = server.connect().unwrap().get(path).unwrap();
    assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    reply.json()
}

/// The entries of a list, each as a list of these members.
fn rows(list: &Value, members: &[&str]) -> Value {
    let entries = list.as_array().unwrap().iter();
    entries
        .map(|entry| {
            members
                .iter()
                .map(|name| entry[name].clone())
                .collect::<Value>()
        })
        .collect()
}

fn active(server: &Server, kind: &str, more: &str) -> Value {
    let path = format!("/stats/{kind}?from=1997-03-25&to=1997-04-20{more}");
    rows(&ask(server, &path), &["date", kind])
}

fn buckets(server: &Server, size: &str, range: &str) -> Value {
    let path = format!("/metrics?tenant_id=cdnow&bucket_size={size}{range}");
    let mut found = rows(
        &ask(server, &path)["buckets"],
        &["start", "count", "unique_users"],
    );
    for row in found.as_array_mut().unwrap() {
        row[0] = json!(row[0].as_str().unwrap()[..19]);
    }
    found
}

fn retained(server: &Server, more: &str) -> Value {
    let path = format!("/stats/retention?start_date=1997-01-01{more}");
    let answer = ask(server, &path);
    let cohorts = answer["cohorts"].as_array().unwrap().iter();
    cohorts.map(|cohort| cohort["retained"].clone()).collect()
}

#[test]
fn pandas_gives_the_same_answers_about_a_log_of_others() {
    let home = Home::new();
    let csv = home.path("log.csv");
    if script(&["csv", csv.to_str().unwrap()]).is_none() {
        return;
    }
    let answers = script(&["answers"]).unwrap();
    let expected: Value = serde_json::from_str(&answers).unwrap();
    let server = Setup::new(home.dir.path()).start();
    let url = format!("http://{}", server.address());
    let imported = home.run(&url, &["import", "log.csv", "--json"]);
    assert!(imported.status.success(), "{}", err(&imported));
    let found = json!({
        "dau": active(&server, "dau", ""),
        "dau_new_york": active(&server, "dau", "&tz=America/New_York"),
        "wau": active(&server, "wau", "&tenant_id=cdnow"),
        "mau_kathmandu": active(&server, "mau", "&tz=Asia/Kathmandu"),
        "dau_of_two": active(&server, "dau", "&segment=properties.cds=2"),
        "days": buckets(&server, "day", ""),
        "minutes": buckets(&server, "minute", "&from=1997-02-01&to=1997-02-02"),
        "top": rows(&ask(&server, "/stats/top-events"), &["event_type", "count", "unique_users"]),
        "weekly": retained(&server, "&windows=12&window_type=weekly"),
        "daily": retained(&server, "&windows=30"),
        "few_weekly": retained(&server, "&windows=8&window_type=weekly&event_type=few"),
    });
    for (question, answer) in expected.as_object().unwrap() {
        assert_eq!(&found[question], answer, "{question}");
    }
}
