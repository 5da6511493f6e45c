//! The faults themselves.

use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::json;

use super::library::{Clocks, Wrong};
use super::reading::{Reading, read};
use crate::nemesis::{Begun, Effect, Env, FaultError, NemesisKind};

/// How far a clock jumps, in either direction.
const JUMP_MS: i64 = 3_600_000;
/// What a clock gains per million: half as fast as time, a little wrong in both directions, twice as fast.
const RATES_PPM: [i64; 4] = [-500_000, -100_000, 100_000, 1_000_000];
/// A node may take this long to say what time it is: it was started a moment ago, or the machine is busy.
const READ_LIMIT: Duration = Duration::from_secs(5);
/// How long a clock is read until it is seen to be wrong.
const PROOF_LIMIT: Duration = Duration::from_secs(10);
/// Between two tries.
const READ_EVERY: Duration = Duration::from_millis(50);

/// A node whose wall clock is wrong.
#[derive(Debug)]
pub struct Running {
    watched: Watched,
    /// What was seen right after it began.
    proof: Proof,
}

#[derive(Debug)]
struct Watched {
    node: String,
    wrong: Wrong,
    before: Reading,
    set_at: Instant,
}

/// Says why these faults can never be made in this run, if so.
pub fn possible(env: &Env) -> Result<(), String> {
    env.clocks
        .as_ref()
        .map(|_| ())
        .ok_or_else(|| "the nodes run without the library of clocks (needs cc)".to_owned())
}

/// Begins a fault of this family.
pub async fn start(kind: NemesisKind, env: &mut Env, rng: &mut StdRng) -> Result<Begun<Running>, FaultError> {
    let clocks = clocks(env)?;
    // A wrong clock is no reason to be missing: nobody is claimed.
    let node = env.unclaimed().choose(rng).cloned();
    let node = node.ok_or_else(|| FaultError::NotNow("no node runs undisturbed".to_owned()))?;
    let wrong = match kind {
        NemesisKind::ClockJump => {
            Wrong { offset_ms: if rng.random() { JUMP_MS } else { -JUMP_MS }, rate_ppm: 0 }
        }
        NemesisKind::ClockDrift => {
            Wrong { offset_ms: 0, rate_ppm: RATES_PPM[rng.random_range(0..RATES_PPM.len())] }
        }
        other => return Err(FaultError::Failed(format!("{} is no fault of clocks", other.name()))),
    };
    let before = patient_read(env, &node).await.map_err(FaultError::NotNow)?;
    if before.ahead_ms.abs() > JUMP_MS / 2 {
        return Err(FaultError::NotNow(format!("the clock of {node} is wrong already")));
    }
    set(&clocks, &node, wrong)?;
    let set_at = Instant::now();
    let watched = Watched { node, wrong, before, set_at };
    let proof = match watched.prove(env).await {
        Ok(proof) => proof,
        Err(why) => {
            set(&clocks, &watched.node, Wrong::default())?;
            return Err(FaultError::NotNow(why));
        }
    };
    let detail = json!({ "offset_ms": wrong.offset_ms, "rate_ppm": wrong.rate_ppm, "read": proof.seen });
    let targets = vec![watched.node.clone()];
    Ok(Begun { targets, detail, state: Running { watched, proof } })
}

/// Ends a fault of this family.
pub async fn heal(running: Running, env: &mut Env) -> Result<Effect, FaultError> {
    let Running { watched, mut proof } = running;
    // Another fault may have taken the node down meanwhile: then what was seen early has to do.
    if !env.is_claimed(&watched.node)
        && let Ok(late) = watched.prove(env).await
        && (late.holds() || !proof.holds())
    {
        proof = late;
    }
    set(&clocks(env)?, &watched.node, Wrong::default())?;
    let measured = json!({
        "ahead_ms_before": proof.before.ahead_ms,
        "ahead_ms": proof.seen.ahead_ms,
        "expected_ms": proof.expected_ms,
        "lasted_ms": watched.set_at.elapsed().as_millis(),
    });
    Ok(Effect { effective: proof.holds(), measured })
}

impl Watched {
    /// Reads the clock until it is wrong enough: a busy machine answers slowly, and one that drifts needs a while.
    async fn prove(&self, env: &Env) -> Result<Proof, String> {
        let until = Instant::now() + PROOF_LIMIT;
        loop {
            let seen = patient_read(env, &self.node).await?;
            let proof = Proof::new(self.wrong, self.before, seen, self.set_at.elapsed());
            if proof.holds() || Instant::now() > until {
                return Ok(proof);
            }
            tokio::time::sleep(READ_EVERY).await;
        }
    }
}

/// Two readings that show how wrong a clock is.
#[derive(Clone, Copy, Debug)]
struct Proof {
    before: Reading,
    seen: Reading,
    expected_ms: i64,
}

impl Proof {
    fn new(wrong: Wrong, before: Reading, seen: Reading, elapsed: Duration) -> Self {
        Self { before, seen, expected_ms: expected_ms(wrong, elapsed) }
    }

    /// Whether the clock gained at least half of what it should have, by more than the readings may be wrong.
    fn holds(&self) -> bool {
        let gained_ms = self.seen.ahead_ms - self.before.ahead_ms;
        gained_ms.signum() == self.expected_ms.signum()
            && gained_ms.abs() >= self.expected_ms.abs() / 2
            && gained_ms.abs() > self.before.took_ms + self.seen.took_ms
    }
}

/// What a clock should have gained.
fn expected_ms(wrong: Wrong, elapsed: Duration) -> i64 {
    let elapsed_ms = i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX);
    wrong.offset_ms + elapsed_ms.saturating_mul(wrong.rate_ppm) / 1_000_000
}

fn clocks(env: &Env) -> Result<Clocks, FaultError> {
    possible(env).map_err(FaultError::NotPossible)?;
    env.clocks.clone().ok_or_else(|| FaultError::NotPossible("no clocks".to_owned()))
}

fn set(clocks: &Clocks, node: &str, wrong: Wrong) -> Result<(), FaultError> {
    clocks.set(node, wrong).map_err(|error| FaultError::Failed(format!("set the clock of {node}: {error}")))
}

async fn patient_read(env: &Env, node: &str) -> Result<Reading, String> {
    let url = env.cluster.url(node).map_err(|error| error.to_string())?;
    let until = Instant::now() + READ_LIMIT;
    loop {
        match read(url).await {
            Err(_) if Instant::now() < until => tokio::time::sleep(READ_EVERY).await,
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_gained_too_little_proves_nothing() {
        let holds = |wrong, seconds, ahead_ms, took_ms| {
            let reading = |ahead_ms, took_ms| Reading { shown_ms: 0, ahead_ms, took_ms };
            Proof::new(wrong, reading(0, 5), reading(ahead_ms, took_ms), Duration::from_secs(seconds)).holds()
        };
        let drift = Wrong { offset_ms: 0, rate_ppm: -500_000 };
        assert!(holds(drift, 4, -1_990, 20) && holds(drift, 4, -1_100, 20));
        assert!(!holds(drift, 4, -900, 20) && !holds(drift, 4, 2_000, 20) && !holds(drift, 4, 0, 0));
        // The answer took so long that the reading says nothing.
        assert!(!holds(drift, 4, -1_990, 2_500));
        let jump = Wrong { offset_ms: -JUMP_MS, rate_ppm: 0 };
        assert!(holds(jump, 9, -JUMP_MS + 3, 5) && !holds(jump, 9, JUMP_MS, 5));
    }
}
