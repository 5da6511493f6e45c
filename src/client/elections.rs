//! Named elections: campaign, renew, resign, look at, depose.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::leadership::Leadership;
use super::lease::Lease;
use super::locks::{TTL_DEFAULT, ended_tokens, number};
use super::observation::Observation;
use super::tenure::{Granted, Renewed, Tenure};
use super::{Call, Client, Consistency, Error, Page, millis, random_id};

const ELECTIONS: [&str; 4] = ["api", "v1", "cluster", "elections"];

/// One election: [`Client::election`].
#[derive(Clone, Debug)]
pub struct Election {
    client: Client,
    name: String,
}

/// A campaign being put together: [`Election::campaign`].
#[derive(Clone, Debug)]
#[must_use = "it does nothing before `win` or `lead`"]
pub struct Campaign {
    election: Election,
    candidate: String,
    value: Option<Value>,
    ttl: Duration,
    wait: Duration,
    secret: Option<String>,
    max_term: Option<Duration>,
}

/// A term of office that was won. Nobody renews it: [`Campaign::lead`] does.
#[derive(Clone, Debug)]
pub struct Term {
    /// The election.
    pub name: String,
    /// Who leads.
    pub candidate: String,
    /// Proof of leading.
    pub secret: String,
    /// Higher than that of every earlier term: pass it to what the leader writes to.
    pub fencing_token: u64,
    /// What this process knows of the lease.
    pub lease: Lease,
    /// How long it was waited for, as this process saw it.
    pub waited: Duration,
}

/// An election as everybody may see it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ElectionView {
    /// Its name.
    pub name: String,
    /// Who leads; absent when nobody does.
    pub leader: Option<TermView>,
    /// The first of those that wait to lead, in order.
    pub candidates: Vec<CandidateView>,
    /// How many wait.
    pub candidates_count: u64,
}

/// Who leads.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct TermView {
    /// Who.
    pub candidate: String,
    /// As given at the campaign.
    #[serde(default)]
    pub value: Option<Value>,
    /// Token of the term.
    #[serde(deserialize_with = "number")]
    pub fencing_token: u64,
    /// When the term began, in UTC.
    pub since: String,
    /// When its lease ends, in UTC.
    pub expires: String,
    /// Length of the term so far.
    pub held_ms: u64,
    /// What remains of the lease.
    pub ttl_ms: u64,
}

/// Who waits to lead.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct CandidateView {
    /// 0 is next.
    pub position: u64,
    /// Who.
    pub candidate: String,
    /// The node whose client waits.
    pub node_id: String,
    /// When it began, in UTC.
    pub since: String,
    /// When it gives up, in UTC.
    pub deadline: String,
    /// How long it waits.
    pub waiting_ms: u64,
}

#[derive(Deserialize)]
struct ElectionPage {
    elections: Vec<ElectionView>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct Won {
    #[serde(deserialize_with = "number")]
    fencing_token: u64,
    ttl_ms: u64,
}

impl Client {
    /// An election by its name.
    #[must_use]
    pub fn election(&self, name: impl Into<String>) -> Election {
        Election { client: self.clone(), name: name.into() }
    }

    /// One page of the elections that have a leader or candidates and whose names begin with `prefix`: at most `limit`
    /// (up to 1,000), from `cursor` on.
    pub async fn elections(
        &self,
        prefix: &str,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Page<ElectionView>, Error> {
        let mut call = Call::get(ELECTIONS).query("prefix", prefix).query("limit", limit.to_string());
        if let Some(cursor) = cursor {
            call = call.query("cursor", cursor);
        }
        let page: ElectionPage = self.json(&call).await?;
        Ok(Page { items: page.elections, next_cursor: page.next_cursor })
    }
}

impl Election {
    fn path(&self) -> [&str; 5] {
        let [api, version, cluster, elections] = ELECTIONS;
        [api, version, cluster, elections, &self.name]
    }

    fn tenure(&self, secret: &str, ttl: Duration) -> Tenure {
        let path = self.path().map(str::to_owned).to_vec();
        Tenure { path, give_back: "resign", secret: secret.to_owned(), ttl }
    }

    /// Begins a campaign.
    pub fn campaign(&self) -> Campaign {
        Campaign {
            election: self.clone(),
            candidate: self.client.inner.owner.clone(),
            value: None,
            ttl: TTL_DEFAULT,
            wait: Duration::ZERO,
            secret: None,
            max_term: None,
        }
    }

    /// Extends a term to its whole TTL. It carries no idempotency key: a repeated renewal shall renew again.
    pub async fn renew(&self, term: &Term) -> Result<Renewed, Error> {
        self.client.extend(&self.tenure(&term.secret, term.lease.ttl()).renew_call()).await
    }

