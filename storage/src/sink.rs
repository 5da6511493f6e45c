//! Where applied entries go.

use ovncp_state::{Applied, LogIndex};

use crate::types::Origin;

/// One applied entry, for the callers and watchers of this node.
#[derive(Debug)]
pub struct AppliedEntry {
    /// Its position.
    pub index: LogIndex,
    /// Its term.
    pub term: u64,
    /// Who proposed it.
    pub origin: Origin,
    /// What it did.
    pub applied: Applied,
}

/// Receives what the state machine applied, in order. Called on the apply task: must not block.
pub trait ApplySink: Send + Sync + 'static {
    /// These entries are applied and visible to readers of this node.
    fn applied(&self, batch: Vec<AppliedEntry>);
    /// A snapshot replaced the state; entries up to `index` will not be seen one by one.
    fn installed(&self, index: LogIndex);
}

/// Drops everything; for tests of storage alone.
impl ApplySink for () {
    fn applied(&self, _batch: Vec<AppliedEntry>) {}
    fn installed(&self, _index: LogIndex) {}
}
