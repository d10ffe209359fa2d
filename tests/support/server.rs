//! Starts, kills and stops the real binary.
#![allow(dead_code, reason = "shared: each test uses its part")]

#[path = "command.rs"]
mod command;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use self::command::serve;
use super::http::{Connection, Reply};
use super::port::Port;

/// Polls before giving up, and the pause between two: a minute in all.
const POLLS: u32 = 6_000;
const PAUSE: Duration = Duration::from_millis(10);

/// A running `tollgate serve`; killed when dropped.
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
    _port: Port,
    log: PathBuf,
}

/// How a server is started: again and again, over the same data.
pub(crate) struct Setup {
    home: PathBuf,
    env: Vec<(OsString, OsString)>,
    /// Where it listens.
    host: Ipv4Addr,
    /// In which network namespace it runs, if not in that of the test.
    namespace: Option<String>,
}

impl Setup {
    /// Data below `home`, all else as a newcomer has it.
    pub(crate) fn new(home: &Path) -> Self {
        Self {
            home: home.to_owned(),
            env: Vec::new(),
            host: Ipv4Addr::LOCALHOST,
            namespace: None,
        }
    }

    /// The same, with one batch a 20 ms, each running 1 to 5 ms.
    pub(crate) fn fast(home: &Path) -> Self {
        Self::new(home)
            .with("TOLLGATE_QUEUES__DEFAULT__INTERVAL", "20ms")
            .with("TOLLGATE_QUEUES__DEFAULT__SIMULATE__MIN", "1ms")
            .with("TOLLGATE_QUEUES__DEFAULT__SIMULATE__MAX", "5ms")
    }

    /// Adds an environment variable.
    pub(crate) fn with(mut self, key: &str, value: impl Into<OsString>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// In a network namespace, at an address that it has there.
    pub(crate) fn inside(mut self, namespace: &str, host: Ipv4Addr) -> Self {
        self.namespace = Some(namespace.to_owned());
        self.host = host;
        self.with("ROCKET_ADDRESS", host.to_string())
    }

    /// Where the store is.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.home.join("data")
    }

    /// Starts the binary on a port of its own and returns once `/ready` answers 200.
    pub(crate) fn start(&self) -> Server {
        let mut server = self.spawn();
        poll("/ready answers 200", || {
            if let Some(status) = server.child.try_wait().unwrap() {
                panic!("the server ended with {status}:\n{}", server.log());
            }
            let ready = server.get("/ready").is_ok_and(|reply| reply.status == 200);
            ready.then_some(())
        });
        server
    }

    /// Starts the binary on a port of its own, and does not wait.
    pub(crate) fn spawn(&self) -> Server {
        let port = Port::claim();
        let mut command = serve(&self.home, port.number(), self.env.iter().cloned());
        if let Some(namespace) = &self.namespace {
            command = entering(namespace, &command);
            command.stderr(File::create(self.home.join("log")).unwrap());
        }
        Server {
            child: command.spawn().unwrap(),
            address: (self.host, port.number()).into(),
            _port: port,
            log: self.home.join("log"),
        }
    }
}

/// `command` as a process in a network namespace: `ip` becomes it.
fn entering(namespace: &str, command: &Command) -> Command {
    let mut entering = Command::new("ip");
    entering
        .args(["netns", "exec", namespace])
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir(command.get_current_dir().unwrap())
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => entering.env(key, value),
            None => entering.env_remove(key),
        };
    }
    entering
}

impl Server {
    /// A new connection.
    pub(crate) fn connect(&self) -> io::Result<Connection> {
        Connection::open(self.address)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A request over a connection of its own.
    pub(crate) fn get(&self, path: &str) -> io::Result<Reply> {
        self.connect()?.get(path)
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `SIGTERM`, and how it ended; panics after a minute without an end.
    pub(crate) fn terminate(mut self) -> (ExitStatus, String) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let status = poll("the server stops", || self.child.try_wait().unwrap());
        (status, self.log())
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// How it ended by itself, and its log; panics after a minute without an end.
    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        let status = poll("the server ends", || self.child.try_wait().unwrap());
        (status, self.log())
    }

    /// `SIGKILL`: nothing of the process runs after this.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have been killed and waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks until there is an answer; panics with `what` after a minute without one.
pub(crate) fn poll<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    for _ in 0..POLLS {
        if let Some(answer) = ask() {
            return answer;
        }
        // sleep: the pause between two polls.
        std::thread::sleep(PAUSE);
    }
    panic!("not within a minute: {what}");
}
