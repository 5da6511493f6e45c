//! What this node tells the others about its sessions: lost sockets at once, activity and positions now and then.
//!
//! Everything is collected into few entries: 10,000 idle sessions cost ten entries in half a minute.
//!
//! CAVEAT. What a node that dies has not reported is as old as its last report: a session then resumes from an earlier
//! position, unless its client says how far it is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ovncp_state::command::{SessionEnd, SessionUpdate, UpdateSessions};
use ovncp_state::limits::SESSION_UPDATES_PER_ENTRY_MAX;
use ovncp_state::sessions::view::SessionFilter;
use ovncp_state::{Command, MessageOffset, Millis, NodeId, Reply, SessionNumber};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Sessions;
use super::hub::verdict;
use super::slot::Slot;
use crate::services::ServiceError;

/// How often activity and positions are reported, and how accurate they are.
pub(super) const REPORT_INTERVAL: Duration = Duration::from_secs(30);
/// Pause before a report is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Sessions that lost their sockets here.
#[derive(Default)]
pub(super) struct Reports {
    gone: Mutex<BTreeMap<SessionNumber, Gone>>,
    wake: Notify,
    /// Nothing is left to report.
    pub(super) clear: Notify,
}

/// A socket that is no more.
#[derive(Clone, Copy, Debug)]
struct Gone {
    epoch: u64,
    position: MessageOffset,
    active: Instant,
}

impl Reports {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<SessionNumber, Gone>> {
        // Valid between any two statements, so a panic elsewhere does not spoil it.
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A socket is lost: to be reported at once. One per session, and those are bounded.
    pub(super) fn gone(&self, slot: &Slot) {
        let active = Instant::now().checked_sub(slot.idle()).unwrap_or_else(Instant::now);
        let gone = Gone { epoch: slot.epoch, position: slot.arrived(), active };
        self.put_back([(slot.number, gone)]);
    }

    fn put_back(&self, items: impl IntoIterator<Item = (SessionNumber, Gone)>) {
        let mut all = self.lock();
        for (number, gone) in items {
            let known = all.entry(number).or_insert(gone);
            if known.epoch < gone.epoch {
                *known = gone;
            }
        }
        drop(all);
        self.wake.notify_one();
    }

    fn take(&self) -> Vec<(SessionNumber, Gone)> {
        let mut all = self.lock();
        let mut taken = Vec::new();
        while taken.len() < SESSION_UPDATES_PER_ENTRY_MAX
            && let Some(first) = all.pop_first()
        {
            taken.push(first);
        }
        taken
    }

    /// Whether nothing waits to be reported.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }
}

/// Reports for ever. A session without a socket here that the state believes to be here is found and reported too.
pub(super) async fn run(sessions: Sessions) {
    let mut round = Instant::now() + REPORT_INTERVAL;
    let mut strays = BTreeMap::new();
    loop {
        tokio::select! {
            biased;
            () = sessions.reports.wake.notified() => {}
            () = tokio::time::sleep_until(round) => {}
        }
        if let Err(error) = report_gone(&sessions).await {
            tracing::debug!(%error, "lost sockets are not reported yet");
            tokio::time::sleep(RETRY_PAUSE).await;
            sessions.reports.wake.notify_one();
            continue;
        }
        if Instant::now() >= round {
            round = Instant::now() + REPORT_INTERVAL;
            if let Err(error) = report_activity(&sessions).await {
                tracing::debug!(%error, "activity of sessions is not reported");
            }
            strays = find_strays(&sessions, strays);
        }
    }
}

async fn report_gone(sessions: &Sessions) -> Result<(), ServiceError> {
    loop {
        let batch = sessions.reports.take();
        if batch.is_empty() {
            sessions.reports.clear.notify_waiters();
            return Ok(());
        }
        let updates = batch.iter().map(|(number, gone)| SessionUpdate {
            number: *number,
            epoch: gone.epoch,
            idle: millis(gone.active.elapsed()),
            position: gone.position,
            detach: true,
        });
        if let Err(error) = update(sessions, updates.collect()).await {
            sessions.reports.put_back(batch);
            return Err(error);
        }
    }
}

/// Positions and activity of those that moved since they were last reported.
async fn report_activity(sessions: &Sessions) -> Result<(), ServiceError> {
    let mut after = None;
    loop {
        let page = sessions.hub.page(after, SESSION_UPDATES_PER_ENTRY_MAX);
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.number);
        let mut news: Vec<(Arc<Slot>, (u64, MessageOffset))> = Vec::new();
        for slot in page {
            let now = (slot.active(), slot.arrived());
            if *slot.reported.lock().unwrap_or_else(PoisonError::into_inner) != Some(now) {
                news.push((slot, now));
            }
        }
        if news.is_empty() {
            continue;
        }
        let updates = news.iter().map(|(slot, (_, position))| SessionUpdate {
            number: slot.number,
            epoch: slot.epoch,
            idle: millis(slot.idle()),
            position: *position,
            detach: false,
        });
        update(sessions, updates.collect()).await?;
        for (slot, now) in news {
            *slot.reported.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        }
    }
}

