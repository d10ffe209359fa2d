//! PostgreSQL: a table with the identity as its key.

use std::net::SocketAddr;

use super::super::other::Other;
use super::super::postgres::{self, Postgres};
use super::{Client, member};

const TABLE: &str = "CREATE TABLE events (tenant text, topic text, event_id text,
    at timestamptz NOT NULL, event_type text, user_id text, payload text NOT NULL,
    PRIMARY KEY (tenant, topic, event_id))";

/// In the order of the key: batches that share events would wait for each other in a circle.
const INSERT: &str = "INSERT INTO events SELECT tenant, '', id, at, type, usr, payload
    FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[], $5::text[], $6::text[])
    AS t(tenant, id, at, type, usr, payload) ORDER BY tenant, id ON CONFLICT DO NOTHING";

pub(crate) fn start() -> Option<Other> {
    postgres::start(TABLE)
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

/// An array of texts, as PostgreSQL reads it.
fn array<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = texts
        .map(|text| format!("\"{}\"", text.replace('"', "\\\"")))
        .collect();
    format!("{{{}}}", quoted.join(","))
}
