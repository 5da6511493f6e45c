//! All that the group asks of openraft, behind one object-safe seam.
//!
//! `openraft::Raft` is generic over the state machine and so over the disk; nothing above this file is. It is
//! also the one place that says which of openraft's errors mean that a proposal was **not appended**:
//!
//! - `ForwardToLeader` on a write: the core refused it before its log (not the leader, not the leader of the
//!   asked term, handing over, or the lease ran out). Nothing happened.
//! - `LogEntryDiscarded`: it *was* appended and the local copy was cut off by another leader's log; that leader
//!   may still have committed it. Not known.
//! - A write that could not be sent because the core stopped: never reached it. Nothing happened.
//! - A write that was sent and whose responder was dropped (the core stopped later): not known.
//!
//! `ChangeMembershipError` and `PreconditionFailed` belong to changes of membership only; neither writes.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::BoxFuture;
use openraft::alias::{LogIdOf, VoteOf, WatchReceiverOf};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardToLeader, LinearizableReadError, RaftError};
use openraft::impls::ProgressResponder;
use openraft::raft::TransferLeaderRequest;
use openraft::storage::RaftStateMachine;
use openraft::{ChangeMembers, Precondition, Raft, RaftMetrics, ReadPolicy};
use ovncp_state::{LogIndex, NodeId};
use ovncp_storage::types::{Peer, Proposal, TypeConfig};

use crate::network::message::ReadIndexRefusal;

/// openraft's report on itself.
pub(crate) type Metrics = RaftMetrics<TypeConfig>;
/// Follows [`Metrics`].
pub(crate) type MetricsWatch = WatchReceiverOf<TypeConfig, Metrics>;
/// A change of members or voters.
pub(crate) type Change = ChangeMembers<u64, Peer>;

/// What became of one submitted proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Submitted {
    /// Appended; whether it commits is decided by the log.
    Appended,
    /// Surely not appended, and never will be.
    Refused {
        /// Who may lead instead.
        leader: Option<NodeId>,
    },
}

/// Why a change of membership was not made, or not finished.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChangeError {
    /// This node does not lead.
    #[error("not the leader")]
    NotLeader,
    /// The membership is not the one the change was decided on, or another change is under way.
    #[error("the membership changed meanwhile: {0}")]
    Conflict(String),
    /// This node stops.
    #[error("consensus stopped: {0}")]
    Stopped(String),
}

/// openraft, as the group sees it.
pub(crate) trait Consensus: Send + Sync + 'static {
    /// Appends `proposals` in order, only while this node leads `term`. Resolves when the fate of each before
    /// the log is known: refused at the door, or appended (then after it was applied or lost its leader).
    fn submit(&self, proposals: Vec<Proposal>, term: u64) -> BoxFuture<'static, Vec<Submitted>>;
    /// Confirms with a quorum that this node leads *now*, and names what a reader must have applied.
    fn read_index(&self) -> BoxFuture<'static, Result<LogIndex, ReadIndexRefusal>>;
    /// The last report. Never held across an await: the core waits for readers of its watch channel.
    fn metrics(&self) -> Metrics;
    /// Everybody in the membership that counts now, committed or not, and in the last one that is surely committed:
    /// whoever else there is receives no entry that is appended from now on.
    fn members(&self) -> BTreeSet<NodeId>;
    /// Follows the reports.
    fn watch(&self) -> MetricsWatch;
    /// Writes the first membership into an empty log. Harmless when there is one.
    fn initialize(&self, members: BTreeMap<u64, Peer>) -> BoxFuture<'static, Result<(), String>>;
    /// Changes members or voters if the membership is still the one at `decided_on` and `term` still lasts.
    fn change(
        &self,
        change: Change,
        retain: bool,
        decided_on: Option<LogIdOf<TypeConfig>>,
        term: u64,
    ) -> BoxFuture<'static, Result<(), ChangeError>>;
    /// Asks `to` to take over.
    fn transfer(&self, to: NodeId) -> BoxFuture<'static, ()>;
    /// Forgets the lease of the leader with this vote, so that this node may vote at once.
    fn forget_lease(&self, vote: VoteOf<TypeConfig>) -> BoxFuture<'static, ()>;
    /// Campaigns, after a pre-vote.
    fn campaign(&self) -> BoxFuture<'static, ()>;
    /// Resolves when the core has taken up what was sent to it before: it makes progress, or has stopped.
    fn probe(&self) -> BoxFuture<'static, ()>;
    /// Stops the core. Nothing is appended, voted or applied afterwards.
    fn shutdown(&self) -> BoxFuture<'static, ()>;
}

