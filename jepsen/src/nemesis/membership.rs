//! Members that come, go, and come back with nothing: 3 nodes become 5, 5 become 3, a node gets an empty disk.
//!
//! Which of these is made depends on how many there are. New nodes join by themselves, as learners, and are promoted
//! by the leader; nodes leave through the API, the leader among them, asked through any node. A node whose disk was
//! exchanged has to find its way back under a new Raft id.
//!
//! A node that does not vote yet counts as one that is down: it stays claimed, beyond the end of the fault if need
//! be, so that no other fault takes a majority away while it is on its way. For the same reason nobody loses its
//! disk unless everybody else votes and is well: two empty disks of three are the end of any cluster.

mod cut;

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::env::Kept;
use super::{Begun, Effect, Env, FaultError, NemesisKind, Pick};
use crate::client::{Answer, Call, Client, Outcome, segment};
use crate::disk::NodeDisk;

/// Nodes of a small cluster, which may grow.
const SMALL: usize = 3;
/// Nodes of a large one, which may shrink.
const LARGE: usize = 5;
/// Share of the changes that exchange a disk instead of changing the number of nodes.
const EXCHANGED: f64 = 0.35;
/// How long a change may take once its time is over. Other faults at work hold it up, and wait for it in turn.
const SETTLE_PATIENCE: Duration = Duration::from_secs(12);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a removal may take to be answered at first; it is asked for again at the end of the fault.
const REMOVAL_TIME_MAX: Duration = Duration::from_secs(3);

/// The answer to a removal that was made.
const REMOVED: &str = "removed";

/// A change at work.
#[derive(Debug)]
pub enum Running {
    /// These are to join and to vote.
    Grow {
        /// Who.
        joiners: Vec<String>,
    },
    /// These are to leave.
    Shrink {
        /// Who, and how its first removal was answered.
        leavers: BTreeMap<String, String>,
    },
    /// This one lost its disk.
    Exchange {
        /// Who.
        node: String,
        /// Its Raft id until then.
        raft_id: String,
    },
    /// See [`cut`].
    Cut(cut::Running),
}

/// A member as the nodes show it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    name: String,
    raft_id: String,
    votes: bool,
    active: bool,
}

/// Says why members can never change in this run, if so.
pub(super) fn possible(kind: NemesisKind, env: &Env) -> Result<(), String> {
    match env.cluster.names().len() {
        SMALL => Ok(()),
        LARGE if kind == NemesisKind::Membership => Ok(()),
        other if kind != NemesisKind::Membership => {
            Err(format!("a change is cut in two from {SMALL} nodes on, not with {other}"))
        }
        other => Err(format!("members change between {SMALL} and {LARGE} nodes, not with {other}")),
    }
}

/// Begins a change.
pub(super) async fn start(
    kind: NemesisKind,
    env: &mut Env,
    rng: &mut StdRng,
) -> Result<Begun<Running>, FaultError> {
    if kind == NemesisKind::MembershipCut {
        return Ok(cut::start(env, rng).await?.map(Running::Cut));
    }
    let members =
        members(env).await.ok_or_else(|| FaultError::NotNow("nobody shows the members".to_owned()))?;
    let names = env.cluster.names();
    // Nothing is changed on top of a change, or of anything else that takes nodes down.
    if env.unclaimed() != names {
        return Err(FaultError::NotNow("some nodes are down or on their way".to_owned()));
    }
    if !all_well(&names, &members) {
        return Err(FaultError::NotNow(format!("not everybody votes and is well: {members:?}")));
    }
    if rng.random_bool(EXCHANGED) {
        return exchange(env, rng, &members).await;
    }
    if names.len() < LARGE { grow(env).await } else { shrink(env, rng).await }
}

/// Whether a change is over, so that ending it takes no time. Until then whoever could end it does better to end
/// other faults first, which may be what holds it up.
pub(super) async fn is_settled(running: &Running, env: &Env) -> bool {
    // A change that is cut in two may leave nobody who could show the members, and comes about only when it is healed.
    if matches!(running, Running::Cut(_)) {
        return true;
    }
    let Some(members) = members(env).await else { return false };
    match running {
        Running::Grow { joiners } => voters_of(&members, joiners) == joiners.len(),
        // Who was not removed at the first try stays until it is asked for again, which is when this is ended.
        Running::Shrink { leavers } => {
            members.iter().all(|member| leavers.get(&member.name).is_none_or(|answer| answer != REMOVED))
        }
        Running::Exchange { node, raft_id } => is_back(&members, node, raft_id),
        Running::Cut(_) => true,
    }
}

