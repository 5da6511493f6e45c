//! A node's seat in a cluster: taken once, for good.
//!
//! Before: no Raft runs here, and what was agreed may be agreed anew. Taking the seat makes cluster, id and key
//! durable in the data directory and starts openraft; from then on this data directory belongs to that cluster.

use futures_util::future::BoxFuture;
use ovncp_state::Incarnation;

use crate::agreement::Agreement;
use crate::shared::Membership;

/// Why a seat cannot be taken or an agreement not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SeatError {
    /// A seat is taken already, perhaps in another cluster.
    #[error("this node belongs to a cluster already")]
    Taken,
    /// Nothing was agreed, or this data directory has no place in it.
    #[error("this node agreed to no cluster")]
    NotAgreed,
    /// The disk or openraft failed: this node must stop.
    #[error("{0}")]
    Failed(String),
}

/// The seat of this node. Its methods are serialised with each other.
pub(crate) trait Seat: Send + Sync + 'static {
    /// This node's data directory.
    fn incarnation(&self) -> Incarnation;
    /// What was agreed last.
    fn agreement(&self) -> BoxFuture<'_, Option<Agreement>>;
    /// Agrees to a cluster that is about to be founded; durable when it resolves. Replaces an earlier
    /// agreement, never a seat.
    fn agree(&self, agreement: Agreement) -> BoxFuture<'_, Result<(), SeatError>>;
    /// Takes the seat and starts consensus. Taking the same one again is no error.
    fn take(&self, place: Membership) -> BoxFuture<'_, Result<(), SeatError>>;
    /// Writes down that this data directory must not be used again, and why.
    fn quarantine(&self, reason: String) -> BoxFuture<'_, std::io::Result<()>>;
    /// Takes the agreed seat, as the first Raft message of that cluster asks for.
    fn take_agreed(&self) -> BoxFuture<'_, Result<(), SeatError>>;
}
