//! PostgreSQL: a server of its own, and just enough of the protocol for one connection.
#![allow(dead_code, reason = "shared: each benchmark uses its part")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::other::{Other, find};

/// Starts it, and makes the table.
pub(crate) fn start(table: &str) -> Option<Other> {
    if find("initdb").is_none() {
        println!("  initdb is not installed");
        return None;
    }
    let other = Other::start("postgres", |home, port| {
        let folder = home.path().join("data");
        // It refuses to run as root.
        let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
        if root {
            let status = Command::new("chown")
                .arg("postgres")
                .arg(home.path())
                .status();
            assert!(status.unwrap().success());
        }
        let run = |program: &str| {
            let program = find(program).unwrap();
            let mut command = Command::new(&program);
            if root {
                command = Command::new("setpriv");
                command.args([
                    "--reuid=postgres",
                    "--regid=postgres",
                    "--init-groups",
                    "--",
                ]);
                command.arg(program);
            }
            command.current_dir("/").process_group(0);
            command
        };
        let mut init = run("initdb");
        init.args([
            "-A",
            "trust",
            "-U",
            "postgres",
            "-E",
            "UTF8",
            "--no-locale",
            "-D",
        ]);
        let status = init.arg(&folder).stdout(Stdio::null()).status().unwrap();
        assert!(status.success(), "initdb");
        let mut command = run("postgres");
        command
            .arg("-D")
            .arg(&folder)
            .args(["-p", &port.to_string(), "-h", "127.0.0.1", "-k"]);
        command.arg(home.path());
        // What anybody sets first on such a machine.
        for setting in [
            "shared_buffers=1GB",
            "max_wal_size=4GB",
            "synchronous_commit=on",
        ] {
            command.args(["-c", setting]);
        }
        command
    })?;
    // It listens before it is ready.
    let mut client = loop {
        match Postgres::open(other.address) {
            Ok(client) => break client,
            Err(problem) => assert!(problem.contains("starting up"), "{problem}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    client.query(table).unwrap();
    Some(other)
}

/// One connection.
pub(crate) struct Postgres {
    stream: TcpStream,
    /// The last column of the last row.
    last: String,
}

impl Postgres {
    pub(crate) fn open(address: SocketAddr) -> Result<Self, String> {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let body = [&196_608_u32.to_be_bytes()[..], b"user\0postgres\0\0"].concat();
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        stream.write_all(&[&length[..], &body].concat()).unwrap();
        let mut client = Self {
            stream,
            last: String::new(),
        };
        client.sync().map(|_| client)
    }

    pub(crate) fn message(&mut self, kind: u8, body: &[u8]) {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        self.stream
            .write_all(&[&[kind], &length[..], body].concat())
            .unwrap();
    }

    /// Runs `sql`; what the last command did.
    pub(crate) fn query(&mut self, sql: &str) -> Result<String, String> {
        self.message(b'Q', &[sql.as_bytes(), b"\0"].concat());
        self.sync()
    }

    /// The last column of the last row that `sql` gives, as text.
    pub(crate) fn ask(&mut self, sql: &str) -> Result<String, String> {
        self.query(sql)?;
        Ok(std::mem::take(&mut self.last))
    }

    /// Reads until it is ready for the next query; what the last command did.
    pub(crate) fn sync(&mut self) -> Result<String, String> {
        let mut done = Ok(String::new());
        loop {
            let mut head = [0; 5];
            if let Err(error) = self.stream.read_exact(&mut head) {
                // While it starts it says so, and hangs up.
                assert!(done.is_err(), "{error}");
                return done;
            }
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
            let mut body = vec![0; usize::try_from(length).unwrap() - 4];
            self.stream.read_exact(&mut body).unwrap();
            match head[0] {
                b'E' => done = Err(String::from_utf8_lossy(&body).replace('\0', " ")),
                b'C' => done = Ok(String::from_utf8_lossy(&body[..body.len() - 1]).into_owned()),
                b'D' => self.last = last_column(&body),
                // It waits for the rows of a `COPY`.
                b'G' | b'Z' => return done,
                _ => {}
            }
        }
    }
}

/// Of a row as the protocol sends it.
fn last_column(row: &[u8]) -> String {
    let (mut rest, mut last) = (&row[2..], &row[..0]);
    while !rest.is_empty() {
        let length = i32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]);
        // NULL has the length -1.
        let length = usize::try_from(length).unwrap_or(0);
        (last, rest) = rest[4..].split_at(length);
    }
    String::from_utf8_lossy(last).into_owned()
}
