//! The simulated network keeps its promises, or no other test of this crate means anything.

use std::io::ErrorKind;
use std::time::Duration;

use ovncp_raft::network::Net;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use crate::support::sim_net::{PIPE_BYTES_MAX, SimNet, SimStream, Weather};

const LONG: Duration = Duration::from_secs(60);

async fn pair(net: &SimNet) -> (SimStream, SimStream) {
    let (a, b) = (net.host("a"), net.host("b"));
    let mut listener = b.bind("b:0").await.unwrap();
    let addr = b.local_addr(&listener).unwrap();
    let dialed = a.connect(&addr).await.unwrap();
    let (accepted, from) = b.accept(&mut listener).await.unwrap();
    assert_eq!(from, "a");
    (dialed, accepted)
}

#[tokio::test(start_paused = true)]
async fn bytes_arrive_in_order_after_the_latency() {
    let net = SimNet::new(1);
    net.set_weather(Weather { latency_ms: 5..=30, ..Weather::default() });
    let (mut a, mut b) = pair(&net).await;
    let sent = Instant::now();
    for byte in 0..100_u8 {
        a.write_all(&[byte]).await.unwrap();
    }
    let mut got = [0_u8; 100];
    b.read_exact(&mut got).await.unwrap();
    assert!(got.iter().copied().eq(0..100));
    assert!((5..=31).contains(&sent.elapsed().as_millis()), "{:?}", sent.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_cut_path_holds_bytes_until_it_is_mended_and_the_way_back_stays_open() {
    let net = SimNet::new(2);
    let (mut a, mut b) = pair(&net).await;
    net.cut_one_way("a", "b");
    a.write_all(b"held").await.unwrap();
    b.write_all(b"open").await.unwrap();
    let mut got = [0_u8; 4];
    a.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"open");
    assert!(timeout(LONG, b.read_exact(&mut got)).await.is_err());
    net.mend_one_way("a", "b");
    b.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"held");
    assert_eq!(net.counters().held, 1);
}

#[tokio::test(start_paused = true)]
async fn a_dial_is_refused_without_listener_and_silent_over_a_cut_path() {
    let net = SimNet::new(3);
    let (a, b) = (net.host("a"), net.host("b"));
    let error = a.connect("b:1").await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    let listener = b.bind("b:1").await.unwrap();
    net.cut_one_way("b", "a");
    assert!(timeout(LONG, a.connect("b:1")).await.is_err(), "the answer to the dial is cut off");
    let (dialed, ()) = tokio::join!(a.connect("b:1"), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        net.heal();
    });
    assert!(dialed.is_ok(), "a repaired path lets a waiting dial through");
    drop(listener);
    assert_eq!(a.connect("b:1").await.err().unwrap().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(net.counters().refused, 2);
    assert_eq!(net.counters().blackholed, 2);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_end_is_an_end_of_file_and_a_reset_is_an_error() {
    let net = SimNet::new(4);
    let (mut a, b) = pair(&net).await;
    drop(b);
    assert_eq!(a.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(net.connections(), 1);
    drop(a);
    let (mut a, mut b) = pair(&net).await;
    net.reset("a", "b");
    assert_eq!(a.read(&mut [0; 1]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(b.write(&[0]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    drop((a, b));
    assert_eq!(net.connections(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_switched_off_host_is_silent_and_resets_when_it_is_back() {
    let net = SimNet::new(5);
    let (mut a, b) = pair(&net).await;
    net.power_off("b");
    drop(b);
    assert!(timeout(LONG, a.read(&mut [0; 1])).await.is_err(), "nothing tells a of the power loss");
    net.power_on("b");
    assert_eq!(a.read(&mut [0; 1]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn a_writer_waits_for_a_slow_reader() {
    let net = SimNet::new(6);
    let (mut a, mut b) = pair(&net).await;
    let data = vec![7; PIPE_BYTES_MAX + 1];
    assert!(timeout(LONG, a.write_all(&data)).await.is_err(), "the pipe is bounded");
    let mut got = vec![0; PIPE_BYTES_MAX];
    b.read_exact(&mut got).await.unwrap();
    a.write_all(&data[..1]).await.unwrap();
}

#[test]
fn the_same_seed_gives_the_same_times() {
    let run = |seed| {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let net = SimNet::new(seed);
            net.set_weather(Weather { latency_ms: 0..=50, loss_per_10k: 2_000, ..Weather::default() });
            let (mut a, mut b) = pair(&net).await;
            let start = Instant::now();
            let mut times = Vec::new();
            for _ in 0..50 {
                a.write_all(&[0]).await.unwrap();
                b.read_exact(&mut [0]).await.unwrap();
                times.push(start.elapsed());
            }
            assert!(net.counters().lost > 0);
            times
        })
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}
