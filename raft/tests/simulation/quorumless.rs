//! A leader without a quorum that somebody still hears.

use std::time::Duration;

use ovncp_raft::ProposeError;
use ovncp_state::{Command, Request};
use ovncp_storage::disk::SimDisk;
use tokio::time::Instant;

use crate::cluster::{Cluster, Connection, Settings};
use crate::scenario::{converge, recover, simulate};

/// What the caller brings along.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_caller_behind_a_leader_without_a_quorum_is_told_long_before_its_own_deadline() {
    let ended = simulate(1, |trace| async move {
        let cluster = Cluster::<SimDisk>::new(1, Settings::new(5), &trace);
        for name in cluster.settings().founders.clone() {
            cluster.add(&name);
            cluster.start(&name);
        }
        recover(&cluster).await?;
        converge(&cluster).await?;
        let leader = cluster.leader().ok_or("nobody leads")?;
        let nodes = cluster.connect_all();
        // Three of the five vote: beside a learner the leader has no quorum.
        let voters = leader.group.status().voters;
        let learns =
            |node: &&Connection| node.group.identity().node_id.is_some_and(|id| !voters.contains(&id));
        let follower = nodes.iter().find(learns).ok_or("no learner")?;
        for near in [&leader.name, &follower.name] {
            for far in nodes.iter().filter(|node| ![&leader.name, &follower.name].contains(&&node.name)) {
                cluster.net.cut(near, &far.name);
            }
        }
        // Both now, when the leader does not know it yet, and later.
        for attempt in 0..5 {
            let begun = Instant::now();
            let write = |group: ovncp_raft::Group| async move {
                group.propose(Request::from(Command::Tick), PATIENCE).await
            };
            let answer = follower.call(PATIENCE * 2, write).await;
            if !matches!(answer, Some(Err(ProposeError::Unknown | ProposeError::NoLeader { .. }))) {
                return Err(format!("attempt {attempt}: {answer:?}"));
            }
            if begun.elapsed() > PATIENCE / 10 {
                return Err(format!("attempt {attempt}: {answer:?} only after {:?}", begun.elapsed()));
            }
        }
        Ok(())
    });
    if let Err(failure) = ended {
        panic!("{}\n{}", failure.what, failure.tail);
    }
}
