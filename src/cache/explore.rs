//! Every order in which loads, clears and calls can meet, one after the other, on the real desk.
//!
//! A scenario is a few actors of a few steps each. A schedule says whose step comes next; all of them are run, by
//! depth-first search over the choices. What must hold is what a program relies on: a call never returns a value that
//! was read before something that had been cleared, here or with a barrier, when the call began.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use super::LoadError;
use super::desk::{Asked, Call, Desk, Fill, Moment, Mutant, Outcome, Ticket};
use super::journal::Clear;
use super::shelf::Bounds;

const NAME: &str = "k";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Script {
    /// Calls once.
    Caller,
    /// Calls, and is cancelled while it loads.
    Cancelled,
    /// Calls, and its load fails.
    Failing,
    /// Changes the database, then clears the name.
    Writer,
    /// The same by a tag.
    Tagger,
    /// The node is cut off: its caches are not trusted; then the others change the database, clear it and count this node
    /// out; it hears of that when it is back, and serves again.
    Partition,
    /// Changes the database; then an entry that says so is applied here, which whoever calls may know of; then it is
    /// cleared.
    Entry,
}

enum State {
    Begin,
    Load(Ticket<u64>),
    Read(Ticket<u64>, u64),
    Joined(watch::Receiver<Option<Outcome<u64>>>),
    Step(u8),
    Done,
}

struct Actor {
    script: Script,
    state: State,
    call: Option<Call>,
    /// The version that this call must see.
    needs: u64,
}

struct World {
    desk: Desk<u64>,
    /// The version in the database.
    database: u64,
    /// The version that whoever calls now must see.
    cleared: u64,
    /// It stands still.
    now: Instant,
    current: bool,
    seen: BTreeSet<&'static str>,
}

impl World {
    fn moment(&self) -> Moment {
        Moment { now: self.now, current: self.current }
    }
}

/// Why a schedule shows a defect.
type Fault = String;

impl Actor {
    fn enabled(&self) -> bool {
        match &self.state {
            State::Done => false,
            State::Joined(outcome) => outcome.borrow().is_some() || outcome.has_changed().is_err(),
            _ => true,
        }
    }

    fn step(&mut self, world: &mut World) -> Result<(), Fault> {
        self.state = match std::mem::replace(&mut self.state, State::Done) {
            State::Begin => match self.script {
                Script::Caller | Script::Cancelled | Script::Failing => return self.begin(world),
                _ => return self.change(world, 0),
            },
            State::Step(step) => return self.change(world, step),
            // A load sees what the database has when it looks, not when it began.
            State::Load(ticket) => State::Read(ticket, world.database),
            State::Read(ticket, value) => return self.finish(world, ticket, value),
            State::Joined(outcome) => return self.joined(world, &outcome),
            State::Done => State::Done,
        };
        Ok(())
    }

    fn begin(&mut self, world: &mut World) -> Result<(), Fault> {
        self.needs = world.cleared;
        self.call = Some(world.desk.call(world.moment()));
        self.ask(world)
    }

    fn ask(&mut self, world: &mut World) -> Result<(), Fault> {
        self.state = match world.desk.ask(&NAME.into(), world.moment()) {
            Asked::Hit(value) => {
                world.seen.insert("hit");
                return self.returned(value);
            }
            Asked::Join(outcome) => State::Joined(outcome),
            Asked::Load(ticket) => State::Load(ticket),
        };
        Ok(())
    }

    fn finish(&mut self, world: &mut World, ticket: Ticket<u64>, value: u64) -> Result<(), Fault> {
        match self.script {
            Script::Cancelled => world.desk.abandon(&ticket),
            Script::Failing => {
                let error = LoadError::new(std::io::Error::other("no database"));
                world.desk.finish(ticket, Err(error));
            }
            _ => {
                let fill = Fill { value, tags: ["t".into()].into(), bytes: 8, ends: None };
                let before = world.desk.counters().inconsistencies;
                world.desk.finish(ticket, Ok(fill));
                if world.desk.counters().inconsistencies > before {
                    world.seen.insert("refused");
                }
                return self.returned(value);
            }
        }
        Ok(())
    }

    fn joined(
        &mut self,
        world: &mut World,
        outcome: &watch::Receiver<Option<Outcome<u64>>>,
    ) -> Result<(), Fault> {
        let outcome = outcome.borrow().clone();
        let call = self.call.expect("it has called");
        match outcome {
            Some(Outcome::Loaded { value, began, stale_since }) => {
                if world.desk.accepts(call, began, stale_since) {
                    world.seen.insert("shared");
                    return self.returned(value);
                }
                world.seen.insert("declined");
                self.ask(world)
            }
            Some(Outcome::Failed(_)) => {
                world.seen.insert("failed together");
                Ok(())
            }
            None => {
                world.seen.insert("took over");
                self.ask(world)
            }
        }
    }

    fn returned(&self, value: u64) -> Result<(), Fault> {
        if value >= self.needs {
            return Ok(());
        }
        Err(format!("version {value} was given to a call that must see {}", self.needs))
    }

