//! What arrives was published, to this session, once, and comes once and in order.

use std::collections::{BTreeMap, BTreeSet};

use super::super::operation::Outcome;
use super::super::results::{Check, Finding};
use super::{Seen, Socket, What};

pub(super) fn check(seen: &Seen<'_>) -> Check {
    let promise = "what arrives was published to that session, and arrives once per socket, in order, from where it asked";
    let mut check = Check::new("messages in order", promise);
    acknowledged_once(&mut check, seen);
    one_offset_each(&mut check, seen);
    for socket in seen.sockets() {
        check.count("messages", socket.events().count() as u64);
        rightful(&mut check, seen, socket);
        in_order(&mut check, socket);
    }
    check
}

/// No two acknowledged messages have one offset.
fn acknowledged_once(check: &mut Check, seen: &Seen<'_>) {
    for (data, published) in &seen.published {
        let Some(offset) = published.offset else { continue };
        let Some(other) = seen.acknowledged.get(&offset).filter(|other| *other != data) else { continue };
        let text = format!("message {offset} was acknowledged to two who published");
        let shown = [&published.operation, &seen.published[other].operation];
        check.fail(Finding::new(text).shown_by(shown));
    }
}

/// A message has the same offset wherever it arrives, and that is the acknowledged one: it is in the log once.
fn one_offset_each(check: &mut Check, seen: &Seen<'_>) {
    let mut found: BTreeMap<u64, (u64, _)> = BTreeMap::new();
    for (_, offset, data, receive) in seen.sockets().flat_map(Socket::events) {
        let Some(published) = seen.published.get(&data) else { continue };
        let known = found.entry(data).or_insert((published.offset.unwrap_or(offset), receive));
        if known.0 != offset {
            let text = format!("one publication stands at two offsets, {} and {offset}", known.0);
            check.fail(Finding::new(text).shown_by([&published.operation, &known.1, &receive]));
        }
    }
}

fn rightful(check: &mut Check, seen: &Seen<'_>, socket: &Socket<'_>) {
    for (channel, offset, data, receive) in socket.events() {
        let what = format!("session {}: message {offset} ({channel})", socket.session);
        let Some(published) = seen.published.get(&data) else {
            check.fail(Finding::new(format!("{what} was published by nobody")).shown_by([&receive]));
            continue;
        };
        let shown = [&published.operation, &receive];
        if published.operation.outcome == Outcome::Fail {
            check.fail(Finding::new(format!("{what} was refused when it was published")).shown_by(shown));
        }
        if socket.recipient(channel) != published.to {
            let text = format!("{what} was published to {}", published.to);
            check.fail(Finding::new(text).shown_by(shown));
        }
        let is_named = !matches!(channel, "user" | "session");
        if is_named && !seen.may_listen(socket.session, channel, &receive) {
            check.fail(Finding::new(format!("{what} although it never asked to listen")).shown_by(shown));
        }
        if receive.complete.is_some_and(|end| published.operation.invoke.index > end.index) {
            check.fail(Finding::new(format!("{what} arrived before it was published")).shown_by(shown));
        }
    }
}

/// Within a channel offsets grow; none comes twice, none from before what the client asked for.
fn in_order(check: &mut Check, socket: &Socket<'_>) {
    let mut last: BTreeMap<&str, (u64, _)> = BTreeMap::new();
    let mut shown: BTreeSet<u64> = BTreeSet::new();
    let mut from = socket.from;
    for arrival in &socket.arrivals {
        let (channel, offset) = match arrival.what {
            What::Reset { first } => {
                check.count("resets", 1);
                from = from.max(first);
                continue;
            }
            What::Event { channel, offset, .. } => (channel, offset),
        };
        let what =
            format!("session {}, epoch {}: message {offset} ({channel})", socket.session, socket.epoch);
        let receive = &arrival.receive;
        if offset < from {
            let text = format!("{what} came again, although the socket goes on from {from}");
            check.fail(Finding::new(text).shown_by([&socket.connect, receive]));
        } else if !shown.insert(offset) {
            check.fail(Finding::new(format!("{what} came twice")).shown_by([&socket.connect, receive]));
        } else if let Some((before, by)) = last.get(channel).filter(|(before, _)| *before > offset) {
            let text = format!("{what} came after message {before}");
            check.fail(Finding::new(text).shown_by([&socket.connect, by, receive]));
        }
        last.insert(channel, (offset, arrival.receive));
    }
}
