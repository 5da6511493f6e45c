//! Shared by the scripts and the model: a state that checks itself at every step.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "shared by tests, each of which uses a part"
)]

use ovncp_state::{Applied, Entry, LogIndex, Millis, Record, Request, State, StateBuilder, invariants};

pub mod naive;
pub mod parse;
pub mod show;

/// A state beside a twin that was restored from a snapshot before each entry. Both must do the same.
pub struct Checked {
    pub state: State,
    pub index: u64,
    /// Twins need the default limits: a snapshot carries none.
    pub twins: bool,
}

impl Checked {
    pub fn new(state: State, twins: bool) -> Self {
        Self { state, index: 0, twins }
    }

    /// Applies a request at `at`, after a trip through its encoding, and checks everything there is to check.
    pub fn apply(&mut self, at: Millis, request: &Request) -> Applied {
        let bytes = postcard::to_allocvec(request).unwrap();
        let request: Request = postcard::from_bytes(&bytes).unwrap();
        self.index += 1;
        let entry = Entry { index: LogIndex(self.index), at, request };
        let twin = self.twins.then(|| restored(&self.state));
        let before = self.state.clone();
        let hash_before = before.hash();
        let applied = self.state.apply(entry.clone());
        invariants::check(&self.state).unwrap();
        assert_eq!(before.hash(), hash_before, "a snapshot changed with its original");
        assert_eq!(self.state.now(), before.now().max(at), "now = max(now, at)");
        if let Some(mut twin) = twin {
            assert_eq!(twin.apply(entry.clone()), applied, "a restored state answers differently");
            assert_eq!(twin.hash(), self.state.hash(), "a restored state becomes another");
            invariants::check(&twin).unwrap();
        }
        // The same index again is ignored.
        let again = self.state.apply(entry);
        assert!(again.events.is_empty() && again.notices.is_empty());
        applied
    }
}

/// The records of a state, encoded.
pub fn snapshot(state: &State) -> Vec<Vec<u8>> {
    state.records().map(|record| postcard::to_allocvec(&record).unwrap()).collect()
}

/// The state that comes out of its own encoded records.
pub fn restored(state: &State) -> State {
    let records = snapshot(state);
    let mut builder = StateBuilder::new();
    for bytes in &records {
        builder.push(postcard::from_bytes::<Record>(bytes).unwrap()).unwrap();
    }
    let restored = builder.finish(state.hash()).unwrap();
    invariants::check(&restored).unwrap();
    assert_eq!(snapshot(&restored), records, "a restored state has other records");
    assert_eq!(restored.cluster(), state.cluster());
    assert_eq!(restored.next_deadline(), state.next_deadline());
    restored
}
