//! Random conversations about sessions against a naive state: replies, who has which socket, who holds and waits for
//! bound locks, what is kept, after every step. Beside it: whoever follows the events alone knows the same, a twin
//! restored from a snapshot does the same, and a bounded clean-up ends where an unbounded one does.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;

use ovncp_state::command::NodeStatus;
use ovncp_state::limits::Limits;
use ovncp_state::view::WaiterStatus;
use ovncp_state::{
    Applied, Command, Event, EventKind, Millis, NodeId, Refusal, Reply, SessionFilter, SessionId,
    SessionNumber, State, WaiterId,
};
use proptest::prelude::*;

mod ask;
mod model;
#[path = "../support/mod.rs"]
mod support;

use ask::{Ask, NODES, form, resolve, step};
use model::Model;
use support::Checked;

/// Where each session is, and with which epoch, as told by the events alone. This is all that the nodes with the
/// sockets look at.
#[derive(Default)]
struct Follower(BTreeMap<SessionNumber, (NodeId, u64, bool)>);

impl Follower {
    fn follow(&mut self, event: &Event) {
        match &event.kind {
            EventKind::SessionRegistered { number, node } => {
                self.0.insert(*number, (node.id, 0, false));
            }
            EventKind::SessionAttached { number, node, epoch, from } => {
                let before = self.0.insert(*number, (node.id, *epoch, true)).unwrap();
                assert!(before.1 < *epoch, "an epoch that is not higher");
                assert_eq!(from.as_ref().map(|from| from.id), (before.0 != node.id).then_some(before.0));
            }
            EventKind::SessionDetached { number, node, epoch } => {
                let before = self.0.insert(*number, (node.id, *epoch, false)).unwrap();
                assert_eq!(before.0, node.id);
            }
            EventKind::SessionEnded { number, node, .. } => {
                assert_eq!(self.0.remove(number).unwrap().0, node.id);
            }
            _ => {}
        }
    }

