//! A switch in user space: frames come from one TAP device, are judged, and go to the others.
//!
//! Ports have fixed MAC addresses, so nothing is learnt: the last byte of a unicast destination names its port,
//! anything else goes to all. Only IPv4 frames that have one receiver are judged and counted; ARP and the like obey
//! cuts, but a lost ARP request is no effect worth counting. A cut takes what is under way too: frames that wait are
//! looked at once more when they are due.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::{Fate, Links};

/// Longest frame: 1500 bytes, Ethernet header and a VLAN tag.
pub(super) const FRAME_BYTES_MAX: usize = 1518;
/// Bytes of destination, source and type.
const HEADER_BYTES: usize = 14;
/// Frames that wait on one ordered pair; more are dropped, as by a full queue.
const WAITING_MAX: usize = 20_000;
/// What all MAC addresses of a run begin with: locally administered.
const MAC_PREFIX: [u8; 5] = [0x02, 0x6f, 0x76, 0x6a, 0x00];
/// EtherType of IPv4.
const IPV4: [u8; 2] = [0x08, 0x00];

/// MAC address of port `number`.
pub(super) fn mac(number: u8) -> [u8; 6] {
    let [a, b, c, d, e] = MAC_PREFIX;
    [a, b, c, d, e, number]
}

/// Where frames leave the switch.
pub(super) trait Outlet: Send + Sync + 'static {
    /// Gives a frame to the host behind this port. A host that cannot take it loses it.
    fn deliver(&self, frame: &[u8]) -> impl Future<Output = ()> + Send;
}

/// Ports by number, and the frames that wait between them.
#[derive(Debug)]
pub(super) struct Switch<O> {
    links: Arc<Links>,
    ports: Mutex<BTreeMap<u8, Arc<Port<O>>>>,
}

#[derive(Debug)]
struct Port<O> {
    host: String,
    links: Arc<Links>,
    outlet: O,
    waiting: Mutex<Waiting>,
    wake: Notify,
}

/// Frames to one port, by due time; those of equal time in the order of their arrival.
#[derive(Debug, Default)]
struct Waiting {
    sequence: u64,
    frames: BinaryHeap<Reverse<Late>>,
}

/// A frame that waits: when it is due, its place among those of the same time, its bytes, who sent it.
type Late = (Instant, u64, Vec<u8>, String);

impl<O: Outlet> Switch<O> {
    pub(super) fn new(links: Arc<Links>) -> Self {
        Self { links, ports: Mutex::default() }
    }

    /// Connects a host. The future delivers what waits for it and never ends.
    pub(super) fn connect(
        &self,
        number: u8,
        host: &str,
        outlet: O,
    ) -> impl Future<Output = ()> + Send + use<O> {
        let (waiting, wake) = (Mutex::default(), Notify::new());
        let links = Arc::clone(&self.links);
        let port = Arc::new(Port { host: host.to_owned(), links, outlet, waiting, wake });
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::clone(&port));
        async move { port.deliver_due().await }
    }

    fn receivers(&self, from: u8, frame: &[u8]) -> Vec<Arc<Port<O>>> {
        let ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        if frame[..5] == MAC_PREFIX {
            return ports.get(&frame[5]).filter(|_| frame[5] != from).cloned().into_iter().collect();
        }
        ports.iter().filter(|(number, _)| **number != from).map(|(_, port)| Arc::clone(port)).collect()
    }

    /// Takes a frame that the host `host` behind port `from` sent.
    pub(super) async fn take(&self, from: u8, host: &str, frame: &[u8]) {
        if frame.len() < HEADER_BYTES {
            return;
        }
        let judged = frame[..5] == MAC_PREFIX && frame[12..14] == IPV4;
        for port in self.receivers(from, frame) {
            let fate = match judged {
                true => self.links.judge(host, &port.host, frame.len(), Instant::now()),
                false if self.links.is_cut(host, &port.host) => Fate::Drop,
                false => Fate::Pass,
            };
            match fate {
                Fate::Pass => port.outlet.deliver(frame).await,
                Fate::Drop => {}
                Fate::Later(due) => due.into_iter().for_each(|due| port.enqueue(due, frame, host)),
            }
        }
    }
}

impl<O: Outlet> Port<O> {
    fn enqueue(&self, due: Instant, frame: &[u8], from: &str) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.frames.len() >= WAITING_MAX {
            return;
        }
        waiting.sequence += 1;
        let entry = (due, waiting.sequence, frame.to_vec(), from.to_owned());
        waiting.frames.push(Reverse(entry));
        drop(waiting);
        self.wake.notify_one();
    }

    /// The next frame that is due, or when the next one will be.
    fn next(&self) -> Result<(Vec<u8>, String), Option<Instant>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match waiting.frames.peek() {
            None => Err(None),
            Some(Reverse((due, ..))) if *due > Instant::now() => Err(Some(*due)),
            Some(_) => waiting.frames.pop().map(|Reverse((_, _, frame, from))| (frame, from)).ok_or(None),
        }
    }

    async fn deliver_due(&self) {
        loop {
            match self.next() {
                Ok((frame, from)) if self.links.held(&from, &self.host, frame.len()) => drop(frame),
                Ok((frame, _)) => self.outlet.deliver(&frame).await,
                Err(None) => self.wake.notified().await,
                // An earlier frame may come meanwhile.
                Err(Some(due)) => drop(tokio::time::timeout_at(due.into(), self.wake.notified()).await),
            }
        }
    }
}

#[cfg(test)]
#[path = "switch_tests.rs"]
mod tests;
