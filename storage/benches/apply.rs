//! What one entry costs without disk and network: its bytes made and read, and the state changed by it.
//!
//! `cargo bench -p ovncp-storage --bench apply`. Each line is the median of some rounds in nanoseconds per operation,
//! with the fastest and the slowest round beside it: where these are far apart the machine was not quiet.

use std::hint::black_box;
use std::time::Instant;

use ovncp_state::command::{
    AcquireLock, FormCluster, JoinNode, KvOperation, LockMode, NodeInfo, ReleaseLock, RenewLock, WriteKv,
};
use ovncp_state::limits::RENEWALS_PER_ENTRY_MAX;
use ovncp_state::{
    ClusterId, Command, Entry, Incarnation, LogIndex, Millis, NodeId, Reply, Request, SecretHash, State,
    WaiterId,
};
use ovncp_storage::codec::entry::normal_entry;
use ovncp_storage::codec::{decode_entry, decode_request, encode_entry, encode_request};

const ROUNDS: usize = 15;
const OPERATIONS: u64 = 20_000;
/// Locks held beside what is measured.
const HELD: [u64; 3] = [0, 1_000, 100_000];

fn main() {
    println!("{:44} {:>10} {:>10} {:>10}", "ns per operation", "median", "fastest", "slowest");
    codec();
    for held in HELD {
        let label = |what: &str| format!("apply: {what}, {held} locks held");
        let mut cluster = Cluster::holding(held);
        measure(&label("lock pair"), OPERATIONS, || cluster.pairs(OPERATIONS));
        measure(&label("register write"), OPERATIONS, || cluster.writes(OPERATIONS));
        measure(&label("hand-over to a waiter"), OPERATIONS, || cluster.hand_overs(OPERATIONS));
    }
    let mut cluster = Cluster::holding(RENEWALS_PER_ENTRY_MAX as u64);
    let renewals = RENEWALS_PER_ENTRY_MAX as u64 * 20;
    measure("apply: renewal, 1024 in an entry", renewals, || cluster.renewals(20));
    let cluster = Cluster::holding(100_000);
    measure("clone of a state with 100000 locks", 1, || drop(black_box(cluster.state.clone())));
}

/// Runs rounds of so many operations, and one before that is not counted.
fn measure(what: &str, operations: u64, mut round: impl FnMut()) {
    round();
    let timed = (0..ROUNDS).map(|_| {
        let begun = Instant::now();
        round();
        begun.elapsed().as_nanos() as f64 / operations as f64
    });
    let mut times: Vec<f64> = timed.collect();
    times.sort_by(f64::total_cmp);
    println!("{what:44} {:10.0} {:10.0} {:10.0}", times[ROUNDS / 2], times[0], times[ROUNDS - 1]);
}

fn codec() {
    let kinds = [
        ("acquire", acquire(&key(1), 1, 0)),
        ("release", Command::ReleaseLock(ReleaseLock { key: key(1), secret: secret(1) })),
        ("write of 256 bytes", write(1)),
    ];
    for (name, command) in kinds {
        let request = Request::from(command);
        let envelope = encode_request(&request);
        let entry = normal_entry(1, 7, Millis(7), NodeId(1), 7, envelope.clone());
        let bytes = encode_entry(&entry);
        println!("{name}: {} bytes as a request, {} as an entry", envelope.len(), bytes.len());
        let repeat = |each: &mut dyn FnMut()| (0..OPERATIONS).for_each(|_| each());
        measure(&format!("encode a request: {name}"), OPERATIONS, || {
            repeat(&mut || drop(black_box(encode_request(black_box(&request)))));
        });
        measure(&format!("decode a request: {name}"), OPERATIONS, || {
            repeat(&mut || drop(black_box(decode_request(black_box(&envelope)).expect("a request"))));
        });
        measure(&format!("encode an entry: {name}"), OPERATIONS, || {
            repeat(&mut || drop(black_box(encode_entry(black_box(&entry)))));
        });
        measure(&format!("decode an entry: {name}"), OPERATIONS, || {
            repeat(&mut || drop(black_box(decode_entry(black_box(&bytes)).expect("an entry"))));
        });
    }
}

