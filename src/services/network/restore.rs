//! Backup, and the way back: one transaction under a lock of the cluster.

use std::sync::Arc;
use std::time::Duration;

use ovncp_ovn::backup::{Backup, BackupError, Difference, Misfits, Snapshot, TooLarge};
use ovncp_ovn::contents::Contents;
use ovncp_ovn::error::TransactError;
use ovncp_ovn::fence;
use ovncp_state::Millis;
use ovncp_state::command::LockMode;

use super::{FencedBy, Network, NetworkError};
use crate::services::ServiceError;
use crate::services::locks::{Ask, Held};
use crate::services::reads::Consistency;

/// Key of the lock that restores exclude each other by.
const LOCK_KEY: &str = "ovncp.ovn:restore";
/// What keys of our own locks begin with. Locks of users may not.
pub const LOCK_PREFIX: &str = "ovncp.ovn:";
/// Lease of that lock. Nobody renews it: a restore that takes longer is fenced out by the next one.
const LOCK_TTL: Duration = Duration::from_secs(5 * 60);
/// How often a restore is planned anew when others change what it builds on.
const PLANS_MAX: usize = 4;

/// Why a restore did not happen.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It is no backup.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// It does not fit.
    #[error(transparent)]
    Misfits(#[from] Misfits),
    /// It is too much for one transaction.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// OVN or the cluster did not do it.
    #[error(transparent)]
    Network(#[from] NetworkError),
}

impl From<ServiceError> for RestoreError {
    fn from(error: ServiceError) -> Self {
        Self::Network(error.into())
    }
}

impl From<TransactError> for RestoreError {
    fn from(error: TransactError) -> Self {
        Self::Network(error.into())
    }
}

/// A restore that happened, or would.
#[derive(Debug)]
pub struct Restored {
    /// What it changed.
    pub difference: Difference,
    /// What others changed meanwhile: how far the database is from the backup after it. Empty for a dry run.
    pub remaining: Difference,
}

impl Network {
    /// The northbound database as a document.
    pub async fn backup(&self, consistency: Consistency, taken_at: String) -> Result<Backup, NetworkError> {
        let snapshot = self.read(consistency, |contents: &Contents, _| Snapshot::of(contents)).await?.value;
        blocking(move || Backup::of(&snapshot, taken_at)).await
    }

    /// What a restore would change.
    pub async fn restore_dry(&self, backup: Backup) -> Result<Restored, RestoreError> {
        let difference = self.difference(Arc::new(backup)).await?;
        Ok(Restored { difference, remaining: Difference::default() })
    }

    /// Makes the northbound database what the backup says. It goes on to its end when the caller goes away.
    pub async fn restore(&self, backup: Backup) -> Result<Restored, RestoreError> {
        let network = self.clone();
        let work = tokio::spawn(async move {
            let held = network.lock_restores().await?;
            let done = network.restore_under(Arc::new(backup), &held).await;
            let inner = network.inner()?;
            if let Err(error) = inner.locks.release(LOCK_KEY.to_owned(), &held.secret, None).await {
                tracing::warn!(%error, "the lock of a restore is left to its lease");
            }
            done
        });
        work.await.unwrap_or_else(|error| {
            let reason = format!("the restore broke off: {error}");
            Err(TransactError::OutcomeUnknown { reason }.into())
        })
    }

    async fn lock_restores(&self) -> Result<Held, RestoreError> {
        let ask = Ask {
            keys: vec![LOCK_KEY.to_owned()],
            mode: LockMode::Exclusive,
            owner: "restore".to_owned(),
            secret: None,
            ttl: Millis(u64::try_from(LOCK_TTL.as_millis()).unwrap_or(u64::MAX)),
            wait: Millis(0),
            hold_max: None,
            metadata: None,
            session: None,
            retry: None,
        };
        Ok(self.inner()?.locks.acquire(ask).await?)
    }

    async fn restore_under(&self, backup: Arc<Backup>, held: &Held) -> Result<Restored, RestoreError> {
        let inner = self.inner()?;
        let fenced = FencedBy { lock: LOCK_KEY.to_owned(), token: held.grant.token };
        let guard = inner.claim(&fenced).await?;
        for attempt in 1.. {
            let difference = self.difference(Arc::clone(&backup)).await?;
            let mut operations = vec![guard.operation()];
            operations.extend(difference.operations()?);
            if operations.len() == 1 {
                break;
            }
            match inner.northbound.transact(operations).await {
                Ok(_) => {
                    let remaining = self.difference(backup).await?;
                    return Ok(Restored { difference, remaining });
                }
                Err(error) if fence::is_fenced(&error) => {
                    return Err(fenced.refused("a later restore has begun".to_owned()).into());
                }
                // Somebody refers to what is to go, or made what is to be made.
                Err(TransactError::Rejected(rejection)) if attempt < PLANS_MAX => {
                    tracing::info!(%rejection, attempt, "a restore is planned anew");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Restored { difference: Difference::default(), remaining: Difference::default() })
    }

    /// How far the database is from the backup now.
    async fn difference(&self, backup: Arc<Backup>) -> Result<Difference, RestoreError> {
        let look = |contents: &Contents, _: &_| Snapshot::of(contents);
        let snapshot = self.read(Consistency::Linearizable, look).await?.value;
        let schema = self
            .northbound()?
            .schema()
            .ok_or_else(|| NetworkError::Unavailable { reason: "its schema is not known yet".to_owned() })?;
        let compare = move || {
            let fitted = backup.fit(&schema)?;
            Ok(fitted.difference(&snapshot))
        };
        blocking(compare).await?
    }
}

/// Work on a whole database: not on a thread that serves others.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, NetworkError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| NetworkError::Unavailable { reason: format!("the work broke off: {error}") })
}