/// Ends a change: waits a while for what is on its way.
pub(super) async fn heal(running: Running, env: &mut Env) -> Result<Effect, FaultError> {
    match running {
        Running::Grow { joiners } => joined(env, &joiners).await,
        Running::Shrink { leavers } => left(env, leavers).await,
        Running::Exchange { node, raft_id } => exchanged(env, &node, &raft_id).await,
        Running::Cut(running) => cut::heal(running, env).await,
    }
}

async fn grow(env: &mut Env) -> Result<Begun<Running>, FaultError> {
    let known = env.cluster.names();
    let all = (1..=LARGE).map(|number| format!("n{number}"));
    let joiners: Vec<_> = all.filter(|name| !known.contains(name)).collect();
    for name in &joiners {
        env.add(name).await?;
        env.claim_named(name)?;
        env.start(name)?;
    }
    let detail = json!({ "change": "join", "from": known.len(), "to": known.len() + joiners.len() });
    Ok(Begun { targets: joiners.clone(), detail, state: Running::Grow { joiners } })
}

async fn joined(env: &mut Env, joiners: &[String]) -> Result<Effect, FaultError> {
    let all = |members: &[Member]| voters_of(members, joiners) == joiners.len();
    let members = until(env, all).await.unwrap_or_default();
    joiners.iter().for_each(|name| env.keep(name, Kept::Joins(None)));
    settle(env, &members).await?;
    let known = members.iter().filter(|member| joiners.contains(&member.name)).count();
    let measured =
        json!({ "joined": known, "vote": voters_of(&members, joiners), "members": shown(&members) });
    Ok(Effect { effective: known > 0, measured })
}

async fn shrink(env: &mut Env, rng: &mut StdRng) -> Result<Begun<Running>, FaultError> {
    let names = env.cluster.names();
    let mut leavers: Vec<_> = names.clone();
    leavers.shuffle(rng);
    leavers.truncate(LARGE - SMALL);
    let mut answers = BTreeMap::new();
    for name in &leavers {
        env.claim_named(name)?;
        // It stops by itself when it learns that it is out.
        env.cluster.may_exit(name);
        let asked = names.choose(rng).unwrap_or(name);
        let answer = match remove(env, asked, name).await {
            Outcome::Ok(_) => REMOVED.to_owned(),
            Outcome::Fail(code) | Outcome::Unknown(code) => code,
        };
        answers.insert(name.clone(), answer);
    }
    let detail = json!({ "change": "leave", "from": names.len(), "to": SMALL, "answers": answers });
    Ok(Begun { targets: leavers, detail, state: Running::Shrink { leavers: answers } })
}

/// Sees to it that those who were to leave are out, and only then takes their nodes away.
async fn left(env: &mut Env, leavers: BTreeMap<String, String>) -> Result<Effect, FaultError> {
    let names: Vec<_> = leavers.keys().cloned().collect();
    let out = until_out(env, &names).await;
    // Who could not be removed may be later, or stays and votes.
    names.iter().for_each(|name| env.keep(name, Kept::Leaves));
    for name in &out {
        take_away(env, name).await?;
    }
    let members = members(env).await.unwrap_or_default();
    let gone = out.iter().filter(|name| members.iter().all(|member| member.name != **name)).count();
    let measured = json!({ "left": gone, "first_answers": leavers, "members": shown(&members) });
    Ok(Effect { effective: gone > 0, measured })
}

