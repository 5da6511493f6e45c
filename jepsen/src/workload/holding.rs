//! Taking, keeping, using and giving back: what all workloads over locks and elections are made of.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::client::{Answer, Call, Outcome, segment};

use super::actor::Actor;
use super::finish::number;
use super::{Endpoint, retry};

/// Longer than any lease that is asked for: what a node says beyond that is no reason to trust it longer, or to panic.
const LEASE_MS_MAX: u64 = 24 * 60 * 60 * 1_000;

/// Until when a client may trust a lease that a node gave it for what was sent then.
fn sure_until(sent: Instant, lease_ms: u64) -> Instant {
    sent + Duration::from_millis(lease_ms.min(LEASE_MS_MAX))
}

/// What can be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// Locks.
    Lock,
    /// Terms of office: locks in other words.
    Election,
}

/// How to acquire.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) family: Family,
    /// Ascending; the first one names the operation.
    pub(super) keys: Vec<String>,
    pub(super) shared: bool,
    pub(super) ttl_ms: u64,
    pub(super) wait_ms: u64,
    pub(super) max_hold_ms: Option<u64>,
    /// Whether it is asked for in several tries under one idempotency key.
    pub(super) retried: bool,
}

impl Ask {
    /// An exclusive lock, tried once.
    pub(super) fn lock(key: String, ttl_ms: u64, wait_ms: u64) -> Self {
        let (family, keys) = (Family::Lock, vec![key]);
        Self { family, keys, shared: false, ttl_ms, wait_ms, max_hold_ms: None, retried: false }
    }

    fn mode(&self) -> &'static str {
        if self.shared { "shared" } else { "exclusive" }
    }

    /// As the history shows it.
    fn shown(&self, owner: &str) -> Value {
        let mut shown = json!({ "owner": owner, "ttl_ms": self.ttl_ms, "wait_ms": self.wait_ms });
        if self.family == Family::Lock {
            shown["keys"] = json!(self.keys);
            shown["mode"] = self.mode().into();
        }
        if let Some(max) = self.max_hold_ms {
            shown["max_hold_ms"] = max.into();
        }
        shown
    }

    fn call(&self, owner: &str) -> Call {
        let mut body = json!({ "ttl_ms": self.ttl_ms, "wait_ms": self.wait_ms });
        let fields = match self.family {
            Family::Lock => ("owner", "max_hold_ms"),
            Family::Election => ("candidate", "max_term_ms"),
        };
        body[fields.0] = owner.into();
        if let Some(max) = self.max_hold_ms {
            body[fields.1] = max.into();
        }
        if self.family == Family::Lock {
            body["mode"] = self.mode().into();
        }
        let path = match (self.family, self.keys.as_slice()) {
            (Family::Election, [name, ..]) => format!("/api/v1/cluster/elections/{}/campaign", segment(name)),
            (Family::Lock, [key]) => format!("/api/v1/cluster/locks/{}/acquire", segment(key)),
            _ => {
                body["keys"] = json!(self.keys);
                "/api/v1/cluster/locks/acquire".to_owned()
            }
        };
        Call::post(path, &body)
    }
}

/// Something held, as far as its holder knows.
#[derive(Clone, Debug)]
pub(super) struct Holding {
    family: Family,
    key: String,
    secret: String,
    pub(super) token: u64,
    pub(super) ttl_ms: u64,
    /// Until then nobody else can have it: counted from the sending of what was acknowledged last.
    sure_until: Instant,
}

impl Holding {
    /// Whether the lease lasts for sure.
    pub(super) fn is_sure(&self) -> bool {
        Instant::now() < self.sure_until
    }

    /// When the holder can no longer be sure.
    pub(super) fn sure_until(&self) -> Instant {
        self.sure_until
    }

    fn path(&self, verb: &str) -> String {
        let family = match self.family {
            Family::Lock => "locks",
            Family::Election => "elections",
        };
        format!("/api/v1/cluster/{family}/{}/{verb}", segment(&self.key))
    }
}

