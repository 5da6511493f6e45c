//! The search for an order.
//!
//! It is the just-in-time search of Lowe ("Testing for linearizability", 2017), which descends from Wing and Gong:
//! go through invocations and returns in the order in which they were seen, and when an operation returns, put it
//! (and whatever pending operation has to come first) into the order. What is kept is a set of *configurations*:
//! the state of the object and which of the pending operations have happened. Two ways to one configuration are
//! one configuration, so the set stays small where the number of orders does not. The set is empty exactly when no
//! order exists, and then the return that emptied it is where to look.
//!
//! Four things keep unknown outcomes cheap, which a run under faults has many of. They never return, so they stay
//! pending to the end and each may happen at any time:
//! - an operation that changes no state happens as soon as it fits ([`Model::is_read`]);
//! - a configuration that has used up more unknown operations than another with the same state and the same known
//!   ones can do nothing that the other cannot: it is dropped;
//! - one that nothing under way depends on ([`Model::needs`]) is left for later;
//! - what can never happen again ([`Model::is_past`]) is forgotten, and ends the branch if it had to happen.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use super::bits::Bits;
use super::model::{Call, Model};

/// What a search may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// When it has to end.
    pub deadline: Instant,
    /// Configurations at once.
    pub configurations_max: usize,
    /// Whether to give up a branch as soon as something in it can never happen any more, instead of when that
    /// returns. Faster; without it, the return at which the search gets stuck ends the shortest beginning of the
    /// history that has no order.
    pub foresight: bool,
}

/// Steps of the model between two looks at the clock.
const STEPS_PER_LOOK: u64 = 4_096;
/// Unknown operations pending before it is tried to forget some.
const PENDING_BEFORE_SWEEP: usize = 32;
/// States shown where the search got stuck.
const STATES_SHOWN_MAX: usize = 6;

/// What came out of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// There is an order.
    Linearizable,
    /// There is none.
    Stuck(Stuck),
    /// A limit was reached first.
    Unknown(&'static str),
}

/// Where no order could be continued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// The call whose return fits nowhere.
    pub call: usize,
    /// Calls under way at that moment, unknown ones from earlier included.
    pub pending: Vec<usize>,
    /// What the object may have been just before, in words; at most a few.
    pub states: Vec<String>,
}

#[derive(Clone)]
struct Configuration<S> {
    state: S,
    /// Slots of the pending operations that have happened.
    happened: Bits,
    /// Another one can do all that this one can.
    dominated: bool,
}

/// Configurations without those that another one dominates.
struct Frontier<S> {
    all: Vec<Configuration<S>>,
    /// By state and known operations: those that differ only in which unknown operations happened.
    alike: HashMap<(S, Bits), Vec<usize>>,
}

impl<S: Clone + Eq + std::hash::Hash> Frontier<S> {
    fn new() -> Self {
        Self { all: Vec::new(), alike: HashMap::new() }
    }

    fn insert(&mut self, configuration: Configuration<S>, unknown: &Bits) {
        let known = configuration.happened.without(unknown);
        let alike = self.alike.entry((configuration.state.clone(), known)).or_default();
        if alike.iter().any(|&other| self.all[other].happened.is_subset(&configuration.happened)) {
            return;
        }
        alike.retain(|&other| {
            let dominated = configuration.happened.is_subset(&self.all[other].happened);
            self.all[other].dominated = dominated;
            !dominated
        });
        alike.push(self.all.len());
        self.all.push(configuration);
    }
}

struct Search<'a, M: Model> {
    model: &'a M,
    calls: &'a [Call<M::Operation>],
    /// Pending calls by slot.
    pending: BTreeMap<usize, usize>,
    slot_of: HashMap<usize, usize>,
    free: Vec<usize>,
    /// Slots of calls that never return.
    unknown: Bits,
    unknown_after_sweep: usize,
    frontier: Vec<Configuration<M::State>>,
    steps: u64,
    next_look: u64,
    limits: Limits,
}

/// Whether the calls, in some order that respects which ended before which began, are what the object would do.
pub fn search<M: Model>(model: &M, calls: &[Call<M::Operation>], limits: Limits) -> Found {
    let mut moments: Vec<(u64, bool, usize)> = Vec::with_capacity(calls.len() * 2);
    for (number, call) in calls.iter().enumerate() {
        moments.push((call.invoked, false, number));
        moments.extend(call.returned.map(|returned| (returned, true, number)));
    }
    // Of two at one moment the invocation counts as first: operations that touch are concurrent.
    moments.sort_unstable();
    let mut search = Search {
        model,
        calls,
        pending: BTreeMap::new(),
        slot_of: HashMap::new(),
        free: Vec::new(),
        unknown: Bits::default(),
        unknown_after_sweep: 0,
        frontier: vec![Configuration { state: model.initial(), happened: Bits::default(), dominated: false }],
        steps: 0,
        next_look: 0,
        limits,
    };
    for (_, returns, number) in moments {
        if !returns {
            search.begin(number);
        } else if let Err(end) = search.finish(number) {
            return end;
        }
    }
    Found::Linearizable
}

