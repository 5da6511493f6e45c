//! Sessions: who serves one, what arrives, and what does not.
//!
//! Nothing is judged by how long anything took. A message has an offset of the log, an attach has an epoch, and what
//! the harness published after it had seen a welcome comes after that attach in the log: whoever is served it by an
//! older socket had two owners.

mod arrivals;
mod kept;
mod losses;
mod owners;

use std::collections::BTreeMap;

use serde_json::Value;

use super::operation::{Operation, Outcome};
use super::results::Check;

/// All checks of sessions; none where the run was about something else.
pub(super) fn checks(operations: &[Operation<'_>]) -> Vec<Check> {
    if !operations.iter().any(|one| one.f() == "connect") {
        return Vec::new();
    }
    let seen = Seen::new(operations);
    vec![owners::check(&seen), arrivals::check(&seen), losses::check(&seen), kept::check(&seen)]
}

/// What clients saw of all sessions.
#[derive(Default)]
struct Seen<'h> {
    /// Sockets that were welcomed, by session, in the order of their welcomes.
    sessions: BTreeMap<u64, Vec<Socket<'h>>>,
    /// What was published or may have been, by the unique number in it.
    published: BTreeMap<u64, Published<'h>>,
    /// Acknowledged messages by offset. Each has one of its own; see [`arrivals`].
    acknowledged: BTreeMap<u64, u64>,
    /// Changes of subscriptions, by session.
    subscriptions: BTreeMap<u64, Vec<Operation<'h>>>,
    /// Attempts to end a session for good.
    ends: BTreeMap<u64, Operation<'h>>,
    /// Attempts to come back to a session that were told that there is none.
    refused: Vec<Operation<'h>>,
    /// What clients looked for after the heal.
    finals: Vec<Operation<'h>>,
    /// Replaced sockets that were waited for in the end.
    stale: Vec<Operation<'h>>,
}

/// A socket that was welcomed.
struct Socket<'h> {
    session: u64,
    user: &'h str,
    epoch: u64,
    /// Where the session stood when the socket came; none where the client said where to go on.
    position: Option<u64>,
    /// First offset that it is to show: the client's own, or where the session stood.
    from: u64,
    connect: Operation<'h>,
    arrivals: Vec<Arrival<'h>>,
}

/// Something that came over a socket.
struct Arrival<'h> {
    what: What<'h>,
    receive: Operation<'h>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum What<'h> {
    Event {
        channel: &'h str,
        offset: u64,
        data: u64,
    },
    /// What lies before `first` and was not shown yet is lost.
    Reset {
        first: u64,
    },
}

/// A message, or an attempt at one.
#[derive(Clone, Copy)]
struct Published<'h> {
    /// `user:u1`, `channel:c1`, `session:77`.
    to: &'h str,
    /// None where it was not acknowledged.
    offset: Option<u64>,
    operation: Operation<'h>,
}

impl<'h> Seen<'h> {
    fn new(operations: &[Operation<'h>]) -> Self {
        let mut seen = Self::default();
        let mut places: BTreeMap<u64, (u64, usize)> = BTreeMap::new();
        for operation in operations {
            match operation.f() {
                "connect" | "final-connect" => seen.connected(operation, &mut places),
                "publish" | "final-publish" => seen.publish(operation),
                "subscribe" | "unsubscribe" => {
                    if let Some(session) = session(operation) {
                        seen.subscriptions.entry(session).or_default().push(*operation);
                    }
                }
                "end" => {
                    session(operation).map(|session| seen.ends.entry(session).or_insert(*operation));
                }
                "final-session" => seen.finals.push(*operation),
                "final-stale" => seen.stale.push(*operation),
                _ => {}
            }
        }
        for operation in operations.iter().filter(|one| matches!(one.f(), "receive" | "final-receive")) {
            let socket = operation.input().get("socket").and_then(Value::as_u64);
            let Some((session, place)) = socket.and_then(|socket| places.get(&socket)) else { continue };
            let Some(socket) = seen.sessions.get_mut(session).and_then(|all| all.get_mut(*place)) else {
                continue;
            };
            socket.arrivals.extend(arrivals_of(operation));
        }
        seen
    }

    fn connected(&mut self, operation: &Operation<'h>, places: &mut BTreeMap<u64, (u64, usize)>) {
        if operation.outcome == Outcome::Fail && operation.error() == Some(kept::NO_SESSION) {
            self.refused.push(*operation);
        }
        let (true, Some(session), Some(id)) =
            (operation.is_ok(), operation.number("session"), operation.number("socket"))
        else {
            return;
        };
        let asked = operation.input().get("since").and_then(Value::as_u64);
        let position = operation.number("position").unwrap_or(0);
        let sockets = self.sessions.entry(session).or_default();
        places.insert(id, (session, sockets.len()));
        sockets.push(Socket {
            session,
            user: operation.output().get("user").and_then(Value::as_str).unwrap_or(""),
            epoch: operation.number("epoch").unwrap_or(0),
            position: asked.is_none().then_some(position),
            from: asked.unwrap_or(position),
            connect: *operation,
            arrivals: Vec::new(),
        });
    }

    fn publish(&mut self, operation: &Operation<'h>) {
        let input = operation.input();
        let (Some(to), Some(data)) = (input.get("to").and_then(Value::as_str), operation.number("data"))
        else {
            return;
        };
        let offset = operation.is_ok().then(|| operation.number("offset")).flatten();
        if let Some(offset) = offset {
            self.acknowledged.insert(offset, data);
        }
        self.published.insert(data, Published { to, offset, operation: *operation });
    }

    fn sockets(&self) -> impl Iterator<Item = &Socket<'h>> {
        self.sessions.values().flatten()
    }

