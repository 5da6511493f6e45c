//! Makes the faults of a schedule, heals them, and writes both into the history.
//!
//! One task does everything that is done to the nodes, one thing at a time: what is at work is always known. It
//! also looks after nodes that end by themselves. Such an end is recorded; a node that nobody has claimed is then
//! started again, as any supervisor of services would.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::schedule::{self, Deck, Slot};
use super::{Env, FaultError, NemesisKind, Running, membership};
use crate::history::{Invocation, Kind, Process, Recorder};

/// Between two looks at nodes that may have ended.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Between two looks at nodes that are on their way in or out.
const LOOK_AT_KEPT_EVERY: Duration = Duration::from_secs(1);
/// So much later a fault is looked at again that could not be healed when its time was over.
const PUT_OFF: Duration = Duration::from_millis(500);
/// But no longer than this: nodes that are on their way for ever would keep all others from being harmed.
const PUT_OFF_MAX: Duration = Duration::from_secs(15);
/// A fault that has hit nothing when its time is over (an idle link) goes on for this much longer.
const EFFECT_PATIENCE: Duration = Duration::from_secs(5);
/// Ends of one node without a fault, after which it is left alone.
const RESTARTS_MAX: u32 = 3;

/// What is going on, for whoever shows it.
#[derive(Debug, Default)]
pub struct Score {
    /// Faults that began.
    pub made: AtomicU64,
    /// Faults whose effect was measured when they were healed.
    pub effective: AtomicU64,
    /// Faults that could not be begun or healed as they should.
    pub failed: AtomicU64,
    /// Names of those at work.
    pub active: watch::Sender<Vec<String>>,
}

/// One fault at work.
#[derive(Debug)]
struct Active {
    id: u64,
    kind: NemesisKind,
    ends: Instant,
    /// Healed by then, settled or not.
    ends_for_sure: Instant,
    running: Running,
}

/// What is to be healed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// Nothing.
    Nothing,
    /// The fault at this position.
    Heal(usize),
    /// One that has to wait for others which have hit nothing yet; meanwhile nothing else begins.
    Waits,
}

/// The nemesis of one run.
#[derive(Debug)]
pub struct Conductor<'a> {
    env: &'a mut Env,
    recorder: Recorder,
    deck: Deck,
    score: Arc<Score>,
    next_id: u64,
    active: Vec<Active>,
    ended: BTreeMap<String, u32>,
    kept_looked_at: Option<Instant>,
}

impl<'a> Conductor<'a> {
    /// Faults of these kinds, in an order that comes from `seed`.
    pub fn new(
        env: &'a mut Env,
        recorder: Recorder,
        score: Arc<Score>,
        kinds: &[NemesisKind],
        seed: u64,
    ) -> Self {
        let deck = Deck::new(seed, kinds);
        Self {
            env,
            recorder,
            deck,
            score,
            next_id: 1,
            active: Vec::new(),
            ended: BTreeMap::new(),
            kept_looked_at: None,
        }
    }

