//! All that the group asks of its peers, behind one object-safe seam over [`PeerNetwork`].

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::BoxFuture;
use ovncp_state::command::RenewLock;
use ovncp_state::{LogIndex, NodeId};
use ovncp_storage::types::Peer;
use tokio::sync::watch;

use crate::network::message::{
    ControlRequest, ControlResponse, ForwardItem, ForwardOutcome, ReadIndexRefusal, RenewOutcome,
};
use crate::network::{CallError, Net, PeerIdentity, PeerNetwork, Sights, SnapshotSource, Target};

/// The peers, as the group sees them. Bounding the time is the caller's business.
pub(crate) trait Peers: Send + Sync + 'static {
    /// Hands proposals to the leader.
    fn forward(
        &self,
        to: NodeId,
        items: Vec<ForwardItem>,
    ) -> BoxFuture<'static, Result<Vec<ForwardOutcome>, CallError>>;
    /// Hands renewals to the leader's collector.
    fn renew(
        &self,
        to: NodeId,
        items: Vec<RenewLock>,
    ) -> BoxFuture<'static, Result<Vec<RenewOutcome>, CallError>>;
    /// Asks the leader for a read index.
    fn read_index(
        &self,
        to: NodeId,
    ) -> BoxFuture<'static, Result<Result<LogIndex, ReadIndexRefusal>, CallError>>;
    /// One question on the control lane.
    fn control(
        &self,
        addr: String,
        target: Target,
        request: ControlRequest,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<(PeerIdentity, ControlResponse), CallError>>;
    /// The peers to stay connected to.
    fn set_peers(&self, peers: BTreeMap<NodeId, Peer>);
    /// What is seen of them.
    fn sights(&self) -> watch::Receiver<Sights>;
    /// Closes every connection.
    fn shutdown(&self) -> BoxFuture<'static, ()>;
}

impl<N: Net, S: SnapshotSource> Peers for PeerNetwork<N, S> {
    fn forward(
        &self,
        to: NodeId,
        items: Vec<ForwardItem>,
    ) -> BoxFuture<'static, Result<Vec<ForwardOutcome>, CallError>> {
        let network = self.clone();
        Box::pin(async move { PeerNetwork::forward(&network, to, &items).await })
    }

    fn renew(
        &self,
        to: NodeId,
        items: Vec<RenewLock>,
    ) -> BoxFuture<'static, Result<Vec<RenewOutcome>, CallError>> {
        let network = self.clone();
        Box::pin(async move { PeerNetwork::renew(&network, to, &items).await })
    }

    fn read_index(
        &self,
        to: NodeId,
    ) -> BoxFuture<'static, Result<Result<LogIndex, ReadIndexRefusal>, CallError>> {
        let network = self.clone();
        Box::pin(async move { PeerNetwork::read_index(&network, to).await })
    }

    fn control(
        &self,
        addr: String,
        target: Target,
        request: ControlRequest,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<(PeerIdentity, ControlResponse), CallError>> {
        let network = self.clone();
        Box::pin(async move { PeerNetwork::control(&network, &addr, target, request, timeout).await })
    }

    fn set_peers(&self, peers: BTreeMap<NodeId, Peer>) {
        PeerNetwork::set_peers(self, peers);
    }

    fn sights(&self) -> watch::Receiver<Sights> {
        PeerNetwork::sights(self)
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        let network = self.clone();
        Box::pin(async move { PeerNetwork::shutdown(&network).await })
    }
}