    /// Ends the term that this is the secret of; the next candidate is elected at once.
    pub async fn resign(&self, secret: &str) -> Result<(), Error> {
        self.client.call(&self.tenure(secret, Duration::ZERO).give_back_call()).await.map(drop)
    }

    /// Shows who leads, or that nobody does, and who waits to.
    pub async fn view(&self) -> Result<ElectionView, Error> {
        self.view_with(Consistency::Linearizable).await
    }

    /// As [`view`](Self::view), with the freshness that is asked for.
    pub async fn view_with(&self, consistency: Consistency) -> Result<ElectionView, Error> {
        self.client.json(&Call::get(self.path()).consistency(consistency)).await
    }

    /// Observes who leads from now on, beginning with who does now.
    #[must_use]
    pub fn observe(&self) -> Observation {
        self.observation(None)
    }

    /// Observes who leads after the change with this [offset](super::Observed::offset), on whatever node that was
    /// seen. It begins with the present state only if what came in between is no longer kept.
    #[must_use]
    pub fn observe_after(&self, offset: u64) -> Observation {
        self.observation(Some(offset))
    }

    fn observation(&self, after: Option<u64>) -> Observation {
        let request = self.client.stream(self.path().into_iter().chain(["observe"]));
        let request = match after {
            Some(offset) => request.since(offset.saturating_add(1)),
            None => request,
        };
        Observation::new(request.open())
    }

    /// Ends a term, or only the one with `fencing_token`. For administrators. Answers the token of the term that was
    /// ended.
    pub async fn depose(&self, reason: &str, fencing_token: Option<u64>) -> Result<Vec<u64>, Error> {
        let mut body = json!({"reason": reason});
        if let Some(token) = fencing_token {
            body["fencing_token"] = token.to_string().into();
        }
        ended_tokens(&self.client.json(&Call::delete(self.path()).json(&body)).await?)
    }
}

impl Campaign {
    /// Who wants to lead, for people.
    pub fn candidate(mut self, candidate: impl Into<String>) -> Self {
        self.candidate = candidate.into();
        self
    }

    /// Any JSON, at most 4,096 bytes: what others should know of the leader, such as its URL. It stands for the
    /// whole term; what changes meanwhile belongs into a register.
    pub fn value(mut self, value: Value) -> Self {
        self.value = Some(value);
        self
    }

    /// How long the term outlives a leader that is gone; 500 ms to 24 h, 30 s when left out.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// How long to wait for the term before to end; not at all when left out. Beyond 40 s the campaign begins anew,
    /// at the end of the queue: that is the longest time that one request may be silent.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Proof of leading, 16 to 256 bytes; random when left out.
    pub fn secret(mut self, secret: impl Into<String>) -> Self {
        self.secret = Some(secret.into());
        self
    }

    /// Length of the term that renewal cannot pass.
    pub fn max_term(mut self, max_term: Duration) -> Self {
        self.max_term = Some(max_term);
        self
    }

    /// Waits to be elected, as long as [`wait`](Self::wait) says. Nothing renews the term afterwards.
    ///
    /// Dropped before it is done, it leaves the queue: the server takes a candidate whose client is gone out of it,
    /// after the 10 s that it leaves to retries.
    pub async fn win(self) -> Result<Term, Error> {
        let secret = self.secret.clone().unwrap_or_else(random_id);
        let client = &self.election.client;
        let Granted { answer, sent, waited } =
            client.wait_for::<Won>(self.wait, |wait| self.call(&secret, wait)).await?;
        Ok(Term {
            name: self.election.name,
            candidate: self.candidate,
            secret,
            fencing_token: answer.fencing_token,
            lease: Lease::new(sent, Duration::from_millis(answer.ttl_ms)),
            waited,
        })
    }

    /// Waits to be elected, and keeps the term until the leadership is resigned or dropped.
    pub async fn lead(self) -> Result<Leadership, Error> {
        let (election, ttl) = (self.election.clone(), self.ttl);
        let term = self.win().await?;
        let tenure = election.tenure(&term.secret, ttl);
        Leadership::begin(election.client, tenure, term).await
    }

    fn call(&self, secret: &str, wait: Duration) -> Call {
        let mut body = json!({
            "candidate": self.candidate,
            "ttl_ms": millis(self.ttl),
            "wait_ms": millis(wait),
            "secret": secret,
        });
        if let Some(max_term) = self.max_term {
            body["max_term_ms"] = millis(max_term).into();
        }
        if let Some(value) = &self.value {
            body["value"] = value.clone();
        }
        Call::post(self.election.path().into_iter().chain(["campaign"])).json(&body)
    }
}
