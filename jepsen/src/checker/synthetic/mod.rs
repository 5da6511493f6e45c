//! Histories of systems that keep their promises, made up from a seed: for tests and for measuring the checker.
//!
//! Virtual clients ask a virtual object. Each request takes effect in one instant between its beginning and its
//! end, or, when its outcome is unknown, at any time after its beginning or never.

mod lock;
mod register;

pub use lock::Locks;
pub use register::Registers;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::history::{Event, History, Kind, Process};

/// How large and how unruly.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Where randomness starts from.
    pub seed: u64,
    /// Operations in all.
    pub operations: u64,
    /// Clients at once.
    pub clients: u64,
    /// Objects in use at once.
    pub groups: u64,
    /// Faults, spread over the run.
    pub faults: u64,
    /// Of a thousand operations, how many nobody answers.
    pub unknown_per_1000: u32,
}

impl Default for Shape {
    fn default() -> Self {
        Self { seed: 1, operations: 1_000, clients: 8, groups: 2, faults: 2, unknown_per_1000: 5 }
    }
}

/// What a client asks for.
#[derive(Clone, Debug)]
pub struct Ask {
    /// What.
    pub f: &'static str,
    /// The object.
    pub key: String,
    /// The arguments.
    pub value: Value,
    /// How long it may take beyond the usual.
    pub patience_ns: u64,
}

/// What it is told.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Ok or fail.
    pub kind: Kind,
    /// The result.
    pub value: Value,
    /// Why it failed.
    pub error: Option<String>,
}

impl Answer {
    fn ok(value: Value) -> Self {
        Self { kind: Kind::Ok, value, error: None }
    }

    fn none() -> Self {
        Self { kind: Kind::Info, value: Value::Null, error: Some("time_out".to_owned()) }
    }

    fn invoke(ask: &Ask) -> Self {
        Self { kind: Kind::Invoke, value: ask.value.clone(), error: None }
    }

    fn fail(error: &str) -> Self {
        Self { kind: Kind::Fail, value: Value::Null, error: Some(error.to_owned()) }
    }
}

/// The objects, and what their clients are up to.
pub trait World {
    /// What the client does next.
    fn ask(&mut self, client: u64, now_ns: u64, rng: &mut StdRng) -> Ask;

    /// The request takes effect. None: it has to wait; it is tried again.
    fn apply(&mut self, client: u64, ask: &Ask, now_ns: u64) -> Option<Answer>;

    /// The client learns the answer; none: it will never know.
    fn learn(&mut self, client: u64, ask: &Ask, answer: Option<&Answer>, began_ns: u64);

    /// What is read at the end, once per node.
    fn at_the_end(&self) -> Vec<(Ask, Answer)>;
}

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const MILLISECOND: u64 = 1_000_000;
/// Time between two tries of a request that has to wait.
const RETRY_NS: u64 = MILLISECOND;
/// When a client gives up on an answer.
const GIVE_UP_NS: u64 = 5_000 * MILLISECOND;

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Begin,
    Apply,
    End,
}

struct Request {
    client: u64,
    process: u64,
    ask: Ask,
    began_ns: u64,
    lost: bool,
    answer: Option<Answer>,
    node: &'static str,
}

struct Run<'w, W> {
    shape: Shape,
    world: &'w mut W,
    rng: StdRng,
    /// (when, tie-break, what, request or client)
    agenda: BinaryHeap<Reverse<(u64, u64, Step, usize)>>,
    entered: u64,
    requests: Vec<Request>,
    processes: u64,
    process_of: Vec<u64>,
    history: History,
}

/// Plays a world.
pub fn play(shape: &Shape, world: &mut impl World) -> History {
    let mut run = Run {
        shape: shape.clone(),
        world,
        rng: StdRng::seed_from_u64(shape.seed),
        agenda: BinaryHeap::new(),
        entered: 0,
        requests: Vec::new(),
        processes: shape.clients,
        process_of: (0..shape.clients).collect(),
        history: History::default(),
    };
    for client in 0..shape.clients {
        run.enter(client * MILLISECOND / 3, Step::Begin, client as usize);
    }
    let mut end_ns = 0;
    while let Some(Reverse((now_ns, _, step, number))) = run.agenda.pop() {
        match step {
            Step::Begin if (run.requests.len() as u64) < run.shape.operations => {
                run.begin(number as u64, now_ns);
            }
            Step::Begin => {}
            Step::Apply => run.apply(number, now_ns),
            Step::End => run.end(number, now_ns),
        }
        end_ns = end_ns.max(now_ns);
    }
    run.last_reads(end_ns);
    let mut history = run.history;
    add_faults(&mut history, shape, end_ns);
    history
}

