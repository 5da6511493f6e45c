//! The one way of a write: claim, look for an earlier try, plan, send, understand the answer, wait for the barrier.

use std::sync::Arc;
use std::time::Duration;

use ovncp_ovn::Uuid;
use ovncp_ovn::barrier::Reach;
use ovncp_ovn::contents::Contents;
use ovncp_ovn::error::TransactError;
use ovncp_ovn::fence::{self, Guard};
use ovncp_ovn::marker::{Keyed, Seen, Submitted};
use ovncp_ovn::operation::Operation;
use ovncp_ovn::resource::{Answer, Catalogue, Outcome, Plan, Refusal, RefusalKind};
use ovncp_state::RequestKey;

use super::{FencedBy, Inner, Network, NetworkError};
use crate::services::ServiceError;

/// How often a request is planned anew when others change what it builds on.
const PLANS_MAX: usize = 8;
/// Answers that a marker notes; a retry of a request with more steps is answered with the first ones.
const NOTED_ANSWERS_MAX: usize = 64;

/// How a write is done.
#[derive(Clone, Debug, Default)]
pub struct Write {
    /// Identity of its retries.
    pub retry: Option<RequestKey>,
    /// The lock it is done under.
    pub fenced: Option<FencedBy>,
    /// How far to wait after the commit, and how long.
    pub barrier: Option<(Reach, Duration)>,
}

/// Whether the network came as far as was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// It did.
    Yes,
    /// Not within the time; the write is committed all the same.
    NotYet,
}

/// A write that is committed.
#[derive(Debug)]
pub struct Written {
    /// What happened to which row, in the order of the request.
    pub answers: Vec<Answer>,
    /// Whether an earlier try of the same request did it.
    pub replayed: bool,
    /// Whether the barrier was reached, if one was asked for.
    pub reached: Option<Reached>,
}

/// Makes the plan of a request from the replica; new rows get their uuids from the last argument.
pub trait Planner: Fn(&Contents, &Arc<Catalogue>, &mut dyn FnMut() -> Uuid) -> Result<Plan, Refusal> {}

impl<F: Fn(&Contents, &Arc<Catalogue>, &mut dyn FnMut() -> Uuid) -> Result<Plan, Refusal>> Planner for F {}

/// What became of one attempt.
enum Attempt {
    Done(Written),
    /// The replica was behind, or somebody else was faster.
    Again,
}

impl Network {
    /// Does what `planner` says, all of it or nothing. When it returns, this node's replica shows it.
    ///
    /// After [`TransactError::OutcomeUnknown`] it may have happened; a retry under the same key tells.
    pub async fn write(&self, write: &Write, planner: impl Planner) -> Result<Written, NetworkError> {
        let inner = self.inner()?;
        let fence = match &write.fenced {
            Some(fenced) => Some((fenced, inner.claim(fenced).await?)),
            None => None,
        };
        let keyed = write.retry.as_ref().map(|key| inner.keyed(key)).transpose()?;
        // The plan is made from what is committed now: a client that was just told of a row can name it, on any node.
        inner.fresh().await?;
        for _ in 0..PLANS_MAX {
            let attempt = inner.attempt(keyed.as_ref(), fence.as_ref(), &planner).await?;
            if let Attempt::Done(mut written) = attempt {
                written.reached = inner.wait(write).await;
                return Ok(written);
            }
            inner.fresh().await?;
        }
        Err(NetworkError::Contended { attempts: PLANS_MAX })
    }
}