    fn change(&mut self, world: &mut World, step: u8) -> Result<(), Fault> {
        let (patterns, tags) = match self.script {
            Script::Tagger => (vec![], vec!["t".to_owned()]),
            _ => (vec!["k*".to_owned()], vec![]),
        };
        let clear = Arc::new(Clear::new(&patterns, &tags));
        let steps = match (self.script, step) {
            (Script::Partition, 0) => {
                world.desk.trust(Some(world.now));
                4
            }
            (Script::Partition, 1) => {
                // The barrier counts this node out.
                world.database += 1;
                world.cleared = world.database;
                4
            }
            (Script::Partition, 2) => {
                world.desk.clear(&clear);
                4
            }
            (Script::Partition, _) => {
                world.desk.trust(None);
                4
            }
            (Script::Entry, 1) => {
                (world.current, world.cleared) = (false, world.database);
                3
            }
            (Script::Entry, 2) => {
                world.desk.clear(&clear);
                world.current = true;
                3
            }
            (Script::Entry, _) => {
                world.database += 1;
                3
            }
            (_, 0) => {
                world.database += 1;
                2
            }
            _ => {
                // It clears what it wrote, and what others wrote before: at least that version.
                world.desk.clear(&clear);
                world.cleared = world.database;
                2
            }
        };
        self.state = if step + 1 < steps { State::Step(step + 1) } else { State::Done };
        Ok(())
    }
}

/// Runs one schedule; adds the choices that it was not told, always the first actor that can go.
fn run(
    scripts: &[Script],
    mutant: Option<Mutant>,
    choices: &mut Vec<(usize, usize)>,
    seen: &mut BTreeSet<&'static str>,
) -> Result<(), Fault> {
    let mut desk = Desk::new(Bounds { entries_max: 10, bytes_max: 10_000 }, None);
    desk.mutant = mutant;
    let mut world =
        World { desk, database: 1, cleared: 1, now: Instant::now(), current: true, seen: BTreeSet::new() };
    let actor = |script: &Script| Actor { script: *script, state: State::Begin, call: None, needs: 0 };
    let mut actors: Vec<_> = scripts.iter().map(actor).collect();
    for turn in 0.. {
        let able: Vec<_> = (0..actors.len()).filter(|rank| actors[*rank].enabled()).collect();
        if able.is_empty() {
            break;
        }
        if choices.len() == turn {
            choices.push((0, able.len()));
        }
        actors[able[choices[turn].0]].step(&mut world)?;
    }
    seen.append(&mut world.seen);
    if actors.iter().any(|actor| !matches!(actor.state, State::Done)) {
        return Err("a call waits for ever".to_owned());
    }
    match world.desk.get(NAME, world.moment()) {
        Some(kept) if kept < world.cleared => Err(format!("version {kept} is still kept")),
        _ => Ok(()),
    }
}

/// How many schedules there are, and what happened in any of them.
type Explored = (usize, BTreeSet<&'static str>);

/// Runs every schedule, or up to the first one that shows a defect.
fn explore(scripts: &[Script], mutant: Option<Mutant>) -> Result<Explored, (Fault, Vec<usize>)> {
    let (mut choices, mut seen) = (Vec::<(usize, usize)>::new(), BTreeSet::new());
    for count in 1.. {
        run(scripts, mutant, &mut choices, &mut seen)
            .map_err(|fault| (fault, choices.iter().map(|(choice, _)| *choice).collect()))?;
        while choices.last().is_some_and(|(choice, able)| choice + 1 == *able) {
            choices.pop();
        }
        match choices.last_mut() {
            Some((choice, _)) => *choice += 1,
            None => return Ok((count, seen)),
        }
    }
    unreachable!("the loop ends at the last schedule")
}

use Script::{Caller, Cancelled, Entry, Failing, Partition, Tagger, Writer};

#[test]
fn no_order_of_loads_and_clears_gives_a_stale_value() {
    let scenarios: [(&[Script], &[&str]); 6] = [
        (&[Caller, Caller, Writer, Caller], &["hit", "refused", "shared", "declined"]),
        (&[Caller, Caller, Tagger, Caller], &["hit", "refused", "shared", "declined"]),
        (&[Caller, Writer, Tagger, Caller], &["hit", "refused", "shared", "declined"]),
        (&[Cancelled, Failing, Writer, Caller], &["took over", "failed together", "refused"]),
        (&[Caller, Caller, Partition], &["hit", "refused", "shared", "declined"]),
        (&[Caller, Caller, Entry], &["hit", "refused", "shared", "declined"]),
    ];
    for (number, (scripts, expected)) in scenarios.into_iter().enumerate() {
        let (count, seen) = explore(scripts, None)
            .unwrap_or_else(|(fault, schedule)| panic!("scenario {number}: {fault} by {schedule:?}"));
        for what in expected {
            assert!(seen.contains(what), "scenario {number}: no schedule shows {what:?}, only {seen:?}");
        }
        assert!(count > 100, "scenario {number} has {count} schedules only");
        eprintln!("scenario {number}: {count} schedules");
    }
}

#[test]
fn each_rule_is_needed() {
    for (mutant, scripts) in [
        (Mutant::StampAtEnd, &[Caller, Writer, Caller][..]),
        (Mutant::StampAtEnd, &[Caller, Tagger]),
        (Mutant::JoinAnything, &[Caller, Writer, Caller]),
        (Mutant::JoinAnything, &[Caller, Caller, Partition]),
        (Mutant::TrustsForEver, &[Caller, Caller, Partition]),
        (Mutant::TrustsForEver, &[Caller, Caller, Entry]),
    ] {
        assert!(explore(scripts, None).is_ok());
        let (fault, schedule) = explore(scripts, Some(mutant)).expect_err("a schedule that shows it");
        eprintln!("{mutant:?}: {fault} by {schedule:?}");
    }
}
