//! Heartbeat, forward, control and snapshot lanes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, future, stream};
use openraft::alias::SnapshotOf;
use openraft::errors::{ReplicationClosed, StreamingError};
use openraft::network::RPCOption;
use openraft::raft::TransferLeaderError;
use openraft::{RaftNetworkFactory, RaftNetworkV2, Snapshot, SnapshotMeta};
use ovncp_raft::network::limits::{
    CALLS_IN_FLIGHT_MAX, CALLS_QUEUED_MAX, FRAME_BYTES_MAX, SNAPSHOT_CHUNK_BYTES, SNAPSHOT_CHUNKS_QUEUED_MAX,
};
use ovncp_raft::network::message::{ControlRequest, ControlResponse, ForwardItem, ForwardOutcome};
use ovncp_raft::network::types::{RpcError, TransferRequest, VoteRequest};
use ovncp_raft::network::{CallError, DialError, TcpNet};
use ovncp_state::{LogIndex, NodeId};
use ovncp_storage::types::{Origin, TypeConfig};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::node::{Handler, Memory, Setup, append, log_id, vote};
use crate::support::sim_net::{PIPE_BYTES_MAX, SimNet};

fn option() -> RPCOption {
    RPCOption::new(Duration::from_secs(5))
}

fn items(count: u64) -> Vec<ForwardItem> {
    let item = |ticket| ForwardItem {
        origin: Origin { node: NodeId(1), ticket },
        term: 1,
        envelope: Bytes::from("x"),
    };
    (0..count).map(item).collect()
}

