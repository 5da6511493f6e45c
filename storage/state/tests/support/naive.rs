//! The promise in its plainest form: lists and linear scans. Slow, and obviously right.

use std::collections::BTreeMap;

use ovncp_state::command::{
    AcquireLock, KvCondition, KvExpect, KvOperation, LockMode, NodeStatus, RenewLock, WriteKv,
};
use ovncp_state::limits::REQUESTS_KEPT_MS;
use ovncp_state::reply::{Grant, Holder, Renewed};
use ovncp_state::{
    Command, FencingToken, Millis, NodeId, Notice, Refusal, Reply, Request, Revision, SecretHash, WaiterId,
};

/// A held lock.
#[derive(Clone, Debug)]
pub struct Held {
    pub ask: AcquireLock,
    pub token: FencingToken,
    pub since: Millis,
    pub waited: Millis,
    pub deadline: Millis,
    pub hold_deadline: Option<Millis>,
}

/// A queued request. The list is in log order.
#[derive(Clone, Debug)]
pub struct Waiter {
    pub ask: AcquireLock,
    pub since: Millis,
    pub deadline: Millis,
    pub scope: Option<[u8; 16]>,
}

#[derive(Clone, Debug)]
pub struct Register {
    pub value: Vec<u8>,
    pub revision: Revision,
    pub deadline: Option<Millis>,
}

#[derive(Clone, Debug)]
enum Outcome {
    Reply(Reply),
    Granted(FencingToken),
    Waiting(WaiterId),
}

#[derive(Clone, Debug)]
struct Kept {
    scope: [u8; 16],
    body: [u8; 16],
    outcome: Outcome,
    at: Millis,
}

/// The naive state.
#[derive(Clone, Debug, Default)]
pub struct Naive {
    pub now: Millis,
    index: u64,
    tokens: u64,
    pub held: Vec<Held>,
    pub waiting: Vec<Waiter>,
    pub registers: BTreeMap<Vec<u8>, Register>,
    kept: Vec<Kept>,
    pub inactive: Vec<NodeId>,
    notices: Vec<Notice>,
}

fn overlap(left: &AcquireLock, right: &AcquireLock) -> bool {
    let both_shared = left.mode == LockMode::Shared && right.mode == LockMode::Shared;
    !both_shared && left.keys.iter().any(|key| right.keys.contains(key))
}

fn conflict_on(key: &String, left: &AcquireLock, right: &AcquireLock) -> bool {
    let both_shared = left.mode == LockMode::Shared && right.mode == LockMode::Shared;
    !both_shared && left.keys.contains(key) && right.keys.contains(key)
}

impl Naive {
    pub fn apply(&mut self, at: Millis, request: &Request) -> (Reply, Vec<Notice>) {
        self.index += 1;
        self.now = self.now.max(at);
        self.expire();
        let reply = self.answer(request);
        (reply, std::mem::take(&mut self.notices))
    }

    fn expire(&mut self) {
        let now = self.now;
        self.registers.retain(|_, register| register.deadline.is_none_or(|deadline| deadline > now));
        let before = self.clone();
        self.held.retain(|held| held.deadline > now);
        self.waiting.retain(|waiter| waiter.deadline > now);
        // In the order of deadlines, then of the log.
        let mut ended: Vec<_> =
            (0..before.waiting.len()).filter(|at| before.waiting[*at].deadline <= now).collect();
        ended.sort_by_key(|at| (before.waiting[*at].deadline, *at));
        for at in ended {
            let waiter = before.waiting[at].clone();
            let key = before.obstacle(&waiter.ask, at).expect("it waited for something");
            let refusal = Refusal::LockTimeout {
                holder: self.holder(&key, waiter.ask.mode),
                queue_length: self.queue_length(&key),
                key,
            };
            self.refuse(waiter, refusal);
        }
        self.wake();
        self.kept.retain(|kept| {
            matches!(kept.outcome, Outcome::Waiting(_)) || kept.at.after(REQUESTS_KEPT_MS) > now
        });
    }

    /// The first key on which a grant or one of the first `earlier` waiters conflicts.
    fn obstacle(&self, ask: &AcquireLock, earlier: usize) -> Option<String> {
        let others = || {
            let held = self.held.iter().map(|held| &held.ask);
            held.chain(self.waiting[..earlier].iter().map(|waiter| &waiter.ask))
        };
        ask.keys.iter().find(|key| others().any(|other| conflict_on(key, ask, other))).cloned()
    }

    fn holder(&self, key: &String, mode: LockMode) -> Option<Holder> {
        let conflicts = |held: &&Held| {
            held.ask.keys.contains(key)
                && (mode == LockMode::Exclusive || held.ask.mode == LockMode::Exclusive)
        };
        self.held.iter().find(conflicts).map(|held| Holder {
            owner: held.ask.owner.clone(),
            token: held.token,
            ttl: held.deadline.since(self.now),
        })
    }

    pub fn queue_length(&self, key: &String) -> u64 {
        self.waiting.iter().filter(|waiter| waiter.ask.keys.contains(key)).count() as u64
    }