impl<M: Model> Search<'_, M> {
    fn begin(&mut self, number: usize) {
        let call = &self.calls[number];
        if call.returned.is_none() && self.model.is_read(&call.operation) {
            return; // It says nothing and changes nothing.
        }
        let slot = self.free.pop().unwrap_or(self.pending.len());
        if call.returned.is_none() {
            self.unknown.set(slot);
        }
        self.pending.insert(slot, number);
        self.slot_of.insert(number, slot);
    }

    /// Goes on to the configurations in which the call has happened.
    fn finish(&mut self, number: usize) -> Result<(), Found> {
        let target = self.slot_of[&number];
        let mut open = Frontier::new();
        for configuration in &self.frontier {
            if let Some(settled) = self.settle(configuration.clone()) {
                open.insert(settled, &self.unknown);
            }
        }
        let useful = self.useful();
        let mut done = Frontier::new();
        let mut next = 0;
        while next < open.all.len() {
            let configuration = open.all[next].clone();
            next += 1;
            if configuration.dominated {
                continue;
            }
            if configuration.happened.get(target) {
                done.insert(configuration, &self.unknown);
                continue;
            }
            for &(slot, pending) in &useful {
                if configuration.happened.get(slot) {
                    continue;
                }
                self.steps += 1;
                let Some(state) = self.model.step(&configuration.state, &self.calls[pending].operation)
                else {
                    continue;
                };
                let mut happened = configuration.happened.clone();
                happened.set(slot);
                let after = Configuration { state, happened, dominated: false };
                if let Some(settled) = self.settle(after) {
                    open.insert(settled, &self.unknown);
                }
            }
            self.check_limits(open.all.len())?;
        }
        let configurations: Vec<_> = done.all.into_iter().filter(|one| !one.dominated).collect();
        if configurations.is_empty() {
            return Err(Found::Stuck(self.stuck(number)));
        }
        self.frontier = configurations;
        self.forget(target, number);
        self.sweep();
        Ok(())
    }

    /// Pending calls that may have to come before another: those that will return, and of the unknown ones those
    /// that something under way depends on.
    fn useful(&self) -> Vec<(usize, usize)> {
        let needed = |number: usize| {
            let other = &self.calls[number].operation;
            self.pending
                .values()
                .any(|&one| one != number && self.model.needs(&self.calls[one].operation, other))
        };
        self.pending
            .iter()
            .map(|(&slot, &number)| (slot, number))
            .filter(|&(slot, number)| !self.unknown.get(slot) || needed(number))
            .collect()
    }

    /// Puts every read that fits into the order. None where something known can never happen any more.
    fn settle(&self, mut configuration: Configuration<M::State>) -> Option<Configuration<M::State>> {
        for (&slot, &number) in &self.pending {
            if configuration.happened.get(slot) {
                continue;
            }
            let operation = &self.calls[number].operation;
            if self.model.is_read(operation) && self.model.step(&configuration.state, operation).is_some() {
                configuration.happened.set(slot);
            } else if self.limits.foresight
                && !self.unknown.get(slot)
                && self.model.is_past(&configuration.state, operation)
            {
                return None;
            }
        }
        Some(configuration)
    }

    fn check_limits(&mut self, configurations: usize) -> Result<(), Found> {
        if configurations > self.limits.configurations_max {
            return Err(Found::Unknown("too many configurations"));
        }
        if self.steps >= self.next_look {
            self.next_look = self.steps + STEPS_PER_LOOK;
            if Instant::now() > self.limits.deadline {
                return Err(Found::Unknown("no time left"));
            }
        }
        Ok(())
    }

    fn forget(&mut self, slot: usize, number: usize) {
        self.pending.remove(&slot);
        self.slot_of.remove(&number);
        self.unknown.clear(slot);
        self.free.push(slot);
        self.frontier.iter_mut().for_each(|configuration| configuration.happened.clear(slot));
    }

    /// Forgets unknown operations that have happened or can no longer happen, whatever the configuration.
    fn sweep(&mut self) {
        let unknown = self.unknown.count();
        if unknown < PENDING_BEFORE_SWEEP || unknown < self.unknown_after_sweep * 2 {
            return;
        }
        let past: Vec<(usize, usize)> = self
            .pending
            .iter()
            .map(|(&slot, &number)| (slot, number))
            .filter(|&(slot, number)| self.unknown.get(slot) && self.is_past_everywhere(slot, number))
            .collect();
        past.into_iter().for_each(|(slot, number)| self.forget(slot, number));
        self.unknown_after_sweep = self.unknown.count();
    }

    fn is_past_everywhere(&self, slot: usize, number: usize) -> bool {
        self.frontier.iter().all(|configuration| {
            configuration.happened.get(slot)
                || self.model.is_past(&configuration.state, &self.calls[number].operation)
        })
    }

    fn stuck(&self, number: usize) -> Stuck {
        let mut states: Vec<String> = Vec::new();
        for configuration in &self.frontier {
            let text = configuration.state.to_string();
            if !states.contains(&text) && states.len() < STATES_SHOWN_MAX {
                states.push(text);
            }
        }
        let mut pending: Vec<usize> = self.pending.values().copied().collect();
        pending.sort_unstable();
        Stuck { call: number, pending, states }
    }
}
