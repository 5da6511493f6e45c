//! Of sessions, messages and the invalidation log.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;

use super::{COUNTER_MAX, ensure};
use crate::limits::SUBSCRIPTIONS_PER_SESSION_MAX;
use crate::name::Name;
use crate::ring::{Kept, Ring};
use crate::sessions::view::SessionFilter;
use crate::sessions::{Load, SessionRecord};
use crate::{LogIndex, NodeId, Record, SessionNumber, State};

pub(super) fn check(state: &State) -> Result<(), String> {
    sessions(state)?;
    indexes(state)?;
    lost(state)?;
    bindings(state)?;
    nodes(state)?;
    log(&state.messages, "message", state.offsets.messages, |key| key.0)?;
    log(&state.invalidations, "invalidation", state.offsets.invalidations, |key| key.0)?;
    ensure(state.messages.table.len() <= state.limits.messages_kept, || String::from("too many messages"))?;
    ensure(state.invalidations.table.len() <= state.limits.invalidations_kept, || {
        String::from("too many invalidations")
    })
}

/// What is wrong with a session by itself.
fn alone(state: &State, session: &SessionRecord) -> Option<&'static str> {
    let applied = state.meta.applied;
    if session.number.0 > applied.0 || session.socket.is_some_and(|socket| socket > applied) {
        return Some("it comes from the future");
    }
    if session.deadline.is_some() == session.socket.is_some() {
        return Some("it has a socket and an end, or neither");
    }
    if !session.channels.is_sorted_by(|left, right| left < right)
        || session.channels.len() > SUBSCRIPTIONS_PER_SESSION_MAX
    {
        return Some("its channels are not sorted, or too many");
    }
    if session.epoch > COUNTER_MAX || session.position.0 > state.offsets.messages {
        return Some("a counter is out of range");
    }
    None
}

/// Whether a record of these can come next in a restore: see [`State::accepts`].
pub(super) fn accepts(state: &State, record: &Record) -> Result<(), &'static str> {
    let sessions = &state.sessions;
    let problem = match record {
        Record::Offsets(offsets) => (offsets.messages > COUNTER_MAX || offsets.invalidations > COUNTER_MAX)
            .then_some("a counter is out of range"),
        Record::Session(session) => {
            let old = session.old_id.map(|(old, _)| old);
            let known = [Some(session.id), old].into_iter().flatten().any(|id| sessions.by_id.contains(&id));
            let taken =
                session.socket.is_some_and(|socket| sessions.sockets.contains(&(session.node, socket)));
            match alone(state, session) {
                None if known || old == Some(session.id) => Some("its id is taken"),
                None if taken => Some("its socket is another one's"),
                problem => problem,
            }
        }
        Record::Binding(binding) => {
            let known = sessions.table.get(&binding.session).is_some()
                && state.locks.by_waiter.contains(&binding.waiter);
            let twice = sessions.bindings.by_waiter.contains(&binding.waiter);
            (!known || twice).then_some("it binds what is not there, or is bound already")
        }
        Record::Lost(lost) => (lost.through > state.meta.applied || lost.at > state.meta.now)
            .then_some("it comes from the future"),
        Record::Message(message) => {
            (message.offset.0 >= state.offsets.messages).then_some("its offset was never given")
        }
        Record::Invalidation(entry) => {
            (entry.offset.0 >= state.offsets.invalidations).then_some("its offset was never given")
        }
        Record::Cleared(cleared) => {
            (cleared.next.0 > state.offsets.invalidations).then_some("it lies beyond the log")
        }
        _ => None,
    };
    problem.map_or(Ok(()), Err)
}

fn sessions(state: &State) -> Result<(), String> {
    for session in state.sessions.table.iter() {
        let number = session.number;
        if let Some(problem) = alone(state, session) {
            return Err(format!("session {number}: {problem}"));
        }
        let ids = [Some(session.id), session.old_id.map(|(old, _)| old)];
        let found = ids.into_iter().flatten().all(|id| state.sessions.by_id.get(&id) == Some(&number));
        ensure(found, || format!("session {number} is not found by its id"))?;
    }
    // Of those that live: what has ended and awaits its clean-up is in nobody's way.
    ensure(state.sessions_len() <= state.limits.sessions as u64, || String::from("too many sessions"))
}