    /// Grants, from the front, to whoever has nothing before it.
    fn wake(&mut self) {
        let mut at = 0;
        while at < self.waiting.len() {
            let ask = self.waiting[at].ask.clone();
            let blocked = self.held.iter().any(|held| overlap(&held.ask, &ask))
                || self.waiting[..at].iter().any(|earlier| overlap(&earlier.ask, &ask));
            if blocked {
                at += 1;
                continue;
            }
            let waiter = self.waiting.remove(at);
            let (id, node) = (waiter.ask.waiter, waiter.ask.node);
            let grant = self.grant(waiter.ask, waiter.since);
            self.settle(waiter.scope, Outcome::Granted(grant.token));
            self.notices.push(Notice { waiter: id, node, outcome: Ok(grant) });
            at = 0;
        }
    }

    fn grant(&mut self, ask: AcquireLock, since: Millis) -> Grant {
        self.tokens += 1;
        let hold_deadline = ask.hold_max.map(|hold_max| self.now.after(hold_max));
        let lease = self.now.after(ask.ttl);
        let held = Held {
            token: FencingToken(self.tokens),
            since: self.now,
            waited: self.now.since(since),
            deadline: hold_deadline.map_or(lease, |hold| hold.min(lease)),
            hold_deadline,
            ask,
        };
        let grant = self.reply_of(&held);
        self.held.push(held);
        grant
    }

    pub fn reply_of(&self, held: &Held) -> Grant {
        Grant {
            keys: held.ask.keys.clone(),
            mode: held.ask.mode,
            owner: held.ask.owner.clone(),
            token: held.token,
            ttl: held.deadline.since(self.now),
            waited: held.waited,
            salt: held.ask.salt,
        }
    }

    fn refuse(&mut self, waiter: Waiter, refusal: Refusal) {
        self.settle(waiter.scope, Outcome::Reply(Reply::Refused(refusal.clone())));
        self.notices.push(Notice { waiter: waiter.ask.waiter, node: waiter.ask.node, outcome: Err(refusal) });
    }

    fn settle(&mut self, scope: Option<[u8; 16]>, outcome: Outcome) {
        let now = self.now;
        if let Some(kept) = self.kept.iter_mut().find(|kept| Some(kept.scope) == scope) {
            (kept.outcome, kept.at) = (outcome, now);
        }
    }

    fn answer(&mut self, request: &Request) -> Reply {
        let of_the_cluster = matches!(
            request.command,
            Command::Tick | Command::ChangeNode(_) | Command::RenewLocks(_) | Command::CancelWait(_)
        );
        let key = request.idempotency.filter(|_| !of_the_cluster);
        if let Some(kept) = key.and_then(|key| self.kept.iter().find(|kept| kept.scope == key.scope)) {
            if key.is_some_and(|key| key.body != kept.body) {
                return Reply::Refused(Refusal::IdempotencyKeyReused);
            }
            let kept = kept.clone();
            if let Command::AcquireLock(ask) = &request.command {
                self.attach(&kept.outcome, ask.node);
            }
            return self.replay(&kept);
        }
        let reply = self.execute(&request.command, key.map(|key| key.scope)).unwrap_or_else(Reply::Refused);
        let outcome = match &reply {
            Reply::Refused(Refusal::InvalidArgument { .. } | Refusal::WaitCancelled) => return reply,
            Reply::Granted(grant) => Outcome::Granted(grant.token),
            Reply::Waiting { waiter, .. } => Outcome::Waiting(*waiter),
            other => Outcome::Reply(other.clone()),
        };
        if let Some(key) = key {
            self.kept.push(Kept { scope: key.scope, body: key.body, outcome, at: self.now });
        }
        reply
    }

    /// The retry's client is the one that cares from now on.
    fn attach(&mut self, outcome: &Outcome, node: NodeId) {
        for held in &mut self.held {
            if matches!(outcome, Outcome::Granted(token) if *token == held.token) {
                held.ask.node = node;
            }
        }
        for waiter in &mut self.waiting {
            let its = matches!(outcome, Outcome::Waiting(waits) if *waits == waiter.ask.waiter);
            if its && !self.inactive.contains(&node) {
                waiter.ask.node = node;
            }
        }
    }

    fn replay(&self, kept: &Kept) -> Reply {
        match &kept.outcome {
            Outcome::Reply(reply) => reply.clone(),
            Outcome::Granted(token) => match self.held.iter().find(|held| held.token == *token) {
                Some(held) => Reply::Granted(self.reply_of(held)),
                None => Reply::Refused(Refusal::LockLost { token: *token }),
            },
            Outcome::Waiting(waiter) => {
                let at = self.waiting.iter().position(|other| other.ask.waiter == *waiter).unwrap();
                let before = |key: &String| {
                    self.waiting[..at].iter().filter(|other| other.ask.keys.contains(key)).count()
                };
                let position = self.waiting[at].ask.keys.iter().map(before).max().unwrap();
                Reply::Waiting { waiter: *waiter, position: position as u64 }
            }
        }
    }

