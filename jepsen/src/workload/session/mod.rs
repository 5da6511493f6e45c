//! Sessions with real WebSockets: published to, lost, resumed on any node, moved, taken over, drained.
//!
//! A client holds one session and remembers the offset behind the last message that it has seen. With that it comes back
//! after each loss, on whichever node; only now and then it leaves that to the cluster. On purpose it opens a second
//! socket of its session, or two at once on two nodes: the older ones are read on and recorded, since they must be told.

mod last;
mod socket;

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt;
use serde_json::json;
use tokio::time::{Duration, Instant};

use crate::client::{Answer, Call, Outcome, segment};

use super::actor::Actor;
use super::finish::number;
use super::{Endpoint, retry};
use socket::{Frame, Socket, Wish};

pub(super) use last::finish;

/// Clients per channel, roughly, and per user.
const CLIENTS_PER_CHANNEL: u32 = 4;
const CLIENTS_PER_USER: u32 = 2;
/// Sockets that were taken over and are read on.
const STALE_MAX: usize = 3;
/// How long a step waits for frames, at most.
const LISTEN_MS_MAX: u64 = 60;
/// Share of new sessions that are registered before their socket comes.
const REGISTERED_FIRST: f64 = 0.3;
/// Share of resumes that leave it to the cluster where to go on.
const WITHOUT_SINCE: f64 = 0.1;
/// The same for a second socket beside an open one.
const CLAIMED_WITHOUT_SINCE: f64 = 0.4;
/// Share of resumes that go where a `migrate` frame led.
const FOLLOWED: f64 = 0.9;
/// Share of publications over HTTP in several tries under one idempotency key.
const RETRIED: f64 = 0.1;

/// What a client does next, by weight.
const STEPS: [(Step, u32); 9] = [
    (Step::Publish, 45),
    (Step::Say, 25),
    (Step::Listen, 15),
    (Step::Cut, 3),
    (Step::Claim, 4),
    (Step::Race, 2),
    (Step::Subscribe, 3),
    (Step::Move, 2),
    (Step::End, 1),
];

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Over HTTP, to anybody.
    Publish,
    /// Over the socket.
    Say,
    /// Nothing but what is done in any step.
    Listen,
    /// The connection is lost, with or without a good-bye.
    Cut,
    /// A second socket while the first is open.
    Claim,
    /// Two more at once, on two nodes.
    Race,
    Subscribe,
    /// The cluster is asked to move the session.
    Move,
    /// For good.
    End,
}

/// Who there is, for those who publish, and what is to be looked at in the end.
#[derive(Debug, Default)]
pub(super) struct Directory {
    next_socket: u64,
    /// Session numbers by client.
    live: BTreeMap<u32, u64>,
    kept: Vec<Kept>,
    /// Sockets that were open when their clients stopped. Others replace them in the end.
    stale: Vec<Socket>,
}

/// A session that outlives its client.
#[derive(Clone, Debug)]
struct Kept {
    id: String,
    number: u64,
    user: String,
    channels: BTreeSet<String>,
    /// Offset behind the last message that was seen.
    since: u64,
}

impl Directory {
    fn new_socket(&mut self) -> u64 {
        self.next_socket += 1;
        self.next_socket
    }
}

/// A client with its session.
struct Holder<'a> {
    actor: &'a mut Actor,
    user: String,
    channels: Vec<String>,
    session: Option<Kept>,
    socket: Option<Socket>,
    /// Sockets of this client that others of it have replaced.
    stale: Vec<Socket>,
    /// Where a `migrate` frame led: node and token.
    called: Option<(String, String)>,
}

/// Works until the run ends, and leaves its session for a last look.
pub(super) async fn run(actor: &mut Actor) {
    let users = actor.objects("u", CLIENTS_PER_USER);
    let user = users[actor.context.number as usize % users.len()].clone();
    let channels = actor.objects("c", CLIENTS_PER_CHANNEL);
    let mut holder =
        Holder { actor, user, channels, session: None, socket: None, stale: Vec::new(), called: None };
    while holder.actor.goes_on().await {
        holder.step().await;
    }
    holder.leave().await;
}