    /// Whether the session had certainly been told that it listens, before `publish` was asked for, and never asked to
    /// stop listening.
    fn surely_listens(&self, session: u64, channel: &str, publish: &Operation<'_>) -> bool {
        let changes = self.subscriptions.get(&session).map_or(&[][..], Vec::as_slice);
        let mut concerned = changes.iter().filter(|one| names(one, channel)).peekable();
        let told = |one: &Operation<'_>| one.is_ok() && one.precedes(publish);
        concerned.peek().is_some() && {
            let all: Vec<_> = concerned.collect();
            all.iter().all(|one| one.f() == "subscribe") && all.iter().any(|one| told(one))
        }
    }

    /// Whether it may ever have asked to listen, before `receive` ended.
    fn may_listen(&self, session: u64, channel: &str, receive: &Operation<'_>) -> bool {
        let end = receive.complete.map_or(u64::MAX, |event| event.index);
        let changes = self.subscriptions.get(&session).map_or(&[][..], Vec::as_slice);
        changes.iter().any(|one| one.f() == "subscribe" && names(one, channel) && one.invoke.index < end)
    }
}

impl<'h> Socket<'h> {
    fn events(&self) -> impl Iterator<Item = (&'h str, u64, u64, Operation<'h>)> {
        self.arrivals.iter().filter_map(|arrival| match arrival.what {
            What::Event { channel, offset, data } => Some((channel, offset, data, arrival.receive)),
            What::Reset { .. } => None,
        })
    }

    /// The recipient that an event of `channel` on this socket was published to.
    fn recipient(&self, channel: &str) -> String {
        match channel {
            "user" => format!("user:{}", self.user),
            "session" => format!("session:{}", self.session),
            name => format!("channel:{name}"),
        }
    }
}

fn session(operation: &Operation<'_>) -> Option<u64> {
    operation.invoke.key.as_deref()?.parse().ok()
}

fn names(operation: &Operation<'_>, channel: &str) -> bool {
    let channels = operation.input().get("channels").and_then(Value::as_array);
    channels.is_some_and(|all| all.iter().any(|one| one == channel))
}

fn arrivals_of<'h>(receive: &Operation<'h>) -> Vec<Arrival<'h>> {
    let frames = receive.output().get("frames").and_then(Value::as_array);
    let number = |frame: &'h Value, name: &str| frame.get(name).and_then(Value::as_u64);
    let what = |frame: &'h Value| match frame.get("channel").and_then(Value::as_str) {
        Some(channel) => Some(What::Event {
            channel,
            offset: number(frame, "offset")?,
            data: number(frame, "data").unwrap_or(0),
        }),
        None => frame.get("reset").and_then(|_| Some(What::Reset { first: number(frame, "first")? })),
    };
    let arrivals = frames.into_iter().flatten().filter_map(what);
    arrivals.map(|what| Arrival { what, receive: *receive }).collect()
}
