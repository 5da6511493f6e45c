//! One operation in several tries under one `Idempotency-Key`: it must happen once, however often it is sent.
//!
//! The first try is often cut short on purpose: its request is on its way while the next one is sent through another
//! node. Between tries others get time to write, so that a second effect would be seen.

use std::time::Duration;

use rand::RngExt;

use crate::client::{Answer, Call, Outcome, REQUEST_TIME_MAX};

use super::actor::Actor;

/// Tries of one operation.
pub(super) const ATTEMPTS_MAX: u64 = 4;
/// A first try that is cut short gets at most so many milliseconds.
const SHORT_MS_MAX: u64 = 12;
/// Share of the first tries that are cut short.
const CUT_SHORT: f64 = 0.6;
/// Longest pause between two tries, in milliseconds.
const PAUSE_MS_MAX: u64 = 60;

/// How long the first try may take.
pub(super) fn first_time_max(actor: &mut Actor) -> Duration {
    match actor.chance(CUT_SHORT) {
        true => Duration::from_millis(actor.context.rng.random_range(1..=SHORT_MS_MAX)),
        false => REQUEST_TIME_MAX,
    }
}

/// Sends `call`, at first to the node called `first` and for so long, until an answer settles it; how often it was
/// sent is the second part.
///
/// A refusal that the nodes keep with the key, such as 412, settles it like a success does: by the promise of the
/// key, an earlier try that happened would have been repeated instead. Any other failure says nothing about
/// earlier tries.
pub(super) async fn settle(
    actor: &mut Actor,
    first: &str,
    first_time_max: Duration,
    call: &Call,
) -> (Outcome<Answer>, u64) {
    let mut unsure = None;
    let mut outcome = Outcome::Fail("no_node".to_owned());
    for attempt in 1..=ATTEMPTS_MAX {
        let Some(node) = node(actor, first, attempt) else { break };
        let time_max = if attempt == 1 { first_time_max } else { REQUEST_TIME_MAX };
        outcome = actor.ask(&node, &call.clone().within(time_max)).await;
        match &outcome {
            Outcome::Ok(_) => return (outcome, attempt),
            Outcome::Fail(code) if is_kept(code) => return (outcome, attempt),
            Outcome::Fail(_) => {}
            Outcome::Unknown(code) => unsure = Some(code.clone()),
        }
        let pause = actor.context.rng.random_range(0..=PAUSE_MS_MAX);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    match unsure {
        Some(code) => (Outcome::Unknown(code), ATTEMPTS_MAX),
        None => (outcome, ATTEMPTS_MAX),
    }
}

/// The first try goes where the history says, later ones anywhere.
fn node(actor: &mut Actor, first: &str, attempt: u64) -> Option<super::Endpoint> {
    let nodes = actor.context.nodes.borrow().clone();
    let named = nodes.iter().find(|node| attempt == 1 && node.name == first).cloned();
    named.or_else(|| actor.any_node())
}

/// Refusals of requests that were judged, which a retry gets again.
fn is_kept(code: &str) -> bool {
    matches!(code, "revision_mismatch" | "lock_held" | "lock_timeout" | "lock_lost")
        || matches!(code, "election_held" | "election_timeout" | "term_lost")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Act, Fake};
    use crate::workload::tests::actor;

    const HAPPENED: Act = Act::Answer("200 OK", "etag: \"17\"\r\n", "");
    const NOT_NOW: Act = Act::Answer("503 Service Unavailable", "", "{\"code\":\"no_leader\"}");
    const JUDGED: Act = Act::Answer("412 Precondition Failed", "", "{\"code\":\"revision_mismatch\"}");

    async fn settled(acts: impl IntoIterator<Item = Act>) -> (Outcome<u64>, u64, Vec<String>) {
        let fake = Fake::start(acts).await;
        let (mut actor, _) = actor(&[&fake.url]);
        let call = Call::put("/x", "1").header("idempotency-key", "k");
        let (outcome, attempts) = settle(&mut actor, "n1", REQUEST_TIME_MAX, &call).await;
        (outcome.map(|answer| answer.revision.unwrap()), attempts, fake.requests())
    }

    fn unknown() -> Outcome<u64> {
        Outcome::Unknown("connection_lost".to_owned())
    }

    #[tokio::test]
    async fn tries_go_on_under_one_key_until_one_is_settled() {
        let (outcome, attempts, requests) = settled([Act::CutAfter, NOT_NOW, HAPPENED, HAPPENED]).await;
        assert_eq!((outcome, attempts), (Outcome::Ok(17), 3));
        assert_eq!(requests.len(), 3);
        assert!(requests.iter().all(|request| request.contains("idempotency-key: k\r\n")), "{requests:?}");
    }

    #[tokio::test]
    async fn a_judgement_settles_what_came_before_and_no_other_failure_does() {
        let (outcome, attempts, _) = settled([Act::CutAfter, JUDGED]).await;
        assert_eq!((outcome, attempts), (Outcome::Fail("revision_mismatch".to_owned()), 2));
        let (outcome, attempts, _) = settled([NOT_NOW, Act::CutAfter, NOT_NOW, NOT_NOW]).await;
        assert_eq!((outcome, attempts), (unknown(), ATTEMPTS_MAX), "the second try may have happened");
        let (outcome, ..) = settled([NOT_NOW, NOT_NOW, NOT_NOW, NOT_NOW]).await;
        assert_eq!(outcome, Outcome::Fail("no_leader".to_owned()));
        let (outcome, _, requests) = settled(vec![Act::CutAfter; 9]).await;
        assert_eq!((outcome, requests.len() as u64), (unknown(), ATTEMPTS_MAX));
    }
}
