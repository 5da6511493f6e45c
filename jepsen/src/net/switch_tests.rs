use std::time::Duration;

use tokio::sync::mpsc;

use super::super::{Impairment, Pair};
use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

impl Outlet for mpsc::Sender<Vec<u8>> {
    async fn deliver(&self, frame: &[u8]) {
        let _ = self.send(frame.to_vec()).await;
    }
}

struct Bench {
    links: Arc<Links>,
    switch: Switch<mpsc::Sender<Vec<u8>>>,
    /// What arrives at hosts 1, 2, 3, in this order.
    arrivals: Vec<mpsc::Receiver<Vec<u8>>>,
}

fn bench() -> Bench {
    let links = Arc::new(Links::new(1));
    let switch = Switch::new(Arc::clone(&links));
    let connect = |number: u8| {
        let (outlet, arrivals) = mpsc::channel(1000);
        tokio::spawn(switch.connect(number, &format!("n{number}"), outlet));
        arrivals
    };
    let arrivals = (1..=3).map(connect).collect();
    Bench { links, switch, arrivals }
}

fn frame(to: [u8; 6], from: u8, kind: [u8; 2], payload: &[u8]) -> Vec<u8> {
    [&to[..], &mac(from), &kind, payload].concat()
}

fn pair(from: &str, to: &str) -> Pair {
    (from.to_owned(), to.to_owned())
}

async fn next(arrivals: &mut mpsc::Receiver<Vec<u8>>) -> Vec<u8> {
    tokio::time::timeout(PATIENCE, arrivals.recv()).await.expect("a frame arrives").expect("the port is open")
}

#[tokio::test]
async fn a_frame_goes_to_its_port_and_a_broadcast_to_all_others() {
    let mut it = bench();
    let unicast = frame(mac(2), 1, IPV4, b"to two");
    it.switch.take(1, "n1", &unicast).await;
    assert_eq!(next(&mut it.arrivals[1]).await, unicast);
    let broadcast = frame([0xff; 6], 1, [0x08, 0x06], b"who has");
    it.switch.take(1, "n1", &broadcast).await;
    assert_eq!(next(&mut it.arrivals[1]).await, broadcast);
    assert_eq!(next(&mut it.arrivals[2]).await, broadcast);
    assert!(it.arrivals[0].try_recv().is_err() && it.arrivals[2].try_recv().is_err());
    // Neither a short frame nor one to nobody harms.
    it.switch.take(1, "n1", &[1, 2, 3]).await;
    it.switch.take(1, "n1", &frame(mac(9), 1, IPV4, b"nobody")).await;
}

#[tokio::test]
async fn a_cut_stops_broadcasts_too_but_only_counts_frames_of_ip() {
    let mut it = bench();
    let cut = it.links.impose(&[pair("n1", "n2")], Impairment::Cut);
    it.switch.take(1, "n1", &frame([0xff; 6], 1, [0x08, 0x06], b"who has")).await;
    it.switch.take(1, "n1", &frame(mac(2), 1, IPV4, b"cut")).await;
    next(&mut it.arrivals[2]).await;
    assert!(it.arrivals[1].try_recv().is_err());
    assert_eq!(it.links.lift(cut).frames, 1);
}

#[tokio::test]
async fn delayed_frames_come_later_in_order_and_doubled_ones_twice() {
    let mut it = bench();
    let by = Duration::from_millis(30);
    let delay = it.links.impose(&[pair("n1", "n2")], Impairment::Delay { by, jitter: by });
    let doubled = it.links.impose(&[pair("n1", "n2")], Impairment::Duplicate { probability: 1.0 });
    let start = Instant::now();
    let frames: Vec<_> = (0..50_u8).map(|n| frame(mac(2), 1, IPV4, &[n])).collect();
    for frame in &frames {
        it.switch.take(1, "n1", frame).await;
    }
    for frame in &frames {
        assert_eq!(next(&mut it.arrivals[1]).await, *frame);
        assert_eq!(next(&mut it.arrivals[1]).await, *frame);
    }
    assert!(start.elapsed() >= by);
    assert_eq!((it.links.lift(delay).frames, it.links.lift(doubled).frames), (50, 50));
}

#[tokio::test]
async fn a_cut_takes_what_is_under_way() {
    let mut it = bench();
    let by = Duration::from_secs(3);
    let delay = it.links.impose(&[pair("n1", "n2")], Impairment::Delay { by, jitter: Duration::ZERO });
    it.switch.take(1, "n1", &frame(mac(2), 1, IPV4, b"under way")).await;
    assert_eq!(it.links.lift(delay).frames, 1);
    let cut = it.links.impose(&[pair("n1", "n2")], Impairment::Cut);
    let stopped = async {
        while it.links.hits(&cut).frames == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, stopped).await.expect("the cut stops it");
    assert!(it.arrivals[1].try_recv().is_err());
    assert_eq!(it.links.lift(cut).frames, 1);
    it.switch.take(1, "n1", &frame(mac(2), 1, IPV4, b"healed")).await;
    assert_eq!(next(&mut it.arrivals[1]).await, frame(mac(2), 1, IPV4, b"healed"));
}

#[tokio::test]
async fn a_frame_that_is_held_back_is_overtaken() {
    let mut it = bench();
    let by = Duration::from_millis(50);
    let reorder = it.links.impose(&[pair("n1", "n2")], Impairment::Reorder { probability: 1.0, by });
    let (first, second) = (frame(mac(2), 1, IPV4, b"first"), frame(mac(2), 1, IPV4, b"second"));
    it.switch.take(1, "n1", &first).await;
    assert_eq!(it.links.lift(reorder).frames, 1);
    it.switch.take(1, "n1", &second).await;
    assert_eq!(next(&mut it.arrivals[1]).await, second);
    assert_eq!(next(&mut it.arrivals[1]).await, first);
}
