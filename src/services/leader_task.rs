//! Work that one node of the cluster does, and no other meanwhile.
//!
//! Every node runs [`LeaderTask::run`] with the same name. The one that wins the election runs the job; when its
//! term is no longer certain, the job is told ([`Office::ended`]) and, if it does not come to an end by itself,
//! dropped before the term can be another's. Certain is what the *sending* of the last acknowledged renewal
//! proves ([`Lease`]), so neither slow answers nor a paused cluster stretch a term.
//!
//! CAVEATS. A job is stopped at an `await`: one that blocks its thread, and a process that is stopped as a whole,
//! can outlive the term. What the job writes to should check [`Office::token`], which grows with every term. An
//! election is a lease: while one is held, the leader of the group proposes about an entry per second.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use ovncp_state::command::LockMode;
use ovncp_state::{FencingToken, Millis, Refusal};
use tokio::sync::watch;
use tokio::time::Instant;

use super::ServiceError;
use super::elections::Elections;
use super::locks::{Ask, Held, WAIT_MS_MAX};
use crate::client::Lease;

/// Pause after something went wrong: the first, and the longest after many in succession.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Between two tries of a renewal, as a share of the lease.
const RENEW_PAUSE_SHARE: u32 = 20;
/// For a job to come to its end when this node stops.
const END_TIME: Duration = Duration::from_secs(5);
/// To resign at the end; the lease ends the term otherwise.
const RESIGN_TIME: Duration = Duration::from_secs(2);

/// What to campaign for.
#[derive(Clone, Debug)]
pub struct LeaderTask {
    /// The election: one job of this name runs in the cluster.
    pub name: String,
    /// Who campaigns: this node.
    pub candidate: String,
    /// Lease of a term: so long nobody works after a node was lost.
    pub ttl: Duration,
}

/// A term of office, as its job sees it.
#[derive(Clone, Debug)]
pub struct Office {
    token: FencingToken,
    over: watch::Receiver<bool>,
}

/// How a term ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The job came back, or broke down.
    Done { well: bool },
    /// The term is no longer certain.
    Lost,
    /// This node stops.
    Stopped,
}

impl Office {
    /// Higher than that of every earlier term.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.token
    }

    /// Whether the job should come to its end.
    #[must_use]
    pub fn is_over(&self) -> bool {
        *self.over.borrow()
    }

    /// Resolves when the job should come to its end: the term is not certain any more, or this node stops.
    pub async fn ended(&mut self) {
        // A dropped sender says the same.
        let _ = self.over.wait_for(|over| *over).await;
    }
}

impl LeaderTask {
    /// Campaigns, runs `job` during each term, and resigns when `stop` becomes true. The job is awaited or
    /// dropped before this returns. A job that comes back early gives its term to the next candidate.
    pub async fn run<F, Fut>(self, elections: Elections, mut stop: watch::Receiver<bool>, job: F)
    where
        F: Fn(Office) -> Fut,
        Fut: Future<Output = ()>,
    {
        let mut pause = PAUSE_MIN;
        while !*stop.borrow() {
            let sent = Instant::now();
            let campaign = tokio::select! {
                biased;
                // Dropped, the campaign leaves the queue.
                _ = stop.wait_for(|stop| *stop) => return,
                campaign = elections.campaign(&self.name, self.ask()) => campaign,
            };
            let well = match campaign {
                Ok(held) => self.term(&elections, held, sent, &mut stop, &job).await,
                // Others lead: that is as it should be.
                Err(ServiceError::Refused(Refusal::LockTimeout { .. })) => true,
                Err(error) => {
                    tracing::debug!(task = self.name, %error, "campaign");
                    false
                }
            };
            pause = if well { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
            let _ = tokio::time::timeout(jittered(pause), stop.wait_for(|stop| *stop)).await;
        }
    }

    fn ask(&self) -> Ask {
        Ask {
            keys: Vec::new(),
            mode: LockMode::Exclusive,
            owner: self.candidate.clone(),
            secret: None,
            ttl: Millis(u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX)),
            wait: Millis(WAIT_MS_MAX),
            hold_max: None,
            metadata: None,
            session: None,
            retry: None,
        }
    }

