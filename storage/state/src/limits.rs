//! Every bound of the replicated state, by name. A command beyond one is refused with
//! [`Refusal::LimitExceeded`](crate::Refusal::LimitExceeded) or
//! [`Refusal::InvalidArgument`](crate::Refusal::InvalidArgument), never truncated.

use crate::Millis;

/// Bytes of one lock key (UTF-8, at least 1).
pub const LOCK_KEY_BYTES_MAX: usize = 1_024;
/// Keys of one multi-key acquire.
pub const LOCK_KEYS_PER_REQUEST_MAX: usize = 64;
/// Grants held in the whole cluster.
pub const LOCKS_HELD_MAX: usize = 2_000_000;
/// Shared holders of one key, together with the shared waiters that may become holders. Whatever ends one of
/// them looks at the others: a key that any number may hold could stall every node for minutes.
pub const HOLDERS_PER_KEY_MAX: usize = 10_000;
/// Live waiters in front of one key.
pub const WAITERS_PER_KEY_MAX: usize = 10_000;
/// Live waiters in the whole cluster.
pub const WAITERS_MAX: usize = 200_000;
/// Bytes of an owner name.
pub const OWNER_BYTES_MAX: usize = 256;
/// Bytes of the metadata of a lock or a node.
pub const METADATA_BYTES_MAX: usize = 4_096;
/// Shortest lease.
pub const LEASE_MS_MIN: Millis = Millis(500);
/// Longest lease, and longest `max_hold`.
pub const LEASE_MS_MAX: Millis = Millis(24 * 60 * 60 * 1_000);
/// Longest wait of one acquire. The edge allows less over HTTP.
pub const WAIT_MS_MAX: Millis = Millis(60 * 60 * 1_000);
/// Renewals in one entry.
pub const RENEWALS_PER_ENTRY_MAX: usize = 1_024;
/// Bytes of the reason of a forced release or a removal.
pub const REASON_BYTES_MAX: usize = 1_024;

/// Bytes of a register's key (binary, at least 1).
pub const KV_KEY_BYTES_MAX: usize = 1_024;
/// Bytes of a register's value.
pub const KV_VALUE_BYTES_MAX: usize = 64 * 1_024;
/// Bytes of a register's content type.
pub const KV_CONTENT_TYPE_BYTES_MAX: usize = 256;
/// Shortest time to live of a register.
pub const KV_TTL_MS_MIN: Millis = Millis(1);
/// Longest time to live of a register.
pub const KV_TTL_MS_MAX: Millis = Millis(365 * 24 * 60 * 60 * 1_000);
/// Registers in the whole cluster.
pub const KV_KEYS_MAX: usize = 1_000_000;
/// Bytes of all keys and values of all registers.
pub const KV_BYTES_MAX: usize = 1_024 * 1_024 * 1_024;
/// Bytes of all keys and values in one atomic register command, so that it fits into a log entry.
pub const KV_COMMAND_BYTES_MAX: usize = 1_024 * 1_024;
/// Operations of one atomic register command.
pub const KV_OPS_PER_COMMAND_MAX: usize = 128;

/// Nodes in the cluster, voters and learners.
pub const NODES_MAX: usize = 64;
/// Bytes of a node's name, host name, address, version or zone.
pub const NODE_FIELD_BYTES_MAX: usize = 253;

/// Events kept for watchers that resume.
pub const EVENTS_KEPT_MAX: usize = 65_536;
/// Bytes of kept events, roughly.
pub const EVENTS_KEPT_BYTES_MAX: usize = 32 * 1_024 * 1_024;

/// Sessions in the whole cluster, attached or not.
pub const SESSIONS_MAX: usize = 200_000;
/// Sessions of one user.
pub const SESSIONS_PER_USER_MAX: usize = 10_000;
/// Bytes of what clients say of all sessions: user, channels and metadata.
pub const SESSIONS_BYTES_MAX: usize = 512 * 1_024 * 1_024;
/// What a channel of a session counts beside its name.
pub const CHANNEL_OVERHEAD_BYTES: usize = 32;
/// Lock requests that wait or are granted, bound to one session.
pub const LOCKS_PER_SESSION_MAX: usize = 1_024;
/// Channels that one session listens to.
pub const SUBSCRIPTIONS_PER_SESSION_MAX: usize = 64;
/// Bytes of a user's name.
pub const USER_BYTES_MAX: usize = 256;
/// Bytes of the name of a channel.
pub const CHANNEL_BYTES_MAX: usize = 256;
/// Shortest time that a session outlives its socket.
pub const SESSION_TTL_MS_MIN: Millis = Millis(1_000);
/// Longest time that a session outlives its socket.
pub const SESSION_TTL_MS_MAX: Millis = Millis(7 * 24 * 60 * 60 * 1_000);
/// Longest time that the token of a migration or the id before a rotation works.
pub const SESSION_OVERLAP_MS_MAX: Millis = Millis(60 * 60 * 1_000);
/// Sessions in one report of a node.
pub const SESSION_UPDATES_PER_ENTRY_MAX: usize = 1_024;
/// Sessions per second that a drain may move.
pub const DRAIN_RATE_MAX: u32 = 10_000;