impl Holder<'_> {
    async fn step(&mut self) {
        self.read_stale().await;
        if self.session.is_none() {
            return self.start().await;
        }
        if self.socket.is_none() {
            return self.resume().await;
        }
        self.listen().await;
        match self.draw() {
            Step::Publish => self.publish().await,
            Step::Say => self.say().await,
            Step::Listen => {}
            Step::Cut => self.cut().await,
            Step::Claim => self.claim().await,
            Step::Race => self.race().await,
            Step::Subscribe => self.subscribe().await,
            Step::Move => self.move_away().await,
            Step::End => self.end().await,
        }
    }

    fn draw(&mut self) -> Step {
        let total: u32 = STEPS.iter().map(|(_, weight)| weight).sum();
        let mut drawn = self.actor.context.rng.random_range(0..total);
        for (step, weight) in STEPS {
            match drawn.checked_sub(weight) {
                Some(left) => drawn = left,
                None => return step,
            }
        }
        Step::Listen
    }

    fn new_socket(&self) -> u64 {
        self.actor.context.shared.sessions().new_socket()
    }

    /// A new session, by a socket or before it.
    async fn start(&mut self) {
        let Some(node) = self.actor.node() else { return };
        if self.actor.chance(REGISTERED_FIRST) {
            return self.register(&node).await;
        }
        let wish =
            Wish { f: "connect", node: &node, user: &self.user, session: None, since: None, token: None };
        let opened = socket::open(&self.actor.context.recorder, self.new_socket(), &wish).await;
        let Ok((socket, welcome)) = opened else { return };
        self.hold(welcome.session_id, socket.session, welcome.position);
        self.socket = Some(socket);
        self.subscribe().await;
    }

    async fn register(&mut self, node: &Endpoint) {
        let body = json!({ "user_id": self.user });
        let invocation = self.actor.begin("register", None, Some(node), body.clone());
        let outcome = self.actor.ask(node, &Call::post("/api/v1/cluster/sessions", &body)).await;
        let mut registered = None;
        let outcome = outcome.and_then(|answer| {
            let body = answer.json();
            registered = number(&body["session"]).zip(body["session_id"].as_str().map(str::to_owned));
            match &registered {
                Some((session, _)) => Outcome::Ok(json!({ "session": session, "node": body["node_id"] })),
                None => Outcome::Unknown(format!("no session: {body}")),
            }
        });
        self.actor.end(&invocation, outcome);
        if let Some((session, id)) = registered {
            // From wherever it stands: nothing of it was seen.
            self.hold(id, session, 0);
        }
    }

    fn hold(&mut self, id: String, number: u64, since: u64) {
        self.actor.context.shared.sessions().live.insert(self.actor.context.number, number);
        let user = self.user.clone();
        self.session = Some(Kept { id, number, user, channels: BTreeSet::new(), since });
    }

    /// Forgets the session: it is over.
    fn drop_session(&mut self) {
        self.actor.context.shared.sessions().live.remove(&self.actor.context.number);
        self.session = None;
        self.called = None;
        self.stale.extend(self.socket.take());
    }

    /// Comes back, where a `migrate` led or anywhere.
    async fn resume(&mut self) {
        let Some(session) = self.session.clone() else { return };
        let called = self.called.take().filter(|_| self.actor.chance(FOLLOWED));
        let called = called.and_then(|(name, token)| {
            let nodes = self.actor.context.nodes.borrow();
            Some((nodes.iter().find(|node| node.name == name)?.clone(), token))
        });
        let (node, token) = match called {
            Some((node, token)) => (node, Some(token)),
            None => match self.actor.any_node() {
                Some(node) => (node, None),
                None => return,
            },
        };
        let since = (!self.actor.chance(WITHOUT_SINCE) && session.since > 0).then_some(session.since);
        let wish = Wish {
            f: "connect",
            node: &node,
            user: &self.user,
            session: Some((&session.id, session.number)),
            since,
            token: token.as_deref(),
        };
        let id = self.new_socket();
        match socket::open(&self.actor.context.recorder, id, &wish).await {
            Ok((socket, welcome)) => self.take_over(socket, since.unwrap_or(welcome.position)),
            Err(code) if code == "session_ended" => self.drop_session(),
            Err(_) => {}
        }
    }

    /// The newest socket counts; the one before is read on.
    fn take_over(&mut self, socket: Socket, since: u64) {
        if let Some(session) = &mut self.session {
            session.since = since;
        }
        self.stale.extend(self.socket.replace(socket));
    }

    /// Takes in what has come.
    async fn listen(&mut self) {
        let wait = Duration::from_millis(self.actor.context.rng.random_range(0..=LISTEN_MS_MAX));
        let Some(socket) = &mut self.socket else { return };
        let frames = socket.receive("receive", Instant::now() + wait).await;
        self.digest(frames);
    }

    fn digest(&mut self, frames: Vec<Frame>) {
        let Some(session) = &mut self.session else { return };
        for frame in frames {
            match frame {
                Frame::Event { offset, .. } => session.since = session.since.max(offset + 1),
                Frame::Reset { first, .. } => session.since = session.since.max(first),
                Frame::Migrate { node, token } => self.called = Some((node, token)),
                Frame::Closed(_) | Frame::Answer { .. } | Frame::Other => {}
            }
        }
        // Who is called goes at once.
        let is_over = self.socket.as_ref().is_some_and(Socket::is_closed);
        if is_over || self.called.is_some() {
            self.stale.extend(self.socket.take());
        }
    }

    /// Sockets that were replaced: whatever they still show goes into the history, and counts for nothing else.
    async fn read_stale(&mut self) {
        for socket in &mut self.stale {
            socket.take("receive");
        }
        self.stale.retain(|socket| !socket.is_closed());
        let surplus = self.stale.len().saturating_sub(STALE_MAX);
        for socket in self.stale.drain(..surplus).collect::<Vec<_>>() {
            socket.cut_off("receive").await;
        }
    }

    async fn publish(&mut self) {
        let Some(node) = self.actor.node() else { return };
        let (to, body) = self.recipient();
        let data = self.actor.context.shared.new_value();
        let body = json!({ "to": body, "data": data });
        let invocation =
            self.actor.begin("publish", Some(&to), Some(&node), json!({ "to": to, "data": data }));
        let call = Call::post("/api/v1/cluster/messages", &body);
        let outcome = if self.actor.chance(RETRIED) {
            let call = call.header("idempotency-key", self.actor.context.shared.new_name("message"));
            let first = retry::first_time_max(self.actor);
            retry::settle(self.actor, &node.name, first, &call).await.0
        } else {
            self.actor.ask(&node, &call).await
        };
        self.actor.end(&invocation, outcome.and_then(|answer| published(&answer)));
    }

    /// Mostly a channel, now and then a user or one session.
    fn recipient(&mut self) -> (String, serde_json::Value) {
        let live: Vec<u64> = self.actor.context.shared.sessions().live.values().copied().collect();
        match self.actor.context.rng.random_range(0..10_u32) {
            0..=1 if !live.is_empty() => {
                let session = *self.actor.one_of(&live);
                (format!("session:{session}"), json!({ "session": session.to_string() }))
            }
            2..=4 => {
                let users = self.actor.objects("u", CLIENTS_PER_USER);
                let user = self.actor.one_of(&users).clone();
                (format!("user:{user}"), json!({ "user": user }))
            }
            _ => {
                let channel = self.actor.one_of(&self.channels.clone()).clone();
                (format!("channel:{channel}"), json!({ "channel": channel }))
            }
        }
    }

    async fn say(&mut self) {
        let Some(session) = &self.session else { return };
        let mut targets = vec![
            ("session".to_owned(), format!("session:{}", session.number)),
            ("user".to_owned(), format!("user:{}", self.user)),
        ];
        targets.extend(session.channels.iter().map(|name| (name.clone(), format!("channel:{name}"))));
        let (channel, to) = self.actor.one_of(&targets).clone();
        let data = self.actor.context.shared.new_value();
        let Some(socket) = &mut self.socket else { return };
        let asked = json!({ "to": to, "data": data, "socket": socket.id });
        let frame = json!({ "type": "publish", "channel": channel, "data": data });
        socket.ask("publish", to, asked, frame).await;
    }

    /// Listens to a channel, or no more.
    async fn subscribe(&mut self) {
        let channel = self.actor.one_of(&self.channels.clone()).clone();
        let (Some(session), Some(socket)) = (&mut self.session, &mut self.socket) else { return };
        let (f, leaves) = match session.channels.contains(&channel) {
            true => ("unsubscribe", true),
            false => ("subscribe", false),
        };
        let asked = json!({ "socket": socket.id, "channels": [channel] });
        let frame = json!({ "type": f, "channels": [channel] });
        let is_ok = socket.ask(f, session.number.to_string(), asked, frame).await;
        if leaves {
            session.channels.remove(&channel);
        } else if is_ok {
            session.channels.insert(channel);
        }
    }

    async fn cut(&mut self) {
        let polite = self.actor.chance(0.5);
        let Some(mut socket) = self.socket.take() else { return };
        if polite {
            socket.close().await;
            let frames = socket.take("receive");
            self.digest(frames);
            // It may still say something.
            self.stale.push(socket);
        } else {
            let frames = socket.cut_off("receive").await;
            self.digest(frames);
        }
    }

    /// One more socket of the same session, elsewhere, while this one is open.
    async fn claim(&mut self) {
        let (Some(session), Some(node)) = (self.session.clone(), self.actor.any_node()) else { return };
        let asks = !self.actor.chance(CLAIMED_WITHOUT_SINCE);
        let wish = wish(&session, &node);
        let wish = Wish { since: wish.since.filter(|_| asks), ..wish };
        let id = self.new_socket();
        if let Ok((socket, welcome)) = socket::open(&self.actor.context.recorder, id, &wish).await {
            self.take_over(socket, wish.since.unwrap_or(welcome.position));
        }
    }

    /// Two at once on two nodes: the one with the higher epoch has the session.
    async fn race(&mut self) {
        let (Some(session), Some(one)) = (self.session.clone(), self.actor.any_node()) else { return };
        let Some(other) = self.actor.any_node() else { return };
        let (first, second) = (self.new_socket(), self.new_socket());
        let recorder = self.actor.context.recorder.clone();
        let (one, other) = (wish(&session, &one), wish(&session, &other));
        let (one, other) =
            tokio::join!(socket::open(&recorder, first, &one), socket::open(&recorder, second, &other));
        let mut welcomed: Vec<Socket> =
            [one, other].into_iter().flatten().map(|(socket, _)| socket).collect();
        welcomed.sort_by_key(|socket| socket.epoch);
        for socket in welcomed {
            self.take_over(socket, session.since);
        }
    }

    /// Asks the cluster to move the session; the answer is a frame.
    async fn move_away(&mut self) {
        let (Some(session), Some(node)) = (self.session.clone(), self.actor.node()) else { return };
        let Some(target) = self.actor.any_node() else { return };
        let body = json!({ "target_node_id": target.name });
        let key = session.number.to_string();
        let invocation = self.actor.begin("migrate", Some(&key), Some(&node), body.clone());
        let path = format!("/api/v1/cluster/sessions/{}/migrate", segment(&session.id));
        let outcome = self.actor.ask(&node, &Call::post(path, &body)).await;
        self.actor.end(&invocation, outcome.map(|answer| json!({ "node": answer.json()["node_id"] })));
    }

    async fn end(&mut self) {
        let (Some(session), Some(node)) = (self.session.clone(), self.actor.node()) else { return };
        let key = session.number.to_string();
        let invocation = self.actor.begin("end", Some(&key), Some(&node), serde_json::Value::Null);
        let path = format!("/api/v1/cluster/sessions/{}", segment(&session.id));
        let outcome = self.actor.ask(&node, &Call::new(reqwest::Method::DELETE, path)).await;
        self.actor.end(&invocation, outcome.map(|_| json!({})));
        self.drop_session();
    }

    /// Leaves the session for the last look, with all that has come.
    async fn leave(mut self) {
        while let Some(socket) = &mut self.socket {
            let frames = socket.take("receive");
            if frames.is_empty() {
                break;
            }
            self.digest(frames);
        }
        self.stale.extend(self.socket.take());
        self.read_stale().await;
        let mut directory = self.actor.context.shared.sessions();
        directory.kept.extend(self.session.take());
        directory.stale.append(&mut self.stale);
    }
}

fn wish<'a>(session: &'a Kept, node: &'a Endpoint) -> Wish<'a> {
    let known = (session.since > 0).then_some(session.since);
    Wish {
        f: "connect",
        node,
        user: &session.user,
        session: Some((&session.id, session.number)),
        since: known,
        token: None,
    }
}

fn published(answer: &Answer) -> Outcome<serde_json::Value> {
    let body = answer.json();
    match number(&body["offset"]) {
        Some(offset) => Outcome::Ok(json!({ "offset": offset })),
        None => Outcome::Unknown(format!("no offset: {body}")),
    }
}
