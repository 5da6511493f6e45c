//! Answers before anything is committed: [`Mutant::AckBeforeCommit`](ovncp_state::mutants::Mutant).
//!
//! What an entry would be answered is found out on a copy of the state that runs ahead of the real one by what
//! stands in the log and is not committed. Callers hear nothing of it when the log turns out otherwise.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use openraft::EntryPayload;
use ovncp_state::{Applied, LogIndex, State};

use crate::codec::{Entry, decode_request};
use crate::machine::Replica;
use crate::sink::{AppliedEntry, ApplySink};

/// See the module.
pub(crate) struct Hasty {
    replica: Replica,
    sink: Arc<dyn ApplySink>,
    ahead: Mutex<State>,
}

impl fmt::Debug for Hasty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasty").finish_non_exhaustive()
    }
}

impl Hasty {
    pub(crate) fn new(replica: Replica, sink: Arc<dyn ApplySink>) -> Self {
        Self { replica, sink, ahead: Mutex::default() }
    }

    /// Answers the callers of these entries as if they were committed.
    pub(crate) fn appended(&self, entries: &[Entry]) {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let first = entries.first().map_or(0, |entry| entry.log_id.index);
        let committed = self.replica.read(State::clone);
        if ahead.applied() < committed.applied() || ahead.applied().0 >= first {
            *ahead = committed;
        }
        let answered = entries.iter().filter_map(|entry| answer(&mut ahead, entry)).collect();
        self.sink.applied(answered);
    }
}

fn answer(ahead: &mut State, entry: &Entry) -> Option<AppliedEntry> {
    let EntryPayload::Normal(proposal) = &entry.payload else { return None };
    let request = decode_request(&proposal.envelope).ok()?;
    let index = LogIndex(entry.log_id.index);
    let Applied { reply, .. } = ahead.apply(ovncp_state::Entry { index, at: proposal.at, request });
    // Watchers and waiters hear of it when it happens.
    let applied = Applied {
        reply,
        events: Vec::new(),
        notices: Vec::new(),
        appended: ovncp_state::Appended::default(),
    };
    Some(AppliedEntry { index, term: entry.log_id.leader_id.term, origin: proposal.origin, applied })
}