/// Spread over the key space: neither keys nor waiters come in their order.
fn spread(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn key(number: u64) -> String {
    format!("switch:{:016x}-0000-0000", spread(number))
}

fn secret(number: u64) -> SecretHash {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    SecretHash(bytes)
}

fn acquire(key: &str, number: u64, wait: u64) -> Command {
    let mut waiter = [0; 16];
    waiter[..8].copy_from_slice(&spread(number).to_be_bytes());
    Command::AcquireLock(AcquireLock {
        keys: vec![key.to_owned()],
        mode: LockMode::Exclusive,
        owner: "worker-on-some-host".to_owned(),
        secret: secret(number),
        salt: None,
        ttl: Millis(86_400_000),
        wait: Millis(wait),
        hold_max: None,
        metadata: None,
        waiter: WaiterId(waiter),
        node: NodeId(1),
    })
}

fn write(number: u64) -> Command {
    let operation = KvOperation::Put {
        key: format!("register:{:04}", number % 1_000).into_bytes(),
        value: vec![b'v'; 256],
        content_type: None,
        ttl: None,
    };
    Command::WriteKv(WriteKv { conditions: Vec::new(), operations: vec![operation] })
}

struct Cluster {
    state: State,
    index: u64,
    held: u64,
}

impl Cluster {
    fn holding(held: u64) -> Self {
        let node =
            JoinNode { name: "a".to_owned(), incarnation: Incarnation([1; 16]), info: NodeInfo::default() };
        let form = FormCluster {
            cluster_id: ClusterId([1; 16]),
            formed_at_unix_ms: 0,
            voters_target: 1,
            nodes: vec![node],
        };
        let mut cluster = Self { state: State::new(), index: 0, held };
        cluster.apply(Command::FormCluster(form));
        for number in 0..held {
            let granted = cluster.apply(acquire(&key(number), number, 0));
            assert!(matches!(granted, Reply::Granted(_)), "{granted:?}");
        }
        cluster
    }

    fn apply(&mut self, command: Command) -> Reply {
        self.index += 1;
        let entry =
            Entry { index: LogIndex(self.index), at: Millis(self.index / 10), request: command.into() };
        self.state.apply(entry).reply
    }

    fn release(&mut self, key: &str, number: u64) {
        let release = ReleaseLock { key: key.to_owned(), secret: secret(number) };
        let reply = self.apply(Command::ReleaseLock(release));
        assert!(!matches!(reply, Reply::Refused(_)), "{reply:?}");
    }

    fn pairs(&mut self, count: u64) {
        for _ in 0..count {
            let number = self.held + self.index;
            let granted = self.apply(acquire(&key(number), number, 0));
            assert!(matches!(granted, Reply::Granted(_)), "{granted:?}");
            self.release(&key(number), number);
        }
    }

    fn writes(&mut self, count: u64) {
        for number in 0..count {
            let written = self.apply(write(number));
            assert!(matches!(written, Reply::Written { .. }), "{written:?}");
        }
    }

    /// One holds, one waits; the release grants, and the next one queues.
    fn hand_overs(&mut self, count: u64) {
        let wanted = "switch:wanted";
        let mut holder = self.held + self.index;
        self.apply(acquire(wanted, holder, 0));
        for _ in 0..count {
            let next = self.held + self.index;
            let waiting = self.apply(acquire(wanted, next, 40_000));
            assert!(matches!(waiting, Reply::Waiting { .. }), "{waiting:?}");
            self.release(wanted, holder);
            holder = next;
        }
        self.release(wanted, holder);
    }

    /// Entries as full as they get.
    fn renewals(&mut self, entries: u64) {
        for _ in 0..entries {
            let renewals = (0..self.held).map(|number| RenewLock {
                key: key(number),
                secret: secret(number),
                ttl: None,
            });
            let renewals = renewals.collect();
            black_box(self.apply(Command::RenewLocks(renewals)));
        }
    }
}
