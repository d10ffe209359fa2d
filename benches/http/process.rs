//! Starts the real binary over a temporary directory.

#[path = "../../tests/support/command.rs"]
mod command;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use self::command::{free_port, serve};
use super::client::get_once;

/// How a server is started; the directory lives as long as the last of its servers.
pub(crate) struct Setup {
    home: Arc<TempDir>,
    env: Vec<(String, String)>,
}

/// A running server; killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    _home: Arc<TempDir>,
}

impl Setup {
    /// The default settings over an empty directory.
    pub(crate) fn new() -> Self {
        // `TMPDIR` chooses the disk: a temporary file system in memory would flatter the syncs.
        Self {
            home: Arc::new(tempfile::tempdir().unwrap()),
            env: Vec::new(),
        }
    }

    /// Adds an environment variable.
    pub(crate) fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.env.push((key.to_owned(), value.into()));
        self
    }

    /// Starts it and waits for `/ready`.
    pub(crate) fn start(&self) -> Server {
        self.start_until("/ready").0
    }

    /// Starts it and measures the time until `path` answers 200.
    pub(crate) fn start_until(&self, path: &str) -> (Server, Duration) {
        let port = free_port();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut command = serve(self.home.path(), port, self.env.iter().cloned());
        let started = Instant::now();
        let child = command.spawn().unwrap();
        let mut server = Server {
            child,
            address,
            _home: Arc::clone(&self.home),
        };
        while get_once(address, path) != Some(200) {
            if let Some(status) = server.child.try_wait().unwrap() {
                let log = fs::read_to_string(self.home.path().join("log"));
                panic!("the server ended with {status}:\n{}", log.unwrap());
            }
            assert!(
                started.elapsed() < Duration::from_mins(5),
                "{path} does not answer 200"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        (server, started.elapsed())
    }

    /// The size of everything below the data directory, in bytes.
    pub(crate) fn disk(&self) -> u64 {
        let entries = fs::read_dir(self.home.path().join("data")).unwrap();
        entries
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum()
    }
}

impl Server {
    /// Resident memory (`VmRSS`), in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kilobytes = line
            .and_then(|line| line.split_whitespace().nth(1))
            .unwrap();
        kilobytes.parse::<u64>().unwrap() * 1024
    }

    /// `SIGTERM`, and waits until it has stopped; returns how long that took.
    pub(crate) fn terminate(mut self) -> Duration {
        let started = Instant::now();
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "stopped with {status}");
        started.elapsed()
    }

    /// `SIGKILL`.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
