//! Expiry needs an entry: the leader proposes a `Tick` when something is due.
//!
//! When a deadline of the state is due on the leader's clock, and otherwise once per second while any deadline
//! exists and nothing else was written, so that readers of every node see time pass. Without deadlines there
//! are no entries. Renewals that have arrived are proposed ahead of every Tick.

use std::sync::Arc;
use std::time::Duration;

use ovncp_state::{Command, Millis, Request};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::shared::Shared;
use crate::{proposals, renewals};

/// Longest time between two entries while a deadline exists.
const TICK_PERIOD: Millis = Millis(1_000);
/// Writes are looked at no more often than this, and a new, earlier deadline is noticed this late at most.
/// Together with one commit it stays far below the promised 100 ms.
const LOOK_PERIOD: Duration = Duration::from_millis(20);
/// A Tick that is not applied by then is proposed again.
const TICK_TIMEOUT: Duration = Duration::from_millis(500);

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Propose a Tick now.
    Tick,
    /// Nothing is due for so long.
    Sleep(Millis),
    /// No deadline exists.
    Idle,
}

/// `written` is the state's clock: the stamp of the last entry.
fn next_step(now: Millis, written: Millis, deadline: Option<Millis>) -> Step {
    let Some(deadline) = deadline else { return Step::Idle };
    let due = deadline.0.min(written.0.saturating_add(TICK_PERIOD.0));
    if due <= now.0 { Step::Tick } else { Step::Sleep(Millis(due - now.0)) }
}

/// Ticks while this node leads `term`; dropped at the end of the term.
pub(crate) async fn run(shared: Arc<Shared>, term: u64) {
    let mut applied = shared.replica.applied_watch();
    loop {
        applied.mark_unchanged();
        let (written, deadline) = shared.replica.read(|state| (state.now(), state.next_deadline()));
        let Some(now) = shared.stamp(term) else { return };
        match next_step(now, written, deadline) {
            Step::Tick => tick(&shared).await,
            Step::Idle => {
                if applied.changed().await.is_err() {
                    return;
                }
            }
            Step::Sleep(pause) => {
                let now = Instant::now();
                let end = now + Duration::from_millis(pause.0);
                tokio::select! {
                    () = sleep_until(end) => {}
                    // A write may have brought an earlier deadline, or a later one.
                    changed = applied.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        sleep_until(end.min(now + LOOK_PERIOD)).await;
                    }
                }
            }
        }
    }
}

async fn tick(shared: &Shared) {
    let flushed = timeout(TICK_TIMEOUT, renewals::flush(shared)).await;
    if flushed.is_ok() {
        // Refused or late: looked at again, but never without a pause.
        if proposals::propose(shared, &Request::from(Command::Tick), TICK_TIMEOUT).await.is_err() {
            sleep(LOOK_PERIOD).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_deadlines_there_are_no_entries() {
        assert_eq!(next_step(Millis(1_000_000), Millis(0), None), Step::Idle);
    }

    #[test]
    fn a_due_deadline_ticks_at_once_and_a_later_one_exactly_then() {
        assert_eq!(next_step(Millis(500), Millis(400), Some(Millis(500))), Step::Tick);
        assert_eq!(next_step(Millis(500), Millis(400), Some(Millis(501))), Step::Sleep(Millis(1)));
        assert_eq!(next_step(Millis(500), Millis(400), Some(Millis(100))), Step::Tick);
    }

    #[test]
    fn time_passes_once_per_second_while_a_deadline_exists_and_nothing_is_written() {
        let far = Some(Millis(86_400_000));
        assert_eq!(next_step(Millis(1_399), Millis(400), far), Step::Sleep(Millis(1)));
        assert_eq!(next_step(Millis(1_400), Millis(400), far), Step::Tick);
        assert_eq!(next_step(Millis(1_400), Millis(1_390), far), Step::Sleep(Millis(990)));
    }
}