/// Tries to get what is asked for, waiting as long as asked.
pub(super) async fn acquire(actor: &mut Actor, node: &Endpoint, ask: &Ask) -> Option<Holding> {
    let owner = actor.context.shared.new_name("o");
    let f = match ask.family {
        Family::Lock => "acquire",
        Family::Election => "campaign",
    };
    let key = ask.keys.first()?;
    let shown = ask.shown(&owner);
    let call = ask.call(&owner);
    let sent = Instant::now();
    let invocation = actor.begin(f, Some(key), Some(node), shown.clone());
    let outcome = if ask.retried {
        let call = call.header("idempotency-key", actor.context.shared.new_name("retry"));
        let first_time_max = retry::first_time_max(actor);
        retry::settle(actor, &node.name, first_time_max, &call).await.0
    } else {
        actor.ask(node, &call).await
    };
    let granted = outcome.and_then(|answer| grant(&answer));
    let holding = match &granted {
        Outcome::Ok(grant) => Some(Holding {
            family: ask.family,
            key: key.clone(),
            secret: grant.secret.clone(),
            token: grant.token,
            ttl_ms: ask.ttl_ms,
            sure_until: sure_until(sent, grant.waited_ms.saturating_add(grant.ttl_ms.min(ask.ttl_ms))),
        }),
        _ => None,
    };
    let ended = granted.map(|grant| {
        let mut ended = shown;
        ended["token"] = grant.token.into();
        ended["waited_ms"] = grant.waited_ms.into();
        ended["ttl_ms"] = grant.ttl_ms.into();
        ended
    });
    actor.end(&invocation, ended);
    holding
}

struct Grant {
    secret: String,
    token: u64,
    ttl_ms: u64,
    waited_ms: u64,
}

/// What a 200 grants. Without token and secret it is of no use: nobody knows what happened.
fn grant(answer: &Answer) -> Outcome<Grant> {
    let body = answer.json();
    let parts = (body["secret"].as_str(), number(&body["fencing_token"]), body["ttl_ms"].as_u64());
    let (Some(secret), Some(token), Some(ttl_ms)) = parts else {
        return Outcome::Unknown(format!("no grant: {body}"));
    };
    let waited_ms = body["waited_ms"].as_u64().unwrap_or(0);
    Outcome::Ok(Grant { secret: secret.to_owned(), token, ttl_ms, waited_ms })
}

/// Extends the lease. `Some(false)`: it is lost for sure.
pub(super) async fn renew(actor: &mut Actor, node: &Endpoint, holding: &mut Holding) -> Option<bool> {
    let shown = json!({ "token": holding.token, "ttl_ms": holding.ttl_ms });
    let body = json!({ "secret": holding.secret, "ttl_ms": holding.ttl_ms });
    let sent = Instant::now();
    let invocation = actor.begin("renew", Some(&holding.key), Some(node), shown);
    let outcome = actor.ask(node, &Call::post(holding.path("renew"), &body)).await;
    let renewed = outcome.and_then(|answer| {
        let body = answer.json();
        match (body["ttl_ms"].as_u64(), number(&body["fencing_token"])) {
            (Some(ttl_ms), Some(token)) => Outcome::Ok((ttl_ms, token)),
            _ => Outcome::Unknown(format!("no renewal: {body}")),
        }
    });
    let kept = match &renewed {
        Outcome::Ok((ttl_ms, _)) => {
            holding.sure_until = sure_until(sent, *ttl_ms);
            Some(true)
        }
        Outcome::Fail(code) if lost(code) => Some(false),
        _ => None,
    };
    actor.end(&invocation, renewed.map(|(ttl_ms, token)| json!({ "token": token, "ttl_ms": ttl_ms })));
    kept
}

/// Gives it back. `Some(false)`: it was lost for sure.
pub(super) async fn release(actor: &mut Actor, node: &Endpoint, holding: &Holding) -> Option<bool> {
    let (f, verb) = match holding.family {
        Family::Lock => ("release", "release"),
        Family::Election => ("resign", "resign"),
    };
    let shown = json!({ "token": holding.token });
    let call = Call::post(holding.path(verb), &json!({ "secret": holding.secret }));
    let invocation = actor.begin(f, Some(&holding.key), Some(node), shown.clone());
    let outcome = actor.ask(node, &call).await.map(|_| shown);
    let given = match &outcome {
        Outcome::Ok(_) => Some(true),
        Outcome::Fail(code) if lost(code) => Some(false),
        _ => None,
    };
    actor.end(&invocation, outcome);
    given
}

