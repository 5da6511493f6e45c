//! How far a write has come: committed, in the southbound database, on every hypervisor.
//!
//! OVN counts configurations: whoever raises `NB_Global.nb_cfg` sees `sb_cfg` follow when ovn-northd has carried
//! everything up to there into the southbound database, and `hv_cfg` when every ovn-controller has applied it. Callers that wait at
//! the same time share one raise, provided that it began after they came: it then stands behind their writes.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value as Json;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::database::Database;
use crate::error::TransactError;
use crate::operation::{Condition, Mutation, Mutator, Operation};

const TABLE: &str = "NB_Global";
const RAISED: &str = "nb_cfg";

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The southbound database.
    Southbound,
    /// Every hypervisor.
    Hypervisors,
}

impl Reach {
    fn column(self) -> &'static str {
        match self {
            Self::Southbound => "sb_cfg",
            Self::Hypervisors => "hv_cfg",
        }
    }
}

/// The barrier was not passed. Whatever was committed before it was called stays committed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BarrierError {
    /// Not in time. It may be passed later.
    #[error("the write is committed, but {what} has come to {reached} of {wanted} so far")]
    Open {
        /// Name of the counter that was waited for.
        what: &'static str,
        /// Where it should be.
        wanted: i64,
        /// Where it was last seen.
        reached: i64,
    },
    /// The counter could not be raised or followed.
    #[error("the write is committed, but the barrier failed: {0}")]
    Failed(#[from] TransactError),
}

/// The barrier of one northbound database.
pub struct Barrier {
    database: Database,
    /// Orders arrivals and raises.
    order: AtomicU64,
    /// The last raise: when it began, in that order, and the count that it led to.
    raised: Mutex<Option<(u64, i64)>>,
}

impl fmt::Debug for Barrier {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Barrier").field("raised", &self.raised).finish_non_exhaustive()
    }
}

impl Barrier {
    /// The barrier of this northbound database.
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self { database, order: AtomicU64::new(0), raised: Mutex::new(None) }
    }

    /// Waits until everything that was committed before this call has come so far.
    ///
    /// # Errors
    /// It takes longer than `timeout`, or the database fails meanwhile.
    pub async fn wait(&self, reach: Reach, timeout: Duration) -> Result<(), BarrierError> {
        let deadline = Instant::now() + timeout;
        let what = reach.column();
        let late =
            || TransactError::Unavailable { reason: format!("{RAISED} was not raised within {timeout:?}") };
        let wanted = timeout_at(deadline, self.raise()).await.map_err(|_| late())??;
        // Before the first look, so that no change is missed in between.
        let mut changes = self.database.subscribe(None);
        loop {
            let reached = self.count(what);
            if reached >= wanted {
                return Ok(());
            }
            match timeout_at(deadline, changes.next()).await {
                Ok(Some(_)) => {}
                Ok(None) => {
                    let reason = "the database was closed".to_owned();
                    return Err(TransactError::Unavailable { reason }.into());
                }
                Err(_) => return Err(BarrierError::Open { what, wanted, reached }),
            }
        }
    }

    /// Raises the counter, or takes the count of somebody who began to raise it after this call.
    async fn raise(&self) -> Result<i64, TransactError> {
        let arrived = self.order.fetch_add(1, Ordering::SeqCst);
        let mut raised = self.raised.lock().await;
        if let Some((began, count)) = *raised
            && began > arrived
        {
            return Ok(count);
        }
        let began = self.order.fetch_add(1, Ordering::SeqCst);
        let everywhere = Condition::default();
        let add = Mutation { column: RAISED.into(), mutator: Mutator::Add, value: 1.into() };
        let operations = vec![
            Operation::Mutate { table: TABLE.into(), condition: everywhere.clone(), mutations: vec![add] },
            Operation::Select {
                table: TABLE.into(),
                condition: everywhere,
                columns: Some(vec![RAISED.into()]),
            },
        ];
        let results = self.database.transact(operations).await?;
        let rows = results.get(1).and_then(|result| result.rows.as_deref()).unwrap_or_default();
        let Some(count) = rows.first().and_then(|row| row[RAISED].as_i64()) else {
            let reason = format!("{TABLE} has no row: has ovn-nbctl init been run?");
            return Err(TransactError::Unavailable { reason });
        };
        *raised = Some((began, count));
        Ok(count)
    }

    /// What a counter says here; less than any count when it is not there.
    fn count(&self, column: &str) -> i64 {
        let count = self.database.read(|contents| {
            let table = contents.table(TABLE)?;
            let row = table.rows().next()?;
            table.schema().value(row, column)?.atoms().first().map(crate::value::Atom::to_plain)
        });
        count.flatten().as_ref().and_then(Json::as_i64).unwrap_or(i64::MIN)
    }
}
