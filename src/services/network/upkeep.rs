//! What one node at a time does for all: old markers of retries are dropped from the database.

use std::time::Duration;

use super::Network;
use crate::services::leader_task::Office;

/// The election for it.
pub const ELECTION: &str = "ovncp.ovn-upkeep";
/// Lease of a term.
pub const TTL: Duration = Duration::from_secs(30);
/// How long a retry of a write is known. Longer than any client waits before it tries again.
pub const MARKERS_KEPT: Duration = Duration::from_secs(48 * 60 * 60);
/// Pause between two rounds.
const INTERVAL: Duration = Duration::from_secs(60 * 60);
/// Pause after a round that failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// Drops what is too old, once in every interval until the term ends.
pub async fn run(network: Network, mut office: Office) {
    loop {
        let pause = tokio::select! {
            biased;
            () = office.ended() => return,
            pause = round(&network) => pause,
        };
        tokio::select! {
            biased;
            () = office.ended() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn round(network: &Network) -> Duration {
    let Ok(markers) = network.markers() else { return INTERVAL };
    let now = Duration::from_millis(crate::wall_clock::unix_ms());
    match markers.clean(now, MARKERS_KEPT).await {
        Ok(dropped) => {
            tracing::debug!(dropped, "old markers of retries are gone");
            INTERVAL
        }
        Err(error) => {
            tracing::debug!(%error, "old markers of retries stay for now");
            RETRY_INTERVAL
        }
    }
}
