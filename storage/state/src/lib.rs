//! The replicated state of ovncp, as a pure value.
//!
//! Everything the product promises about membership, locks, registers and events is decided here, in
//! [`State::apply`], at one log index, the same on every node. The crate knows no clock, no I/O, no
//! randomness and no hash-ordered map; `no_std` makes most of these a compile error. Time arrives as the
//! stamp of an [`Entry`], random ids arrive inside commands, and expiry is a command too ([`Command::Tick`]).
//!
//! Map: [`State`] and its one `apply`, [`command`] what can be asked, [`reply`] what is answered (and the one [`Refusal`] type), [`event`]
//! what changed, for watchers, [`view`] what readers see, [`limits`] every bound by name, [`mutants`] mistakes that tests put back.
#![no_std]

extern crate alloc;

#[cfg(test)]
extern crate std;

mod clock;
pub mod command;
mod cow_map;
pub mod event;
pub mod ids;
pub mod invalidations;
pub mod invariants;
mod kv;
pub mod limits;
mod locks;
mod membership;
pub mod mutants;
mod name;
mod query;
pub mod reply;
mod requests;
mod ring;
pub mod sessions;
pub mod snapshot;
mod state;
mod table;
mod validate;
mod version;
pub mod view;

pub use command::{Command, Entry, Request, RequestKey};
pub use event::{Appended, Applied, Event, EventKind, Notice};
pub use ids::{
    ClusterId, EventOffset, FencingToken, Incarnation, InvalidationOffset, LogIndex, MessageOffset, Millis,
    NodeId, Revision, Salt, SecretHash, SessionId, SessionNumber, StateHash, WaiterId,
};
pub use reply::{Refusal, Reply};
pub use sessions::{SessionFilter, SessionTotals};
pub use snapshot::{Record, RestoreError, StateBuilder};
pub use state::State;
pub use version::Version;
