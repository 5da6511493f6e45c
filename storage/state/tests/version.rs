//! The version of a cluster: the lowest of its members, never falling, and a bar to those that are older.

#![allow(clippy::unwrap_used, reason = "a test")]

use ovncp_state::command::{FormCluster, JoinNode, NodeInfo, RemoveNode, UpdateNode};
use ovncp_state::{
    ClusterId, Command, Entry, Incarnation, LogIndex, Millis, NodeId, Record, Refusal, Reply, State,
    StateBuilder, Version, invariants,
};

const NEXT: Version = Version::new(0, 2);

struct Cluster {
    state: State,
    index: u64,
}

fn info(version: &str) -> NodeInfo {
    NodeInfo { version: version.to_owned(), ..NodeInfo::default() }
}

fn node(by: u8, version: &str) -> JoinNode {
    JoinNode { name: format!("n{by}"), incarnation: Incarnation([by; 16]), info: info(version) }
}

impl Cluster {
    /// Nodes 1, 2... with these versions.
    fn formed(versions: &[&str]) -> Self {
        let mut cluster = Self { state: State::new(), index: 0 };
        let form = FormCluster {
            cluster_id: ClusterId([1; 16]),
            formed_at_unix_ms: 0,
            voters_target: 3,
            nodes: (1..).zip(versions).map(|(by, version)| node(by, version)).collect(),
        };
        assert_eq!(cluster.apply(Command::FormCluster(form)), Reply::Done);
        cluster
    }

    fn apply(&mut self, command: Command) -> Reply {
        self.index += 1;
        let entry = Entry { index: LogIndex(self.index), at: Millis(0), request: command.into() };
        let reply = self.state.apply(entry).reply;
        invariants::check(&self.state).unwrap();
        reply
    }

    /// Node `by` was started anew with this binary.
    fn update(&mut self, by: u8, version: &str) -> Reply {
        let boot = self.index;
        self.apply(Command::UpdateNode(UpdateNode {
            id: NodeId(u64::from(by)),
            incarnation: Incarnation([by; 16]),
            boot,
            info: info(version),
        }))
    }

    fn version(&self) -> Version {
        self.state.cluster_version()
    }
}

fn outdated(node: Version) -> Reply {
    Reply::Refused(Refusal::Outdated { node, cluster: NEXT })
}

#[test]
fn it_rises_with_the_last_member() {
    let mut cluster = Cluster::formed(&["0.1.0", "0.1.0", "0.1.3"]);
    assert_eq!(cluster.version(), Version::BASE);
    cluster.update(1, "0.2.0");
    cluster.update(2, "0.3.1");
    assert_eq!(cluster.version(), Version::BASE, "node 3 could not apply more");
    assert_eq!(cluster.state.oldest_member(), Some(NodeId(3)));
    assert_eq!(cluster.update(3, "0.2.5"), Reply::Done);
    assert_eq!(cluster.version(), NEXT, "the lowest of all");
    assert_eq!(Cluster::formed(&["0.2.0", "0.2.0"]).version(), NEXT, "formed with it");
}

#[test]
fn it_rises_when_the_oldest_member_is_removed() {
    let mut cluster = Cluster::formed(&["0.2.0", "0.2.0", "0.1.0"]);
    assert_eq!(cluster.version(), Version::BASE);
    let remove = RemoveNode { id: NodeId(3), reason: "too old".to_owned() };
    assert_eq!(cluster.apply(Command::RemoveNode(remove)), Reply::Done);
    assert_eq!(cluster.version(), NEXT);
}

#[test]
fn a_joiner_that_is_older_is_refused_and_one_that_is_newer_is_not() {
    let mut cluster = Cluster::formed(&["0.2.0", "0.2.0"]);
    assert_eq!(cluster.apply(Command::JoinNode(node(3, "0.1.9"))), outdated(Version::BASE));
    assert_eq!(cluster.state.nodes().len(), 2);
    assert!(matches!(cluster.apply(Command::JoinNode(node(3, "0.3.0"))), Reply::Joined { .. }));
    assert_eq!(cluster.version(), NEXT);
    // Before it has risen, an older one is welcome and keeps it down.
    let mut young = Cluster::formed(&["0.1.0", "0.2.0"]);
    assert!(matches!(young.apply(Command::JoinNode(node(3, "0.1.0"))), Reply::Joined { .. }));
    young.update(1, "0.2.0");
    assert_eq!(young.version(), Version::BASE);
}

#[test]
fn it_never_falls_and_a_member_that_comes_back_older_is_refused() {
    let mut cluster = Cluster::formed(&["0.2.0", "0.2.0", "0.2.0"]);
    assert_eq!(cluster.update(2, "0.1.9"), outdated(Version::BASE));
    assert_eq!(cluster.version(), NEXT);
    assert_eq!(cluster.state.node(NodeId(2)).unwrap().info.version, "0.2.0", "nothing of it was taken");
    assert_eq!(cluster.update(2, "0.2.7"), Reply::Done);
}

#[test]
fn a_snapshot_carries_it_and_its_hash_covers_it() {
    let cluster = Cluster::formed(&["0.2.0"]);
    let records: Vec<_> = cluster.state.records().collect();
    assert!(matches!(records.last(), Some(Record::Version(NEXT))));
    // What it adds to the bytes of a snapshot: variant, major, minor.
    assert_eq!(postcard::to_allocvec(records.last().unwrap()).unwrap(), [7, 0, 2]);
    let mut builder = StateBuilder::new();
    records.iter().cloned().for_each(|record| builder.push(record).unwrap());
    let restored = builder.finish(cluster.state.hash()).unwrap();
    assert_eq!((restored.cluster_version(), restored.hash()), (NEXT, cluster.state.hash()));
    // Without it, or with another one, it is another state; twice, or with nothing to say, it is none.
    for version in [None, Some(Version::new(0, 3))] {
        let mut builder = StateBuilder::new();
        let rest = records[..records.len() - 1].iter().cloned();
        rest.chain(version.map(Record::Version)).for_each(|record| builder.push(record).unwrap());
        assert!(builder.finish(cluster.state.hash()).is_err(), "{version:?}");
    }
    let mut builder = StateBuilder::new();
    records.iter().cloned().for_each(|record| builder.push(record).unwrap());
    assert!(builder.push(Record::Version(NEXT)).is_err());
    let mut builder = StateBuilder::new();
    records[..records.len() - 1].iter().cloned().for_each(|record| builder.push(record).unwrap());
    assert!(builder.push(Record::Version(Version::BASE)).is_err());
    // At first there is no such record, so that what older versions write and read stays as it is.
    let first = Cluster::formed(&["0.1.0"]);
    assert!(first.state.records().all(|record| !matches!(record, Record::Version(_))));
}
