//! Ports of this machine for servers that tests and benchmarks start.
#![allow(dead_code, reason = "shared: each uses its part")]

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::Range;

/// Below those that Linux gives to whom does not ask for one (`ip_local_port_range`, from 32,768).
const PORTS: Range<u16> = 20_000..32_768;

/// Ports that are tried before giving up.
const TRIES: u32 = 1_000;

/// A port that is nobody else's until this is dropped, also while no server listens there: one that
/// was killed finds it free, and no other server answers in its place.
///
/// The claim is a UDP socket on the port of the same number, which ends with the process and which
/// the tests of all processes see.
#[derive(Debug)]
pub(crate) struct Port {
    address: SocketAddr,
    _claim: UdpSocket,
}

impl Port {
    pub(crate) fn claim() -> Self {
        for _ in 0..TRIES {
            let address = (Ipv4Addr::LOCALHOST, fastrand::u16(PORTS)).into();
            // The second is of others, who claim nothing.
            if let Ok(claim) = UdpSocket::bind(address)
                && TcpListener::bind(address).is_ok()
            {
                return Self {
                    address,
                    _claim: claim,
                };
            }
        }
        panic!("no port of {PORTS:?} is free");
    }

    /// On the loopback address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn number(&self) -> u16 {
        self.address.port()
    }
}
