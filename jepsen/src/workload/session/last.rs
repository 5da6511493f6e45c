//! After the heal: each recipient is sent one more message, and every session comes back and waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{Call, Outcome};

use super::super::actor::Actor;
use super::super::{ClientContext, Pace, WorkloadError};
use super::socket::{self, Frame, Wish};
use super::{Kept, published};

/// How long the cluster may take to take one more message, and a session to get it.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// Looks at every session that is left.
pub(in crate::workload) async fn finish(context: &mut ClientContext) -> Result<(), WorkloadError> {
    let (kept, stale) = {
        let mut directory = context.shared.sessions();
        (std::mem::take(&mut directory.kept), std::mem::take(&mut directory.stale))
    };
    let recipients: BTreeSet<String> = kept.iter().flat_map(recipients_of).collect();
    let mut actor = Actor::new(context.fork(Pace::new(0.0)))?;
    let mut marks = BTreeMap::new();
    for to in recipients {
        if let Some(offset) = publish(&mut actor, &to).await {
            marks.insert(to, offset);
        }
    }
    let mut looks = JoinSet::new();
    for session in kept {
        let marks: BTreeSet<u64> =
            recipients_of(&session).iter().filter_map(|to| marks.get(to).copied()).collect();
        let mut actor = Actor::new(context.fork(Pace::new(0.0)))?;
        looks.spawn(async move {
            let key = session.number.to_string();
            let invocation = actor.begin("final-session", Some(&key), None, json!({ "marks": marks }));
            let outcome = look(&mut actor, session, marks).await;
            actor.end(&invocation, outcome);
        });
    }
    looks.join_all().await;
    // By now all that the clients left behind are replaced.
    let until = Instant::now() + PATIENCE;
    let ends: JoinSet<()> = stale.into_iter().map(|socket| socket.see_it_end(until)).collect();
    ends.join_all().await;
    Ok(())
}

fn recipients_of(session: &Kept) -> Vec<String> {
    let channels = session.channels.iter().map(|name| format!("channel:{name}"));
    let own = [format!("user:{}", session.user), format!("session:{}", session.number)];
    channels.chain(own).collect()
}

/// Until it is acknowledged, or all patience is gone.
async fn publish(actor: &mut Actor, to: &str) -> Option<u64> {
    let deadline = Instant::now() + PATIENCE;
    let (kind, name) = to.split_once(':')?;
    while Instant::now() < deadline {
        let node = actor.any_node()?;
        let data = actor.context.shared.new_value();
        let asked = json!({ "to": to, "data": data });
        let invocation = actor.begin("final-publish", Some(to), Some(&node), asked);
        let mut recipient = serde_json::Map::new();
        recipient.insert(kind.to_owned(), name.into());
        let call = Call::post("/api/v1/cluster/messages", &json!({ "to": recipient, "data": data }));
        let outcome = actor.ask(&node, &call).await.and_then(|answer| published(&answer));
        let offset = match &outcome {
            Outcome::Ok(value) => value["offset"].as_u64(),
            _ => None,
        };
        actor.end(&invocation, outcome);
        if offset.is_some() {
            return offset;
        }
        tokio::time::sleep(PAUSE).await;
    }
    None
}

/// Comes back until every mark has come.
async fn look(actor: &mut Actor, mut session: Kept, mut marks: BTreeSet<u64>) -> Outcome<Value> {
    let deadline = Instant::now() + PATIENCE;
    let mut welcomed = None;
    let mut trouble = "no_node".to_owned();
    while Instant::now() < deadline {
        let Some(node) = actor.any_node() else { break };
        let wish = Wish { f: "final-connect", ..super::wish(&session, &node) };
        let id = actor.context.shared.sessions().new_socket();
        let (mut socket, welcome) = match socket::open(&actor.context.recorder, id, &wish).await {
            Ok(opened) => opened,
            Err(code) if code == "session_ended" => return Outcome::Fail(code),
            Err(code) => {
                trouble = code;
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if session.since == 0 {
            session.since = welcome.position;
        }
        // A full patience for the first socket that was let in, however late.
        let until = *welcomed.get_or_insert(Instant::now() + PATIENCE);
        while !marks.is_empty() && !socket.is_closed() && Instant::now() < until {
            for frame in socket.receive("final-receive", until).await {
                match frame {
                    Frame::Event { offset, .. } => {
                        session.since = session.since.max(offset + 1);
                        marks.remove(&offset);
                    }
                    Frame::Reset { first, .. } => {
                        session.since = session.since.max(first);
                        marks.retain(|mark| *mark >= first);
                    }
                    _ => {}
                }
            }
        }
        if marks.is_empty() {
            return Outcome::Ok(json!({ "since": session.since }));
        }
    }
    match welcomed {
        Some(_) => Outcome::Fail("never came".to_owned()),
        None => Outcome::Fail(trouble),
    }
}
