//! Faults of processes: killed, stopped and continued, restarted one after the other.

use std::time::Duration;

use rand::rngs::StdRng;
use rustix::process::Signal;
use serde_json::json;

use super::{Begun, Effect, Env, FaultError, NemesisKind, Pick};
use crate::cluster::NodeError;

/// How long a node of a rolling restart may take to be ready before the next one goes. Other faults may keep it
/// from being ready for longer; then the round ends early.
const ROLLING_READY_PATIENCE: Duration = Duration::from_secs(10);

/// How long a node may take to be ready before a rolling restart begins at all.
const ROLLING_READY_FIRST: Duration = Duration::from_secs(1);

/// A fault at work.
#[derive(Debug)]
pub enum Running {
    /// These were killed and are down.
    Killed {
        /// Node and process id that it had.
        victims: Vec<(String, u32)>,
    },
    /// This one is stopped.
    Paused {
        /// Who.
        node: String,
        /// Its process.
        pid: u32,
        /// The kernel's word for its state right after SIGSTOP.
        state: Option<char>,
    },
    /// All is over already.
    Rolled {
        /// Nodes that ended on SIGTERM with exit code 0 and were started again.
        restarted: Vec<String>,
        /// Those of them that were ready again in time.
        ready: usize,
        /// What was wrong with those that did not end so.
        findings: Vec<String>,
    },
}

/// Begins a fault of this family.
pub(super) async fn start(
    kind: NemesisKind,
    env: &mut Env,
    rng: &mut StdRng,
) -> Result<Begun<Running>, FaultError> {
    match kind {
        NemesisKind::KillOne => {
            let victim = env.claim(rng, Pick::Any).await?;
            kill(env, vec![victim]).await
        }
        NemesisKind::KillLeader => {
            let victim = env.claim(rng, Pick::Leader).await?;
            kill(env, vec![victim]).await
        }
        NemesisKind::KillAll => {
            let all = env.claim_all()?;
            kill(env, all).await
        }
        NemesisKind::Pause => {
            let victim = env.claim(rng, Pick::Any).await?;
            pause(env, victim)
        }
        NemesisKind::Rolling => roll(env, rng).await,
        other => Err(FaultError::Failed(format!("{} is no fault of processes", other.name()))),
    }
}

async fn kill(env: &mut Env, nodes: Vec<String>) -> Result<Begun<Running>, FaultError> {
    let victims: Vec<(String, u32)> =
        nodes.iter().filter_map(|node| Some((node.clone(), env.cluster.pid(node)?))).collect();
    // First all signals, then all waiting: they die together.
    for (node, _) in &victims {
        env.cluster.node(node)?.signal(Signal::KILL)?;
    }
    for (node, _) in &victims {
        env.cluster.kill(node).await?;
    }
    Ok(Begun { targets: nodes, detail: json!({ "signal": "SIGKILL" }), state: Running::Killed { victims } })
}

fn pause(env: &mut Env, node: String) -> Result<Begun<Running>, FaultError> {
    let pid = env.cluster.pid(&node).ok_or_else(|| NodeError::NotRunning(node.clone()))?;
    env.cluster.node(&node)?.signal(Signal::STOP)?;
    let state = process_state(pid);
    let targets = vec![node.clone()];
    Ok(Begun { targets, detail: json!({ "signal": "SIGSTOP" }), state: Running::Paused { node, pid, state } })
}

async fn roll(env: &mut Env, rng: &mut StdRng) -> Result<Begun<Running>, FaultError> {
    let all = env.cluster.names();
    if env.unclaimed() != all {
        return Err(FaultError::NotNow("some nodes are down already".to_owned()));
    }
    for name in &all {
        // One that has only just been started does not know SIGTERM yet: it would end as any program does.
        if env.cluster.ready(name, ROLLING_READY_FIRST).await.is_err() {
            return Err(FaultError::NotNow(format!("{name} is not ready")));
        }
    }
    let (mut restarted, mut ready, mut findings) = (Vec::new(), 0, Vec::new());
    for _ in &all {
        let name = next_in_turn(env, rng, &restarted).await?;
        match env.cluster.terminate(&name).await {
            Ok(ended) if ended.clean => {}
            Ok(ended) => findings.push(format!("{name} answered SIGTERM with {}", ended.status)),
            Err(error) => findings.push(error.to_string()),
        }
        env.start(&name)?;
        let is_ready = env.cluster.ready(&name, ROLLING_READY_PATIENCE).await.is_ok();
        env.release(&name);
        restarted.push(name);
        ready += usize::from(is_ready);
        if !is_ready {
            break;
        }
    }
    let state = Running::Rolled { restarted: restarted.clone(), ready, findings };
    Ok(Begun { targets: restarted, detail: json!({ "signal": "SIGTERM" }), state })
}

async fn next_in_turn(env: &mut Env, rng: &mut StdRng, done: &[String]) -> Result<String, FaultError> {
    loop {
        let name = env.claim(rng, Pick::Any).await?;
        if !done.contains(&name) {
            return Ok(name);
        }
        env.release(&name);
    }
}

/// Ends a fault of this family.
pub(super) async fn heal(running: Running, env: &mut Env) -> Result<Effect, FaultError> {
    match running {
        Running::Killed { victims } => {
            let gone = victims.iter().filter(|(_, pid)| process_state(*pid).is_none()).count();
            for (node, _) in &victims {
                if !env.cluster.is_running(node) {
                    env.start(node)?;
                }
                env.release(node);
            }
            let measured = json!({ "killed": victims.len(), "processes_gone": gone });
            Ok(Effect { effective: !victims.is_empty() && gone == victims.len(), measured })
        }
        Running::Paused { node, pid, state } => {
            let still = process_state(pid);
            env.cluster.node(&node)?.signal(Signal::CONT)?;
            env.release(&node);
            let measured = json!({ "state_after_stop": state, "state_before_continue": still });
            Ok(Effect { effective: still == Some('T'), measured })
        }
        Running::Rolled { restarted, ready, findings } => {
            let measured =
                json!({ "restarted": restarted.len(), "ready_in_time": ready, "findings": findings });
            Ok(Effect { effective: !restarted.is_empty(), measured })
        }
    }
}

/// The kernel's one-letter word for what a process does; none when there is no such process.
fn process_state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_what_a_process_does() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        assert!(process_state(child.id()).is_some_and(|state| state != 'T'));
        rustix::process::kill_process(pid, Signal::STOP).unwrap();
        // The state of a process that was stopped a moment ago may lag by a tick.
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while process_state(child.id()) != Some('T') && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert_eq!(process_state(child.id()), Some('T'));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(process_state(child.id()), None);
    }
}