/// The indexes hold what the sessions say and nothing else.
fn indexes(state: &State) -> Result<(), String> {
    let sessions = &state.sessions;
    let mut users: BTreeMap<Name, usize> = BTreeMap::new();
    let mut loads: BTreeMap<NodeId, Load> = BTreeMap::new();
    let mut sockets: BTreeMap<(NodeId, LogIndex), SessionNumber> = BTreeMap::new();
    let mut ids = 0;
    for session in sessions.table.iter() {
        let number = session.number;
        ids += 1 + usize::from(session.old_id.is_some());
        *users.entry(session.user.clone()).or_default() += 1;
        let load = loads.entry(session.node).or_default();
        load.known += 1;
        load.sockets += u64::from(session.socket.is_some());
        sockets.extend(session.socket.map(|socket| ((session.node, socket), number)));
        let found = sessions.by_user.contains(&(session.user.clone(), number))
            && sessions.by_node.contains(&(session.node, number));
        ensure(found, || format!("session {number} is not at its user or its node"))?;
    }
    let bytes: usize = sessions.table.iter().map(|session| session.size()).sum();
    ensure(bytes == sessions.bytes, || String::from("the bytes of sessions are miscounted"))?;
    let count = sessions.table.len();
    ensure((sessions.by_user.len(), sessions.by_node.len()) == (count, count), || {
        String::from("a user or a node has a session that is gone")
    })?;
    ensure(sessions.by_id.len() == ids, || String::from("an id leads nowhere"))?;
    ensure(sessions.users.iter().eq(users.iter()), || String::from("the sessions of users are miscounted"))?;
    ensure(sessions.loads == loads, || format!("{loads:?} counted as {:?}", sessions.loads))?;
    ensure(sessions.sockets.iter().eq(sockets.iter()), || String::from("a socket belongs to no session"))?;
    let live = |user: &Name| {
        let filter = SessionFilter { user: Some(user.as_str()), ..SessionFilter::default() };
        state.sessions(None, usize::MAX, filter).len()
    };
    let max = state.limits.sessions_per_user;
    ensure(users.iter().all(|(user, count)| *count <= max || live(user) <= max), || {
        String::from("a user has too many sessions")
    })
}

/// What is written down as lost was there.
fn lost(state: &State) -> Result<(), String> {
    state.sessions.lost.iter().try_for_each(|lost| {
        ensure(lost.through <= state.meta.applied && lost.at <= state.meta.now, || {
            format!("node {} loses sockets of the future", lost.node)
        })
    })
}

/// Every binding leads from a session to a request or a grant, and back.
fn bindings(state: &State) -> Result<(), String> {
    let bindings = &state.sessions.bindings;
    for binding in bindings.table.iter() {
        let (session, waiter) = (binding.session, binding.waiter);
        ensure(state.sessions.table.get(&session).is_some(), || {
            format!("{waiter} is bound to session {session}, which is gone")
        })?;
        ensure(state.locks.by_waiter.contains(&waiter), || {
            format!("session {session} has the bound request {waiter}, which is gone")
        })?;
        ensure(bindings.by_waiter.get(&waiter) == Some(&session), || {
            format!("the session of {waiter} is not found")
        })?;
    }
    ensure(bindings.by_waiter.len() == bindings.table.len(), || String::from("a binding leads nowhere"))
}

/// Drains and reports belong to members.
fn nodes(state: &State) -> Result<(), String> {
    let is_member = |id: &NodeId| state.nodes.get(id).is_some_and(|node| node.is_live());
    for drain in state.sessions.drains.iter() {
        ensure(is_member(&drain.node), || format!("node {} drains and is no member", drain.node))?;
    }
    for cleared in state.cleared.iter() {
        ensure(is_member(&cleared.node), || format!("node {} reports and is no member", cleared.node))?;
        ensure(cleared.next.0 <= state.offsets.invalidations, || {
            format!("node {} has cleared what is not there", cleared.node)
        })?;
    }
    Ok(())
}

/// The kept offsets are dense up to the next one, and the bytes are counted.
fn log<T: Kept>(ring: &Ring<T>, what: &str, next: u64, number: impl Fn(T::Key) -> u64) -> Result<(), String> {
    ensure(next <= COUNTER_MAX, || format!("the offset of the next {what} is out of range"))?;
    let offsets: alloc::vec::Vec<u64> = ring.table.iter().map(|entry| number(entry.key())).collect();
    let dense = offsets.windows(2).all(|pair| pair[0] + 1 == pair[1]);
    ensure(dense && offsets.last().is_none_or(|last| last + 1 == next), || {
        format!("the offsets of {what}s have gaps")
    })?;
    let bytes: usize = ring.table.iter().map(|entry| crate::table::Digest::of(T::TAG, &**entry).bytes).sum();
    ensure(bytes == ring.bytes, || format!("the bytes of {what}s are miscounted"))
}
