//! `examples/cluster.py`: the nodes, the load balancer and the servers as plain processes. What it starts
//! works together, and nothing of it is left when it was stopped.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

#[path = "support/backing.rs"]
mod backing;
#[path = "support/http.rs"]
mod http;
#[path = "support/port.rs"]
mod port;
#[path = "support/server.rs"]
mod server;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use backing::installed;
use http::{Connection, Reply};
use rustix::process::{Pid, Signal, kill_process};
use server::poll;

/// More than any test asks for.
const PLENTY: (&str, &str) = ("TOLLGATE_QUOTA__REQUESTS", "1000000");

/// A running `examples/cluster.py`; stopped when dropped.
struct Topology {
    script: Child,
    home: tempfile::TempDir,
    /// The URL and the process of each part by its name.
    parts: BTreeMap<String, (String, i32)>,
    /// Takes what else it prints.
    rest: Option<JoinHandle<String>>,
}

impl Topology {
    /// With these arguments and this setting of the quota; `None`, said on standard error, where something isn't installed.
    fn start(arguments: &[&str], quota: (&str, &str)) -> Option<Self> {
        let python = installed("python3", "python3")?;
        for (program, package) in [
            ("setpriv", "util-linux"),
            ("initdb", "postgresql"),
            ("nats-server", "nats-server"),
            ("redis-server", "redis-server"),
            ("haproxy", "haproxy"),
        ] {
            installed(program, package)?;
        }
        // What others may not enter, PostgreSQL can't.
        let home = tempfile::Builder::new()
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir()
            .unwrap();
        let mut command = Command::new(python);
        for (key, _) in std::env::vars_os() {
            let name = key.to_string_lossy();
            if name.starts_with("TOLLGATE_") || name.starts_with("ROCKET_") {
                command.env_remove(&key);
            }
        }
        command
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/cluster.py"))
            .args(["--binary", env!("CARGO_BIN_EXE_tollgate")])
            .args(arguments)
            .env("TMPDIR", home.path())
            .env(quota.0, quota.1)
            // A busy machine does not pass for a Redis that is away.
            .env("TOLLGATE_QUOTA__PATIENCE", "30s")
            .env("TOLLGATE_QUEUES__DEFAULT__INTERVAL", "20ms")
            .env("TOLLGATE_QUEUES__DEFAULT__SIMULATE__MIN", "1ms")
            .env("TOLLGATE_QUEUES__DEFAULT__SIMULATE__MAX", "5ms")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut topology = Self {
            script: command.spawn().unwrap(),
            home,
            parts: BTreeMap::new(),
            rest: None,
        };
        topology.read_parts();
        Some(topology)
    }