    /// Makes faults until `time` after now, or until `stop`; all that began are healed when it returns.
    pub async fn run(&mut self, slots: &[Slot], time: Duration, mut stop: watch::Receiver<bool>) {
        let start = Instant::now();
        let last_end = start + schedule::last_end(time);
        let mut slots = slots.iter().peekable();
        // What took long moves what comes after it: faults are never made up for in a burst.
        let mut behind = Duration::ZERO;
        while !*stop.borrow() && Instant::now() < start + time {
            let now = Instant::now();
            let begins = slots.peek().map(|slot| start + slot.at + behind);
            let due = self.next_to_heal(now);
            if let Due::Heal(position) = due {
                let active = &self.active[position];
                if now >= active.ends_for_sure || active.running.is_settled(self.env).await {
                    let active = self.active.remove(position);
                    self.heal(active).await;
                } else {
                    self.active[position].ends = Instant::now() + PUT_OFF;
                }
            } else if let (Due::Nothing, Some(late)) =
                (due, begins.and_then(|begins| now.checked_duration_since(begins)))
            {
                behind += late;
                if let Some(slot) = slots.next().filter(|_| now < last_end) {
                    self.begin(slot, last_end).await;
                }
            } else {
                let heals = self.active.iter().map(|active| active.ends).filter(|ends| *ends > now);
                let begins = begins.filter(|begins| *begins > now);
                let next = heals.chain(begins).chain([now + LOOK_EVERY, start + time]).min().unwrap_or(now);
                tokio::select! {
                    () = tokio::time::sleep_until(next) => {}
                    _ = stop.changed() => {}
                }
            }
            self.look_after_nodes();
            self.look_after_kept().await;
        }
        self.active.sort_by_key(|active| !active.kind.heals_slowly());
        while let Some(active) = self.active.pop() {
            let patience = Instant::now() + EFFECT_PATIENCE;
            while !*stop.borrow() && !active.running.shows_effect(self.env) && Instant::now() < patience {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            self.heal(active).await;
        }
        self.look_after_nodes();
        self.kept_looked_at = None;
        self.look_after_kept().await;
    }

    /// Nodes that are on their way in or out longer than the fault that sent them.
    async fn look_after_kept(&mut self) {
        if self.kept_looked_at.is_some_and(|last| last.elapsed() < LOOK_AT_KEPT_EVERY) {
            return;
        }
        self.kept_looked_at = Some(Instant::now());
        if let Err(error) = membership::look_after_kept(self.env).await {
            tracing::warn!(%error, "a node on its way in or out");
        }
    }

    /// A fault whose time is over. Before one that heals slowly come all others: the nodes that it waits for shall
    /// have nothing else to cope with. One that has hit nothing yet gets a little more time, also then.
    fn next_to_heal(&self, now: Instant) -> Due {
        let waits =
            |active: &Active| !active.running.shows_effect(self.env) && now < active.ends + EFFECT_PATIENCE;
        let Some(position) = self.active.iter().position(|active| active.ends <= now && !waits(active))
        else {
            return Due::Nothing;
        };
        let before = |active: &Active| !active.kind.heals_slowly();
        if before(&self.active[position]) || !self.active.iter().any(before) {
            return Due::Heal(position);
        }
        let other = self.active.iter().position(|active| before(active) && !waits(active));
        other.map_or(Due::Waits, Due::Heal)
    }

    async fn begin(&mut self, slot: &Slot, last_end: Instant) {
        if self.active.len() >= schedule::OVERLAP_MAX {
            return;
        }
        let mut skip = 0;
        while let Some(kind) = self.deck.look(skip) {
            // The same fault twice at once is one fault that is harder to read.
            if self.active.iter().any(|active| active.kind == kind) {
                skip += 1;
                continue;
            }
            match self.try_begin(kind, slot, last_end).await {
                Ok(()) => return self.deck.take(skip),
                Err(FaultError::NotNow(why)) => {
                    tracing::debug!(fault = kind.name(), why, "not now");
                    skip += 1;
                    // Asking may have taken long.
                    if Instant::now() >= last_end {
                        return;
                    }
                }
                Err(FaultError::NotPossible(why)) => {
                    tracing::warn!(fault = kind.name(), why, "left out from now on");
                    self.deck.discard(kind);
                }
                Err(FaultError::Failed(why)) => {
                    tracing::warn!(fault = kind.name(), why, "could not be made");
                    self.score.failed.fetch_add(1, Ordering::Relaxed);
                    return self.deck.take(skip);
                }
            }
        }
    }

    async fn try_begin(
        &mut self,
        kind: NemesisKind,
        slot: &Slot,
        last_end: Instant,
    ) -> Result<(), FaultError> {
        let invocation = invocation(kind);
        let mut rng = StdRng::seed_from_u64(slot.seed);
        let claims = self.env.claims();
        let id = self.next_id;
        self.recorder.invoke(&invocation, json!({ "id": id, "fault": kind.name() }));
        let begun = match kind.start(self.env, &mut rng).await {
            Ok(begun) => begun,
            Err(error) => {
                self.env.restore_claims(claims);
                let value = json!({ "id": id, "began": false });
                self.recorder.complete(&invocation, Kind::Info, value, Some(error.to_string()));
                return Err(error);
            }
        };
        self.next_id += 1;
        let value = json!({ "id": id, "began": true, "targets": begun.targets, "detail": begun.detail });
        self.recorder.complete(&invocation, Kind::Info, value, None);
        self.score.made.fetch_add(1, Ordering::Relaxed);
        let ends = (Instant::now() + slot.lasts(kind)).min(last_end);
        let ends_for_sure = ends + PUT_OFF_MAX;
        self.active.push(Active { id, kind, ends, ends_for_sure, running: begun.state });
        self.show_active();
        Ok(())
    }

    async fn heal(&mut self, active: Active) {
        let invocation = invocation(active.kind);
        self.recorder.invoke(&invocation, json!({ "id": active.id, "heal": true }));
        let (value, error) = match active.running.heal(self.env).await {
            Ok(effect) => {
                self.score.effective.fetch_add(u64::from(effect.effective), Ordering::Relaxed);
                (json!({ "effect": effect.measured, "effective": effect.effective }), None)
            }
            Err(error) => {
                tracing::warn!(fault = active.kind.name(), %error, "could not be healed as it should");
                self.score.failed.fetch_add(1, Ordering::Relaxed);
                (json!({ "effect": Value::Null, "effective": false }), Some(error.to_string()))
            }
        };
        let mut healed = json!({ "id": active.id, "healed": true });
        if let (Some(healed), Value::Object(value)) = (healed.as_object_mut(), value) {
            healed.extend(value);
        }
        self.recorder.complete(&invocation, Kind::Info, healed, error);
        self.show_active();
    }

    fn show_active(&self) {
        self.score.active.send_replace(self.active.iter().map(|active| active.kind.name()).collect());
    }

    fn look_after_nodes(&mut self) {
        for ended in self.env.cluster.reap() {
            let invocation = Invocation {
                process: Process::Nemesis,
                f: "node-exit".to_owned(),
                key: None,
                node: Some(ended.node.clone()),
            };
            let (node, status, expected) = (&ended.node, &ended.status, ended.expected);
            let value =
                json!({ "node": node, "status": status, "expected": expected, "log": ended.last_words });
            self.recorder.complete(&invocation, Kind::Info, value, None);
            if expected {
                continue;
            }
            tracing::warn!(node, status, "a node ended by itself");
            let times = self.ended.entry(node.clone()).or_default();
            *times += 1;
            if *times <= RESTARTS_MAX
                && !self.env.is_claimed(node)
                && let Err(error) = self.env.start(node)
            {
                tracing::warn!(node, %error, "could not be started again");
            }
        }
    }
}

fn invocation(kind: NemesisKind) -> Invocation {
    Invocation { process: Process::Nemesis, f: kind.name(), key: None, node: None }
}
