//! What a held lock costs, measured as the process grows. Alone in its binary, so that no other test disturbs.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test")]

use ovncp_state::command::{AcquireLock, FormCluster, JoinNode, LockMode, NodeInfo};
use ovncp_state::limits::Limits;
use ovncp_state::{
    ClusterId, Command, Entry, Incarnation, LogIndex, Millis, NodeId, SecretHash, State, WaiterId,
};

const LOCKS: u64 = 100_000;
/// The promise of docs/performance: under 1 KiB per held lock.
const BYTES_PER_LOCK_MAX: u64 = 1_024;

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1_024
}

#[test]
fn a_held_lock_takes_less_than_a_kibibyte() {
    // Without the ring of events, which has a bound of its own.
    let mut state = State::with_limits(Limits { events_kept: 100, ..Limits::default() });
    let node = JoinNode { name: "a".into(), incarnation: Incarnation([1; 16]), info: NodeInfo::default() };
    let form = FormCluster {
        cluster_id: ClusterId([1; 16]),
        formed_at_unix_ms: 0,
        voters_target: 1,
        nodes: vec![node],
    };
    state.apply(Entry { index: LogIndex(1), at: Millis(0), request: Command::FormCluster(form).into() });
    let before = resident_bytes();
    for index in 2..LOCKS + 2 {
        // Spread over the key space, which leaves chunks half full: the worst case for memory.
        let spread = index.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut waiter = [0; 16];
        waiter[..8].copy_from_slice(&spread.to_be_bytes());
        let acquire = AcquireLock {
            keys: vec![format!("switch:{spread:016x}-0000-0000")],
            mode: LockMode::Exclusive,
            owner: "worker-on-some-host".into(),
            secret: SecretHash([1; 32]),
            salt: None,
            ttl: Millis(60_000),
            wait: Millis(0),
            hold_max: None,
            metadata: None,
            waiter: WaiterId(waiter),
            node: NodeId(1),
        };
        state.apply(Entry {
            index: LogIndex(index),
            at: Millis(index),
            request: Command::AcquireLock(acquire).into(),
        });
    }
    let per_lock = (resident_bytes() - before) / state.cluster().locks_held.max(1);
    println!("{per_lock} bytes per held lock");
    assert!(per_lock > 100, "the measurement measures nothing");
    assert!(per_lock < BYTES_PER_LOCK_MAX, "{per_lock} bytes per held lock");
}