    /// Lines such as `node1 http://127.0.0.1:1234 (process 5)`, until it says that it is ready.
    fn read_parts(&mut self) {
        let mut output = BufReader::new(self.script.stdout.take().unwrap());
        let mut line = String::new();
        while output.read_line(&mut line).unwrap() > 0 {
            if line.contains("; ready: ") {
                self.rest = Some(std::thread::spawn(move || {
                    let mut rest = String::new();
                    output.read_to_string(&mut rest).unwrap();
                    rest
                }));
                return;
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            let process = words[3].trim_end_matches(')').parse().unwrap();
            self.parts
                .insert(words[0].to_owned(), (words[1].to_owned(), process));
            line.clear();
        }
        let mut error = String::new();
        let mut errors = self.script.stderr.take().unwrap();
        errors.read_to_string(&mut error).unwrap();
        panic!("it did not start: {error}");
    }

    fn address(&self, name: &str) -> SocketAddr {
        let (url, _) = &self.parts[name];
        url.strip_prefix("http://").unwrap().parse().unwrap()
    }

    fn get(&self, name: &str, path: &str) -> Reply {
        let mut connection = Connection::open(self.address(name)).unwrap();
        connection.get(path).unwrap()
    }

    fn post(&self, name: &str, path: &str, body: &str) -> Reply {
        let mut connection = Connection::open(self.address(name)).unwrap();
        connection.post_json(path, body).unwrap()
    }

    /// The command lines of processes that know of its directory.
    fn running(&self) -> Vec<String> {
        let home = self.home.path();
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let processes = processes.map(|it| it.path()).filter(|it| {
            let name = it.file_name().unwrap().to_string_lossy();
            name.parse::<i32>()
                .is_ok_and(|pid| pid != process_of(&self.script))
        });
        processes.filter_map(|it| within(&it, home)).collect()
    }

    /// Sends a signal, awaits the end, and returns its code and what it printed after it was ready.
    fn stop(mut self, signal: Signal) -> (Option<i32>, String) {
        kill_process(Pid::from_child(&self.script), signal).unwrap();
        let ended = poll("it stops", || self.script.try_wait().unwrap());
        let rest = self.rest.take().unwrap().join().unwrap();
        if signal != Signal::KILL {
            assert_eq!(self.running(), [""; 0], "left when it has ended");
            let left = fs::read_dir(self.home.path()).unwrap().count();
            assert_eq!(left, 0, "files are left");
        }
        poll("nothing runs", || self.running().is_empty().then_some(()));
        (ended.code(), rest)
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        // If it has ended, nobody is told, and nobody waited for twice.
        if matches!(self.script.try_wait(), Ok(None)) {
            let _ = kill_process(Pid::from_child(&self.script), Signal::TERM);
            let _ = self.script.wait();
        }
    }
}

fn process_of(child: &Child) -> i32 {
    Pid::from_child(child).as_raw_nonzero().get()
}

/// The command line of a process whose working directory is within `home`; an ended one has none.
fn within(process: &Path, home: &Path) -> Option<String> {
    let folder = fs::read_link(process.join("cwd")).ok()?;
    let line = fs::read(process.join("cmdline")).ok()?;
    folder
        .starts_with(home)
        .then(|| String::from_utf8_lossy(&line).replace('\0', " "))
}

/// Reads from a stream of server-sent events until `what` comes.
fn read_until(stream: &mut BufReader<TcpStream>, what: &str) {
    let mut line = String::new();
    loop {
        line.clear();
        let read = stream.read_line(&mut line).unwrap();
        assert!(read > 0, "the stream ended before {what:?}");
        if line.contains(what) {
            return;
        }
    }
}

#[test]
fn any_node_answers_for_all_and_one_may_be_killed() {
    let Some(topology) = Topology::start(&[], PLENTY) else {
        return;
    };
    let ingest = |name: &str| {
        let body = r#"{"ids": [1, 2, 3, 4, 5], "priority": "MEDIUM"}"#;
        let reply = topology.post(name, "/ingest", body);
        assert_eq!(reply.status, 200, "{name}: {}", reply.text());
        reply.json()["ingestion_id"].as_str().unwrap().to_owned()
    };
    let completed = |name: &str, id: &str| {
        poll("it is completed", || {
            let status = topology.get(name, &format!("/status/{id}?view=summary"));
            assert_eq!(status.status, 200, "{name}: {}", status.text());
            (status.json()["status"] == "completed").then_some(())
        });
    };
    let id = ingest("node1");
    // The first question after the answer, at another node.
    completed("node2", &id);
    completed("balancer", &id);
    let event = |n: u32| {
        format!(
            r#"{{"topic": "t", "event_id": "e-{n}", "timestamp": "2026-11-21T09:00:00Z",
                "source": "s", "payload": {{}}}}"#
        )
    };
    let both = format!("[{}, {}, {}]", event(1), event(2), event(1));
    let reply = topology.post("balancer", "/publish", &both);
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.json()["enqueued"], 3);
    for name in ["node1", "node2", "node3"] {
        poll("every node sees the events", || {
            let page = topology.get(name, "/events?topic=t").json();
            (page["events"].as_array()?.len() == 2).then_some(())
        });
    }
    let (_, process) = topology.parts["node1"];
    kill_process(Pid::from_raw(process).unwrap(), Signal::KILL).unwrap();
    let id = poll("another node takes work", || {
        let body = r#"{"ids": [6], "priority": "HIGH"}"#;
        let reply = topology.post("balancer", "/ingest", body);
        let id = reply.json()["ingestion_id"].as_str()?.to_owned();
        Some(id)
    });
    completed("node3", &id);
    let (code, rest) = topology.stop(Signal::TERM);
    assert_eq!((code, rest.as_str()), (Some(0), "node1 ended with -9\n"));
}

