//! A change of voters that is cut in two while it is under way.
//!
//! Three voters become five by one change, and at that very moment the leader and the two new ones lose sight of the
//! other two voters; then the leader's process is killed and started again, so that it knows of the change what is on
//! its disk. Now either side is a majority: three of the five that are to vote, two of the three that voted. The
//! joint step between the two sets is all that keeps both from electing a leader and acknowledging writes.
//!
//! The moment is not left to chance. Leadership is handed over first: a new leader begins to count anew how long the
//! learners have been well, so both are to vote by the same change. What the leader says to the old voters takes
//! [`DELAY`], so when it shows the new voters, those have not heard of them, and the cut takes what is under way.
//! Whether it hit is measured: the leader showed five voters before the cut, and frames were stopped.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::env::Kept;
use super::{LARGE, Member, SMALL, all_well, left, members, settle, until, voters_of};
use crate::client::{Call, Client, Outcome};
use crate::nemesis::{Begun, Effect, Env, FaultError};
use crate::net::{Impairment, Imposed, Pair};

/// By how much later the old voters hear their leader: well below the shortest election time-out.
const DELAY: Duration = Duration::from_millis(40);
/// How long new nodes may take to receive the log.
const JOIN_PATIENCE: Duration = Duration::from_secs(10);
/// How long a hand-over may take.
const HAND_OVER_TIME_MAX: Duration = Duration::from_secs(3);
/// How long the leader may take to make voters of learners that are well.
const CHANGE_PATIENCE: Duration = Duration::from_secs(8);
/// How long the new voters may take to hear that they are.
const HEAR_PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks while a change is awaited: a fraction of [`DELAY`].
const LOOK_CLOSELY: Duration = Duration::from_millis(4);

/// A change that was cut in two.
#[derive(Debug)]
pub struct Running {
    joiners: Vec<String>,
    voters: Vec<String>,
    /// None: the change was not seen in time, and nothing was cut.
    hit: Option<Hit>,
}

/// What was done when the change was seen.
#[derive(Debug)]
struct Hit {
    cut: Imposed,
    leader: String,
    /// Voters that the leader showed before the cut.
    shown: u64,
    /// New voters that knew of the change when the leader was killed.
    heard: usize,
    killed: bool,
}

/// Lets two nodes join and cuts the change that makes them voters in two.
pub(super) async fn start(env: &mut Env, rng: &mut StdRng) -> Result<Begun<Running>, FaultError> {
    let voters = env.cluster.names();
    let members =
        members(env).await.ok_or_else(|| FaultError::NotNow("nobody shows the members".to_owned()))?;
    if voters.len() != SMALL || env.unclaimed() != voters || !all_well(&voters, &members) {
        return Err(FaultError::NotNow(format!("not {SMALL} nodes that vote and are well: {members:?}")));
    }
    let all = (1..=LARGE).map(|number| format!("n{number}"));
    let joiners: Vec<String> = all.filter(|name| !voters.contains(name)).collect();
    for name in &joiners {
        env.add(name).await?;
        env.start(name)?;
    }
    // From here on a further node that goes down would be one too many, and nothing is taken back by an error.
    env.claim_all()?;
    let hit = aim(env, rng, &voters, &joiners).await;
    let leader = hit.as_ref().map(|hit| hit.leader.clone());
    let detail = json!({ "change": "join", "from": SMALL, "to": LARGE, "leader": leader });
    let targets = joiners.iter().cloned().chain(leader).collect();
    Ok(Begun { targets, detail, state: Running { joiners, voters, hit } })
}

/// Waits for the change and hits it; none where it did not come or the nodes could not be asked.
async fn aim(env: &mut Env, rng: &mut StdRng, voters: &[String], joiners: &[String]) -> Option<Hit> {
    let learners = joiners.len() as u64;
    let before = leader_with(env, learners, JOIN_PATIENCE).await?;
    let others: Vec<_> = voters.iter().filter(|name| **name != before).cloned().collect();
    hand_over(env, &before, others.choose(rng)?).await;
    let leader = leader_with(env, learners, HAND_OVER_TIME_MAX).await?;
    let others: Vec<_> = voters.iter().filter(|name| **name != leader).cloned().collect();
    let links = std::sync::Arc::clone(env.network.links());
    let late = links.impose(
        &pairs(std::slice::from_ref(&leader), &others),
        Impairment::Delay { by: DELAY, jitter: Duration::ZERO },
    );
    let shown = changed(env, &leader, voters.len() as u64).await;
    let side: Vec<_> = joiners.iter().chain([&leader]).cloned().collect();
    let cut = shown.map(|shown| {
        let both = [pairs(&side, &others), pairs(&others, &side)].concat();
        (shown, links.impose(&both, Impairment::Cut))
    });
    let _ = links.lift(late);
    let (shown, cut) = cut?;
    let heard = heard(env, joiners, shown).await;
    let killed = env.cluster.pid(&leader).is_some() && env.cluster.kill(&leader).await.is_ok();
    if let Err(error) = env.start(&leader) {
        tracing::warn!(node = leader, %error, "could not be started again");
    }
    Some(Hit { cut, leader, shown, heard, killed })
}

