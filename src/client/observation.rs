//! Who leads, as it changes.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::locks::number;
use super::{Error, Events};

/// A stream of who leads an election. It reconnects by itself, on the next endpoint, where the last change left off.
#[derive(Debug)]
pub struct Observation {
    events: Events,
}

/// Who leads from here on, and why.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Observed {
    /// Where [`Election::observe_after`](super::Election::observe_after) goes on, on any node; absent where the stream
    /// gave none.
    #[serde(skip)]
    pub offset: Option<u64>,
    /// What happened.
    #[serde(rename = "type")]
    pub change: Change,
    /// The election.
    pub name: String,
    /// Who leads after it; absent when nobody does.
    pub leader: Option<ObservedLeader>,
    /// The term that ended.
    #[serde(default)]
    pub ended: Option<EndedTerm>,
    /// About when, in UTC.
    pub time: String,
}

/// What happened to an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Change {
    /// Nothing: what holds where the stream begins, or where it goes on after a gap.
    State,
    /// A term began.
    Elected,
    /// The leader gave its term back.
    Resigned,
    /// The leader did not renew in time.
    Expired,
    /// An administrator ended the term.
    Deposed,
    /// The candidate went away before it learned that it leads.
    Withdrawn,
    /// Something that this client does not know; `leader` says what holds after it.
    #[serde(other)]
    Other,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ObservedLeader {
    /// Who.
    pub candidate: String,
    /// As given at the campaign; absent also when the term is over already on the node that answered.
    #[serde(default)]
    pub value: Option<Value>,
    /// Token of the term.
    #[serde(deserialize_with = "number")]
    pub fencing_token: u64,
}

/// A term that ended.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct EndedTerm {
    /// Who led.
    pub candidate: String,
    /// Token of the term.
    #[serde(deserialize_with = "number")]
    pub fencing_token: u64,
    /// How long it was.
    pub held_ms: u64,
    /// Given by the administrator who ended it; empty otherwise.
    #[serde(default)]
    pub reason: String,
}

impl Observation {
    pub(super) fn new(events: Events) -> Self {
        Self { events }
    }

    /// Who leads next, as long as it takes. Ends only by an error that no other try would mend, as
    /// [`Events::next`] does; after such an error it may be called again.
    pub async fn next(&mut self) -> Result<Observed, Error> {
        let event = self.events.next().await?;
        let mut observed: Observed = serde_json::from_value(event.data)
            .map_err(|error| Error::Protocol(format!("an event that is none of an election: {error}")))?;
        observed.offset = event.offset;
        Ok(observed)
    }
}