    /// One term; whether it went well.
    async fn term<F, Fut>(
        &self,
        elections: &Elections,
        held: Held,
        sent: Instant,
        stop: &mut watch::Receiver<bool>,
        job: &F,
    ) -> bool
    where
        F: Fn(Office) -> Fut,
        Fut: Future<Output = ()>,
    {
        let token = held.grant.token;
        let mut lease = Lease::new(sent.into_std(), self.ttl);
        if std::time::Instant::now() >= lease.renew_at() {
            // Elected after a long wait: what the sending of the campaign proves is nearly over. Nothing relies on
            // the term yet.
            let now = Lease::new(std::time::Instant::now(), self.ttl);
            let renewed = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => Err(End::Stopped),
                renewed = self.renewed(elections, &held.secret, now) => renewed.ok_or(End::Lost),
            };
            match renewed {
                Ok(renewed) => lease = renewed,
                Err(end) => {
                    // Kept, it would be in everybody's way until its lease ends.
                    self.over(elections, &held.secret, token, &end).await;
                    return end != End::Lost;
                }
            }
        }
        tracing::info!(task = self.name, %token, "this node does the work of the cluster");
        let (tell, over) = watch::channel(false);
        let mut work = Box::pin(AssertUnwindSafe(job(Office { token, over })).catch_unwind());
        let end = loop {
            tokio::select! {
                // In this order: the work goes on only when nothing speaks against it.
                biased;
                _ = stop.wait_for(|stop| *stop) => break End::Stopped,
                renewed = self.kept(elections, &held.secret, lease) => match renewed {
                    Some(renewed) => lease = renewed,
                    None => break End::Lost,
                },
                done = before(lease.lost_at(), &mut work) => break End::Done { well: done.is_ok() },
            }
        };
        if !matches!(end, End::Done { .. }) {
            tell.send_replace(true);
            // The margin of the lease is there for this.
            let until = lease.ends_at().min(std::time::Instant::now() + END_TIME);
            if tokio::time::timeout_at(until.into(), before(until, &mut work)).await.is_err() {
                tracing::warn!(task = self.name, %token, "the work did not come to an end by itself: dropped");
            }
        }
        // Before the term is given back.
        drop(work);
        self.over(elections, &held.secret, token, &end).await;
        end != (End::Done { well: false }) && end != End::Lost
    }

    /// Says how a term ended and gives it back. The work is gone.
    async fn over(&self, elections: &Elections, secret: &str, token: FencingToken, end: &End) {
        match end {
            End::Done { well: true } => tracing::debug!(task = self.name, %token, "the work is done"),
            End::Done { well: false } => tracing::error!(task = self.name, %token, "the work broke down"),
            End::Lost => tracing::warn!(task = self.name, %token, "the term was lost: the work is stopped"),
            End::Stopped => tracing::info!(task = self.name, %token, "resigns"),
        }
        let resign = elections.resign(&self.name, secret, None);
        match tokio::time::timeout(RESIGN_TIME, resign).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(task = self.name, %error, "resign"),
            Err(_) => tracing::debug!(task = self.name, "nobody took the resignation in time"),
        }
    }

    /// Renews when it is time to; none when the term is no longer certain.
    async fn kept(&self, elections: &Elections, secret: &str, lease: Lease) -> Option<Lease> {
        tokio::time::sleep_until(lease.renew_at().into()).await;
        self.renewed(elections, secret, lease).await
    }

    async fn renewed(&self, elections: &Elections, secret: &str, lease: Lease) -> Option<Lease> {
        let renew = async {
            loop {
                let sent = std::time::Instant::now();
                match elections.renew(&self.name, secret, None).await {
                    Ok(renewed) => {
                        return Some(Lease::new(sent, Duration::from_millis(renewed.ttl.0)));
                    }
                    Err(ServiceError::Refused(Refusal::NotHolder { .. })) => return None,
                    // What time is left is for further tries.
                    Err(error) => {
                        tracing::debug!(task = self.name, %error, "renew");
                        tokio::time::sleep(self.ttl / RENEW_PAUSE_SHARE).await;
                    }
                }
            }
        };
        tokio::time::timeout_at(lease.lost_at().into(), renew).await.ok().flatten()
    }
}

/// Goes on with `work` only before `limit`, by the clock itself: a task that could not run for long is woken by
/// something else before its timers are.
async fn before<T>(limit: std::time::Instant, work: &mut (impl Future<Output = T> + Unpin)) -> T {
    std::future::poll_fn(|context| {
        if std::time::Instant::now() >= limit {
            return Poll::Pending;
        }
        work.poll_unpin(context)
    })
    .await
}

/// Between half and all of it, so that candidates do not come back together.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..1.0))
}
