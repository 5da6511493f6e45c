//! One owner at a time: each attach has an epoch of its own, and an older socket is served nothing newer than that.

use std::collections::BTreeMap;

use super::super::operation::Outcome;
use super::super::results::{Check, Finding};
use super::{Seen, Socket};

pub(super) fn check(seen: &Seen<'_>) -> Check {
    let promise = "each socket of a session has a higher epoch than those before it, and only the newest is served; the others are told";
    let mut check = Check::new("session owners", promise);
    check.count("sessions", seen.sessions.len() as u64);
    for sockets in seen.sessions.values() {
        check.count("sockets", sockets.len() as u64);
        epochs(&mut check, sockets);
        positions(&mut check, sockets);
        stale(&mut check, seen, sockets);
    }
    told(&mut check, seen);
    check
}

/// Where a session stands never goes back: what was delivered stays delivered.
fn positions(check: &mut Check, sockets: &[Socket<'_>]) {
    let mut in_order: Vec<_> =
        sockets.iter().filter_map(|socket| Some((socket.epoch, socket.position?, socket))).collect();
    in_order.sort_by_key(|(epoch, ..)| *epoch);
    for pair in in_order.windows(2) {
        let ((_, before, first), (_, after, second)) = (pair[0], pair[1]);
        if after < before {
            let text =
                format!("session {} went back from {before} to {after} when it was resumed", first.session);
            check.fail(Finding::new(text).shown_by([&first.connect, &second.connect]));
        }
    }
}

/// A socket that another one has replaced is closed, sooner or later.
fn told(check: &mut Check, seen: &Seen<'_>) {
    for last in &seen.stale {
        let Some(sockets) = super::session(last).and_then(|session| seen.sessions.get(&session)) else {
            continue;
        };
        let epoch = last.number("epoch").unwrap_or(0);
        let Some(newer) = sockets.iter().find(|socket| socket.epoch > epoch) else { continue };
        check.count("replaced sockets seen to end", 1);
        if last.outcome == Outcome::Fail {
            let text = format!("session {}: the socket with epoch {epoch} was never closed", newer.session);
            check.fail(Finding::new(text).shown_by([&newer.connect, last]));
        }
    }
}

fn epochs(check: &mut Check, sockets: &[Socket<'_>]) {
    let mut by_epoch: BTreeMap<u64, &Socket<'_>> = BTreeMap::new();
    for socket in sockets {
        let Some(other) = by_epoch.insert(socket.epoch, socket) else { continue };
        let text =
            format!("session {}: two sockets were welcomed with epoch {}", socket.session, socket.epoch);
        check.fail(Finding::new(text).shown_by([&other.connect, &socket.connect]));
    }
    // In the order of welcomes: before the invocation of a later one stands the highest epoch that it has to exceed.
    for (place, socket) in sockets.iter().enumerate() {
        let before = sockets[..place].iter().filter(|other| other.connect.precedes(&socket.connect));
        let Some(highest) = before.max_by_key(|other| other.epoch) else { continue };
        if highest.epoch > socket.epoch {
            let text = format!(
                "session {}: a socket got epoch {} after another had epoch {}",
                socket.session, socket.epoch, highest.epoch
            );
            check.fail(Finding::new(text).shown_by([&highest.connect, &socket.connect]));
        }
    }
}

/// A message whose publication began after a welcome was seen comes after that attach in the log. By then the sockets
/// before it are over.
fn stale(check: &mut Check, seen: &Seen<'_>, sockets: &[Socket<'_>]) {
    for socket in sockets {
        let newer = sockets.iter().filter(|other| other.epoch > socket.epoch);
        let welcomed = newer.filter_map(|other| Some((other.connect.complete?.index, other)));
        let Some((index, newer)) = welcomed.min_by_key(|(index, _)| *index) else { continue };
        check.count("sockets taken over", 1);
        for (channel, offset, data, receive) in socket.events() {
            let Some(published) = seen.published.get(&data) else { continue };
            if published.operation.invoke.index > index {
                let text = format!(
                    "session {} had two owners: the socket with epoch {} was served message {offset} ({channel}), \
                     published after epoch {} had been welcomed",
                    socket.session, socket.epoch, newer.epoch
                );
                let shown = [&socket.connect, &newer.connect, &published.operation, &receive];
                check.fail(Finding::new(text).shown_by(shown));
                break;
            }
        }
    }
}