async fn update(sessions: &Sessions, updates: Vec<SessionUpdate>) -> Result<(), ServiceError> {
    let node = sessions.core.node_id()?;
    let command = Command::UpdateSessions(UpdateSessions { node, updates });
    match sessions.core.propose(None, command).await?.reply {
        Reply::Refused(refusal) => Err(refusal.into()),
        _ => Ok(()),
    }
}

/// Sessions that the state believes to have a socket here and that have none, twice in a row: their client went away
/// while its request was under way. They are reported as lost.
fn find_strays(sessions: &Sessions, before: BTreeMap<SessionNumber, u64>) -> BTreeMap<SessionNumber, u64> {
    let Ok(own) = sessions.core.node_id() else { return before };
    let mut found = BTreeMap::new();
    let mut after = None;
    loop {
        let filter = SessionFilter { node: Some(own), ..SessionFilter::default() };
        let look = |state: &ovncp_state::State| state.sessions(after, SESSION_UPDATES_PER_ENTRY_MAX, filter);
        let page = sessions.core.group.read(look).1;
        let Some(last) = page.last() else { break };
        after = Some(last.number);
        for session in page.iter().filter(|session| session.attached) {
            if sessions.hub.epoch_of(session.number) == Some(session.epoch) {
                continue;
            }
            if before.get(&session.number) == Some(&session.epoch) {
                let gone = Gone { epoch: session.epoch, position: session.position, active: Instant::now() };
                sessions.reports.put_back([(session.number, gone)]);
            } else {
                found.insert(session.number, session.epoch);
            }
        }
    }
    found
}

/// Holds every socket of this node against the state.
pub(super) fn check_all(sessions: &Sessions, own: NodeId) {
    let mut after = None;
    loop {
        let page = sessions.hub.page(after, SESSION_UPDATES_PER_ENTRY_MAX);
        let Some(last) = page.last() else { return };
        after = Some(last.number);
        for slot in page {
            let session = sessions.core.group.read(|state| state.session(slot.number)).1;
            if let Some(order) = verdict(&slot, own, session.as_ref()) {
                slot.order(order);
            }
        }
    }
}

/// The cause of a session that its node ends.
pub(super) const IDLE: SessionEnd = SessionEnd::Expired;

fn millis(duration: Duration) -> Millis {
    Millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_one_session_the_newest_socket_is_reported() {
        let reports = Reports::default();
        let slot = |epoch, position| Slot::new(SessionNumber(1), epoch, MessageOffset(position));
        reports.gone(&slot(2, 5));
        reports.gone(&slot(1, 9));
        let taken = reports.take();
        assert!(taken.len() == 1 && taken[0].1.epoch == 2 && taken[0].1.position == MessageOffset(5));
        reports.gone(&slot(3, 6));
        reports.put_back(taken);
        assert_eq!(reports.take()[0].1.epoch, 3, "a report that failed does not replace a newer one");
        assert!(reports.is_empty());
    }

    #[test]
    fn a_report_has_a_bounded_length() {
        let reports = Reports::default();
        for number in 0..SESSION_UPDATES_PER_ENTRY_MAX as u64 + 1 {
            reports.gone(&Slot::new(SessionNumber(number), 1, MessageOffset(0)));
        }
        assert_eq!(reports.take().len(), SESSION_UPDATES_PER_ENTRY_MAX);
        assert_eq!(reports.take().len(), 1);
    }
}
