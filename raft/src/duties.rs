//! What a leader does besides leading: forms the state, announces itself, ticks, watches members, runs autopilot.
//!
//! All of it begins when this node may rely on leading ([`Route::Here`]) and is dropped with the term.

use std::sync::Arc;
use std::time::Duration;

use ovncp_state::command::{AnnounceLeader, FormCluster};
use ovncp_state::{Command, Request};
use tokio::time::{Instant, sleep};

use crate::agreement::Agreement;
use crate::consensus::Consensus;
use crate::seat::Seat;
use crate::shared::{Route, Shared};
use crate::{failure, membership, proposals, ticker};

/// An entry of this kind that is not applied by then is proposed again.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause before that.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Works whenever this node leads, until it stops.
pub(crate) async fn run(shared: Arc<Shared>, consensus: Arc<dyn Consensus>, seat: Arc<dyn Seat>) {
    let mut route = shared.route.subscribe();
    loop {
        let current = *route.borrow_and_update();
        let work = async {
            match current {
                Route::Here { term } => in_office(&shared, &consensus, &*seat, term).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = work => {}
            changed = route.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = shared.until_stopped() => return,
        }
    }
}

async fn in_office(shared: &Arc<Shared>, consensus: &Arc<dyn Consensus>, seat: &dyn Seat, term: u64) {
    let since = Instant::now();
    tracing::info!(term, "leading");
    tokio::join!(
        form_and_announce(shared, seat, term),
        ticker::run(Arc::clone(shared), term),
        failure::run(Arc::clone(shared), Arc::clone(consensus), since),
        membership::run(Arc::clone(shared), Arc::clone(consensus), term),
    );
}

/// The state gets its cluster from whoever leads first, and then the name of its leader.
async fn form_and_announce(shared: &Shared, seat: &dyn Seat, term: u64) {
    while !shared.replica.read(ovncp_state::State::is_formed) {
        match seat.agreement().await {
            Some(agreement) => {
                let request = Request::from(Command::FormCluster(form(shared, agreement)));
                if let Ok(committed) = proposals::propose(shared, &request, PROPOSE_TIMEOUT).await {
                    tracing::info!(reply = ?committed.reply, "cluster formed");
                }
            }
            None => tracing::error!("leading a cluster without a state, and no agreement is known here"),
        }
        sleep(RETRY_PAUSE).await;
    }
    let announce = AnnounceLeader { id: shared.node_id().unwrap_or_default(), term };
    let request = Request::from(Command::AnnounceLeader(announce));
    while proposals::propose(shared, &request, PROPOSE_TIMEOUT).await.is_err() {
        sleep(RETRY_PAUSE).await;
    }
}

fn form(shared: &Shared, agreement: Agreement) -> FormCluster {
    let running = u64::try_from(shared.started.elapsed().as_millis()).unwrap_or(u64::MAX);
    FormCluster {
        cluster_id: agreement.cluster_id,
        formed_at_unix_ms: shared.config.started_unix_ms.saturating_add(running),
        voters_target: shared.config.voters_target,
        nodes: agreement.roster,
    }
}
