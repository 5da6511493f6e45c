//! Why a service could not do what was asked, in domain words.

use ovncp_raft::error::{MembershipError, ProposeError, ReadError};
use ovncp_state::Refusal;

/// Everything that keeps a service from an answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ServiceError {
    /// The state says no; every node would say the same.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A write has no reply.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// A read could not be made linearizable.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The members or the leader were not changed.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// This node belongs to no cluster yet.
    #[error("this node is not a member of a cluster yet")]
    NotMember,
    /// This node serves as many of these as it may.
    #[error("limit {limit} of {max} reached on this node: try another one")]
    TooMany {
        /// Name of the bound in snake case.
        limit: &'static str,
        /// Its value.
        max: usize,
    },
    /// The wait and its grace are over and this node learned of no outcome.
    #[error(
        "outcome unknown: the lock may have been granted or may still be; retry with the same idempotency key"
    )]
    WaitUnknown,
    /// The state answered something that this command cannot have as an answer: a defect.
    #[error("unexpected reply to {command}")]
    UnexpectedReply {
        /// Name of the command.
        command: &'static str,
    },
}
