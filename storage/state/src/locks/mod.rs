//! Locks: grants, and one queue order over all keys.
//!
//! A request is granted when no live grant and no earlier live waiter conflicts with it on any of its keys.
//! "Earlier" is the log index, one order for all keys. So a free key may idle behind a waiter that needs it
//! together with another, readers do not overtake a waiting writer, and no request starves.
//!
//! **Waking.** On each key the leading run of waiters that have nothing in their way *there* is *admitted*:
//! either one exclusive waiter on a free key, or shared ones behind no exclusive holder. Nothing can come
//! between an admitted waiter and its turn on that key, since newcomers queue behind it, so admission is never
//! taken back, and each waiter is admitted at most once per key. It is granted when every key has admitted it.
//! When a grant ends or a waiter leaves, only the keys it named are looked at, and on each only the waiters
//! behind the admitted run: a hand-over in a queue of 10,000 looks at one.
//!
//! **Ended but not cleaned up.** Clean-up is bounded per apply. In the rare apply that left some over, every
//! key that a command touches is first rid of what has ended on it ([`State::wake`](crate::State)).
//!
//! A second acquire with the same secret is a request like any other: it conflicts with the first one.

mod acquire;
mod grants;
mod queue;
mod renew;
mod view;

pub(crate) use queue::{Departed, Touched};

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::command::LockMode;
use crate::cow_map::CowMap;
use crate::name::Name;
use crate::requests::Scope;
use crate::table::{Object, Table};
use crate::{FencingToken, LogIndex, Millis, NodeId, Salt, SecretHash, WaiterId};

/// Every lock, held or waited for.
#[derive(Clone, Default)]
pub(crate) struct Locks {
    pub(crate) grants: Table<GrantRecord>,
    pub(crate) waiters: Table<WaiterRecord>,
    /// Keys that are held or waited for; others take no memory.
    pub(crate) keys: CowMap<Name, KeyState>,
    /// The queue of every key, in order.
    pub(crate) queue: CowMap<(Name, LogIndex), Place>,
    pub(crate) by_waiter: CowMap<WaiterId, Whereabouts>,
    pub(crate) by_node: CowMap<(NodeId, LogIndex), ()>,
    /// Grants by the node whose client asked, none of 0. Follows from `grants`, so neither encoded nor hashed.
    pub(crate) held_by: BTreeMap<NodeId, u64>,
}

/// A held lock, over one key or several.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GrantRecord {
    pub(crate) token: FencingToken,
    /// Sorted, at least one.
    pub(crate) keys: Vec<Name>,
    pub(crate) mode: LockMode,
    pub(crate) owner: Name,
    pub(crate) secret: SecretHash,
    pub(crate) salt: Option<Salt>,
    /// Lease of a renewal that names none.
    pub(crate) ttl: Millis,
    pub(crate) metadata: Option<String>,
    /// The request it came from, so that a grant which was never delivered can be given back.
    pub(crate) waiter: WaiterId,
    /// The node whose client asked, or asked again.
    pub(crate) node: NodeId,
    pub(crate) since: Millis,
    pub(crate) waited: Millis,
    /// Invariant: not after `hold_deadline`.
    pub(crate) deadline: Millis,
    pub(crate) hold_deadline: Option<Millis>,
}

/// A queued request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WaiterRecord {
    /// Index of the request: its place in the one order.
    pub(crate) index: LogIndex,
    pub(crate) waiter: WaiterId,
    pub(crate) node: NodeId,
    /// Sorted, at least one.
    pub(crate) keys: Vec<Name>,
    pub(crate) mode: LockMode,
    pub(crate) owner: Name,
    pub(crate) secret: SecretHash,
    pub(crate) salt: Option<Salt>,
    pub(crate) ttl: Millis,
    pub(crate) hold_max: Option<Millis>,
    pub(crate) metadata: Option<String>,
    pub(crate) since: Millis,
    pub(crate) deadline: Millis,
    /// The idempotency record that learns of the outcome.
    pub(crate) scope: Option<Scope>,
    /// Keys that have not admitted it yet. Follows from the queues, so neither encoded nor hashed.
    #[serde(skip)]
    pub(crate) blocked: usize,
}

/// What stands at one key.
///
/// Invariant: a shared holder and an exclusive one never together; `admitted` counts the queued waiters up to
/// `admitted_through`.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyState {
    pub(crate) holders: Holders,
    pub(crate) waiting: usize,
    pub(crate) waiting_exclusive: usize,
    pub(crate) admitted: usize,
    pub(crate) admitted_through: LogIndex,
}

/// Who holds a key.
#[derive(Clone, Debug, Default)]
pub(crate) enum Holders {
    #[default]
    Free,
    Exclusive(FencingToken),
    /// In token order, never empty.
    Shared(Vec<SharedHolder>),
}

/// One of many holders. The tag is the start of its secret hash, so that a renewal among 10,000 holders does
/// not look up each grant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SharedHolder {
    pub(crate) token: FencingToken,
    pub(crate) secret_tag: u64,
}