    /// A registration does not say whether there is a socket: its node, which asked for it, knows.
    fn compare(&self, state: &State) {
        let views = state.sessions(None, usize::MAX, SessionFilter::default());
        assert!(self.0.keys().copied().eq(views.iter().map(|view| view.number)));
        for view in views {
            let (node, epoch, attached) = self.0[&view.number];
            assert_eq!(node, view.node);
            assert!((epoch, attached) == (view.epoch, view.attached) || (epoch == 0 && view.epoch == 1));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn agrees_with_the_naive_state(steps in prop::collection::vec((step(), any::<bool>()), 1..100)) {
        let mut checked = Checked::new(State::new(), true);
        let mut model = Model::default();
        let mut follower = Follower::default();
        let mut clock = 0;
        checked.apply(Millis(0), &form().into());
        model.statuses = (1..=NODES).map(|node| (NodeId(node), NodeStatus::Active)).collect();
        model.apply(Millis(0), &form(), &Reply::Done);
        for (step, twin) in &steps {
            clock += step.pass;
            let command = resolve(&step.ask, &checked.state);
            checked.twins = *twin;
            let applied = checked.apply(Millis(clock), &command.clone().into());
            let reply = model.apply(Millis(clock), &command, &applied.reply);
            prop_assert_eq!(&applied.reply, &reply, "{:?}", command);
            model.compare(&checked.state);
            applied.events.iter().for_each(|event| follower.follow(event));
            follower.compare(&checked.state);
        }
    }

    /// With room for few and a clean-up that lags behind, what lives keeps within the limits (`Checked` looks at the
    /// invariants), though what has ended still lies about.
    #[test]
    fn limits_are_of_what_lives(steps in prop::collection::vec(step(), 1..100)) {
        let mut checked = Checked::new(State::with_limits(few()), false);
        checked.apply(Millis(0), &form().into());
        let mut clock = 0;
        for step in &steps {
            clock += step.pass;
            let command = resolve(&step.ask, &checked.state);
            checked.apply(Millis(clock), &command.into());
        }
    }

    /// With one end and one detached socket per entry, and ticks until nothing is left over, the same sessions live,
    /// on the same nodes, until the same time, and the same requests hold and wait.
    #[test]
    fn bounded_clean_up_ends_where_unbounded_does(steps in prop::collection::vec(step(), 1..100)) {
        let limits = Limits { expiries_per_apply: 1, ..Limits::default() };
        let mut bounded = Checked::new(State::with_limits(limits), false);
        let mut unbounded = Checked::new(State::new(), false);
        let mut clock = 0;
        bounded.apply(Millis(0), &form().into());
        unbounded.apply(Millis(0), &form().into());
        for step in &steps {
            clock += step.pass;
            let at = Millis(clock);
            let (mut told, mut expected) = (Vec::new(), Vec::new());
            // Half-way, readers see what will be.
            told.extend(outcomes(&bounded.apply(at, &Command::Tick.into())));
            expected.extend(outcomes(&unbounded.apply(at, &Command::Tick.into())));
            prop_assert_eq!(seen(&bounded.state), seen(&unbounded.state), "before {:?}", step.ask);
            told.extend(settle(&mut bounded, at));
            for (checked, told) in [(&mut bounded, &mut told), (&mut unbounded, &mut expected)] {
                let command = resolve(&step.ask, &checked.state);
                told.extend(outcomes(&checked.apply(at, &command.into())));
            }
            prop_assert_eq!(seen(&bounded.state), seen(&unbounded.state), "after {:?}", step.ask);
            told.extend(settle(&mut bounded, at));
            prop_assert_eq!(seen(&bounded.state), seen(&unbounded.state), "settled after {:?}", step.ask);
            prop_assert_eq!(held(&bounded.state), held(&unbounded.state), "after {:?}", step.ask);
            // Nobody was granted what his session did not live to get.
            told.sort();
            expected.sort();
            prop_assert_eq!(told, expected, "after {:?}", step.ask);
        }
    }
}

/// Room for few, and one thing that has ended is cleaned up per entry.
fn few() -> Limits {
    Limits { expiries_per_apply: 1, sessions: 5, sessions_per_user: 2, ..Limits::default() }
}

/// Random conversations meet this too seldom.
#[test]
fn ended_sessions_leave_room_before_they_are_cleaned_up() {
    let mut checked = Checked::new(State::with_limits(few()), false);
    checked.apply(Millis(0), &form().into());
    let register = |id, user, ttl| resolve(&Ask::Register { id, user, socket: None, ttl }, &State::new());
    for (id, user, ttl) in [(1, 1, 1_000), (2, 2, 1_001), (3, 2, 1_001)] {
        checked.apply(Millis(0), &register(id, user, ttl).into());
    }
    for (id, full) in [(4, false), (5, false), (6, true)] {
        let reply = checked.apply(Millis(7_000 + u64::from(id)), &register(id, 2, 60_000).into()).reply;
        assert_eq!(matches!(reply, Reply::Refused(Refusal::LimitExceeded { .. })), full, "{id}: {reply:?}");
    }
}

/// Who was granted or refused.
fn outcomes(applied: &Applied) -> Vec<(WaiterId, bool)> {
    applied.notices.iter().map(|notice| (notice.waiter, notice.outcome.is_ok())).collect()
}

/// Ticks until nothing is left over.
fn settle(checked: &mut Checked, at: Millis) -> Vec<(WaiterId, bool)> {
    let mut told = Vec::new();
    while checked.state.next_deadline().is_some_and(|deadline| deadline <= checked.state.now()) {
        told.extend(outcomes(&checked.apply(at, &Command::Tick.into())));
    }
    told
}

/// By id, since numbers are log indexes: place, epoch, socket and end.
fn seen(state: &State) -> BTreeMap<SessionId, (NodeId, u64, bool, Option<Millis>)> {
    let views = state.sessions(None, usize::MAX, SessionFilter::default());
    views.into_iter().map(|view| (view.id, (view.node, view.epoch, view.attached, view.expires))).collect()
}

/// Which requests wait, and which hold.
fn held(state: &State) -> Vec<(u8, bool)> {
    let of = |waiter: u8| match state.waiter(WaiterId([waiter; 16])) {
        WaiterStatus::Granted(_) => Some((waiter, true)),
        WaiterStatus::Waiting => Some((waiter, false)),
        WaiterStatus::Gone => None,
    };
    (0..30).filter_map(of).collect()
}
