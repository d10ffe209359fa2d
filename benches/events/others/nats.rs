//! NATS JetStream: a stream whose server drops messages with an identifier that it has seen in the
//! last hour.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use super::super::other::{Other, find};
use super::{Client, member};

pub(super) fn start() -> Option<Other> {
    let other = Other::start("nats-server", |home, port| {
        let mut command = Command::new(find("nats-server").unwrap());
        command.args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"]);
        command.arg(home.path());
        command
    })?;
    let mut client = Nats::connect(other.address);
    let config = r#"{"name":"events","subjects":["events"],"storage":"file","retention":"limits",
        "max_consumers":-1,"max_msgs":-1,"max_bytes":-1,"max_age":0,"num_replicas":1,
        "discard":"old","duplicate_window":3600000000000}"#;
    let (inbox, length) = (&client.inbox, config.len());
    let create = format!("PUB $JS.API.STREAM.CREATE.events {inbox} {length}\r\n{config}\r\n");
    client
        .stream
        .get_mut()
        .write_all(create.as_bytes())
        .unwrap();
    let answer = client.message();
    assert!(!answer.contains("\"error\""), "{answer}");
    Some(other)
}

/// One connection.
pub(super) struct Nats {
    stream: BufReader<TcpStream>,
    inbox: String,
    out: Vec<u8>,
}

impl Client for Nats {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Self {
            stream: BufReader::new(stream),
            inbox: format!("_INBOX.{:016x}", fastrand::u64(..)),
            out: Vec::new(),
        };
        let options = r#"{"verbose":false,"pedantic":false,"headers":true,"no_responders":true}"#;
        let hello = format!("CONNECT {options}\r\nSUB {} 1\r\n", client.inbox);
        client.stream.get_mut().write_all(hello.as_bytes()).unwrap();
        client
    }

    fn store(&mut self, events: &[Vec<u8>]) -> u64 {
        for event in events {
            let id = member(event, "event_id");
            let head = format!("NATS/1.0\r\nNats-Msg-Id: {id}\r\n\r\n");
            let (inbox, length) = (&self.inbox, head.len() + event.len());
            write!(
                self.out,
                "HPUB events {inbox} {} {length}\r\n{head}",
                head.len()
            )
            .unwrap();
            self.out.extend_from_slice(event);
            self.out.extend_from_slice(b"\r\n");
        }
        self.stream.get_mut().write_all(&self.out).unwrap();
        self.out.clear();
        let new = events.iter().filter(|_| {
            let answer = self.message();
            assert!(answer.contains("\"seq\""), "{answer}");
            !answer.contains("\"duplicate\"")
        });
        u64::try_from(new.count()).unwrap()
    }
}

impl Nats {
    /// The text of the next message to the inbox.
    fn message(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.stream.read_line(&mut line).unwrap(), 0, "it hung up");
            let mut words = line.split_whitespace();
            match words.next() {
                Some("PING") => self.stream.get_mut().write_all(b"PONG\r\n").unwrap(),
                Some("MSG" | "HMSG") => {
                    let length: usize = words.next_back().unwrap().parse().unwrap();
                    let mut text = vec![0; length + 2];
                    self.stream.read_exact(&mut text).unwrap();
                    return String::from_utf8(text).unwrap();
                }
                Some("INFO" | "PONG" | "+OK") => {}
                _ => panic!("{line}"),
            }
        }
    }
}
