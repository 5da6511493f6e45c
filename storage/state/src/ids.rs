//! Newtypes for every id, count and instant that could be swapped by mistake.

use core::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl From<u64> for $name {
            fn from(value: u64) -> Self {
                Self(value)
            }
        }
    };
}

number! {
    /// Milliseconds: an instant of the cluster clock (0 at formation) or a duration on it.
    Millis
}
number! {
    /// A node's Raft id: rank 1..n among the initial members, 1,000 + the index of the join entry later.
    /// Never used again, also not by the same machine after its disk was wiped.
    NodeId
}
number! {
    /// Position of an entry in the Raft log.
    LogIndex
}
number! {
    /// Strictly increasing per grant; the restore epoch stands in the top 16 bits.
    FencingToken
}
number! {
    /// Dense position of an event, counted in the state (not a log index).
    EventOffset
}
number! {
    /// Names a session for as long as it lives, through rotations of its id: the index of the entry that registered it.
    /// Public, unlike the [`SessionId`].
    SessionNumber
}
number! {
    /// Dense position of a message to sessions, users and channels, counted in the state.
    MessageOffset
}
number! {
    /// Dense position in the invalidation log, counted in the state. It has a meaning only beside the epoch.
    InvalidationOffset
}
number! {
    /// Revision of a register: the index of the entry that last wrote it.
    Revision
}

macro_rules! opaque {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub [u8; $bytes]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

opaque! {
    /// Identity of a cluster, made once at formation. Every peer message carries it.
    ClusterId, 16
}
opaque! {
    /// Identity of a data directory, made when it is created. Tells a wiped node from the one it replaced.
    Incarnation, 16
}
opaque! {
    /// Names one waiting lock request. Chosen at random by the edge, so that it can listen before it proposes.
    WaiterId, 16
}
opaque! {
    /// 128 random bits by which a client proves that a session is its own. Lists show it to its user and to
    /// administrators only.
    SessionId, 16
}
opaque! {
    /// SHA-256 of a lock secret. The secret itself never enters the log, the state or a snapshot.
    SecretHash, 32
}
opaque! {
    /// Random salt kept with a grant, from which an edge derives the same secret again for a retry.
    Salt, 16
}
opaque! {
    /// Order-independent 128-bit hash over all replicated objects; equal states have equal hashes.
    StateHash, 16
}
