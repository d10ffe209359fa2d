//! Redis: a key for each identity, and a stream.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use super::super::other::{Other, find};
use super::{Client, member};

pub(super) fn start() -> Option<Other> {
    Other::start("redis-server", |home, port| {
        let mut command = Command::new(find("redis-server").unwrap());
        command
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir"])
            .arg(home.path())
            .args([
                "--appendonly",
                "yes",
                "--appendfsync",
                "always",
                "--save",
                "",
            ]);
        command
    })
}

/// One connection.
pub(super) struct Redis {
    stream: BufReader<TcpStream>,
    out: Vec<u8>,
}

impl Client for Redis {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream: BufReader::new(stream),
            out: Vec::new(),
        }
    }

    fn store(&mut self, events: &[Vec<u8>]) -> u64 {
        for event in events {
            let key = member(event, "event_id").as_bytes();
            let key = [b"seen:", key].concat();
            command(&mut self.out, &[b"SET", &key, b"1", b"NX"]);
        }
        self.send();
        // A value for a key that is new, nil for one that was there.
        let new: Vec<&Vec<u8>> = events.iter().filter(|_| self.reply()).collect();
        for event in &new {
            command(&mut self.out, &[b"XADD", b"events", b"*", b"event", event]);
        }
        self.send();
        for _ in &new {
            assert!(self.reply());
        }
        u64::try_from(new.len()).unwrap()
    }
}

impl Redis {
    fn send(&mut self) {
        self.stream.get_mut().write_all(&self.out).unwrap();
        self.out.clear();
    }

    /// Whether the next reply is a value.
    fn reply(&mut self) -> bool {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        if let Some(length) = line.strip_prefix('$') {
            let length: i64 = length.trim().parse().unwrap();
            let Ok(length) = usize::try_from(length) else {
                return false;
            };
            let mut value = vec![0; length + 2];
            self.stream.read_exact(&mut value).unwrap();
            return true;
        }
        assert!(line.starts_with('+'), "{line}");
        true
    }
}

fn command(out: &mut Vec<u8>, parts: &[&[u8]]) {
    write!(out, "*{}\r\n", parts.len()).unwrap();
    for part in parts {
        write!(out, "${}\r\n", part.len()).unwrap();
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}
