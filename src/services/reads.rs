//! How fresh a read is.

use ovncp_state::{LogIndex, State};

use super::{Core, ServiceError};

/// What a read must see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Every write that was answered anywhere before the read began.
    #[default]
    Linearizable,
    /// Whatever this node has applied.
    Local,
}

/// Freshness asked by one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freshness {
    /// Kind of read.
    pub consistency: Consistency,
    /// At least this index, whatever the kind.
    pub min_index: Option<LogIndex>,
}

impl Core {
    /// Looks at the state once it is fresh enough. `look` runs while apply waits: keep it short.
    pub async fn read<T>(
        &self,
        freshness: Freshness,
        look: impl FnOnce(&State) -> T,
    ) -> Result<(LogIndex, T), ServiceError> {
        if freshness.consistency == Consistency::Linearizable {
            self.group.read_barrier(self.patience.read).await?;
        }
        if let Some(index) = freshness.min_index {
            self.group.wait_applied(index, self.patience.read).await?;
        }
        Ok(self.group.read(look))
    }
}
