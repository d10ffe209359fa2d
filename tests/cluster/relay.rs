//! The way from a node to its database, which can be cut: then nothing gets through, and nobody is
//! told, as where a network is parted.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often it is looked whether the way is still cut.
const LOOK: Duration = Duration::from_millis(20);

pub(crate) struct Relay {
    address: SocketAddr,
    cut: Arc<AtomicBool>,
}

impl Relay {
    pub(crate) fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Self {
            address: listener.local_addr().unwrap(),
            cut: Arc::default(),
        };
        let cut = Arc::clone(&relay.cut);
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(target) else {
                    continue;
                };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let cut = Arc::clone(&cut);
                    std::thread::spawn(move || pass(&from, &to, &cut));
                }
            }
        });
        relay
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nothing gets through from now on, or all that has waited does.
    pub(crate) fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
    }
}

fn pass(mut from: &TcpStream, mut to: &TcpStream, cut: &AtomicBool) {
    let mut bytes = [0; 16 * 1024];
    loop {
        let read = from.read(&mut bytes);
        // What has come as well waits.
        while cut.load(Ordering::SeqCst) {
            // sleep: the pause between two looks.
            std::thread::sleep(LOOK);
        }
        match read {
            Ok(length @ 1..) if to.write_all(&bytes[..length]).is_ok() => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // One of the two has hung up.
            _ => {
                let _ = to.shutdown(std::net::Shutdown::Both);
                return;
            }
        }
    }
}