    fn execute(&mut self, command: &Command, scope: Option<[u8; 16]>) -> Result<Reply, Refusal> {
        match command {
            Command::AcquireLock(ask) => return self.acquire(ask, scope),
            Command::RenewLocks(renewals) => {
                return Ok(Reply::Renewed(renewals.iter().map(|renewal| self.renew(renewal)).collect()));
            }
            Command::ReleaseLock(release) => {
                let at = self.find(&release.key, release.secret)?;
                let token = self.held.remove(at).token;
                self.wake();
                return Ok(Reply::Released { token });
            }
            Command::CancelWait(cancel) => {
                let hit = |ask: &AcquireLock| ask.waiter == cancel.waiter && ask.node == cancel.node;
                if let Some(at) = self.waiting.iter().position(|other| hit(&other.ask)) {
                    let waiter = self.waiting.remove(at);
                    self.refuse(waiter, Refusal::WaitCancelled);
                }
                self.held.retain(|held| !hit(&held.ask));
                self.wake();
            }
            Command::ForceReleaseLock(force) => {
                let hit = |held: &Held| {
                    held.ask.keys.contains(&force.key) && force.token.is_none_or(|token| token == held.token)
                };
                let tokens: Vec<_> =
                    self.held.iter().filter(|held| hit(held)).map(|held| held.token).collect();
                if tokens.is_empty() {
                    return Err(Refusal::NotFound);
                }
                self.held.retain(|held| !hit(held));
                self.wake();
                return Ok(Reply::ForceReleased { tokens });
            }
            Command::ChangeNode(change) if change.status == Some(NodeStatus::Inactive) => {
                self.inactive.push(change.id);
                let waiting = std::mem::take(&mut self.waiting);
                let (gone, left) = waiting.into_iter().partition(|waiter| waiter.ask.node == change.id);
                self.waiting = left;
                let gone: Vec<Waiter> = gone;
                gone.into_iter().for_each(|waiter| self.refuse(waiter, Refusal::WaitCancelled));
                self.wake();
            }
            Command::UpdateNode(update) => self.inactive.retain(|node| *node != update.id),
            Command::WriteKv(write) => return self.write(write),
            _ => {}
        }
        Ok(Reply::Done)
    }

    fn acquire(&mut self, ask: &AcquireLock, scope: Option<[u8; 16]>) -> Result<Reply, Refusal> {
        let asks =
            self.held.iter().map(|held| &held.ask).chain(self.waiting.iter().map(|waiter| &waiter.ask));
        if asks.into_iter().any(|other| other.waiter == ask.waiter) {
            return Err(Refusal::InvalidArgument {
                field: "waiter".into(),
                problem: "names another live request; choose a new random id".into(),
            });
        }
        let Some(key) = self.obstacle(ask, self.waiting.len()) else {
            return Ok(Reply::Granted(self.grant(ask.clone(), self.now)));
        };
        if ask.wait == Millis(0) {
            let (holder, queue_length) = (self.holder(&key, ask.mode), self.queue_length(&key));
            return Err(Refusal::LockHeld { key, holder, queue_length });
        }
        if self.inactive.contains(&ask.node) {
            return Err(Refusal::WaitCancelled);
        }
        let position = ask.keys.iter().map(|key| self.queue_length(key)).max().unwrap();
        self.waiting.push(Waiter {
            ask: ask.clone(),
            since: self.now,
            deadline: self.now.after(ask.wait),
            scope,
        });
        Ok(Reply::Waiting { waiter: ask.waiter, position })
    }

    fn find(&self, key: &String, secret: SecretHash) -> Result<usize, Refusal> {
        let its = |held: &Held| held.ask.keys.contains(key) && held.ask.secret == secret;
        self.held.iter().position(its).ok_or_else(|| Refusal::NotHolder { key: key.clone() })
    }

    fn renew(&mut self, renewal: &RenewLock) -> Result<Renewed, Refusal> {
        let at = self.find(&renewal.key, renewal.secret)?;
        let now = self.now;
        let held = &mut self.held[at];
        let lease = now.after(renewal.ttl.unwrap_or(held.ask.ttl));
        held.deadline = held.hold_deadline.map_or(lease, |hold| hold.min(lease));
        Ok(Renewed { token: held.token, ttl: held.deadline.since(now) })
    }

    fn write(&mut self, write: &WriteKv) -> Result<Reply, Refusal> {
        for KvCondition { key, expect } in &write.conditions {
            let current = self.registers.get(key).map(|register| register.revision);
            let holds = match expect {
                KvExpect::Exists => current.is_some(),
                KvExpect::Absent => current.is_none(),
                KvExpect::Revision(revision) => current == Some(*revision),
            };
            if !holds {
                return Err(Refusal::RevisionMismatch { key: key.clone(), current });
            }
        }
        let revision = Revision(self.index);
        let mut deleted = 0;
        for operation in &write.operations {
            match operation {
                KvOperation::Put { key, value, ttl, .. } => {
                    let deadline = ttl.map(|ttl| self.now.after(ttl));
                    self.registers.insert(key.clone(), Register { value: value.clone(), revision, deadline });
                }
                KvOperation::Delete { key } => deleted += u64::from(self.registers.remove(key).is_some()),
            }
        }
        Ok(Reply::Written { revision, deleted })
    }
}
