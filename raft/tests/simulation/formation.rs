//! First starts that go wrong: nodes in any order, killed, cut off, without power or with an empty disk while
//! the cluster is being founded. There is never a second one, and in the end all are in it.

use std::time::Duration;

use ovncp_storage::disk::SimDisk;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::time::{Instant, sleep};

use crate::cluster::{Cluster, Settings};
use crate::nemesis::{Nemesis, Trouble};
use crate::scenario::{converge, look, recover, simulate};
use crate::seeds::number;
use crate::trace::Trace;

/// Seeds without `SIM_SEEDS`.
const SEEDS: u64 = 40;

async fn formation(seed: u64, trace: Trace) -> Result<u64, String> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut settings = Settings::new([2, 3, 3, 5][rng.random_range(0..4)]);
    settings.disk_latency = Duration::from_millis([0, 2, 10][rng.random_range(0..3)]);
    settings.weather.latency_ms = [0..=1, 0..=20][rng.random_range(0..2)].clone();
    let founders = settings.founders.clone();
    trace.note(format_args!("formation {seed}: {settings:?}"));
    let cluster = Cluster::<SimDisk>::new(rng.next_u64(), settings, &trace);
    let looks = tokio::spawn(look(cluster.clone()));
    for name in &founders {
        cluster.add(name);
    }
    start_and_kill(&cluster, &founders, &mut rng).await;
    let kinds = vec![Trouble::Kill, Trouble::PowerLoss, Trouble::Split, Trouble::OneWay, Trouble::TornWrite];
    let mut nemesis = Nemesis::with_kinds(&cluster, SmallRng::seed_from_u64(rng.next_u64()), kinds);
    nemesis.rage(Duration::from_millis(rng.random_range(0..4_000))).await;
    nemesis.repair().await;
    recover(&cluster).await?;
    let members = converge(&cluster).await?;
    looks.abort();
    if members != founders {
        return Err(format!("only {members:?} of {founders:?} are members"));
    }
    trace.first_violation().map_or(Ok(trace.hash()), Err)
}

/// A few seconds in which founders come and go at any moment. One of them may lose its disk.
async fn start_and_kill(cluster: &Cluster<SimDisk>, founders: &[String], rng: &mut SmallRng) {
    let end = Instant::now() + Duration::from_millis(rng.random_range(300..5_000));
    let mut wipe = founders.len() > 2 && rng.random_bool(0.4);
    while Instant::now() < end {
        let name = &founders[rng.random_range(0..founders.len())];
        if cluster.down().contains(name) {
            cluster.start(name);
        } else if rng.random_bool(0.4) {
            let power = rng.random_bool(0.7).then(|| rng.next_u64());
            if wipe && rng.random_bool(0.2) {
                cluster.wipe(name);
                wipe = false;
            } else {
                cluster.kill(name, power);
            }
        }
        // Founding takes few milliseconds once all answer: most kills shall fall into them.
        let pause = if rng.random_bool(0.7) { 0..25 } else { 0..800 };
        sleep(Duration::from_millis(rng.random_range(pause))).await;
    }
}

#[test]
fn a_cluster_is_founded_once_whatever_happens_meanwhile() {
    let (seeds, first) = (number("SIM_SEEDS").unwrap_or(SEEDS), number("SIM_FIRST").unwrap_or(0));
    for seed in first..first + seeds {
        one(seed);
    }
}

#[test]
fn replay_formation() {
    let seed = number("SIM_SEED").unwrap_or(3);
    assert_eq!(one(seed), one(seed), "the same seed, the same events at the same times");
}

fn one(seed: u64) -> u64 {
    simulate(seed, |trace| formation(seed, trace)).unwrap_or_else(|failure| {
        eprintln!("{}", failure.tail);
        eprintln!(
            "SIM_SEED={seed} cargo test -p ovncp-raft --test simulation -- replay_formation --nocapture"
        );
        panic!("formation {seed}: {}", failure.what);
    })
}