/// One waiter in the queue of one key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) mode: LockMode,
    pub(crate) deadline: Millis,
}

/// Where the request with a waiter id is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    Queued(LogIndex),
    Granted(FencingToken),
}

impl Object for GrantRecord {
    const TAG: u8 = 3;
    type Key = FencingToken;

    fn key(&self) -> FencingToken {
        self.token
    }
}

impl Object for WaiterRecord {
    const TAG: u8 = 4;
    type Key = LogIndex;

    fn key(&self) -> LogIndex {
        self.index
    }
}

impl KeyState {
    fn is_unused(&self) -> bool {
        matches!(self.holders, Holders::Free) && self.waiting == 0
    }
}

impl Holders {
    pub(crate) fn tokens(&self) -> impl Iterator<Item = FencingToken> {
        let (one, many) = match self {
            Self::Free => (None, &[][..]),
            Self::Exclusive(token) => (Some(*token), &[][..]),
            Self::Shared(holders) => (None, holders.as_slice()),
        };
        one.into_iter().chain(many.iter().map(|holder| holder.token))
    }

    /// How many hold it shared.
    pub(crate) fn shared(&self) -> usize {
        match self {
            Self::Free | Self::Exclusive(_) => 0,
            Self::Shared(holders) => holders.len(),
        }
    }

    /// Whether a request of this mode cannot be granted beside them.
    pub(crate) fn conflict_with(&self, mode: LockMode) -> bool {
        match self {
            Self::Free => false,
            Self::Exclusive(_) => true,
            Self::Shared(_) => mode == LockMode::Exclusive,
        }
    }

    fn add(&mut self, token: FencingToken, mode: LockMode, secret: &SecretHash) {
        let holder = SharedHolder { token, secret_tag: secret_tag(secret) };
        match (mode, &mut *self) {
            (LockMode::Exclusive, _) => *self = Self::Exclusive(token),
            (LockMode::Shared, Self::Shared(holders)) => {
                let at = holders.partition_point(|other| other.token < token);
                holders.insert(at, holder);
            }
            (LockMode::Shared, _) => *self = Self::Shared(alloc::vec![holder]),
        }
    }

    fn remove(&mut self, token: FencingToken) {
        if let Self::Shared(holders) = self {
            if let Ok(at) = holders.binary_search_by_key(&token, |holder| holder.token) {
                holders.remove(at);
            }
            if !holders.is_empty() {
                return;
            }
        }
        *self = Self::Free;
    }
}

fn secret_tag(secret: &SecretHash) -> u64 {
    secret.0.iter().take(8).fold(0, |tag, byte| tag << 8 | u64::from(*byte))
}

impl Locks {
    /// Puts a grant into the tables and indexes. The caller adds its deadline.
    pub(crate) fn insert_grant(&mut self, grant: GrantRecord) {
        for key in &grant.keys {
            self.key_mut(key).holders.add(grant.token, grant.mode, &grant.secret);
        }
        self.by_waiter.insert(grant.waiter, Whereabouts::Granted(grant.token));
        *self.held_by.entry(grant.node).or_default() += 1;
        self.grants.insert(grant);
    }

    /// A grant of this node is none of its any more.
    pub(crate) fn discount(&mut self, node: NodeId) {
        if let Some(count) = self.held_by.get_mut(&node) {
            *count -= 1;
            if *count == 0 {
                self.held_by.remove(&node);
            }
        }
    }

    /// Puts a waiter at the end of its queues, admitted nowhere yet. The caller adds its deadline.
    pub(crate) fn insert_waiter(&mut self, mut waiter: WaiterRecord) {
        waiter.blocked = waiter.keys.len();
        let place = Place { mode: waiter.mode, deadline: waiter.deadline };
        for key in &waiter.keys {
            let state = self.key_mut(key);
            state.waiting += 1;
            state.waiting_exclusive += usize::from(waiter.mode == LockMode::Exclusive);
            self.queue.insert((key.clone(), waiter.index), place);
        }
        self.by_waiter.insert(waiter.waiter, Whereabouts::Queued(waiter.index));
        self.by_node.insert((waiter.node, waiter.index), ());
        self.waiters.insert(waiter);
    }

    fn key_mut(&mut self, key: &Name) -> &mut KeyState {
        self.keys.get_or_insert_with(key, KeyState::default)
    }

    /// The queue of one key, in order.
    pub(crate) fn queue_of(&self, key: &str) -> impl Iterator<Item = (LogIndex, Place)> {
        self.queue_after(key, LogIndex(0))
    }

    /// The queue of one key behind `index`.
    fn queue_after(&self, key: &str, index: LogIndex) -> impl Iterator<Item = (LogIndex, Place)> {
        self.queue
            .iter_from(move |(name, at)| (name.as_str(), *at) <= (key, index))
            .take_while(move |((name, _), _)| name.as_str() == key)
            .map(|((_, at), place)| (*at, *place))
    }
}
