//! PostgreSQL: a table with the identity as its key. Just enough of the protocol to insert arrays.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Client, Other, find, member};

const TABLE: &str = "CREATE TABLE events (tenant text, topic text, event_id text,
    at timestamptz NOT NULL, event_type text, user_id text, payload text NOT NULL,
    PRIMARY KEY (tenant, topic, event_id))";

/// In the order of the key: batches that share events would wait for each other in a circle.
const INSERT: &str = "INSERT INTO events SELECT tenant, '', id, at, type, usr, payload
    FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[], $5::text[], $6::text[])
    AS t(tenant, id, at, type, usr, payload) ORDER BY tenant, id ON CONFLICT DO NOTHING";

pub(super) fn start() -> Option<Other> {
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
    let mut query = TABLE.as_bytes().to_vec();
    query.push(0);
    client.message(b'Q', &query);
    client.sync().unwrap();
    Some(other)
}

/// One connection.
pub(super) struct Postgres {
    stream: TcpStream,
}

impl Client for Postgres {
    fn connect(address: SocketAddr) -> Self {
        Self::open(address).unwrap()
    }

    fn store(&mut self, events: &[Vec<u8>]) -> u64 {
        let keys = [
            "tenant_id",
            "event_id",
            "timestamp",
            "event_type",
            "user_id",
        ];
        let mut arrays: Vec<String> = keys
            .iter()
            .map(|key| array(events.iter().map(|event| member(event, key))))
            .collect();
        arrays.push(array(events.iter().map(|event| {
            let event = std::str::from_utf8(event).unwrap();
            let start = event.find("\"properties\":").unwrap() + "\"properties\":".len();
            &event[start..event.len() - 1]
        })));
        let parse = [b"\0", INSERT.as_bytes(), b"\0\0\0"].concat();
        // Unnamed, all parameters and results as text.
        let mut bind = b"\0\0\0\0".to_vec();
        bind.extend_from_slice(&u16::try_from(arrays.len()).unwrap().to_be_bytes());
        for array in &arrays {
            bind.extend_from_slice(&u32::try_from(array.len()).unwrap().to_be_bytes());
            bind.extend_from_slice(array.as_bytes());
        }
        bind.extend_from_slice(b"\0\0");
        self.message(b'P', &parse);
        self.message(b'B', &bind);
        self.message(b'E', b"\0\0\0\0\0");
        self.message(b'S', b"");
        let done = self.sync().unwrap();
        // `INSERT 0 4000`.
        done.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

impl Postgres {
    fn open(address: SocketAddr) -> Result<Self, String> {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let body = [&196_608_u32.to_be_bytes()[..], b"user\0postgres\0\0"].concat();
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        stream.write_all(&[&length[..], &body].concat()).unwrap();
        let mut client = Self { stream };
        client.sync().map(|_| client)
    }

    fn message(&mut self, kind: u8, body: &[u8]) {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        self.stream
            .write_all(&[&[kind], &length[..], body].concat())
            .unwrap();
    }

    /// Reads until it is ready for the next query; what the last command did.
    fn sync(&mut self) -> Result<String, String> {
        let mut done = String::new();
        loop {
            let mut head = [0; 5];
            self.stream.read_exact(&mut head).unwrap();
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
            let mut body = vec![0; usize::try_from(length).unwrap() - 4];
            self.stream.read_exact(&mut body).unwrap();
            match head[0] {
                b'E' => return Err(String::from_utf8_lossy(&body).replace('\0', " ")),
                b'C' => done = String::from_utf8_lossy(&body[..body.len() - 1]).into_owned(),
                b'Z' => return Ok(done),
                _ => {}
            }
        }
    }
}

/// An array of texts, as PostgreSQL reads it.
fn array<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = texts
        .map(|text| format!("\"{}\"", text.replace('"', "\\\"")))
        .collect();
    format!("{{{}}}", quoted.join(","))
}
