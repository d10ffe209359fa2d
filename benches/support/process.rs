//! Starts the real binary over a temporary directory.

#![allow(dead_code, reason = "shared: each benchmark uses its part")]

#[path = "../../tests/support/command.rs"]
mod command;
#[path = "../../tests/support/port.rs"]
pub(crate) mod port;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use self::command::serve;
use self::port::Port;
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
    _port: Port,
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
        let port = Port::claim();
        let address = port.address();
        let mut command = serve(self.home.path(), port.number(), self.env.iter().cloned());
        let started = Instant::now();
        let child = command.spawn().unwrap();
        let mut server = Server {
            child,
            address,
            _port: port,
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
        size(&self.home.path().join("data"))
    }

    /// A directory that goes when the last server does.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }
}

fn size(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).unwrap();
    entries
        .map(|entry| {
            let meta = entry.as_ref().unwrap().metadata();
            match meta {
                Ok(meta) if meta.is_dir() => size(&entry.unwrap().path()),
                Ok(meta) => meta.len(),
                // It was removed meanwhile.
                Err(_) => 0,
            }
        })
        .sum()
}

/// A line of a process's `/proc/<id>/status`, such as `VmRSS`, in bytes.
pub(crate) fn memory_of(process: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}

impl Server {
    /// Resident memory (`VmRSS`), in bytes.
    pub(crate) fn memory(&self) -> u64 {
        memory_of(self.child.id(), "VmRSS:").unwrap()
    }

    /// Waits until it does nothing any more (packing blocks, checkpoints): less than a twentieth of a
    /// core in a second. Gives up after two minutes.
    pub(crate) fn settle(&self) {
        let path = format!("/proc/{}/stat", self.child.id());
        let ticks = || -> u64 {
            let stat = fs::read_to_string(&path).unwrap();
            // Behind the name, which is in brackets, the 12th and 13th are user and system time.
            let fields = stat[stat.rfind(')').unwrap()..].split_whitespace();
            fields
                .skip(12)
                .take(2)
                .map(|it| it.parse::<u64>().unwrap())
                .sum()
        };
        let mut before = ticks();
        for _ in 0..120 {
            std::thread::sleep(Duration::from_secs(1));
            let now = ticks();
            // A tick is a hundredth of a second.
            if now - before < 5 {
                return;
            }
            before = now;
        }
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