/// Waits for a leader that sees so many learners.
async fn leader_with(env: &Env, learners: u64, patience: Duration) -> Option<String> {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        let leader = env.cluster.leader().await;
        if view(env, leader.as_deref()).await.is_some_and(|(_, seen)| seen == learners) {
            return leader;
        }
        tokio::time::sleep(LOOK_CLOSELY).await;
    }
    None
}

fn pairs(from: &[String], to: &[String]) -> Vec<Pair> {
    from.iter().flat_map(|from| to.iter().map(move |to| (from.clone(), to.clone()))).collect()
}

/// Voters and learners as a node knows them; a change counts from when it is in its log.
async fn view(env: &Env, node: Option<&str>) -> Option<(u64, u64)> {
    let url = env.cluster.url(node?).ok()?;
    let body = env.cluster.admin().get(url, "/api/v1/cluster?consistency=local").await?;
    Some((body["voters"].as_u64()?, body["learners"].as_u64()?))
}

async fn hand_over(env: &Env, leader: &str, target: &str) {
    let (Ok(url), Ok(client)) = (env.cluster.url(leader), Client::new()) else { return };
    let call = Call::post("/api/v1/cluster/leader/transfer", &json!({ "target": target }))
        .header("authorization", format!("Bearer {}", env.cluster.admin().token()))
        .within(HAND_OVER_TIME_MAX);
    // Whoever leads then: the fault goes on with that one.
    if let Outcome::Fail(why) | Outcome::Unknown(why) = client.ask(url, &call).await {
        tracing::debug!(leader, target, why, "leadership was not handed over");
    }
}

/// Waits until the leader shows more voters than there were; how many.
async fn changed(env: &Env, leader: &str, before: u64) -> Option<u64> {
    let deadline = Instant::now() + CHANGE_PATIENCE;
    while Instant::now() < deadline {
        if let Some((voters, _)) = view(env, Some(leader)).await
            && voters > before
        {
            return Some(voters);
        }
        tokio::time::sleep(LOOK_CLOSELY).await;
    }
    None
}

/// Waits a moment for the new voters to know of the change; how many do.
async fn heard(env: &Env, joiners: &[String], shown: u64) -> usize {
    let deadline = Instant::now() + HEAR_PATIENCE;
    loop {
        let mut heard = 0;
        for joiner in joiners {
            heard += usize::from(view(env, Some(joiner)).await.is_some_and(|(voters, _)| voters >= shown));
        }
        if heard == joiners.len() || Instant::now() >= deadline {
            return heard;
        }
        tokio::time::sleep(LOOK_CLOSELY).await;
    }
}

/// Joins the two sides, waits for the change to come about, and undoes it, so that it can be made again.
pub(super) async fn heal(running: Running, env: &mut Env) -> Result<Effect, FaultError> {
    let Running { joiners, voters, hit } = running;
    let (mut effective, mut measured) = (false, json!({ "change_seen": false }));
    if let Some(Hit { cut, leader, shown, heard, killed }) = hit {
        let stopped = env.network.links().lift(cut);
        effective = stopped.frames > 0 && killed;
        measured = json!({
            "change_seen": true, "voters_shown": shown, "heard": heard, "leader_killed": leader,
            "frames": stopped.frames, "bytes": stopped.bytes,
        });
    }
    voters.iter().for_each(|name| env.release(name));
    let all = |members: &[Member]| voters_of(members, &joiners) == joiners.len();
    let members = until(env, all).await.unwrap_or_default();
    if all(&members) {
        joiners.iter().for_each(|name| env.cluster.may_exit(name));
        let leavers = joiners.iter().map(|name| (name.clone(), "not asked yet".to_owned())).collect();
        let gone = left(env, leavers).await?;
        measured["undone"] = gone.measured;
    } else {
        joiners.iter().for_each(|name| env.keep(name, Kept::Joins(None)));
        settle(env, &members).await?;
        measured["undone"] = Value::Null;
    }
    // That two nodes joined is an effect of its own where the change came when nobody looked.
    let joined = voters_of(&members, &joiners);
    measured["joined"] = joined.into();
    Ok(Effect { effective: effective || (measured["change_seen"] == false && joined > 0), measured })
}
