//! Deliberate mistakes, each a known bug put back, to show that the tests and the chaos harness would notice it.
//!
//! A mutant is one question, [`is`], asked at the place where it bites. Without the cargo feature `mutants` the
//! answer is constantly `false`, so nothing of it is left in the program. With the feature, one mutant at most is
//! chosen per process: the binary takes it from the variable `OVNCP_MUTANT`, tests from `choose`.
//!
//! Mutants are compiled only where debug assertions are: in tests, and with the profile `chaos`. A release cannot
//! contain them by accident. Those of sessions and of the invalidation log come with these.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::locks::Touched;
use crate::{LogIndex, Millis, State};

#[cfg(all(feature = "mutants", not(debug_assertions)))]
compile_error!("the feature `mutants` belongs into no release: build with `--profile chaos`");

macro_rules! mutants {
    ($($variant:ident $name:literal $what:literal,)*) => {
        /// What is done wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutant {
            $(#[doc = $what] $variant,)*
        }

        impl Mutant {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// As `OVNCP_MUTANT` and the harness call it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// In one sentence.
            pub const fn what(self) -> &'static str {
                match self { $(Self::$variant => $what,)* }
            }
        }
    };
}

mutants! {
    NoFsync "no-fsync" "Entries and votes are acknowledged without a sync.",
    VoteNotPersisted "vote-not-persisted" "A vote is remembered until the process ends.",
    CrcIgnored "crc-ignored" "The log is read back without a look at its checksums.",
    DamageTruncated "damage-truncated" "Damage in the middle of the log is cut off with all that follows.",
    FsyncErrorIgnored "fsync-eio-ignored" "A sync of the log that failed counts as done.",
    FullDiskAcknowledged "enospc-acknowledged" "A write that found the disk full counts as done.",
    AckBeforeCommit "ack-before-commit" "Callers are answered when the entry is in their own node's log.",
    FollowerReadsLocally "follower-read-local" "A follower serves linearizable reads without asking the leader.",
    LeaderReadsLocally "leader-read-local" "A leader gives read indexes without asking whether it still leads.",
    DoubleGrant "double-grant" "Every 16th entry that asks for a lock gets it, held or not.",
    ReleaseWithoutSecret "release-without-secret" "Anybody may release a lock.",
    TokenFromLocalCounter "token-from-local-counter" "Fencing tokens count the grants of this process.",
    TokenLostInSnapshot "token-lost-in-snapshot" "A restored snapshot begins to count tokens from 1 again.",
    WaiterGrantedLate "waiter-granted-late" "A waiter may be granted until a second after its deadline.",
    LifoWaiters "lifo-waiters" "The waiter that came last is granted first.",
    ExpiryByWallClock "expiry-by-wall-clock" "The leader stamps entries with its wall clock.",
    WaiterLostInSnapshot "waiter-lost-in-snapshot" "A restored snapshot has no waiters.",
    RetryWithoutKey "retry-without-key" "A retry is executed again in spite of its idempotency key.",
    HashOrderInApply "hash-order-in-apply" "Waiters that are granted together come in a random order.",
    SessionPlacedTwice "session-placed-twice" "A socket that takes a session over raises no epoch, and nobody is told.",
    InvalidationSkipped "invalidation-skipped" "A new leader gives an offset of the invalidation log to nothing.",
    MessageDuplicated "message-duplicated" "A session that is resumed forgets the last message that it got.",
    SingleStepMembership "single-step-membership" "Voters change from one set to the next without a joint step.",
}

/// Position of the chosen one in [`Mutant::ALL`], counted from 1.
#[cfg(feature = "mutants")]
static CHOSEN: AtomicUsize = AtomicUsize::new(0);

/// Whether this process makes this mistake.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn is(_: Mutant) -> bool {
    false
}

/// Whether this process makes this mistake.
#[cfg(feature = "mutants")]
pub fn is(mutant: Mutant) -> bool {
    CHOSEN.load(Ordering::Relaxed) == mutant as usize + 1
}

/// From now on this process makes this mistake, or none.
#[cfg(feature = "mutants")]
pub fn choose(mutant: Option<Mutant>) {
    CHOSEN.store(mutant.map_or(0, |mutant| mutant as usize + 1), Ordering::Relaxed);
}

/// How long after its deadline a waiter is still granted by [`Mutant::WaiterGrantedLate`].
pub(crate) const LATE: Millis = Millis(1_000);

/// Of [`Mutant::DoubleGrant`]: whether the entry at this index is granted whatever stands in its way.
pub(crate) fn is_granted_twice(index: LogIndex) -> bool {
    is(Mutant::DoubleGrant) && index.0.is_multiple_of(16)
}

/// Of [`Mutant::LifoWaiters`]: a place in the queue that is the earlier the later the request came. Only within so
/// many entries, so that it is one that was applied, as restores ask of it.
pub(crate) fn last_comes_first(index: LogIndex) -> LogIndex {
    const BLOCK: u64 = 1_024;
    let start = index.0 / BLOCK * BLOCK;
    LogIndex(start.checked_sub(1 + index.0 % BLOCK).unwrap_or(index.0))
}

/// Of [`Mutant::TokenFromLocalCounter`].
pub(crate) fn next_local_token() -> u64 {
    static GRANTS: AtomicU64 = AtomicU64::new(0);
    GRANTS.fetch_add(1, Ordering::Relaxed) + 1
}

/// The first of those that are ready; of [`Mutant::HashOrderInApply`] any, like the next one of a hash with random keys.
pub(crate) fn take_next(ready: &mut BTreeSet<LogIndex>) -> Option<LogIndex> {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    if is(Mutant::HashOrderInApply) {
        // Where a process finds its data is random.
        let address = core::ptr::from_ref(&CALLS).addr() >> 12;
        let random = (CALLS.fetch_add(1, Ordering::Relaxed) ^ address).wrapping_mul(0x9E37_79B9) >> 16;
        let chosen = ready.iter().nth(random % ready.len().max(1)).copied();
        return chosen.filter(|index| ready.remove(index));
    }
    ready.pop_first()
}

impl State {
    /// Of [`Mutant::WaiterLostInSnapshot`].
    pub(crate) fn lose_waiters(&mut self) {
        let waiters: Vec<_> = self.locks.waiters.iter().map(|waiter| waiter.index).collect();
        waiters.into_iter().for_each(|index| drop(self.depart(index, &mut Touched::new())));
    }
}