/// The nodes say that this secret is not (or no longer) that of a holder.
fn lost(code: &str) -> bool {
    matches!(code, "not_holder" | "not_leader")
}

/// Uses what the lock protects. `false`: a fence kept this token out.
pub(super) fn use_resource(actor: &mut Actor, holding: &Holding, fenced: bool) -> bool {
    let shown = json!({ "token": holding.token });
    let invocation = actor.begin("use", Some(&holding.key), None, shown);
    let used = actor.context.shared.use_resource(&holding.key, holding.token, fenced);
    let outcome = match used {
        Ok(previous) => Outcome::Ok(json!({ "token": holding.token, "previous": previous })),
        Err(_) => Outcome::Fail("fenced".to_owned()),
    };
    actor.end(&invocation, outcome);
    used.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Act, Fake};
    use crate::history::Kind;
    use crate::workload::tests::actor;

    const GRANTED: &str = "{\"key\":\"l1\",\"mode\":\"exclusive\",\"owner\":\"o\",\"secret\":\"s3cret\",\
                           \"fencing_token\":\"18446744073709551615\",\"ttl_ms\":500,\"waited_ms\":7}";

    #[tokio::test]
    async fn a_holding_counts_from_the_sending_and_its_secret_is_not_shown() {
        let lost = Act::Answer("409 Conflict", "", "{\"code\":\"not_holder\"}");
        let fake = Fake::start([Act::Answer("200 OK", "", GRANTED), lost]).await;
        let (mut actor, recorder) = actor(&[&fake.url]);
        let node = actor.node().unwrap();
        let before = Instant::now();
        let ask = Ask::lock("l1".to_owned(), 500, 100);
        let mut holding = acquire(&mut actor, &node, &ask).await.unwrap();
        assert_eq!(holding.token, u64::MAX);
        assert!(holding.sure_until() >= before + Duration::from_millis(507));
        assert!(holding.sure_until() <= Instant::now() + Duration::from_millis(507));
        assert_eq!(renew(&mut actor, &node, &mut holding).await, Some(false));
        let events = recorder.history().unwrap().events;
        let arguments =
            json!({ "keys": ["l1"], "mode": "exclusive", "owner": "o-1", "ttl_ms": 500, "wait_ms": 100 });
        assert_eq!(events[0].value, arguments);
        assert_eq!((&events[1].value["token"], &events[1].value["waited_ms"]), (&u64::MAX.into(), &7.into()));
        assert_eq!((events[3].kind, events[3].error.as_deref()), (Kind::Fail, Some("not_holder")));
        assert!(!format!("{events:?}").contains("s3cret"));
        assert!(fake.requests()[1].contains("s3cret"));
    }

    #[tokio::test]
    async fn a_grant_without_its_token_leaves_the_outcome_unknown() {
        let fake = Fake::start([Act::Answer("200 OK", "", "{\"secret\":\"s\"}")]).await;
        let (mut actor, recorder) = actor(&[&fake.url]);
        let node = actor.node().unwrap();
        assert!(acquire(&mut actor, &node, &Ask::lock("l1".to_owned(), 500, 0)).await.is_none());
        assert_eq!(recorder.with_events(|events| events[1].kind), Kind::Info);
    }

    #[test]
    fn every_family_is_asked_in_its_own_words() {
        let lock = Ask { shared: true, max_hold_ms: Some(9), ..Ask::lock("a/b".to_owned(), 500, 1) };
        let sent = format!("{:?}", lock.call("me"));
        assert!(sent.contains("/api/v1/cluster/locks/a%2Fb/acquire"), "{sent}");
        let several = Ask { keys: vec!["a".to_owned(), "b".to_owned()], ..lock.clone() };
        assert!(format!("{:?}", several.call("me")).contains("/api/v1/cluster/locks/acquire"));
        let term = Ask { family: Family::Election, ..lock };
        assert!(format!("{:?}", term.call("me")).contains("/api/v1/cluster/elections/a%2Fb/campaign"));
        let shown = term.shown("me");
        assert_eq!(shown, json!({ "owner": "me", "ttl_ms": 500, "wait_ms": 1, "max_hold_ms": 9 }));
    }
}
