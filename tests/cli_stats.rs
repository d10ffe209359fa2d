//! `tollgate stats` against the real server.
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

use home::{Home, err, out};
use serde_json::{Value, json};
use server::{Server, Setup};

/// Three days: `ann` and `ben` come back on the second, `cat` comes on the third.
const STORY: [(&str, &str, &str, &str); 6] = [
    ("signup", "ann", "web", "2024-03-01T10:00:30Z"),
    ("view", "ann", "web", "2024-03-01T10:20:00Z"),
    ("view", "ben", "app", "2024-03-01T11:00:00Z"),
    ("view", "ann", "web", "2024-03-02T23:30:00Z"),
    ("buy, \"now\"", "ben", "app", "2024-03-02T23:30:10Z"),
    ("signup", "cat", "app", "2024-03-03T00:10:00Z"),
];

fn start(home: &Home) -> (Server, String) {
    let server = Setup::new(home.dir.path()).start();
    let url = format!("http://{}", server.address());
    (server, url)
}

fn told(server: &Server) {
    let events: Vec<Value> = STORY
        .iter()
        .enumerate()
        .map(|(n, (event_type, user, source, time))| {
            json!({"event_id": n.to_string(), "tenant_id": "shop", "event_type": event_type,
                "user_id": user, "source": source, "timestamp": time,
                "payload": {"n": n, "country": if *user == "ann" { "UA" } else { "PL" }}})
        })
        .collect();
    let mut connection = server.connect().unwrap();
    let reply = connection.post_json("/events", &json!(events).to_string());
    assert_eq!(reply.unwrap().status, 202);
}

/// What `stats` prints with these arguments.
fn stats(home: &Home, url: &str, arguments: &str) -> String {
    let arguments: Vec<&str> = std::iter::once("stats")
        .chain(arguments.split_whitespace())
        .collect();
    let output = home.run(url, &arguments);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{arguments:?}: {}",
        err(&output)
    );
    assert_eq!(err(&output), "", "{arguments:?}");
    out(&output).to_owned()
}

const RANGE: &str = "--from 2024-03-01 --to 2024-03-03";

#[test]
fn answers_are_tables_and_csv_and_outlive_the_process() {
    let home = Home::new();
    let (server, url) = start(&home);
    told(&server);
    let ask = |url: &str, arguments: &str| stats(&home, url, &format!("{arguments} --tenant shop"));
    let all = |url: &str| {
        [
            ask(url, &format!("dau {RANGE}")),
            ask(url, &format!("wau {RANGE} --csv")),
            ask(url, &format!("mau {RANGE} --source app --csv")),
            ask(url, "top --csv"),
            ask(
                url,
                "top --limit 1 --from 2024-03-01T10:30:00Z --segment event_type:view",
            ),
            ask(url, "retention --start-date 2024-03-01"),
            ask(
                url,
                "retention --start-date 2024-03-01 --windows 1 --window-type weekly --csv",
            ),
            ask(url, "buckets --to 2024-03-01 --tz Europe/Kyiv"),
            ask(url, "buckets --bucket-size day --type signup --csv"),
            ask(url, "segments properties.country"),
            ask(url, "segments --from 2024-03-03 --csv"),
            ask(
                url,
                "dau --from 2024-03-03 --to 2024-03-03 --segment properties.country=PL --csv",
            ),
        ]
    };
    let expected = [
        "date        dau\n2024-03-01    2\n2024-03-02    2\n2024-03-03    1\n",
        "date,wau\n2024-03-01,2\n2024-03-02,2\n2024-03-03,3\n",
        "date,mau\n2024-03-01,1\n2024-03-02,1\n2024-03-03,2\n",
        "event_type,count,unique_users\nview,3,2\nsignup,2,2\n\"buy, \"\"now\"\"\",1,1\n",
        "event_type  count  unique_users\nview            2             2\n",
        "\
cohort      size        0        1      2
2024-03-01     2  100.0%   100.0%   0.0%
2024-03-02     0       -        -      -
2024-03-03     1  100.0%     0.0%   0.0%
",
        "cohort_start,size,window,retained,rate,complete\n2024-03-01,3,0,3,1,true\n",
        "\
start                      count  unique_users
2024-03-01T12:00:00+02:00      2             1
2024-03-01T13:00:00+02:00      1             1
",
        "\
start,end,count,unique_users
2024-03-01T00:00:00Z,2024-03-02T00:00:00Z,1,1
2024-03-03T00:00:00Z,2024-03-04T00:00:00Z,1,1
",
        "value  count  unique_users\nPL         3             2\nUA         3             1\n",
        "value,count,unique_users\nsignup,1,1\n",
        "date,dau\n2024-03-03,1\n",
    ];
    let before = all(&url);
    for (found, expected) in before.iter().zip(expected) {
        assert_eq!(found, expected);
    }
    server.kill();
    let (_server, url) = start(&home);
    assert_eq!(all(&url), before);
}