impl Inner {
    async fn attempt(
        &self,
        keyed: Option<&Keyed>,
        fence: Option<&(&FencedBy, Guard)>,
        planner: &impl Planner,
    ) -> Result<Attempt, NetworkError> {
        let mut places = 0..;
        let mut uuids = || match (keyed, places.next()) {
            (Some(keyed), Some(place)) => keyed.uuid(place),
            _ => Uuid::new_v4(),
        };
        let plan = match self.look(|contents, catalogue| planner(contents, catalogue, &mut uuids))?.value {
            Ok(plan) => plan,
            // What an earlier try made may be what is in the way of this one.
            Err(refusal) => {
                let seen =
                    keyed.and_then(|keyed| self.northbound.read(|contents| keyed.look(contents)).flatten());
                return match seen {
                    Some(seen) => Ok(Attempt::Done(self.replayed(seen)?)),
                    None => Err(refusal.into()),
                };
            }
        };
        let mut operations: Vec<Operation> = fence.map(|(_, guard)| guard.operation()).into_iter().collect();
        let before = operations.len();
        operations.extend(plan.operations.iter().cloned());
        if operations.is_empty() {
            return Ok(Attempt::Done(Written { answers: plan.answers, replayed: false, reached: None }));
        }
        let error = match self.send(keyed, &plan, operations).await {
            Ok(Submitted::Now(results)) => {
                if let Err(broken) = plan.verify(results.get(before..).unwrap_or_default()) {
                    tracing::error!(broken, "OVN answered a committed transaction strangely");
                }
                return Ok(Attempt::Done(Written { answers: plan.answers, replayed: false, reached: None }));
            }
            Ok(Submitted::Seen(seen)) => return Ok(Attempt::Done(self.replayed(seen)?)),
            Err(error) => error,
        };
        match (fence, error) {
            (Some((fenced, _)), error) if fence::is_fenced(&error) => {
                Err(fenced.refused("a later holder has claimed it".to_owned()))
            }
            (_, TransactError::Rejected(rejection)) => {
                let refusal = self.look(|contents, _| plan.explain(&rejection, before, contents))?.value;
                match refusal.kind {
                    RefusalKind::Changed => Ok(Attempt::Again),
                    _ => Err(refusal.into()),
                }
            }
            (_, error) => Err(error.into()),
        }
    }

    async fn send(
        &self,
        keyed: Option<&Keyed>,
        plan: &Plan,
        operations: Vec<Operation>,
    ) -> Result<Submitted, TransactError> {
        let Some(keyed) = keyed else { return self.writer.submit(operations).await.map(Submitted::Now) };
        let now = Duration::from_millis(crate::wall_clock::unix_ms());
        self.markers.submit(keyed, operations, Some(&note(&plan.answers)), now).await
    }

    /// Keys of one cluster mean nothing to another one that shares the OVN.
    fn keyed(&self, key: &RequestKey) -> Result<Keyed, NetworkError> {
        let secret = self.core.group.cluster_key().ok_or(ServiceError::NotMember)?;
        Ok(Keyed::new(&secret, "ovn", &hex(&key.scope), &key.body))
    }

    /// What an earlier try of this request did.
    fn replayed(&self, seen: Seen) -> Result<Written, NetworkError> {
        let Seen::Before { note } = seen else { return Err(NetworkError::KeyReused) };
        let note = note.unwrap_or_default();
        let answers = self.look(|_, catalogue| answers(&note, catalogue))?.value;
        Ok(Written { answers, replayed: true, reached: None })
    }

    async fn wait(&self, write: &Write) -> Option<Reached> {
        let (level, timeout) = write.barrier?;
        match self.barrier.wait(level, timeout).await {
            Ok(()) => Some(Reached::Yes),
            Err(error) => {
                tracing::debug!(%error, "a barrier was not reached");
                Some(Reached::NotYet)
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Answers as a marker keeps them: outcome, path and uuid of each step.
fn note(answers: &[Answer]) -> String {
    let step = |answer: &Answer| {
        let outcome = match answer.outcome {
            Outcome::Created => 'c',
            Outcome::Replaced => 'r',
            Outcome::Patched => 'p',
            Outcome::Deleted => 'd',
        };
        format!("{outcome} {} {}", answer.resource.path, answer.id)
    };
    answers.iter().take(NOTED_ANSWERS_MAX).map(step).collect::<Vec<_>>().join(";")
}

/// The reverse of [`note`], as far as the catalogue still knows the resources.
fn answers(note: &str, catalogue: &Catalogue) -> Vec<Answer> {
    let step = |step: &str| {
        let mut words = step.split(' ');
        let outcome = match words.next()? {
            "c" => Outcome::Created,
            "r" => Outcome::Replaced,
            "p" => Outcome::Patched,
            "d" => Outcome::Deleted,
            _ => return None,
        };
        let path = words.next()?;
        let resource = catalogue.by_path(path).or_else(|_| catalogue.by_table(path)).ok()?;
        let id = words.next()?.parse().ok()?;
        Some(Answer { resource: Arc::clone(resource), id, outcome, reference: None, takes_along: Vec::new() })
    };
    note.split(';').filter_map(step).collect()
}
