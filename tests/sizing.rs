//! `docs/sizing.py`: the model does sums as it says it does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

#[path = "support/backing.rs"]
mod backing;
#[path = "support/port.rs"]
mod port;

use std::path::Path;
use std::process::{Command, Output};

use backing::installed;
use serde_json::Value;

/// Runs it; `None`, said on standard error, where Python isn't installed.
fn sizing(arguments: &[&str]) -> Option<Output> {
    let python = installed("python3", "python3")?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/sizing.py");
    let output = Command::new(python).arg(script).args(arguments).output();
    Some(output.unwrap())
}

fn model(arguments: &[&str]) -> Option<Value> {
    let output = sizing(&[arguments, &["--json"]].concat())?;
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn need<'m>(model: &'m Value, resource: &str) -> &'m Value {
    let mut needs = model["needs"].as_array().unwrap().iter();
    needs.find(|it| it["resource"] == resource).unwrap()
}

fn close(left: f64, right: f64) -> bool {
    (left - right).abs() <= 1e-9 * left.abs().max(right.abs())
}

#[test]
fn twice_the_events_need_twice_as_much() {
    let Some(once) = model(&["--events", "50000", "--history-days", "0"]) else {
        return;
    };
    let twice = model(&["--events", "100000", "--history-days", "0"]).unwrap();
    let inserts = |of: &Value| number(&of["identity_inserts_per_second"]);
    assert!(close(inserts(&twice), 2.0 * inserts(&once)));
    assert!(close(inserts(&once), 40_000.0), "a fifth are duplicates");
    for before in once["needs"].as_array().unwrap() {
        let resource = before["resource"].as_str().unwrap();
        let after = need(&twice, resource);
        let grows = if before["breaks_at"].is_null() {
            1.0
        } else {
            2.0
        };
        let (before, after) = (number(&before["needed"]), number(&after["needed"]));
        assert!(
            close(after, grows * before),
            "{resource}: {before}, {after}"
        );
    }
}

#[test]
fn a_part_is_needed_as_often_as_one_gives_way() {
    let arguments = ["--nodes", "1000", "--events", "10000000"];
    let Some(model) = model(&arguments) else {
        return;
    };
    let events = number(&model["events_per_second"]);
    let mut shards = 0.0_f64;
    for need in model["needs"].as_array().unwrap() {
        let resource = need["resource"].as_str().unwrap();
        let Some(breaks_at) = need["breaks_at"].as_f64() else {
            continue;
        };
        assert!(
            close(number(&need["units"]), (events / breaks_at).ceil()),
            "{need}"
        );
        if resource.starts_with("PostgreSQL") && resource != "PostgreSQL network" {
            shards = shards.max(number(&need["units"]));
        }
    }
    assert!(shards > 1.0);
    assert!(close(number(&model["postgres_shards"]), shards));
    // More of what is scarce, and fewer are needed.
    let larger = [
        &arguments[..],
        &["--set", "pg_disk=300e12", "--set", "pg_row_us=0.8"],
    ]
    .concat();
    let larger = self::model(&larger).unwrap();
    assert!(number(&larger["postgres_shards"]) < shards);
}

#[test]
fn a_load_holds_up_to_where_its_first_bottleneck_gives_way() {
    let arguments = ["--history-days", "1", "--events"];
    let Some(any) = model(&[&arguments[..], &["1000"]].concat()) else {
        return;
    };
    let ends = any["needs"].as_array().unwrap().iter();
    let end = ends
        .filter_map(|it| it["breaks_at"].as_f64())
        .fold(f64::MAX, f64::min);
    for (share, holds) in [(0.99, true), (1.01, false)] {
        let events = (share * end).to_string();
        let model = model(&[&arguments[..], &[&events]].concat()).unwrap();
        assert_eq!(model["holds"], holds, "{events}");
        assert_eq!(model["cells"] == 1, holds, "{events}");
        assert_eq!(model["cells_hold"], true, "{events}");
    }
}

#[test]
fn identities_are_read_once_memory_is_full() {
    let arguments = ["--set", "pg_memory=1e12", "--set", "pg_identity_bytes=100"];
    let day = |history: &str| {
        model(
            &[
                &arguments[..],
                &["--events", "100000", "--history-days", history],
            ]
            .concat(),
        )
    };
    // 80,000 a second by 100 bytes: 1e12 bytes after 1.45 days.
    let Some(before) = day("1.4") else { return };
    let after = day("2.9").unwrap();
    let reads = |of: &Value| number(&need(of, "PostgreSQL identity reads")["needed"]);
    assert!(close(reads(&before), 0.0));
    assert!((49_000.0..51_000.0).contains(&reads(&after)), "{after}");
}

#[test]
fn people_are_told_what_gives_way_first() {
    let Some(output) = sizing(&["--nodes", "1000", "--events", "10000000"]) else {
        return;
    };
    let text = String::from_utf8(output.stdout).unwrap();
    let model = model(&["--nodes", "1000", "--events", "10000000"]).unwrap();
    let first = model["first_bottleneck"].as_str().unwrap();
    assert!(
        text.contains(&format!("First bottleneck: {first}, ")),
        "{text}"
    );
    assert!(text.contains(model["remedy"].as_str().unwrap()), "{text}");
    assert!(text.contains("assumption"), "{text}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (arguments, named) in [
        (["--set", "pg_coers=1"], "pg_coers"),
        (["--set", "pg_cores=many"], "a number is allowed"),
        (["--set", "duplicates=1"], "not in its range"),
        (["--nodes", "0"], "at least one node"),
    ] {
        let Some(output) = sizing(&arguments) else {
            return;
        };
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(named), "{error}");
    }
}
