//! Clients of all nodes at once, through every fault.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fastrand::Rng;
use parking_lot::Mutex;
use serde_json::json;

use crate::http::Connection;
use crate::ledger::{Accepted, Ledger, PRIORITIES};
use crate::server::{Server, poll};

/// Clients of each node.
const CLIENTS: usize = 2;

/// Microseconds since the epoch, to compare with the server's timestamps.
#[allow(clippy::disallowed_methods, reason = "a client has no other clock")]
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_micros()).unwrap()
}

/// Submits, and enters it once it is acknowledged; its id.
pub(crate) fn submit(
    connection: &mut Connection,
    ledger: &Mutex<Ledger>,
    ids: Vec<i64>,
    rank: usize,
) -> std::io::Result<String> {
    let body = json!({"ids": &ids, "priority": PRIORITIES[rank]}).to_string();
    let sent_at = now();
    let reply = connection.post_json("/ingest", &body)?;
    let answered_at = now();
    if reply.status == 503 {
        // The database is away: whether it was stored can't be told.
        return Err(std::io::Error::other(reply.text()));
    }
    assert_eq!(reply.status, 200, "{}", reply.text());
    let id = reply.json()["ingestion_id"].as_str().unwrap().to_owned();
    ledger.lock().accepted(Accepted {
        id: id.clone(),
        ids,
        rank,
        sent_at,
        answered_at,
    });
    Ok(id)
}

/// Waits until all that was acknowledged has completed, and enters what it says.
pub(crate) fn complete(server: &Server, ledger: &Mutex<Ledger>) {
    let accepted = ledger.lock().all_accepted();
    for ingestion in &accepted {
        poll("everything completes", || {
            let path = format!("/status/{}?view=summary&wait=5s", ingestion.id);
            let reply = server.get(&path).unwrap();
            if reply.status == 503 {
                return None;
            }
            assert_eq!(reply.status, 200, "{}: {}", ingestion.id, reply.text());
            (reply.json()["status"] == "completed").then_some(())
        });
        let asked = ledger.lock().asks();
        let reply = server.get(&format!("/status/{}", ingestion.id)).unwrap();
        assert_eq!(reply.status, 200, "{} is lost", ingestion.id);
        ledger.lock().saw(&reply.json(), asked);
    }
}

/// Clients that submit and look, until they are told to stop. A node that does not answer is tried
/// again.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn start(nodes: &[SocketAddr], rng: &mut Rng, ledger: &Arc<Mutex<Ledger>>) -> Self {
        let (stop, answers) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let clients = nodes.iter().cycle().take(nodes.len() * CLIENTS);
        let clients = clients.map(|address| {
            let client = Client {
                address: *address,
                rng: rng.fork(),
                ledger: Arc::clone(ledger),
                stop: Arc::clone(&stop),
                answers: Arc::clone(&answers),
            };
            std::thread::spawn(move || client.run())
        });
        Self {
            clients: clients.collect(),
            stop,
            answers,
        }
    }

    /// Until so many more requests were answered.
    pub(crate) fn wait_for(&self, more: usize) {
        let target = self.answers.load(Ordering::Relaxed) + more;
        poll("requests are answered", || {
            (self.answers.load(Ordering::Relaxed) >= target).then_some(())
        });
    }

    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            client.join().expect("a client met a wrong answer");
        }
    }
}

struct Client {
    address: SocketAddr,
    rng: Rng,
    ledger: Arc<Mutex<Ledger>>,
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
}

impl Client {
    fn run(mut self) {
        while !self.stop.load(Ordering::SeqCst) {
            if let Ok(mut connection) = Connection::open(self.address) {
                while !self.stop.load(Ordering::SeqCst) && self.ask(&mut connection).is_ok() {
                    self.answers.fetch_add(1, Ordering::Relaxed);
                }
            }
            // sleep: the pause before a node that does not answer is tried again.
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn ask(&mut self, connection: &mut Connection) -> std::io::Result<()> {
        if self.rng.u8(0..4) == 0 {
            let ids: Vec<i64> = (0..self.rng.usize(1..=4))
                .map(|_| self.rng.i64(..))
                .collect();
            let rank = self.rng.usize(0..PRIORITIES.len());
            submit(connection, &self.ledger, ids, rank)?;
            return Ok(());
        }
        let Some(chosen) = self.ledger.lock().choose(&mut self.rng) else {
            return Ok(());
        };
        let asked = self.ledger.lock().asks();
        let reply = connection.get(&format!("/status/{}?wait=30ms", chosen.id))?;
        if reply.status == 503 {
            return Err(std::io::Error::other(reply.text()));
        }
        assert_eq!(reply.status, 200, "{} is lost: {}", chosen.id, reply.text());
        self.ledger.lock().saw(&reply.json(), asked);
        Ok(())
    }
}
