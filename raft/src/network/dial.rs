//! From an address to a connection that passed its hand-shake.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ovncp_state::NodeId;
use ovncp_storage::runtime::random_u64;
use ovncp_storage::types::Peer;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::admission::{self, Admission};
use super::client::{DialError, NetworkOptions, PeerSight, Sights};
use super::conn::Conn;
use super::handshake::{self, Hello};
use super::identity::{Directory, Identity, Lane, Target};
use super::link::PeerEntry;
use super::net::Net;

/// What every part of the transport of one node shares.
pub(super) struct Shared<N: Net> {
    pub(super) net: N,
    pub(super) identity: Arc<Identity>,
    pub(super) directory: Arc<dyn Directory>,
    pub(super) options: NetworkOptions,
    pub(super) admission: Admission,
    pub(super) peers: Mutex<BTreeMap<NodeId, PeerEntry>>,
    pub(super) sights: watch::Sender<Sights>,
    /// Becomes true once: everything ends.
    pub(super) closing: watch::Sender<bool>,
    /// The tasks of the links.
    pub(super) tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// Locks without minding a panic elsewhere: no critical section of the transport leaves things half done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Resolves when everything ends.
pub(super) async fn closed(closing: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone: the same.
    let _ = closing.wait_for(|closing| *closing).await;
}

impl<N: Net> Shared<N> {
    /// Dials a member.
    pub(super) async fn dial_peer(
        &self,
        id: NodeId,
        peer: &Peer,
        lane: Lane,
    ) -> Result<Conn<N::Stream>, DialError> {
        let target = Target {
            id: Some(id),
            name: (!peer.name.is_empty()).then(|| peer.name.clone()),
            incarnation: self.directory.member(id).map(|member| member.incarnation),
        };
        self.dial(&peer.addr, lane, target).await
    }

    /// Dials an address and checks who answers.
    pub(super) async fn dial(
        &self,
        addr: &str,
        lane: Lane,
        target: Target,
    ) -> Result<Conn<N::Stream>, DialError> {
        if *self.closing.borrow() {
            return Err(DialError::Stopped);
        }
        let stream = match timeout(self.options.connect_timeout, self.net.connect(addr)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return Err(DialError::ConnectionRefused);
            }
            Ok(Err(error)) => return Err(DialError::Io(error.to_string())),
            Err(_) => return Err(DialError::Timeout),
        };
        let own = self.identity.present();
        let hello = Hello { lane, from: own.clone(), target: target.clone() };
        let conn = timeout(self.options.handshake_timeout, handshake::introduce(stream, &hello))
            .await
            .map_err(|_| DialError::Timeout)??;
        admission::judge_welcome(&own, self.directory.as_ref(), &conn.peer, &target)?;
        self.admission.note(&conn.peer)?;
        debug!(addr, %lane, peer = conn.peer.name, boot = conn.peer.boot, "connected to a peer");
        Ok(conn)
    }

    /// Changes what is seen of a peer, and tells watchers if that is news. Peers outside of `set_peers` are not
    /// watched.
    pub(super) fn see(&self, id: NodeId, change: impl FnOnce(&mut PeerSight)) {
        self.sights.send_if_modified(|sights| {
            let Some(sight) = sights.get_mut(&id) else { return false };
            let before = sight.clone();
            change(sight);
            *sight != before
        });
    }

    /// Pause before the dial after `failures` failed ones: doubled each time, spread over its upper half.
    pub(super) fn redial_pause(&self, failures: u32) -> Duration {
        let NetworkOptions { redial_min, redial_max, .. } = self.options;
        let full = redial_min.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(redial_max);
        let half = full / 2;
        let spread = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1);
        half + Duration::from_micros(random_u64() % spread)
    }
}

/// Tells the operator about a peer once per change, not once per attempt. The heartbeat lane, which is kept open
/// to every peer, speaks for all; the others are for debugging.
#[derive(Default)]
pub(super) struct LaneLog {
    last: Option<Result<(), DialError>>,
}

impl LaneLog {
    /// Connected.
    pub(super) fn up(&mut self, peer: &Peer, lane: Lane) {
        let news = self.last.replace(Ok(())) != Some(Ok(()));
        if news && lane == Lane::Heartbeat {
            info!(peer = peer.name, addr = peer.addr, "peer connected");
        }
    }

    /// A connection ended.
    pub(super) fn lost(&mut self, peer: &Peer, lane: Lane, why: &dyn std::fmt::Display) {
        self.last = None;
        if lane == Lane::Heartbeat {
            warn!(peer = peer.name, addr = peer.addr, %why, "connection to peer lost");
        } else {
            debug!(peer = peer.name, addr = peer.addr, %lane, %why, "connection to peer lost");
        }
    }

    /// A dial failed.
    pub(super) fn down(&mut self, peer: &Peer, lane: Lane, why: &DialError) {
        let news = Some(Err(why.clone()));
        if self.last != news && lane == Lane::Heartbeat {
            warn!(peer = peer.name, addr = peer.addr, %why, "peer not reached, trying on");
        } else {
            debug!(peer = peer.name, addr = peer.addr, %lane, %why, "peer not reached");
        }
        self.last = news;
    }
}
