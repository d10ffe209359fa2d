//! A node that hangs in the middle of a command that others wait for.

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::Nodes;
use crate::backing::{database, installed, psql};
use crate::server::poll;

/// How many sessions hang.
const HANGING: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
    AND query LIKE 'COPY letter%' AND wait_event = 'ClientRead'";

/// A session that looks like one of a node, has the row that every commit waits for, and has begun a
/// command that never ends. Killed when dropped.
struct Hanging(Child);

impl Hanging {
    /// `None` if it was not seen to hang: then it was ended before anybody looked.
    fn begin(program: &Path, url: &str) -> Option<Self> {
        let mut session = Command::new(program)
            .args(["-X", "-q", url])
            .env("PGAPPNAME", "tollgate")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = "BEGIN;\nUPDATE head SET epoch = epoch;\nCOPY letter FROM STDIN;\n";
        let input = session.stdin.as_mut().unwrap();
        input.write_all(begun.as_bytes()).unwrap();
        let hanging = Self(session);
        for _ in 0..500 {
            if psql(url, HANGING).unwrap() == "1" {
                return Some(hanging);
            }
            // sleep: the pause between two looks.
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_commit_that_stops_in_the_middle_of_a_command_holds_up_nobody() {
    let (Some(url), Some(program)) = (database(), installed("psql", "postgresql")) else {
        return;
    };
    let nodes = Nodes::over(&[url.clone(), url.clone()]);
    nodes.leader();
    let hanging = (0..5).find_map(|_| Hanging::begin(&program, &url));
    let _hanging = hanging.expect("none was seen to hang");
    for node in 0..2 {
        poll("a submission is accepted", || {
            let mut client = nodes.node(node).connect().ok()?;
            let body = r#"{"ids": [1], "priority": "LOW"}"#;
            let reply = client.post_json("/ingest", body).ok()?;
            (reply.status == 200).then_some(())
        });
    }
    assert_eq!(psql(&url, HANGING).unwrap(), "0", "it was ended");
}
