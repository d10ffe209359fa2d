//! Real servers of others for tests: PostgreSQL, NATS and Redis as Debian packages them, each on a
//! free port, over a temporary directory. Nothing needs to run before.
//!
//! Where one isn't installed, the test says so on standard error and passes; with `CI` set it fails.
#![allow(dead_code, reason = "shared: each test uses its part")]

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::port::Port;

/// The names of their directories begin with this and the number of the process.
const PREFIX: &str = "tollgate-backing-";

/// Polls before giving up, and the pause between two: a minute in all.
const POLLS: u32 = 6_000;
const PAUSE: Duration = Duration::from_millis(10);

/// How often a fault happens in a test: `FAULT_ROUNDS`, or this many times.
pub(crate) fn rounds(default: u64) -> u64 {
    std::env::var("FAULT_ROUNDS").map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("FAULT_ROUNDS={text} is no number"))
    })
}

/// A running server; killed when dropped.
pub(crate) struct Backing {
    program: PathBuf,
    arguments: Vec<String>,
    child: Option<Child>,
    port: Port,
    home: TempDir,
}

/// Where `program` is. If it isn't installed, says that the test is skipped, and how to get it.
pub(crate) fn installed(program: &str, package: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.push("/usr/sbin".into());
    // Where Debian keeps PostgreSQL's own programs, the newest version last.
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut versions: Vec<PathBuf> = versions.flatten().map(|it| it.path().join("bin")).collect();
    versions.sort();
    folders.extend(versions.into_iter().rev());
    let found = folders.iter().map(|folder| folder.join(program));
    let found = found.into_iter().find(|it| it.is_file());
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "{program} is missing");
        let test = std::thread::current().name().unwrap_or("?").to_owned();
        // Not `eprintln`: that is shown of failed tests only.
        let line = format!("skipped {test}: {program} is not installed (apt install {package})\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    found
}

impl Backing {
    /// Starts `program` with what `arguments` makes of its directory and port.
    fn start(program: PathBuf, arguments: impl FnOnce(&Path, u16) -> Vec<String>) -> Self {
        remove_left_over();
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let home = tempfile::Builder::new().prefix(&prefix).tempdir();
        let (home, port) = (home.unwrap(), Port::claim());
        let mut backing = Self {
            arguments: arguments(home.path(), port.number()),
            program,
            child: None,
            port,
            home,
        };
        backing.resume();
        backing
    }

    /// NATS with JetStream on files.
    pub(crate) fn nats() -> Option<Self> {
        let program = installed("nats-server", "nats-server")?;
        Some(Self::start(program, |home, port| {
            let (port, home) = (port.to_string(), home.to_str().unwrap().to_owned());
            ["-a", "127.0.0.1", "-p", &port, "-js", "-sd", &home]
                .map(str::to_owned)
                .into()
        }))
    }

    /// Redis, without persistence.
    pub(crate) fn redis() -> Option<Self> {
        let program = installed("redis-server", "redis-server")?;
        Some(Self::start(program, |home, port| {
            let (port, home) = (port.to_string(), home.to_str().unwrap().to_owned());
            let arguments = ["--bind", "127.0.0.1", "--port", &port, "--save", ""];
            let mut arguments: Vec<_> = arguments.map(str::to_owned).into();
            arguments.extend(["--dir".to_owned(), home]);
            arguments
        }))
    }

    /// PostgreSQL of its own, for tests that stop it; others share one through [`database`].
    pub(crate) fn postgres() -> Option<Self> {
        Self::postgres_with(&["listen_addresses=127.0.0.1"], |_| {})
    }

    /// The same with these settings, once `change` had the data directory that was made.
    pub(crate) fn postgres_with(settings: &[&str], change: impl FnOnce(&Path)) -> Option<Self> {
        let (initdb, program) = (
            installed("initdb", "postgresql")?,
            installed("postgres", "postgresql")?,
        );
        Some(Self::start(program, |home, port| {
            let data = data_in(home);
            let mut init = as_postgres(&initdb);
            init.args(["-A", "trust", "-U", "postgres", "-E", "UTF8"])
                .args(["--no-locale", "--no-sync", "-D"])
                .arg(&data)
                .stdout(Stdio::null());
            assert!(init.status().unwrap().success(), "initdb");
            change(&data);
            postgres_arguments(home, port, settings)
        }))
    }

