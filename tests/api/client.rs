//! The Rust client against real nodes.

use std::time::{Duration, Instant};

use ovncp::client::{Client, Consistency, Error, Lost, Mode};

use crate::support::TestNode;

const PATIENCE: Duration = Duration::from_secs(60);

fn client(nodes: &[TestNode]) -> Client {
    let endpoints = nodes.iter().map(|node| node.base.clone());
    Client::builder().endpoints(endpoints).deadline(PATIENCE).build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_typed_call_works_on_a_node() {
    let nodes = [TestNode::start().await];
    let client = client(&nodes);

    let lock = client.lock("a:1").owner("me").metadata(serde_json::json!({"x": 1})).acquire().await.unwrap();
    let refused = client.lock("a:1").owner("other").acquire().await.unwrap_err();
    assert!(
        matches!(&refused, Error::LockHeld { holder: Some(holder), .. }
        if holder.owner == "me" && holder.fencing_token == lock.fencing_token),
        "{refused:?}"
    );
    let timed_out = client.lock("a:1").wait(Duration::from_millis(50)).acquire().await.unwrap_err();
    assert!(matches!(timed_out, Error::LockTimeout { .. }), "{timed_out:?}");
    let shown = client.inspect("a:1").await.unwrap().unwrap();
    assert_eq!((shown.holders[0].owner.as_str(), shown.queue_length), ("me", 0));
    assert_eq!(shown.holders[0].fencing_token, lock.fencing_token);
    assert_eq!(client.renew(&lock).await.unwrap().fencing_token, lock.fencing_token);
    client.release(&lock).await.unwrap();
    assert!(matches!(client.release(&lock).await, Err(Error::NotHolder(_))));
    assert!(matches!(client.renew(&lock).await, Err(Error::NotHolder(_))));
    assert!(client.inspect("a:1").await.unwrap().is_none());

    let both = client.lock_all(["b:2", "b:1"]).acquire().await.unwrap();
    assert!(both.fencing_token > lock.fencing_token);
    assert_eq!((both.key.as_str(), both.keys.len()), ("b:1", 2));
    let shared = client.lock("c").shared().acquire().await.unwrap();
    let with = client.lock("c").mode(Mode::Shared).acquire().await.unwrap();
    assert_ne!(shared.fencing_token, with.fencing_token);
    let page = client.locks("", 2, None).await.unwrap();
    assert_eq!((page.items.len(), page.items[0].key.as_str()), (2, "b:1"));
    let page = client.locks("", 2, page.next_cursor.as_deref()).await.unwrap();
    assert_eq!((page.items.len(), page.items[0].holders.len(), page.next_cursor), (1, 2, None));
    assert_eq!(client.force_release("b:2", "test", None).await.unwrap(), [both.fencing_token]);
    assert!(matches!(client.force_release("b:2", "test", None).await, Err(Error::NotFound(_))));

    let kv = client.kv();
    let first = kv.cas("k:1", None, "one").await.unwrap();
    let mismatch = kv.cas("k:1", None, "two").await.unwrap_err();
    assert!(matches!(mismatch, Error::RevisionMismatch { current: Some(now), .. } if now == first));
    let second = kv.cas("k:1", Some(first), "two").await.unwrap();
    let entry = kv.get("k:1").await.unwrap().unwrap();
    assert_eq!((&entry.value[..], entry.revision), (&b"two"[..], second));
    // Keys are bytes, whatever they look like in a path.
    kv.put(b"k:\xff/?#%2e", "bytes").content_type("text/plain").send().await.unwrap();
    let entry = kv.get(b"k:\xff/?#%2e").await.unwrap().unwrap();
    assert_eq!((&entry.value[..], entry.content_type.as_str()), (&b"bytes"[..], "text/plain"));
    assert!(matches!(kv.get("..").await, Err(Error::Setup(_))));
    let page = kv.scan("k:", 1, None).await.unwrap();
    let rest = kv.scan("k:", 10, page.next_cursor.as_deref()).await.unwrap();
    assert_eq!((page.items[0].key.as_str(), rest.items.len()), ("k:1", 1));
    assert!(matches!(kv.delete("k:1").if_revision(first).send().await, Err(Error::RevisionMismatch { .. })));
    assert!(kv.delete("k:1").if_revision(second).send().await.unwrap());
    assert!(!kv.delete("k:1").send().await.unwrap());
    assert!(kv.get("k:1").await.unwrap().is_none());

    let cluster = client.cluster();
    assert_eq!(cluster.view().await.unwrap().leader_id.as_deref(), Some("node-1"));
    assert!(cluster.leader().await.unwrap().is_leader);
    let members = cluster.nodes().await.unwrap();
    assert_eq!((members.nodes[0].id.as_str(), members.nodes[0].is_leader), ("node-1", true));
    assert_eq!(cluster.node("node-1").await.unwrap().unwrap().role, "voter");
    assert!(cluster.node("nobody").await.unwrap().is_none());
    assert!(matches!(cluster.transfer_leader(Some("nobody")).await, Err(Error::NotFound(_))));
    assert!(matches!(cluster.remove_node("node-1", "test").await, Err(Error::Refused(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guard_outlives_a_hand_over_and_a_node_and_is_lost_without_a_majority() {
    let mut nodes = TestNode::start_three().await;
    let client = client(&nodes);
    let guard = client.lock("k").ttl(Duration::from_secs(12)).guard().await.unwrap();
    let token = guard.fencing_token();

    // Read your writes on another node, without asking the leader.
    client.kv().put("written", "here").send().await.unwrap();
    let elsewhere = self::client(&nodes[2..]);
    elsewhere.see_index(client.seen_index());
    let read = elsewhere.kv().consistency(Consistency::Local).get("written").await.unwrap();
    assert!(read.is_some());

    let leader = client.cluster().transfer_leader(None).await.unwrap();
    // The node that leads goes, and the client asks another one.
    let position = nodes.iter().position(|node| node.name == leader).unwrap();
    nodes[position].begin_stop();
    let lease = guard.lease();
    let renewed = async {
        while guard.lease().ends_at() <= lease.ends_at() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, renewed).await.expect("renewed without that node");
    client.kv().put("written", "again").send().await.unwrap();
    assert!(guard.is_held());
    let shown = client.inspect("k").await.unwrap().unwrap();
    assert_eq!(shown.holders[0].fencing_token, token, "the same grant");

    // Without a majority nothing can be renewed: the work ends before the lease does.
    let next = (position + 1) % 3;
    nodes[next].begin_stop();
    let lost = tokio::time::timeout(PATIENCE, guard.run(std::future::pending::<()>())).await;
    assert!(matches!(lost, Ok(Err(Lost::Expired { .. }))), "{lost:?}");
    let (noticed, lease) = (Instant::now(), guard.lease());
    assert!(lease.lost_at() <= noticed && noticed < lease.ends_at(), "neither early nor after the lease");
    let refused =
        Client::builder().endpoint(&nodes[(position + 2) % 3].base).deadline(Duration::from_secs(3));
    let refused = refused.build().unwrap().kv().put("written", "never").send().await;
    assert!(matches!(refused, Err(Error::NoLeader(_) | Error::Unknown { .. })), "{refused:?}");
}