/// Asks until those of `names` are out, or for as long as a change may take; those that are.
async fn until_out(env: &Env, names: &[String]) -> Vec<String> {
    let deadline = Instant::now() + SETTLE_PATIENCE;
    let staying: Vec<_> = env.cluster.names().into_iter().filter(|name| !names.contains(name)).collect();
    let mut out = Vec::new();
    while out.len() < names.len() && Instant::now() < deadline {
        for name in names {
            if !out.contains(name) && is_out(env, &staying, name).await {
                out.push(name.clone());
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    out
}

/// Asked again whatever was answered before: who is out already is unknown then.
async fn is_out(env: &Env, staying: &[String], name: &str) -> bool {
    for asked in staying {
        match remove(env, asked, name).await {
            Outcome::Ok(_) => return true,
            Outcome::Fail(code) if code == "unknown_node" => return true,
            Outcome::Fail(_) | Outcome::Unknown(_) => {}
        }
    }
    false
}

async fn exchange(env: &mut Env, rng: &mut StdRng, members: &[Member]) -> Result<Begun<Running>, FaultError> {
    let pick = if rng.random_bool(0.3) { Pick::Leader } else { Pick::Any };
    let node = env.claim(rng, pick).await?;
    let raft_id = members.iter().find(|member| member.name == node).map(|member| member.raft_id.clone());
    let raft_id = raft_id.ok_or_else(|| FaultError::NotNow(format!("{node} is no member")))?;
    env.cluster.kill(&node).await?;
    env.disks.get(&node).and_then(NodeDisk::replace).map_err(failed)?;
    env.start(&node)?;
    let detail = json!({ "change": "empty disk", "raft_id": raft_id });
    Ok(Begun { targets: vec![node.clone()], detail, state: Running::Exchange { node, raft_id } })
}

async fn exchanged(env: &mut Env, node: &str, raft_id: &str) -> Result<Effect, FaultError> {
    let members = until(env, |members| is_back(members, node, raft_id)).await.unwrap_or_default();
    let new_ids: Vec<_> = members
        .iter()
        .filter(|member| member.name == node && member.raft_id != raft_id)
        .map(|member| member.raft_id.clone())
        .collect();
    env.keep(node, Kept::Joins(Some(raft_id.to_owned())));
    settle(env, &members).await?;
    let measured =
        json!({ "raft_id_before": raft_id, "raft_ids_after": new_ids, "members": shown(&members) });
    Ok(Effect { effective: !new_ids.is_empty(), measured })
}

/// How many of these vote and are well.
fn voters_of(members: &[Member], names: &[String]) -> usize {
    members.iter().filter(|member| names.contains(&member.name) && member.votes && member.active).count()
}

/// Whether the node votes under another id than before.
fn is_back(members: &[Member], node: &str, raft_id: &str) -> bool {
    members
        .iter()
        .any(|member| member.name == node && member.raft_id != raft_id && member.votes && member.active)
}

/// Every one of these votes and is well, and there is nobody else: no old self, no learner.
fn all_well(names: &[String], members: &[Member]) -> bool {
    members.len() == names.len() && voters_of(members, names) == names.len()
}

/// Looks at those that an earlier change had to leave claimed: who votes by now is let go, who turned out to have
/// left is taken away.
pub(super) async fn look_after_kept(env: &mut Env) -> Result<(), FaultError> {
    if env.kept().is_empty() {
        return Ok(());
    }
    let Some(members) = members(env).await else { return Ok(()) };
    settle(env, &members).await
}

async fn settle(env: &mut Env, members: &[Member]) -> Result<(), FaultError> {
    for (name, why) in env.kept() {
        match fate(members, &name, &why) {
            Fate::Votes if env.cluster.is_running(&name) => env.release(&name),
            Fate::Gone => take_away(env, &name).await?,
            Fate::Votes | Fate::Open => {}
        }
    }
    Ok(())
}

/// What became of a node that was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It votes and is well.
    Votes,
    /// It was to leave, and did.
    Gone,
    /// Nobody knows yet.
    Open,
}

fn fate(members: &[Member], name: &str, why: &Kept) -> Fate {
    let selves: Vec<_> = members.iter().filter(|member| member.name == name).collect();
    match (&selves[..], why) {
        // Two selves, the old one and the new one, are a change that is not over.
        ([one], Kept::Joins(Some(old))) if one.raft_id == *old => Fate::Open,
        ([one], _) if one.votes && one.active => Fate::Votes,
        ([], Kept::Leaves) => Fate::Gone,
        _ => Fate::Open,
    }
}

async fn take_away(env: &mut Env, name: &str) -> Result<(), FaultError> {
    env.cluster.forget(name).await?;
    env.release(name);
    // Should it come again, then as somebody new.
    env.disks.get(name).and_then(NodeDisk::replace).map_err(failed)
}

async fn remove(env: &Env, through: &str, name: &str) -> Outcome<Answer> {
    let (Ok(url), Ok(client)) = (env.cluster.url(through), Client::new()) else {
        return Outcome::Fail("no_such_node".to_owned());
    };
    let call = Call::new(Method::DELETE, format!("/api/v1/cluster/nodes/{}", segment(name)))
        .header("authorization", format!("Bearer {}", env.cluster.admin().token()))
        .json(&json!({ "reason": "the nemesis wants it" }))
        .within(REMOVAL_TIME_MAX);
    client.ask(url, &call).await
}

/// Looks at the members until `wanted` or for as long as a change may take; what was seen last.
async fn until(env: &Env, wanted: impl Fn(&[Member]) -> bool) -> Option<Vec<Member>> {
    let deadline = Instant::now() + SETTLE_PATIENCE;
    let mut last = None;
    loop {
        if let Some(members) = members(env).await {
            let done = wanted(&members);
            last = Some(members);
            if done {
                return last;
            }
        }
        if Instant::now() >= deadline {
            return last;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The members, as the first node shows them that reaches the leader.
async fn members(env: &Env) -> Option<Vec<Member>> {
    let mut asked = JoinSet::new();
    for name in env.cluster.names().into_iter().filter(|name| env.cluster.is_running(name)) {
        let (admin, url) = (env.cluster.admin().clone(), env.cluster.url(&name).ok()?.to_owned());
        asked.spawn(async move { admin.get(&url, "/api/v1/cluster/nodes").await });
    }
    while let Some(answer) = asked.join_next().await {
        if let Ok(Some(body)) = answer {
            return body["nodes"].as_array().map(|nodes| nodes.iter().filter_map(member).collect());
        }
    }
    None
}

fn member(node: &Value) -> Option<Member> {
    Some(Member {
        name: node["id"].as_str()?.to_owned(),
        raft_id: node["raft_id"].as_str()?.to_owned(),
        votes: node["role"] == "voter",
        active: node["status"] == "active",
    })
}

fn shown(members: &[Member]) -> Vec<Value> {
    let one =
        |member: &Member| json!({ "id": member.name, "raft_id": member.raft_id, "votes": member.votes });
    members.iter().map(one).collect()
}

fn failed(error: impl std::error::Error) -> FaultError {
    FaultError::Failed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, raft_id: &str, role: &str, status: &str) -> Member {
        let node = json!({ "id": name, "raft_id": raft_id, "role": role, "status": status, "port": 8080 });
        member(&node).unwrap()
    }

    fn three() -> (Vec<String>, Vec<Member>) {
        let names: Vec<_> = (1..=3).map(|number| format!("n{number}")).collect();
        let members = names.iter().map(|name| node(name, &name[1..], "voter", "active")).collect();
        (names, members)
    }

    #[test]
    fn a_change_needs_everybody_to_vote_and_be_well() {
        let (names, members) = three();
        assert!(all_well(&names, &members));
        let with = |changed: Member| [&members[..2], &[changed]].concat();
        assert!(!all_well(&names, &with(node("n3", "3", "voter", "suspect"))));
        assert!(!all_well(&names, &with(node("n3", "3", "learner", "active"))), "on its way in");
        assert!(!all_well(&names, &with(node("n9", "9", "voter", "active"))), "somebody whom we do not run");
        assert!(!all_well(&names, &members[..2]), "one is missing");
    }

    #[test]
    fn an_old_self_beside_the_new_one_is_a_change_that_is_not_over() {
        let (names, mut members) = three();
        members.push(node("n3", "1005", "learner", "active"));
        assert!(!all_well(&names, &members));
        assert!(!is_back(&members, "n3", "3"), "it does not vote yet");
        members[3].votes = true;
        assert!(is_back(&members, "n3", "3") && !is_back(&members, "n2", "2"));
    }

    #[test]
    fn whoever_is_kept_is_let_go_only_when_its_new_self_votes() {
        let (_, mut members) = three();
        let exchanged = Kept::Joins(Some("3".to_owned()));
        // No leader has looked yet: the old self is still shown as an active voter.
        assert_eq!(fate(&members, "n3", &exchanged), Fate::Open);
        members.push(node("n3", "1005", "voter", "active"));
        assert_eq!(fate(&members, "n3", &exchanged), Fate::Open);
        members.remove(2);
        assert_eq!(fate(&members, "n3", &exchanged), Fate::Votes);
        members[2].votes = false;
        assert_eq!(fate(&members, "n3", &exchanged), Fate::Open);
    }

    #[test]
    fn who_was_to_leave_is_gone_when_nobody_shows_it_and_who_was_to_join_is_not() {
        let (_, members) = three();
        assert_eq!(fate(&members, "n4", &Kept::Leaves), Fate::Gone);
        assert_eq!(fate(&members, "n4", &Kept::Joins(None)), Fate::Open);
        assert_eq!(fate(&members, "n3", &Kept::Leaves), Fate::Votes, "it was refused, and stays");
    }

    #[test]
    fn what_is_no_member_is_left_out() {
        assert_eq!(member(&json!({ "id": "n1", "role": "voter" })), None);
        assert_eq!(member(&json!("n1")), None);
    }
}
