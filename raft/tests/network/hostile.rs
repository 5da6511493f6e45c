//! Bytes from anybody: garbage, silence, too much, too many.

use std::time::Duration;

use bytes::BytesMut;
use ovncp_raft::network::frame::{self, Frame, Kind};
use ovncp_raft::network::handshake::{self, Hello, MAGIC, Welcome};
use ovncp_raft::network::limits::{
    APPENDS_IN_FLIGHT_MAX, CONNECTIONS_MAX, FRAME_BYTES_MAX, HANDSHAKE_BYTES_MAX, frame_bytes_max,
};
use ovncp_raft::network::wire::{self, Fault};
use ovncp_raft::network::{Lane, Net, Refusal, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use crate::node::{Handler, Node, Setup, append};
use crate::support::sim_net::{SimHost, SimNet, SimStream};

fn on_sim(id: u64) -> Setup {
    Setup { bind: format!("h{id}:7400"), ..Setup::new(id) }
}

/// A connection without manners.
struct Raw {
    stream: SimStream,
    input: BytesMut,
}

impl Raw {
    async fn dial(net: &SimNet) -> Self {
        let stream = net.host("h9").connect("h2:7400").await.unwrap();
        Self { stream, input: BytesMut::new() }
    }

    /// Dials and shakes hands as node 1.
    async fn welcome(net: &SimNet, lane: Lane) -> Self {
        let mut raw = Self::dial(net).await;
        let target = Target { id: None, name: None, incarnation: None };
        let hello = Hello { lane, from: Setup::new(1).identity().present(), target };
        raw.send(Kind::Hello, 0, |out| handshake::put_hello(out, &hello)).await;
        let frame = raw.receive().await.unwrap();
        assert_eq!(frame.kind, Kind::Welcome);
        let welcome: Welcome = wire::take(&frame.body).unwrap();
        assert_eq!((welcome.version, welcome.peer.name.as_str()), (1, "node-2"));
        raw
    }

    async fn send(&mut self, kind: Kind, id: u64, body: impl FnOnce(&mut BytesMut)) {
        let mut out = BytesMut::new();
        frame::encode(&mut out, kind, id, body);
        self.write(&out).await;
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next frame; nothing at the end of the stream.
    async fn receive(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = frame::decode(&mut self.input, FRAME_BYTES_MAX).unwrap() {
                return Some(frame);
            }
            if self.stream.read_buf(&mut self.input).await.unwrap() == 0 {
                return None;
            }
        }
    }

    /// Expects last words and the end.
    async fn faulted(mut self, fault: Fault) {
        let frame = timeout(Duration::from_secs(5), self.receive()).await.unwrap().unwrap();
        assert_eq!(frame.kind, Kind::Fault);
        assert_eq!(wire::take::<Fault>(&frame.body).unwrap(), fault);
        assert_eq!(self.receive().await, None);
    }

    async fn refused(mut self, refusal: Refusal) {
        let frame = timeout(Duration::from_secs(5), self.receive()).await.unwrap().unwrap();
        assert_eq!(frame.kind, Kind::Refused);
        assert_eq!(wire::take::<Refusal>(&frame.body).unwrap(), refusal);
        assert_eq!(self.receive().await, None);
    }
}

/// A node that a well-behaved peer can still reach.
async fn serves_on(net: &SimNet, b: Node<SimHost>) {
    let a = on_sim(1).restarted().start(net.host("h1")).await;
    a.meet(&[b.place()]);
    a.sees(2, "connected", |sight| sight.connected).await;
    a.stop().await;
    b.stop().await;
    assert_eq!(net.connections(), 0);
}

#[tokio::test(start_paused = true)]
async fn garbage_instead_of_a_hello_is_refused() {
    let net = SimNet::new(1);
    let b = on_sim(2).start(net.host("h2")).await;
    let mut request = Raw::dial(&net).await;
    request.write(b"GET / HTTP/1.1\r\nHost: node-2\r\n\r\n").await;
    request.refused(Refusal::BadHandshake).await;
    let mut wrong_magic = Raw::dial(&net).await;
    wrong_magic.send(Kind::Hello, 0, |out| out.extend_from_slice(b"ovncp-xx\x01\0\x01\0")).await;
    wrong_magic.refused(Refusal::BadHandshake).await;
    let mut no_hello = Raw::dial(&net).await;
    no_hello.send(Kind::Append, 0, |_| ()).await;
    no_hello.refused(Refusal::BadHandshake).await;
    let mut truncated = Raw::dial(&net).await;
    truncated
        .send(Kind::Hello, 0, |out| {
            out.extend_from_slice(&MAGIC);
            out.extend_from_slice(&[1, 0, 1, 0, 0]);
        })
        .await;
    truncated.refused(Refusal::BadHandshake).await;
    let mut long = Raw::dial(&net).await;
    long.send(Kind::Hello, 0, |out| out.resize(out.len() + HANDSHAKE_BYTES_MAX + 1, 0)).await;
    long.refused(Refusal::BadHandshake).await;
    serves_on(&net, b).await;
}

#[tokio::test(start_paused = true)]
async fn another_protocol_version_is_refused_by_what_is_spoken() {
    let net = SimNet::new(2);
    let b = on_sim(2).start(net.host("h2")).await;
    for versions in [[2_u16, 3], [0, 0]] {
        let mut raw = Raw::dial(&net).await;
        raw.send(Kind::Hello, 0, |out| {
            out.extend_from_slice(&MAGIC);
            versions.iter().for_each(|version| out.extend_from_slice(&version.to_le_bytes()));
            out.extend_from_slice(b"whatever that version says");
        })
        .await;
        raw.refused(Refusal::Version { min: 1, max: 1 }).await;
    }
    serves_on(&net, b).await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_dialer_is_dropped_after_the_handshake_time() {
    let net = SimNet::new(3);
    let b = on_sim(2).start(net.host("h2")).await;
    let mut raw = Raw::dial(&net).await;
    raw.write(&[1]).await;
    let start = Instant::now();
    assert_eq!(raw.receive().await, None);
    assert!((990..1_100).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    drop(raw);
    serves_on(&net, b).await;
}

#[tokio::test(start_paused = true)]
async fn connections_are_bounded_and_the_node_recovers() {
    let net = SimNet::new(4);
    let b = on_sim(2).start(net.host("h2")).await;
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        silent.push(Raw::dial(&net).await);
    }
    // One too many is closed at once, without waiting for a hand-shake.
    let mut rest = Raw::dial(&net).await;
    let closed = timeout(Duration::from_millis(100), rest.receive()).await;
    assert_eq!(closed.ok(), Some(None));
    drop((silent, rest));
    serves_on(&net, b).await;
}

#[tokio::test(start_paused = true)]
async fn violations_end_the_connection_with_the_reason() {
    let net = SimNet::new(5);
    let b = on_sim(2).start(net.host("h2")).await;
    for lane in [Lane::Append, Lane::Heartbeat, Lane::Snapshot, Lane::Forward, Lane::Control] {
        let mut unknown = Raw::welcome(&net, lane).await;
        let mut out = BytesMut::new();
        frame::encode(&mut out, Kind::Ping, 0, |_| ());
        out[4] = 200;
        let crc = crc32fast::hash(&out[..13]).to_le_bytes();
        out[13..17].copy_from_slice(&crc);
        unknown.write(&out).await;
        unknown.faulted(Fault::UnknownKind(200)).await;

        let mut damaged = Raw::welcome(&net, lane).await;
        out[5] ^= 1;
        damaged.write(&out).await;
        damaged.faulted(Fault::Checksum).await;

        let mut long = Raw::welcome(&net, lane).await;
        let mut header = [0; 17];
        header[..4].copy_from_slice(&(frame_bytes_max(lane) as u32 + 1).to_le_bytes());
        long.write(&header).await;
        long.faulted(Fault::TooLong).await;

        let mut misplaced = Raw::welcome(&net, lane).await;
        misplaced.send(Kind::Welcome, 0, |_| ()).await;
        misplaced.faulted(Fault::Misplaced(Kind::Welcome as u8)).await;
    }
    let bodies = [
        (Lane::Append, Kind::Append),
        (Lane::Heartbeat, Kind::Heartbeat),
        (Lane::Heartbeat, Kind::Vote),
        (Lane::Heartbeat, Kind::PreVote),
        (Lane::Heartbeat, Kind::Transfer),
        (Lane::Snapshot, Kind::SnapshotOffer),
        (Lane::Forward, Kind::Forward),
        (Lane::Forward, Kind::Renew),
        (Lane::Control, Kind::Control),
    ];
    for (lane, kind) in bodies {
        let mut raw = Raw::welcome(&net, lane).await;
        raw.send(kind, 1, |out| out.extend_from_slice(&[0xff; 40])).await;
        raw.faulted(Fault::Body(kind as u8)).await;
    }
    serves_on(&net, b).await;
}

#[tokio::test(start_paused = true)]
async fn more_in_flight_than_agreed_ends_the_connection() {
    let net = SimNet::new(6);
    let handler = Handler { append_permits: tokio::sync::Semaphore::new(0), ..Handler::default() };
    let b = on_sim(2).start_with(net.host("h2"), handler).await;
    let mut raw = Raw::welcome(&net, Lane::Append).await;
    for id in 0..=APPENDS_IN_FLIGHT_MAX as u64 {
        let request = append(id, 1, 1);
        raw.send(Kind::Append, id, |out| {
            wire::put_append(out, 1, &request, request.prev_log_id, &request.entries);
        })
        .await;
    }
    raw.faulted(Fault::InFlight).await;
    serves_on(&net, b).await;
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_longer_or_shorter_than_offered_is_a_violation() {
    use ovncp_raft::network::SnapshotOffer;
    let net = SimNet::new(7);
    let b = on_sim(2).start(net.host("h2")).await;
    let meta = openraft::SnapshotMeta { last_log_id: None, last_membership: Default::default() };
    let offer = SnapshotOffer { vote: crate::node::vote(1), meta, bytes: 10 };
    for (sent, kind) in [(11, Kind::SnapshotChunk), (9, Kind::SnapshotEnd)] {
        let mut raw = Raw::welcome(&net, Lane::Snapshot).await;
        raw.send(Kind::SnapshotOffer, 1, |out| wire::put_snapshot_offer(out, &offer)).await;
        raw.send(Kind::SnapshotChunk, 1, |out| out.resize(out.len() + sent, 1)).await;
        raw.send(Kind::SnapshotEnd, 1, |_| ()).await;
        raw.faulted(Fault::Body(kind as u8)).await;
    }
    let received = b.handler.snapshots.borrow().clone();
    assert!(received.len() == 2 && received.iter().all(Result::is_err), "{received:?}");
    serves_on(&net, b).await;
}
