//! Looks at the southbound database. Nothing is ever written there: it belongs to ovn-northd and the hypervisors.

use ovncp_ovn::contents::Contents;

use super::{Network, NetworkError, Seen};
use crate::services::reads::Consistency;

impl Network {
    /// Looks at the southbound replica, once it is as fresh as asked. `look` keeps updates waiting.
    pub async fn read_southbound<T>(
        &self,
        consistency: Consistency,
        look: impl FnOnce(&Contents) -> T,
    ) -> Result<Seen<T>, NetworkError> {
        let database = self.southbound()?;
        if consistency == Consistency::Linearizable {
            self.inner()?.pass(database).await?;
        }
        let status = database.status();
        match database.read(look) {
            Some(value) => Ok(Seen { value, age: if status.in_sync { None } else { status.age } }),
            None => {
                let reason = status.problem.unwrap_or_else(|| "its contents are still being read".to_owned());
                Err(NetworkError::Unavailable { reason })
            }
        }
    }
}