#[test]
fn the_balancer_stands_before_nodes_that_count_together() {
    let arguments = ["--without", "postgres", "--without", "nats"];
    // Within minutes nothing comes back to a bucket.
    let slow = ("TOLLGATE_QUOTA__PER", "1d");
    let Some(topology) = Topology::start(&arguments, slow) else {
        return;
    };
    // One node has seen the key; the others are told by Redis, and each request is another's turn.
    let body = r#"{"ids": [1, 2, 3, 4], "priority": "HIGH"}"#;
    let head = format!(
        "POST /ingest HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n\
         Idempotency-Key: one\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let answers: Vec<String> = ["node1", "balancer", "balancer", "node2", "node3"]
        .iter()
        .map(|name| {
            let mut connection = Connection::open(topology.address(name)).unwrap();
            let reply = connection.send(&head, body).unwrap();
            assert_eq!(reply.status, 200, "{name}: {}", reply.text());
            reply.json()["ingestion_id"].as_str().unwrap().to_owned()
        })
        .collect();
    assert!(answers.iter().all(|it| *it == answers[0]), "{answers:?}");
    // What a client says of its own address is not believed: it stays one client.
    let left: Vec<u32> = (1..=3)
        .map(|n| {
            let head = format!("GET /queues HTTP/1.1\r\nHost: h\r\nX-Real-IP: 192.0.2.{n}\r\n\r\n");
            let mut connection = Connection::open(topology.address("balancer")).unwrap();
            let reply = connection.send(&head, "").unwrap();
            let field = reply.header("ratelimit").unwrap().to_owned();
            let (_, rest) = field.split_once(";r=").unwrap();
            rest.split(';').next().unwrap().parse().unwrap()
        })
        .collect();
    let first = left[0];
    assert_eq!(left, [first, first - 1, first - 2]);
    let (code, rest) = topology.stop(Signal::TERM);
    assert_eq!((code, rest.as_str()), (Some(0), ""));
}

#[test]
fn what_it_starts_ends_with_it_even_if_it_is_killed() {
    let arguments = ["--nodes", "1", "--without", "postgres", "--without", "nats"];
    let Some(topology) = Topology::start(&arguments, PLENTY) else {
        return;
    };
    assert!(topology.running().len() >= 3, "{:?}", topology.running());
    topology.stop(Signal::KILL);
}

#[test]
fn streams_and_long_polls_pass_the_balancer() {
    let arguments = ["--nodes", "1", "--without", "postgres", "--without", "nats"];
    let Some(topology) = Topology::start(&arguments, PLENTY) else {
        return;
    };
    let stream = TcpStream::connect(topology.address("balancer")).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_mins(1)))
        .unwrap();
    let mut stream = BufReader::new(stream);
    let head = "GET /events/stream HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\n\r\n";
    stream.get_mut().write_all(head.as_bytes()).unwrap();
    read_until(&mut stream, "200 OK");
    let event = r#"{"event_id": "e-1", "event_type": "seen", "user_id": "ann",
        "timestamp": "2026-11-21T09:00:00Z"}"#;
    let reply = topology.post("balancer", "/events", event);
    assert_eq!(reply.status, 201, "{}", reply.text());
    read_until(&mut stream, "\"e-1\"");
    let body = r#"{"ids": [1], "priority": "LOW"}"#;
    let reply = topology.post("balancer", "/ingest", body).json();
    let id = reply["ingestion_id"].as_str().unwrap();
    let path = format!("/status/{id}?wait=20s");
    poll("a long poll tells of the end", || {
        let status = topology.get("balancer", &path).json();
        (status["status"] == "completed").then_some(())
    });
    let (code, _) = topology.stop(Signal::INT);
    assert_eq!(code, Some(0));
}

#[test]
fn a_missing_binary_is_named() {
    let Some(python) = installed("python3", "python3") else {
        return;
    };
    let output = Command::new(python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/cluster.py"))
        .args(["--binary", "/nowhere/tollgate"])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("there is no /nowhere/tollgate"), "{error}");
}
