//! Emptying a node: its clients are asked to go elsewhere, at a bounded rate and not all at once.
//!
//! A node that is told to drain by an administrator moves its sessions at the asked rate, as long as the state says so;
//! one that stops moves them within its grace. A client that has not gone [`PATIENCE`] after it was asked is closed: it
//! comes back elsewhere, since this node takes no sockets. Where no other node could take a session, it stays.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use ovncp_state::sessions::view::SessionView;
use ovncp_state::{Refusal, SessionNumber};
use tokio::time::Instant;

use super::slot::{End, Order};
use super::{Sessions, Standing};
use crate::services::ServiceError;

/// How long a client may take to go where it was asked to.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Time between two bunches of moves; each is somewhere around it.
const BUNCH_INTERVAL: Duration = Duration::from_millis(200);
/// Moves that are proposed at once.
const MOVES_IN_FLIGHT_MAX: usize = 64;
/// Pause after a bunch of which nothing could be moved.
const STUCK_PAUSE: Duration = Duration::from_secs(1);
/// Share of the grace of a stopping node in which every client is asked; the rest is for them to go.
const ASK_SHARE: u32 = 2;

/// Clients that were asked to go, with the epoch they had and until when they may.
#[derive(Default)]
pub(super) struct Leaving(BTreeMap<SessionNumber, (u64, Instant)>);

/// Drains whenever the state says that this node does.
pub(super) async fn run(sessions: Sessions) {
    let mut standing = sessions.standing.subscribe();
    loop {
        if standing.wait_for(|standing| *standing == Standing::Draining).await.is_err() {
            return;
        }
        tracing::info!(sockets = sessions.hub.len(), "draining");
        let mut leaving = Leaving::default();
        let mut carried = 0.0;
        while sessions.standing() == Standing::Draining {
            let pause = jittered(BUNCH_INTERVAL);
            let rate = rate(&sessions);
            carried = (carried + f64::from(rate) * pause.as_secs_f64()).min(f64::from(rate.max(1)));
            let quota = carried as usize;
            carried -= quota as f64;
            let moved = leaving.ask(&sessions, quota, PATIENCE).await;
            leaving.close_late(&sessions);
            let stuck = quota > 0 && moved == 0 && !sessions.hub.is_empty();
            tokio::time::sleep(if stuck { STUCK_PAUSE } else { pause }).await;
        }
    }
}

/// Sessions per second that the administrator allows.
fn rate(sessions: &Sessions) -> u32 {
    let Ok(own) = sessions.core.node_id() else { return 0 };
    sessions.core.group.read(|state| state.drain(own)).1.map_or(0, |drain| drain.rate_per_s)
}

/// Asks every client of a stopping node to go, spread over a part of `grace`, and waits until they have or it is over.
pub(super) async fn leave(sessions: &Sessions, grace: Duration) {
    let begun = Instant::now();
    let total = sessions.hub.len();
    let mut leaving = Leaving::default();
    let mut asked = 0;
    tracing::info!(sockets = total, "sockets are asked to go elsewhere");
    while begun.elapsed() < grace && !sessions.hub.is_empty() && has_refuge(sessions) {
        let share = begun.elapsed().as_secs_f64() / (grace / ASK_SHARE).as_secs_f64().max(0.001);
        let due = (share.min(1.0) * total as f64).ceil() as usize;
        asked += leaving.ask(sessions, due.saturating_sub(asked).max(1), grace).await;
        let left = grace.saturating_sub(begun.elapsed());
        tokio::time::sleep(jittered(BUNCH_INTERVAL).min(left)).await;
    }
    let left = sessions.hub.len();
    if left > 0 {
        tracing::info!(left, "sockets that have not gone are closed");
    }
}

/// Whether another node could take a session of this one.
fn has_refuge(sessions: &Sessions) -> bool {
    let Ok(own) = sessions.core.node_id() else { return false };
    sessions.core.group.read(|state| state.place(&own.0.to_le_bytes(), Some(own))).1.is_some()
}

impl Leaving {
    /// Asks up to so many clients that were not asked yet; answers how many.
    async fn ask(&mut self, sessions: &Sessions, quota: usize, patience: Duration) -> usize {
        let mut chosen = Vec::new();
        let mut after = None;
        while chosen.len() < quota {
            let page = sessions.hub.page(after, MOVES_IN_FLIGHT_MAX);
            let Some(last) = page.last() else { break };
            after = Some(last.number);
            let fresh = page.into_iter().filter(|slot| {
                slot.end().is_none() && self.0.get(&slot.number).is_none_or(|(epoch, _)| *epoch != slot.epoch)
            });
            chosen.extend(fresh.take(quota - chosen.len()).map(|slot| slot.number));
        }
        let views =
            chosen.into_iter().filter_map(|number| sessions.core.group.read(|state| state.session(number)).1);
        let views: Vec<SessionView> = views.collect();
        let moves = futures_util::stream::iter(views.into_iter().map(|session| async move {
            let moved = ask_one(sessions, &session).await;
            (session, moved)
        }));
        let mut moves = moves.buffer_unordered(MOVES_IN_FLIGHT_MAX);
        let mut asked = 0;
        while let Some((session, moved)) = moves.next().await {
            match moved {
                Ok(()) => {
                    asked += 1;
                    self.0.insert(session.number, (session.epoch, Instant::now() + patience));
                }
                Err(error) => {
                    tracing::debug!(session = %session.number, %error, "a session is not asked to move yet");
                }
            }
        }
        asked
    }

    /// Closes those whose time is over, and forgets those who went.
    fn close_late(&mut self, sessions: &Sessions) {
        self.0.retain(|number, (epoch, until)| {
            if sessions.hub.epoch_of(*number) != Some(*epoch) {
                return false;
            }
            if *until <= Instant::now() {
                sessions.hub.order_one(*number, *epoch, Order::End(End::Restart));
            }
            true
        });
    }
}

async fn ask_one(sessions: &Sessions, session: &SessionView) -> Result<(), ServiceError> {
    let place = |state: &ovncp_state::State| state.place(&session.id.0, Some(session.node));
    let target = sessions.core.group.read(place).1.ok_or(Refusal::InvalidTarget)?;
    sessions.ask_to_move(session, target, None).await.map(drop)
}

/// Somewhere from half to one and a half of it.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..1.5))
}
