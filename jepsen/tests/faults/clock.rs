//! Wall clocks.

use ovncp_jepsen::disk::DiskKind;
use ovncp_jepsen::nemesis::{NemesisKind, clock};

use crate::stage::Stage;

const HALF_AN_HOUR_MS: i64 = 1_800_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_do_not_mind_wall_clocks_that_jump_and_drift() {
    let Some(mut stage) = Stage::set(DiskKind::Dir, true).await else { return };
    // Forwards and backwards.
    let faults = [(NemesisKind::ClockJump, 0), (NemesisKind::ClockJump, 2), (NemesisKind::ClockDrift, 1)];
    for (kind, seed) in faults {
        let (detail, effect) = stage.harm(kind, seed, 10).await;
        assert!(effect.effective, "{effect:?}");
        let ahead_ms = effect.measured["ahead_ms"].as_i64().expect("a reading");
        let jumped = kind == NemesisKind::ClockJump;
        assert_eq!(ahead_ms.abs() > HALF_AN_HOUR_MS, jumped, "{detail} {effect:?}");
    }
    // All of them are right again.
    for endpoint in stage.env.cluster.endpoints().borrow().clone() {
        let reading = clock::read(&endpoint.url).await.expect("a reading");
        assert!(reading.ahead_ms.abs() < HALF_AN_HOUR_MS, "{}: {reading:?}", endpoint.name);
    }
    stage.finish().await;
}
