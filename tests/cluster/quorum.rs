//! Two of three nodes down: quick, honest refusals, local reads, and recovery without a manual step.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::support::{Cluster, PATIENCE};

/// What is promised to a writer without a leader.
const REFUSED_WITHIN: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_writes_answer_no_leader_within_two_seconds() {
    let mut cluster = Cluster::start(3).await;
    let lock = cluster.acquire("before", "me").await;
    let survivor = cluster.follower().await;
    for position in (0..3).filter(|position| *position != survivor) {
        cluster.nodes[position].kill();
    }
    let node = &cluster.nodes[survivor];
    // The survivor may need a moment to notice; it may even have become the leader between the two kills, and a
    // write that it then puts into its log is unknown. Once it is not ready, every write is refused quickly.
    cluster
        .until("the survivor is not ready", || async {
            let answer = node.get("/health/ready").await?;
            (answer.status == 503).then_some(())
        })
        .await;
    for (path, body) in [
        ("/api/v1/cluster/locks/lonely/acquire", json!({ "owner": "me" })),
        ("/api/v1/cluster/locks/before/release", json!({ "secret": lock.secret })),
    ] {
        // Every answer is certain. A busy machine may take longer than promised for one, but not for each.
        let began = Instant::now();
        loop {
            let start = Instant::now();
            let answer = node.post(path, &body).await.expect("an answer");
            assert_eq!((answer.status, answer.code()), (503, "no_leader"), "{answer:?}");
            assert!(answer.header("retry-after").is_some(), "{answer:?}");
            if start.elapsed() < REFUSED_WITHIN {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{path} took {:?}", start.elapsed());
        }
    }
    let linearizable = node.get("/api/v1/cluster/locks/before").await.expect("an answer");
    assert_eq!((linearizable.status, linearizable.code()), (503, "no_leader"), "{linearizable:?}");
    let local = node.get("/api/v1/cluster/locks/before?consistency=local").await.expect("an answer");
    assert_eq!(local.status, 200, "{local:?}");
    let live = node.get("/health/live").await.expect("an answer");
    assert_eq!(live.status, 200, "{live:?}");
    let ready = node.get("/health/ready").await.expect("an answer");
    assert_eq!(ready.status, 503, "{ready:?}");

    // One more node is enough, with no manual step.
    let returning = (0..3).find(|position| *position != survivor).expect("another node");
    cluster.nodes[returning].start();
    cluster.release(&lock).await;
    let next = cluster.acquire("before", "next").await;
    assert!(next.token > lock.token);
}