/// Messages kept for sessions that resume.
pub const MESSAGES_KEPT_MAX: usize = 65_536;
/// Bytes of kept messages, roughly.
pub const MESSAGES_KEPT_BYTES_MAX: usize = 64 * 1_024 * 1_024;
/// How long a message is kept on the cluster clock.
pub const MESSAGES_KEPT_MS: Millis = Millis(60 * 60 * 1_000);
/// Bytes of the data of one message.
pub const MESSAGE_BYTES_MAX: usize = 32 * 1_024;
/// Messages of one command.
pub const MESSAGES_PER_COMMAND_MAX: usize = 64;

/// Entries kept in the invalidation log.
pub const INVALIDATIONS_KEPT_MAX: usize = 65_536;
/// Bytes of kept invalidations, roughly.
pub const INVALIDATIONS_KEPT_BYTES_MAX: usize = 32 * 1_024 * 1_024;
/// How long an invalidation is kept on the cluster clock.
pub const INVALIDATIONS_KEPT_MS: Millis = Millis(60 * 60 * 1_000);
/// Patterns and tags of one invalidation, together; at least one.
pub const PATTERNS_PER_INVALIDATION_MAX: usize = 256;
/// Bytes of one pattern or tag, at least 1.
pub const PATTERN_BYTES_MAX: usize = 1_024;

/// Idempotency records kept.
pub const REQUESTS_KEPT_MAX: usize = 100_000;
/// How long an idempotency record is kept on the cluster clock.
pub const REQUESTS_KEPT_MS: Millis = Millis(10 * 60 * 1_000);

/// Deadlines treated by the clean-up of one apply; the rest follows with the next entry. What has ended
/// counts as ended at once, clean-up or not.
pub const EXPIRIES_PER_APPLY_MAX: usize = 1_024;

/// Bounds on how much there can be at once, as a value, so that tests reach them with a few objects. Every
/// real node uses the default: the constants above.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "each field is the constant of the same name")]
pub struct Limits {
    pub locks_held: usize,
    pub holders_per_key: usize,
    pub waiters_per_key: usize,
    pub waiters: usize,
    pub kv_keys: usize,
    pub kv_bytes: usize,
    pub nodes: usize,
    pub events_kept: usize,
    pub events_kept_bytes: usize,
    pub requests_kept: usize,
    pub expiries_per_apply: usize,
    pub sessions: usize,
    pub sessions_per_user: usize,
    pub sessions_bytes: usize,
    pub locks_per_session: usize,
    pub messages_kept: usize,
    pub messages_kept_bytes: usize,
    pub invalidations_kept: usize,
    pub invalidations_kept_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            locks_held: LOCKS_HELD_MAX,
            holders_per_key: HOLDERS_PER_KEY_MAX,
            waiters_per_key: WAITERS_PER_KEY_MAX,
            waiters: WAITERS_MAX,
            kv_keys: KV_KEYS_MAX,
            kv_bytes: KV_BYTES_MAX,
            nodes: NODES_MAX,
            events_kept: EVENTS_KEPT_MAX,
            events_kept_bytes: EVENTS_KEPT_BYTES_MAX,
            requests_kept: REQUESTS_KEPT_MAX,
            expiries_per_apply: EXPIRIES_PER_APPLY_MAX,
            sessions: SESSIONS_MAX,
            sessions_per_user: SESSIONS_PER_USER_MAX,
            sessions_bytes: SESSIONS_BYTES_MAX,
            locks_per_session: LOCKS_PER_SESSION_MAX,
            messages_kept: MESSAGES_KEPT_MAX,
            messages_kept_bytes: MESSAGES_KEPT_BYTES_MAX,
            invalidations_kept: INVALIDATIONS_KEPT_MAX,
            invalidations_kept_bytes: INVALIDATIONS_KEPT_BYTES_MAX,
        }
    }
}

const _: () = {
    assert!(KV_TTL_MS_MIN.0 > 0 && KV_TTL_MS_MIN.0 < KV_TTL_MS_MAX.0);
    assert!(WAITERS_MAX <= LOCKS_HELD_MAX);
    assert!(LEASE_MS_MIN.0 < LEASE_MS_MAX.0);
    assert!(WAITERS_PER_KEY_MAX <= WAITERS_MAX);
    assert!(KV_KEY_BYTES_MAX + KV_VALUE_BYTES_MAX <= KV_COMMAND_BYTES_MAX);
    assert!(KV_COMMAND_BYTES_MAX <= KV_BYTES_MAX);
    assert!(SESSION_TTL_MS_MIN.0 < SESSION_TTL_MS_MAX.0);
    assert!(SESSIONS_PER_USER_MAX <= SESSIONS_MAX);
    // The work of ending one session stays within that of one apply.
    assert!(LOCKS_PER_SESSION_MAX <= EXPIRIES_PER_APPLY_MAX);
    // They fit into a log entry of 4 MiB.
    assert!(MESSAGES_PER_COMMAND_MAX * (MESSAGE_BYTES_MAX + 1_024) <= 3 * 1_024 * 1_024);
    assert!(MESSAGES_PER_COMMAND_MAX * MESSAGE_BYTES_MAX <= MESSAGES_KEPT_BYTES_MAX);
    assert!(PATTERNS_PER_INVALIDATION_MAX * PATTERN_BYTES_MAX <= INVALIDATIONS_KEPT_BYTES_MAX);
};