#[tokio::test]
async fn every_call_of_the_heartbeat_lane_is_answered() {
    let (a, b) = (Setup::new(1).start(TcpNet).await, Setup::new(2).start(TcpNet).await);
    let mut network = a.network.clone();
    let mut client = network.new_client(2, &b.peer).await;
    let mut heartbeats = network.new_heartbeat_client(2, &b.peer).await;
    let beats = [append(3, 0, 0), append(4, 0, 0)];
    let answers = heartbeats.stream_append(stream::iter(beats), option()).await.unwrap();
    let answers: Vec<_> = answers.map(|answer| answer.unwrap().unwrap()).collect().await;
    assert_eq!(answers, [Some(log_id(3)), Some(log_id(4))]);
    let request = VoteRequest::new(vote(5), Some(log_id(7)));
    let answer = client.vote(request.clone(), option()).await.unwrap();
    assert_eq!((answer.vote, answer.last_log_id, answer.vote_granted), (vote(5), Some(log_id(7)), true));
    let answer = client.pre_vote(request, option()).await.unwrap();
    assert!(!answer.vote_granted, "a pre-vote is not a vote");
    let request = TransferRequest::new(vote(5), 2, Some(log_id(7)));
    let answer = client.transfer_leader(request, option()).await.unwrap();
    let expected = TransferLeaderError::LogNotFlushed { expected: Some(log_id(7)), actual: None };
    assert_eq!(answer, Err(expected));
    drop((client, heartbeats, network));
    a.stop().await;
    b.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_vote_times_out_softly() {
    let net = SimNet::new(1);
    let a = Setup { bind: "h1:1".into(), ..Setup::new(1) }.start(net.host("h1")).await;
    let b = Setup { bind: "h2:1".into(), ..Setup::new(2) }.start(net.host("h2")).await;
    a.meet(&[b.place()]);
    a.sees(2, "connected", |sight| sight.connected).await;
    net.cut("h1", "h2");
    let mut client = a.network.clone().new_client(2, &b.peer).await;
    let start = Instant::now();
    let short = RPCOption::new(Duration::from_millis(100));
    let error = client.vote(VoteRequest::new(vote(5), None), short).await.unwrap_err();
    assert!(matches!(error, RpcError::Timeout(_)), "{error}");
    assert!(start.elapsed() < Duration::from_millis(100), "before openraft gives up");
    drop(client);
    net.heal();
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn proposals_are_forwarded_with_one_outcome_each() {
    let (a, b) = (Setup::new(1).start(TcpNet).await, Setup::new(2).start(TcpNet).await);
    a.meet(&[b.place()]);
    let outcomes = a.network.forward(NodeId(2), &items(3)).await.unwrap();
    let expected =
        [ForwardOutcome::Accepted, ForwardOutcome::NotLeader { hint: Some(NodeId(9)) }, ForwardOutcome::Busy];
    assert_eq!(outcomes, expected);
    let seen = b.handler.forwarded.lock().unwrap().clone();
    assert_eq!(seen, items(3).into_iter().map(|item| ("node-1".to_owned(), item)).collect::<Vec<_>>());
    assert_eq!(a.network.read_index(NodeId(2)).await.unwrap(), Ok(LogIndex(42)));
    assert_eq!(a.network.renew(NodeId(2), &[]).await.unwrap(), []);
    let large = ForwardItem { envelope: Bytes::from(vec![0; FRAME_BYTES_MAX]), ..items(1).remove(0) };
    let error = a.network.forward(NodeId(2), &[large]).await.unwrap_err();
    assert!(matches!(error, CallError::Declined(_)), "{error}");
    let error = a.network.forward(NodeId(3), &items(1)).await.unwrap_err();
    assert!(matches!(error, CallError::NotSent(_)), "{error}");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(start_paused = true)]
async fn full_queues_answer_busy_and_calls_in_flight_are_lost_with_their_connection() {
    let net = SimNet::new(2);
    let handler = Handler { forward_permits: Semaphore::new(0), ..Handler::default() };
    let a = Setup { bind: "h1:1".into(), ..Setup::new(1) }.start(net.host("h1")).await;
    let b = Setup { bind: "h2:1".into(), ..Setup::new(2) }.start_with(net.host("h2"), handler).await;
    a.meet(&[b.place()]);
    let room = CALLS_IN_FLIGHT_MAX + CALLS_QUEUED_MAX;
    let batch = items(1);
    let mut calls: Vec<_> = (0..2 * room).map(|_| Box::pin(a.network.forward(NodeId(2), &batch))).collect();
    // Each is asked once; those without room fail at once, the others wait.
    let mut busy = 0;
    loop {
        let waiting = calls.len();
        let mut left = Vec::new();
        for mut call in calls {
            match timeout(Duration::from_millis(1), &mut call).await {
                Err(_) => left.push(call),
                Ok(Err(CallError::Busy)) => busy += 1,
                Ok(other) => panic!("{other:?}"),
            }
        }
        calls = left;
        if calls.len() == waiting {
            break;
        }
    }
    assert_eq!((calls.len(), busy), (room, room));
    assert_eq!(b.handler.forwarded.lock().unwrap().len(), CALLS_IN_FLIGHT_MAX);
    // The other end dies: what was sent is in doubt, what was queued goes to the next connection or not at all.
    b.stop().await;
    let mut lost = 0;
    for result in future::join_all(calls).await {
        match result.unwrap_err() {
            CallError::Lost => lost += 1,
            CallError::NotSent(DialError::ConnectionRefused) => {}
            other => panic!("{other}"),
        }
    }
    assert_eq!(lost, CALLS_IN_FLIGHT_MAX);
    a.stop().await;
}

#[tokio::test]
async fn control_questions_need_no_membership() {
    let stranger = Setup { cluster: None, has_id: false, ..Setup::new(1) };
    let (a, b) = (stranger.start(TcpNet).await, Setup::new(2).start(TcpNet).await);
    let target = ovncp_raft::network::Target { id: None, name: Some("node-2".into()), incarnation: None };
    let request = ControlRequest::Probe { list: [3; 16] };
    let patience = Duration::from_secs(5);
    let (who, response) =
        a.network.control(&b.peer.addr, target.clone(), request.clone(), patience).await.unwrap();
    assert_eq!((who.name.as_str(), who.id), ("node-2", Some(NodeId(2))));
    let expected = ControlResponse::Refused { reason: format!("node-1: {request:?}"), retry: false };
    assert_eq!(response, expected);
    b.stop().await;
    let error = a.network.control("127.0.0.1:1", target, request, patience).await.unwrap_err();
    assert_eq!(error, CallError::NotSent(DialError::ConnectionRefused));
    a.stop().await;
}

fn snapshot(bytes: Bytes) -> SnapshotOf<TypeConfig, Memory> {
    snapshot_of(Memory::new(bytes))
}

fn snapshot_of(snapshot: Memory) -> SnapshotOf<TypeConfig, Memory> {
    let meta = SnapshotMeta { last_log_id: Some(log_id(9)), last_membership: Default::default() };
    Snapshot { meta, snapshot }
}

fn pattern(len: usize) -> Bytes {
    (0..len).map(|i| (i * 31 % 251) as u8).collect()
}

#[tokio::test]
async fn a_snapshot_arrives_whole() {
    let (a, b) = (Setup::new(1).start(TcpNet).await, Setup::new(2).start(TcpNet).await);
    let mut client = a.network.clone().new_snapshot_client(2, &b.peer).await;
    for len in [0, 1, SNAPSHOT_CHUNK_BYTES, 5 * 1_024 * 1_024 + 3] {
        let answer = client.full_snapshot(vote(3), snapshot(pattern(len)), future::pending(), option()).await;
        assert_eq!(answer.unwrap().vote, vote(3));
        let received = b.handler.snapshots.borrow().last().unwrap().clone();
        assert!(received.unwrap() == pattern(len), "{len} bytes");
    }
    drop(client);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_receiver_slows_the_sender_and_a_cancelled_snapshot_is_no_snapshot() {
    let net = SimNet::new(3);
    let handler = Handler { chunk_permits: Semaphore::new(2), ..Handler::default() };
    let a = Setup { bind: "h1:1".into(), ..Setup::new(1) }.start(net.host("h1")).await;
    let b = Setup { bind: "h2:1".into(), ..Setup::new(2) }.start_with(net.host("h2"), handler).await;
    let mut client = a.network.clone().new_snapshot_client(2, &b.peer).await;
    let source = Memory::new(pattern(64 * 1_024 * 1_024));
    let read = Arc::clone(&source.read);
    let (cancel, cancelled) = tokio::sync::oneshot::channel::<()>();
    let cancel_signal = async move {
        let _ = cancelled.await;
        ReplicationClosed::new("test")
    };
    let mut send = Box::pin(client.full_snapshot(vote(3), snapshot_of(source), cancel_signal, option()));
    let early = timeout(Duration::from_secs(5), &mut send).await;
    assert!(early.is_err(), "the receiver takes nothing");
    // Two taken pieces, a full queue and one in each hand; what is on the way; what is being written.
    let bound = (2 + SNAPSHOT_CHUNKS_QUEUED_MAX + 3) * SNAPSHOT_CHUNK_BYTES + 2 * PIPE_BYTES_MAX;
    let read = read.load(Ordering::Relaxed) as usize;
    assert!(read <= bound, "{read} bytes read from the snapshot, {bound} have a place");
    cancel.send(()).unwrap();
    let error = send.await.unwrap_err();
    assert!(matches!(error, StreamingError::Closed(_)), "{error}");
    b.handler.chunk_permits.add_permits(10_000);
    let mut snapshots = b.handler.snapshots.subscribe();
    let received = snapshots.wait_for(|all| !all.is_empty()).await.unwrap()[0].clone();
    assert!(received.unwrap_err().contains("gone"));
    drop(client);
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_refused_snapshot_is_answered_before_it_is_sent() {
    let handler = Handler { serving: false, ..Handler::default() };
    let (a, b) = (Setup::new(1).start(TcpNet).await, Setup::new(2).start_with(TcpNet, handler).await);
    let mut client = a.network.clone().new_snapshot_client(2, &b.peer).await;
    let bytes = pattern(64 * 1_024 * 1_024);
    let error =
        client.full_snapshot(vote(3), snapshot(bytes), future::pending(), option()).await.unwrap_err();
    assert!(
        matches!(&error, StreamingError::Unreachable(why) if why.to_string().contains("no raft")),
        "{error}"
    );
    drop(client);
    a.stop().await;
    b.stop().await;
}