    /// A replica that follows `primary`.
    pub(crate) fn replica_of(primary: &Self) -> Option<Self> {
        let (copy, program) = (
            installed("pg_basebackup", "postgresql")?,
            installed("postgres", "postgresql")?,
        );
        Some(Self::start(program, |home, port| {
            let mut copy = as_postgres(&copy);
            copy.args(["-R", "-X", "stream", "-c", "fast", "--no-sync", "-D"])
                .arg(data_in(home))
                .args(["-d", &primary.url_of("postgres")]);
            assert!(copy.status().unwrap().success(), "pg_basebackup");
            postgres_arguments(home, port, &["listen_addresses=127.0.0.1"])
        }))
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap())
    }

    /// `SIGKILL`, and its end awaited. [`Self::resume`] starts it again over the same directory.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends it a signal and waits for its end: `QUIT` is PostgreSQL's immediate shutdown.
    pub(crate) fn end(&mut self, signal: Signal) {
        if let Some(mut child) = self.child.take() {
            kill_process(Pid::from_child(&child), signal).unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it (again) on its port, and waits until it takes connections.
    pub(crate) fn resume(&mut self) {
        let postgres = self.program.ends_with("postgres");
        let mut command = if postgres {
            as_postgres(&self.program)
        } else {
            Command::new(&self.program)
        };
        command
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        for _ in 0..POLLS {
            assert!(child.try_wait().unwrap().is_none(), "it ended at once");
            let ready = if postgres {
                let url = self.url_of("postgres");
                psql(&url, "SELECT 1").is_ok()
            } else {
                TcpStream::connect(self.address()).is_ok()
            };
            if ready {
                self.child = Some(child);
                return;
            }
            // sleep: the pause between two polls.
            std::thread::sleep(PAUSE);
        }
        let _ = child.kill();
        panic!("{} takes no connections", self.program.display());
    }

    /// PostgreSQL: the URL of a database of that name.
    pub(crate) fn url_of(&self, database: &str) -> String {
        format!("postgres://postgres@{}/{database}", self.address())
    }

    /// PostgreSQL: the URL of a new database.
    pub(crate) fn new_database(&self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let created = format!("CREATE DATABASE {name}");
        psql(&self.url_of("postgres"), &created).unwrap();
        self.url_of(&name)
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a server that all tests of a process share leaves behind: nothing is dropped at its end.
fn remove_left_over() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        for folder in fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
            let name = folder.file_name();
            let process = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
            let process = process.and_then(|rest| rest.split('-').next());
            if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
                // Another process may be doing the same.
                let _ = fs::remove_dir_all(folder.path());
            }
        }
    });
}

/// The URL of a new database in a PostgreSQL that all tests of this process share.
pub(crate) fn database() -> Option<String> {
    static SHARED: OnceLock<Option<Backing>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| {
        // The server ends with the thread that started it (`--pdeathsig`), so that thread never ends
        // before the process does.
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            sender.send(Backing::postgres()).unwrap();
            loop {
                std::thread::park();
            }
        });
        receiver.recv().unwrap()
    });
    shared.as_ref().map(Backing::new_database)
}

/// Runs `sql`; its rows as text.
pub(crate) fn psql(url: &str, sql: &str) -> Result<String, String> {
    let program = installed("psql", "postgresql").ok_or("psql is not installed")?;
    let output = Command::new(program)
        .args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            sql,
            url,
        ])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout)
            .unwrap()
            .trim_end()
            .to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Where a PostgreSQL over `home` has its data; made by the user that it runs under.
fn data_in(home: &Path) -> PathBuf {
    if is_root() {
        // It refuses to run as root.
        let owned = Command::new("chown").arg("postgres").arg(home).status();
        assert!(owned.unwrap().success());
    }
    home.join("pg")
}

fn postgres_arguments(home: &Path, port: u16, settings: &[&str]) -> Vec<String> {
    let (data, port) = (home.join("pg"), port.to_string());
    let (data, home) = (data.to_str().unwrap(), home.to_str().unwrap());
    let mut arguments: Vec<_> = ["-D", data, "-p", &port, "-k", home]
        .map(str::to_owned)
        .into();
    // Commits wait for the disk as they do elsewhere; that is part of what is tested.
    let common = ["max_connections=300", "log_min_messages=error"];
    for setting in common.iter().chain(settings) {
        arguments.extend(["-c".to_owned(), (*setting).to_owned()]);
    }
    arguments
}

/// As a user that PostgreSQL runs under, and no longer than the thread that starts it.
fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT"]);
    if is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]);
    }
    command.arg("--").arg(program).current_dir("/");
    command
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}