#[test]
fn json_is_what_the_server_says() {
    let home = Home::new();
    let (server, url) = start(&home);
    told(&server);
    for (arguments, path) in [
        (
            &*format!("dau {RANGE}"),
            "/stats/dau?from=2024-03-01&to=2024-03-03",
        ),
        ("top --limit 2", "/stats/top-events?limit=2"),
        ("retention --windows 2", "/stats/retention?windows=2"),
        (
            "buckets --bucket-size minute",
            "/metrics?bucket_size=minute",
        ),
    ] {
        let text = stats(&home, &url, &format!("{arguments} --json"));
        assert_eq!(text.lines().count(), 1, "{text}");
        let mut printed: Value = serde_json::from_str(&text).unwrap();
        let mut said = server.get(path).unwrap().json();
        for answer in [&mut printed, &mut said] {
            if let Some(object) = answer.as_object_mut() {
                object.remove("as_of");
            }
        }
        assert_eq!(printed, said, "{path}");
    }
}

#[test]
fn windows_that_go_on_are_marked() {
    let home = Home::new();
    let (_server, url) = start(&home);
    let output = home.run(&url, &["stats", "retention", "--windows", "1"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(out(&output).lines().nth(1).unwrap().ends_with("-*"));
    assert_eq!(err(&output), "* this window has not ended\n");
}

#[test]
fn values_that_are_left_out_are_told() {
    let home = Home::new();
    let (server, url) = start(&home);
    told(&server);
    let output = home.run(&url, &["stats", "segments", "--limit", "1"]);
    assert_eq!(
        out(&output),
        "value  count  unique_users\nview       3             2\n"
    );
    assert_eq!(err(&output), "There are other values: see --limit\n");
}

#[test]
fn a_mistake_ends_with_its_exit_code() {
    let home = Home::new();
    let (server, url) = start(&home);
    for arguments in [
        &["stats"][..],
        &["stats", "dau", "--from", "yesterday"],
        &["stats", "dau", "--from", "2024-03-01T00:00:00Z"],
        &["stats", "top", "--to", "2024-02-30"],
        &["stats", "top", "--limit", "1001"],
        &["stats", "retention", "--windows", "91"],
        &["stats", "retention", "--window-type", "monthly"],
        &["stats", "buckets", "--bucket-size", "week"],
        &["stats", "dau", "--json", "--csv"],
    ] {
        let output = home.run(&url, arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert_eq!(out(&output), "");
    }
    let output = home.run(&url, &["stats", "dau", "--tz", "Mars/Olympus"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("tz") && err(&output).contains("Mars/Olympus"));
    drop(server);
    let arguments = ["stats", "dau", "--retry-for", "0s"];
    let output = home.run(&url, &arguments);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("does not answer"), "{}", err(&output));
}

#[test]
fn an_answer_that_is_none_is_told() {
    let home = Home::new();
    for (arguments, answer) in [
        (["stats", "dau"], r#"[{"date": "2024-03-01", "wau": 1}]"#),
        (["stats", "top"], "{}"),
        (["stats", "retention"], "[]"),
        (["stats", "buckets"], "hello"),
        (["stats", "segments"], r#"{"values": []}"#),
    ] {
        let server = stub::Server::start(move |_, _| Some((200, answer.to_owned())));
        let output = home.run(&server.url(), &arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(err(&output).contains("can't be read"), "{}", err(&output));
    }
}

#[test]
fn every_option_reaches_the_server() {
    let home = Home::new();
    let server = stub::Server::start(|_, _| Some((200, "[]".to_owned())));
    let options = "stats top --limit 3 --from 2024-03-01 --to 2024-03-01T10:00:00+02:00 --tenant a&b \
        --source s --type t --segment event_type:x --segment event_type:y --tz Etc/GMT+5";
    let arguments: Vec<&str> = options.split_whitespace().collect();
    let output = home.run(&server.url(), &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(
        server.requests()[0].line,
        "GET /stats/top-events?limit=3&from=2024-03-01&to=2024-03-01T08%3A00%3A00Z&tenant_id=a%26b\
         &source=s&event_type=t&tz=Etc%2FGMT%2B5&segment=event_type%3Ax&segment=event_type%3Ay HTTP/1.1"
    );
}