impl<W: World> Run<'_, W> {
    fn enter(&mut self, at_ns: u64, step: Step, number: usize) {
        self.entered += 1;
        self.agenda.push(Reverse((at_ns, self.entered, step, number)));
    }

    fn begin(&mut self, client: u64, now_ns: u64) {
        let ask = self.world.ask(client, now_ns, &mut self.rng);
        let node = NODES[self.rng.random_range(0..NODES.len())];
        let lost = self.rng.random_range(0..1_000) < self.shape.unknown_per_1000;
        let process = self.process_of[client as usize];
        self.record(process, node, &ask, Answer::invoke(&ask), now_ns);
        let number = self.requests.len();
        let usual = self.rng.random_range(MILLISECOND / 4..4 * MILLISECOND);
        if lost {
            // It takes effect before or after its client gives up, or not at all.
            if self.rng.random_bool(0.7) {
                let late = self.rng.random_range(0..2 * GIVE_UP_NS);
                self.enter(now_ns + late, Step::Apply, number);
            }
            self.enter(now_ns + ask.patience_ns + GIVE_UP_NS, Step::End, number);
        } else {
            self.enter(now_ns + usual, Step::Apply, number);
        }
        self.requests.push(Request { client, process, ask, began_ns: now_ns, lost, answer: None, node });
    }

    fn apply(&mut self, number: usize, now_ns: u64) {
        let request = &mut self.requests[number];
        let Some(answer) = self.world.apply(request.client, &request.ask, now_ns) else {
            if !request.lost {
                self.enter(now_ns + RETRY_NS, Step::Apply, number);
            }
            return;
        };
        request.answer = Some(answer);
        if !request.lost {
            let back = self.rng.random_range(MILLISECOND / 4..2 * MILLISECOND);
            self.enter(now_ns + back, Step::End, number);
        }
    }

    fn end(&mut self, number: usize, now_ns: u64) {
        let request = &mut self.requests[number];
        let (client, process, node) = (request.client, request.process, request.node);
        let (ask, began_ns) = (request.ask.clone(), request.began_ns);
        let answer = if request.lost { None } else { request.answer.take() };
        self.world.learn(client, &ask, answer.as_ref(), began_ns);
        let answer = answer.unwrap_or_else(Answer::none);
        let kind = answer.kind;
        self.record(process, node, &ask, answer, now_ns);
        if kind == Kind::Info {
            self.process_of[client as usize] = self.processes;
            self.processes += 1;
        }
        let pause = self.rng.random_range(0..3 * MILLISECOND);
        self.enter(now_ns + pause, Step::Begin, client as usize);
    }

    fn last_reads(&mut self, end_ns: u64) {
        let reads = self.world.at_the_end();
        for node in NODES {
            for (ask, answer) in &reads {
                let process = self.processes;
                self.processes += 1;
                self.record(process, node, ask, Answer::invoke(ask), end_ns);
                self.record(process, node, ask, answer.clone(), end_ns + MILLISECOND);
            }
        }
    }

    fn record(&mut self, process: u64, node: &str, ask: &Ask, answer: Answer, time_ns: u64) {
        self.history.events.push(Event {
            index: self.history.events.len() as u64,
            process: Process::Client(process),
            kind: answer.kind,
            f: ask.f.to_owned(),
            key: Some(ask.key.clone()),
            value: answer.value,
            time_ns,
            node: Some(node.to_owned()),
            error: answer.error,
        });
    }
}

/// Faults one after the other, each a third of its share of the run, the last third of the run without.
fn add_faults(history: &mut History, shape: &Shape, end_ns: u64) {
    const NAMES: [&str; 5] = ["partition-leader", "kill-one", "pause", "loss", "power-all"];
    let share_ns = end_ns * 2 / 3 / shape.faults.max(1);
    for id in 0..shape.faults {
        let f = NAMES[(id % NAMES.len() as u64) as usize].to_owned();
        let targets = json!([NODES[(id % 3) as usize]]);
        let event = |kind, value, time_ns| Event {
            index: 0,
            process: Process::Nemesis,
            kind,
            f: f.clone(),
            key: None,
            value,
            time_ns,
            node: None,
            error: None,
        };
        let (from, to) = (id * share_ns + share_ns / 3, id * share_ns + share_ns * 2 / 3);
        let effect =
            json!({"id": id, "healed": true, "effect": {"frames_dropped": 17 + id}, "effective": true});
        history.events.extend([
            event(Kind::Invoke, json!({"fault": f, "targets": targets}), from),
            event(Kind::Info, json!({"id": id, "began": true}), from + MILLISECOND),
            event(Kind::Invoke, json!({"id": id}), to),
            event(Kind::Info, effect, to + MILLISECOND),
        ]);
    }
    history.events.sort_by_key(|event| event.time_ns);
    for (index, event) in history.events.iter_mut().enumerate() {
        event.index = index as u64;
    }
}
