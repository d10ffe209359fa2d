//! `tollgate verify` over a real data directory, and over a database that nodes share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

#[path = "support/backing.rs"]
mod backing;
#[path = "support/home.rs"]
mod home;
#[path = "support/http.rs"]
mod http;
#[path = "support/port.rs"]
mod port;
#[path = "support/server.rs"]
mod server;

use home::{Home, err, out};
use serde_json::Value;
use server::Setup;

const NOWHERE: &str = "http://127.0.0.1:9";

const EVENTS: &str = "\
event_id,tenant_id,timestamp,event_type,user_id
1,shop,2026-11-01T10:00:00Z,view,ann
2,shop,2026-11-01T11:00:00Z,view,bob
3,blog,2026-11-02T10:00:00Z,view,ann
";

#[test]
fn what_a_server_left_is_found_sound_also_after_an_erasure() {
    let home = Home::new();
    home.write("events.csv", EVENTS);
    let server = Setup::new(home.dir.path()).start();
    let url = format!("http://{}", server.address());
    let imported = home.run(&url, &["import", "events.csv"]);
    assert!(imported.status.success(), "{}", err(&imported));
    let busy = home.run(&url, &["verify"]);
    assert_eq!(busy.status.code(), Some(1));
    assert!(err(&busy).contains("in use by another"), "{}", err(&busy));
    let erase = "DELETE /events?tenant_id=shop&user_id=bob HTTP/1.1\r\nHost: x\r\n\r\n";
    let reply = server.connect().unwrap().send(erase, "").unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    server.terminate();
    let text = home.run(&url, &["verify"]);
    assert_eq!(text.status.code(), Some(0), "{}{}", out(&text), err(&text));
    assert!(!out(&text).contains("DIFFERS"), "{}", out(&text));
    let json = home.run(&url, &["verify", "--json"]);
    let told: Value = serde_json::from_str(out(&json)).unwrap();
    assert_eq!(told["ok"], true);
    assert_eq!(told["checks"][0]["found"], 3, "erased ones included");
    let tenants = told["tenants"].as_array().unwrap();
    let names: Vec<&str> = tenants
        .iter()
        .map(|it| it["tenant_id"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["blog", "shop"]);
    assert_eq!(tenants[1]["users"]["found"], 2);
}

#[test]
fn what_nodes_share_is_verified_while_another_one_runs() {
    let Some(database) = backing::database() else {
        return;
    };
    let (home, other) = (Home::new(), tempfile::tempdir().unwrap());
    home.write("events.csv", EVENTS);
    let node = |dir: &std::path::Path| {
        let setup = Setup::new(dir).with("TOLLGATE_STORE__URL", &database);
        setup.start()
    };
    let (running, stopped) = (node(other.path()), node(home.dir.path()));
    let url = format!("http://{}", running.address());
    let imported = home.run(&url, &["import", "events.csv"]);
    assert!(imported.status.success(), "{}", err(&imported));
    let verify = |json: &[&str]| {
        let asked = [&["verify", "--store-url", &database], json].concat();
        home.run(&url, &asked)
    };
    stopped.terminate();
    let sound = verify(&["--json"]);
    assert_eq!(
        sound.status.code(),
        Some(0),
        "{}{}",
        out(&sound),
        err(&sound)
    );
    let told: Value = serde_json::from_str(out(&sound)).unwrap();
    assert_eq!(told["checks"][0]["found"], 3);
    assert_eq!(told["tenants"].as_array().unwrap().len(), 2);
    // Also where no node has run.
    let elsewhere = Home::new();
    let same = elsewhere.run(&url, &["verify", "--store-url", &database, "--json"]);
    assert_eq!(out(&same), out(&sound), "{}", err(&same));
    assert!(!elsewhere.path("data").exists());
    backing::psql(&database, "UPDATE event SET type = 'other' WHERE id = '2'").unwrap();
    let changed = verify(&[]);
    assert_eq!(changed.status.code(), Some(1), "{}", out(&changed));
    assert!(out(&changed).contains("DIFFERS"), "{}", out(&changed));
    // Whoever only looks never schedules, also when nobody else does.
    running.terminate();
    let epoch = || backing::psql(&database, "SELECT epoch FROM head").unwrap();
    let before = epoch();
    verify(&[]);
    assert_eq!(epoch(), before);
}

#[test]
fn a_directory_that_is_not_there_is_not_made() {
    let home = Home::new();
    let output = home.run(NOWHERE, &["verify", "--data-dir", "nowhere"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("no directory nowhere"),
        "{}",
        err(&output)
    );
    assert!(!home.path("nowhere").exists());
}
