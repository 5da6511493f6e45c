//! What was acknowledged arrives, or its loss is told.
//!
//! A client asks on from behind the last message that it has seen, so once a session was shown something, all before it
//! must have been shown too, on whichever of its sockets, or lie in a gap that a `reset` named. At the end of a run every
//! recipient is sent one more message, and every session waits for it.

use std::collections::{BTreeMap, BTreeSet};

use super::super::operation::Outcome;
use super::super::results::{Check, Finding};
use super::{Published, Seen, Socket, What};

pub(super) fn check(seen: &Seen<'_>) -> Check {
    let promise = "what was acknowledged as published reaches every session that it is for, or a reset says that it is lost";
    let mut check = Check::new("messages kept", promise);
    let mut to: BTreeMap<&str, BTreeMap<u64, Published<'_>>> = BTreeMap::new();
    for published in seen.published.values() {
        if let Some(offset) = published.offset {
            to.entry(published.to).or_default().insert(offset, *published);
        }
    }
    for (session, sockets) in &seen.sessions {
        check_session(&mut check, seen, *session, sockets, &to);
    }
    for last in &seen.finals {
        check.count("sessions at the end", 1);
        let key = last.key();
        match last.outcome {
            Outcome::Ok => {}
            Outcome::Fail if last.error() == Some("never came") => {
                let text = format!("session {key}: the last message to it was acknowledged and never came");
                check.fail(Finding::new(text).shown_by([last]));
            }
            _ => {
                let text = format!("session {key} could not be looked at in the end");
                check.unknown(Finding::new(text).shown_by([last]));
            }
        }
    }
    check
}

fn check_session(
    check: &mut Check,
    seen: &Seen<'_>,
    session: u64,
    sockets: &[Socket<'_>],
    to: &BTreeMap<&str, BTreeMap<u64, Published<'_>>>,
) {
    let Some(first) = sockets.first() else { return };
    let shown: BTreeSet<u64> =
        sockets.iter().flat_map(Socket::events).map(|(_, offset, ..)| offset).collect();
    let Some(newest) = shown.last().copied() else { return };
    let gaps: Vec<(u64, u64)> = sockets.iter().flat_map(gaps).collect();
    let channels = seen.subscriptions.get(&session).into_iter().flatten();
    let channels = channels.filter_map(|one| one.input().get("channels")?.as_array()).flatten();
    let mut recipients: BTreeSet<String> =
        channels.filter_map(|name| Some(format!("channel:{}", name.as_str()?))).collect();
    recipients.insert(format!("user:{}", first.user));
    recipients.insert(format!("session:{session}"));
    for recipient in &recipients {
        let Some(published) = to.get(recipient.as_str()) else { continue };
        for (offset, published) in published.range(..newest) {
            let due = match recipient.strip_prefix("channel:") {
                Some(channel) => seen.surely_listens(session, channel, &published.operation),
                // The session is older than the message: a user's or its own.
                None => first.connect.precedes(&published.operation),
            };
            if !due || shown.contains(offset) {
                check.count("messages due", u64::from(due));
                continue;
            }
            check.count("messages due", 1);
            if gaps.iter().any(|(from, end)| (*from..*end).contains(offset)) {
                check.count("messages lost and told so", 1);
                continue;
            }
            let behind = sockets.iter().flat_map(Socket::events).find(|(_, shown, ..)| shown > offset);
            let text = format!(
                "session {session}: message {offset} ({recipient}) never came, though later ones did"
            );
            let witness = [Some(published.operation), behind.map(|(.., receive)| receive)];
            check.fail(Finding::new(text).shown_by(witness.iter().flatten()).about(&session.to_string()));
        }
    }
}

/// What a socket was told to be lost: from what it was to be shown next to the first that is kept.
fn gaps(socket: &Socket<'_>) -> Vec<(u64, u64)> {
    let (mut next, mut gaps) = (socket.from, Vec::new());
    for arrival in &socket.arrivals {
        match arrival.what {
            What::Event { offset, .. } => next = next.max(offset + 1),
            What::Reset { first } => {
                gaps.push((next, first));
                next = next.max(first);
            }
        }
    }
    gaps
}