impl<SM> Consensus for Raft<TypeConfig, SM>
where
    SM: RaftStateMachine<TypeConfig>,
{
    fn submit(&self, proposals: Vec<Proposal>, term: u64) -> BoxFuture<'static, Vec<Submitted>> {
        let raft = self.clone();
        Box::pin(async move {
            let mut results = Vec::with_capacity(proposals.len());
            for proposal in proposals {
                let (responder, result) = ProgressResponder::complete_only();
                let sent = raft.write(proposal).with_leader(term).responder(responder).await;
                results.push(sent.is_ok().then_some(result));
            }
            let mut fates = Vec::with_capacity(results.len());
            for result in results {
                fates.push(match result {
                    None => Submitted::Refused { leader: None },
                    Some(result) => match result.await {
                        Ok(Err(ClientWriteError::ForwardToLeader(forward))) => {
                            Submitted::Refused { leader: hint(&forward) }
                        }
                        _ => Submitted::Appended,
                    },
                });
            }
            fates
        })
    }

    fn read_index(&self) -> BoxFuture<'static, Result<LogIndex, ReadIndexRefusal>> {
        let raft = self.clone();
        Box::pin(async move {
            match raft.get_read_log_id(ReadPolicy::ReadIndex).await {
                Ok((read, _applied)) => Ok(LogIndex(read.log_id().index())),
                Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                    Err(ReadIndexRefusal::NotLeader { hint: hint(&forward) })
                }
                Err(RaftError::APIError(_)) => Err(ReadIndexRefusal::NotConfirmed),
                Err(RaftError::Fatal(_)) => Err(ReadIndexRefusal::NotLeader { hint: None }),
            }
        })
    }

    fn metrics(&self) -> Metrics {
        Raft::metrics(self).borrow_watched().clone()
    }

    fn members(&self) -> BTreeSet<NodeId> {
        let metrics = Raft::metrics(self);
        let metrics = metrics.borrow_watched();
        [&metrics.membership_config, &metrics.committed_membership_config]
            .iter()
            .flat_map(|known| known.membership().nodes())
            .map(|(id, _)| NodeId(*id))
            .collect()
    }

    fn watch(&self) -> MetricsWatch {
        Raft::metrics(self)
    }

    fn initialize(&self, members: BTreeMap<u64, Peer>) -> BoxFuture<'static, Result<(), String>> {
        let raft = self.clone();
        Box::pin(async move {
            use openraft::errors::InitializeError;
            match raft.initialize(members).await {
                // "Not allowed" says that there is a log or a vote: the cluster exists.
                Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
                Err(error) => Err(error.to_string()),
            }
        })
    }

    fn change(
        &self,
        change: Change,
        retain: bool,
        decided_on: Option<LogIdOf<TypeConfig>>,
        term: u64,
    ) -> BoxFuture<'static, Result<(), ChangeError>> {
        let raft = self.clone();
        Box::pin(async move {
            let guards = [
                Precondition::LastMembershipLogId { last_membership_log_id: decided_on },
                Precondition::CommittedLeaderId { committed_leader_id: term.into() },
            ];
            match raft.change_membership_if(change, retain, guards).await {
                Ok(_) => Ok(()),
                Err(RaftError::APIError(
                    ClientWriteError::ForwardToLeader(_) | ClientWriteError::LogEntryDiscarded(_),
                )) => Err(ChangeError::NotLeader),
                Err(RaftError::APIError(error)) => Err(ChangeError::Conflict(error.to_string())),
                Err(RaftError::Fatal(error)) => Err(ChangeError::Stopped(error.to_string())),
            }
        })
    }

    fn transfer(&self, to: NodeId) -> BoxFuture<'static, ()> {
        let raft = self.clone();
        Box::pin(async move {
            let _ = raft.trigger().transfer_leader(to.0).await;
        })
    }

    fn forget_lease(&self, vote: VoteOf<TypeConfig>) -> BoxFuture<'static, ()> {
        let raft = self.clone();
        Box::pin(async move {
            // A transfer to nobody: openraft only drops the lease, and only while `vote` is still the vote of
            // this node. Node ids start at 1.
            let request = TransferLeaderRequest::new(vote, 0, None);
            let _ = raft.handle_transfer_leader(request).await;
        })
    }

    fn campaign(&self) -> BoxFuture<'static, ()> {
        let raft = self.clone();
        Box::pin(async move {
            let _ = raft.trigger().elect(true).await;
        })
    }

    fn probe(&self) -> BoxFuture<'static, ()> {
        let raft = self.clone();
        Box::pin(async move {
            let _ = raft.with_raft_state(|_| ()).await;
        })
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        let raft = self.clone();
        Box::pin(async move {
            let _ = Raft::shutdown(&raft).await;
        })
    }
}

fn hint(forward: &ForwardToLeader<TypeConfig>) -> Option<NodeId> {
    forward.leader_id.map(NodeId)
}
