//! Addresses and ports that nobody else takes.

use std::net::{Ipv4Addr, TcpListener};

use uuid::Uuid;

use super::error::LabError;

/// Where free ports are looked for: below what Linux gives to outgoing connections, which could otherwise take the
/// port of a server that is down for a moment.
const PORTS: std::ops::Range<u16> = 16_000..20_000;

/// An address of the loopback network for one lab alone. All of 127.0.0.0/8 is local on Linux; with an address of
/// its own a lab can stop a server and find its port still free.
pub(super) fn private_address() -> Ipv4Addr {
    let random = Uuid::new_v4().into_bytes();
    // Not 127.0.x.y, where others choose by hand, and no first or last address of a network.
    Ipv4Addr::new(127, random[0] % 254 + 1, random[1], random[2] % 254 + 1)
}

/// A port of `address` that is free now and not in `taken`.
pub(super) fn free_port(address: Ipv4Addr, taken: &[u16]) -> Result<u16, LabError> {
    let mut candidates = PORTS.filter(|port| !taken.contains(port));
    candidates.find(|port| is_free(address, *port)).ok_or(LabError::NoPort { address })
}

/// Whether a server could listen there now.
pub(super) fn is_free(address: Ipv4Addr, port: u16) -> bool {
    TcpListener::bind((address, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taken_ports_are_passed_over() {
        let address = private_address();
        let first = free_port(address, &[]).unwrap();
        let _holds = TcpListener::bind((address, first)).unwrap();
        let second = free_port(address, &[]).unwrap();
        assert!(second > first);
        assert!(free_port(address, &[second]).unwrap() > second);
        assert!(!is_free(address, first));
    }
}
