//! A session stays until somebody ends it, with what it listens to.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::results::{Check, Finding};
use super::{Seen, Socket};

/// What a client is told that comes back to a session that there is not.
pub(super) const NO_SESSION: &str = "session_ended";

pub(super) fn check(seen: &Seen<'_>) -> Check {
    let promise = "a session that nobody ended is there for whoever comes back, with its channels";
    let mut check = Check::new("sessions kept", promise);
    for refused in &seen.refused {
        let Some(session) = super::session(refused) else { continue };
        let is_ended = seen
            .ends
            .get(&session)
            .is_some_and(|end| refused.complete.is_none_or(|refusal| end.invoke.index < refusal.index));
        if is_ended {
            check.count("ended sessions refused", 1);
            continue;
        }
        let last = seen.sessions.get(&session).and_then(|sockets| sockets.last());
        let shown = [last.map(|socket| socket.connect), Some(*refused)];
        let text = format!("session {session} is gone, and nobody ended it");
        check.fail(Finding::new(text).shown_by(shown.iter().flatten()));
    }
    for socket in seen.sockets() {
        channels(&mut check, seen, socket);
        after_its_end(&mut check, seen, socket);
    }
    check
}

/// A subscription that was acknowledged before the socket came is there.
fn channels(check: &mut Check, seen: &Seen<'_>, socket: &Socket<'_>) {
    let told = socket.connect.output().get("channels").and_then(Value::as_array);
    let told: BTreeSet<&str> = told.into_iter().flatten().filter_map(Value::as_str).collect();
    let changes = seen.subscriptions.get(&socket.session).into_iter().flatten();
    let asked = changes.filter_map(|one| one.input().get("channels")?.as_array()).flatten();
    let asked: BTreeSet<&str> = asked.filter_map(Value::as_str).collect();
    for channel in asked {
        check.count("subscriptions looked at", 1);
        if !told.contains(channel) && seen.surely_listens(socket.session, channel, &socket.connect) {
            let text = format!("session {} has lost its subscription to {channel}", socket.session);
            let changes = seen.subscriptions.get(&socket.session).into_iter().flatten();
            let shown = changes.filter(|one| super::names(one, channel)).chain([&socket.connect]);
            check.fail(Finding::new(text).shown_by(shown));
        }
    }
}

/// Nobody is welcomed to a session whose end was acknowledged before.
fn after_its_end(check: &mut Check, seen: &Seen<'_>, socket: &Socket<'_>) {
    let Some(end) = seen.ends.get(&socket.session) else { return };
    if end.is_ok() && end.precedes(&socket.connect) {
        let text = format!("session {} was ended and welcomes a socket", socket.session);
        check.fail(Finding::new(text).shown_by([end, &socket.connect]));
    }
}
