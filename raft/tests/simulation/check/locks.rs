//! Did two clients ever believe to hold the same lock? And do tokens, deadlines and answers agree?
//!
//! A holder's time begins when it learns of its grant. It ends when it *asks* for the release, or one lease
//! after the grant or after it *asked* for its last successful renewal: what a careful client may rely on.

use std::collections::{BTreeMap, BTreeSet};

use ovncp_state::command::LockMode;
use ovncp_state::event::ReleaseCause;

/// Cluster time is counted in whole milliseconds, so a lease may end this much early in real time.
const ROUNDING_MS: u64 = 2;

/// One grant as its client saw it. Times are virtual milliseconds.
#[allow(dead_code, reason = "some fields only explain a failure")]
#[derive(Clone, Debug)]
pub struct Holding {
    pub client: String,
    pub keys: Vec<String>,
    pub mode: LockMode,
    pub token: u64,
    /// First attempt of the acquire.
    pub invoked: u64,
    /// When the client learned of the grant.
    pub learned: u64,
    /// Lease asked for.
    pub ttl: u64,
    /// Longest time that renewals may make of it.
    pub hold_max: Option<u64>,
    /// Longest wait asked for.
    pub wait: u64,
    /// Wait as the grant told it.
    pub waited: u64,
    /// End of its time so far: extended by renewals, cut by the release.
    pub until: u64,
}

impl Holding {
    /// The end that follows from the grant alone.
    pub fn first_end(invoked: u64, waited: u64, ttl: u64) -> u64 {
        (invoked + waited + ttl).saturating_sub(ROUNDING_MS)
    }

    /// A renewal asked for at `asked` left this lease, which may be shorter than before.
    pub fn renewed(&mut self, asked: u64, ttl: u64) {
        self.until = (asked + ttl).saturating_sub(ROUNDING_MS);
    }

    /// A renewal to this lease was asked for and may have happened.
    pub fn perhaps_renewed(&mut self, asked: u64, ttl: u64) {
        self.until = self.until.min((asked + ttl).saturating_sub(ROUNDING_MS));
    }

    fn conflicts(&self, other: &Self) -> bool {
        let exclusive = self.mode == LockMode::Exclusive || other.mode == LockMode::Exclusive;
        exclusive
            && self.keys.iter().any(|key| other.keys.contains(key))
            && self.learned.max(other.learned) < self.until.min(other.until)
    }
}

/// Everything that is wrong with a set of holdings.
pub fn check(holdings: &[Holding]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (at, first) in holdings.iter().enumerate() {
        for second in &holdings[at + 1..] {
            if first.token == second.token {
                wrong.push(format!("one token for two grants: {first:?} and {second:?}"));
            } else if first.conflicts(second) {
                wrong.push(format!("two holders at once: {first:?} and {second:?}"));
            }
            let (earlier, later) =
                if first.learned < second.learned { (first, second) } else { (second, first) };
            if earlier.learned < later.invoked && earlier.token >= later.token {
                wrong.push(format!("the token does not grow: {earlier:?} and then {later:?}"));
            }
        }
        if first.waited > 0 && first.waited >= first.wait {
            wrong.push(format!("granted after its deadline: {first:?}"));
        }
    }
    wrong
}

/// A grant as the log has it. Times are cluster time.
#[derive(Clone, Debug)]
pub struct Granted {
    pub keys: Vec<String>,
    pub mode: LockMode,
    /// When its request was applied.
    pub asked: u64,
    /// Of the entry.
    pub term: u64,
}

impl Granted {
    fn conflicts(&self, other: &Self) -> bool {
        let exclusive = self.mode == LockMode::Exclusive || other.mode == LockMode::Exclusive;
        exclusive && self.keys.iter().any(|key| other.keys.contains(key))
    }
}

/// How a grant ended, as the log has it.
#[derive(Clone, Debug)]
pub struct Released {
    pub cause: ReleaseCause,
    /// On the cluster clock.
    pub held: u64,
    /// Of the entry.
    pub term: u64,
}

/// Grants that overtook a conflicting request which had asked before: tokens are given in the order of grants.
pub fn overtaken(granted: &BTreeMap<u64, Granted>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (token, earlier) in granted {
        for (other, later) in granted.range(token + 1..) {
            if later.asked < earlier.asked && later.conflicts(earlier) {
                wrong.push(format!("{token} ({earlier:?}) overtook {other} ({later:?})"));
            }
        }
    }
    wrong
}

/// An expiry is an entry of the leader: this late on the cluster clock even among lost packets, stalled disks and
/// leaders without a quorum. In fair weather 100 ms are promised.
const LATE_MS_MAX: u64 = 2_500;
/// And this much later with every change of leader.
const LATE_PER_TERM_MS: u64 = 1_000;

/// Grants that ended by their lease, but early or too late, or that outlived their longest time to hold.
pub fn overstayed(
    holdings: &[Holding],
    granted: &BTreeMap<u64, Granted>,
    released: &BTreeMap<u64, Released>,
    renewed: &BTreeSet<u64>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    for holding in holdings {
        let (Some(begun), Some(end)) = (granted.get(&holding.token), released.get(&holding.token)) else {
            continue;
        };
        let late = LATE_MS_MAX + (end.term - begun.term) * LATE_PER_TERM_MS;
        if holding.hold_max.is_some_and(|most| end.held > most + late) {
            wrong.push(format!("held {} ms, longer than it may be: {holding:?}", end.held));
        }
        if end.cause != ReleaseCause::Expired || renewed.contains(&holding.token) {
            continue;
        }
        if end.held < holding.ttl {
            wrong.push(format!("expired early, after {} ms: {holding:?}", end.held));
        } else if end.held > holding.ttl + late {
            wrong.push(format!("expired late, after {} ms: {holding:?}", end.held));
        }
    }
    wrong
}

/// Grants that clients were told of and that the log does not know.
pub fn unknown_to_log(holdings: &[Holding], granted: &BTreeMap<u64, Granted>) -> Vec<String> {
    let known = |holding: &&Holding| granted.get(&holding.token).map(|granted| &granted.keys);
    let lost = holdings.iter().filter(|holding| known(holding) != Some(&holding.keys));
    lost.map(|holding| format!("an acknowledged grant is not in the log: {holding:?}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(token: u64, invoked: u64, learned: u64, until: u64) -> Holding {
        Holding {
            client: "test".to_owned(),
            keys: vec!["a".to_owned()],
            mode: LockMode::Exclusive,
            token,
            invoked,
            learned,
            ttl: 100,
            hold_max: None,
            wait: 1_000,
            waited: 0,
            until,
        }
    }

    #[track_caller]
    fn finds(what: &str, holdings: &[Holding]) {
        let wrong = check(holdings);
        assert!(wrong.len() == 1 && wrong[0].contains(what), "{wrong:?}");
    }

    #[test]
    fn holders_one_after_the_other_are_fine() {
        assert!(check(&[holding(1, 0, 5, 100), holding(2, 50, 100, 200)]).is_empty());
    }

    #[test]
    fn a_double_grant_is_found() {
        finds("two holders", &[holding(1, 0, 5, 100), holding(2, 50, 99, 200)]);
    }

    #[test]
    fn shared_holders_overlap_and_an_exclusive_one_among_them_is_found() {
        let mut readers = [holding(1, 0, 5, 100), holding(2, 6, 10, 100), holding(3, 11, 100, 200)];
        readers[0].mode = LockMode::Shared;
        readers[1].mode = LockMode::Shared;
        assert!(check(&readers).is_empty());
        readers[2].learned = 99;
        readers[1].until = 90;
        finds("two holders", &readers);
    }

    #[test]
    fn a_token_that_repeats_or_shrinks_is_found() {
        finds("one token", &[holding(1, 0, 5, 100), holding(1, 0, 100, 200)]);
        finds("does not grow", &[holding(2, 0, 5, 100), holding(1, 100, 105, 200)]);
    }

    #[test]
    fn a_grant_after_the_deadline_or_outside_of_the_log_is_found() {
        let mut late = holding(1, 0, 1_100, 1_200);
        late.waited = 1_000;
        finds("after its deadline", &[late.clone()]);
        assert_eq!(unknown_to_log(&[late.clone()], &BTreeMap::new()).len(), 1);
        assert!(unknown_to_log(&[late], &BTreeMap::from([(1, granted(0))])).is_empty());
    }

    fn granted(asked: u64) -> Granted {
        Granted { keys: vec!["a".to_owned()], mode: LockMode::Exclusive, asked, term: 1 }
    }

    #[test]
    fn a_request_that_overtakes_a_conflicting_one_is_found() {
        let order = |first, second| BTreeMap::from([(1, first), (2, second)]);
        assert!(overtaken(&order(granted(5), granted(6))).is_empty());
        assert_eq!(overtaken(&order(granted(6), granted(5))).len(), 1);
        // Asked within one millisecond: the log alone knows who was first.
        assert!(overtaken(&order(granted(5), granted(5))).is_empty());
        let shared = |asked| Granted { mode: LockMode::Shared, ..granted(asked) };
        assert!(overtaken(&order(shared(6), shared(5))).is_empty());
        assert_eq!(overtaken(&order(shared(6), granted(5))).len(), 1);
        let elsewhere = Granted { keys: vec!["b".to_owned()], ..granted(6) };
        assert!(overtaken(&order(elsewhere, granted(5))).is_empty());
    }

    #[test]
    fn leases_that_end_early_or_late_and_holders_that_stay_too_long_are_found() {
        let judge = |held, cause, hold_max, renewed: &[u64]| {
            let holding = Holding { hold_max, ..holding(1, 0, 5, 100) };
            let released = BTreeMap::from([(1, Released { cause, held, term: 2 })]);
            let granted = BTreeMap::from([(1, granted(0))]);
            overstayed(&[holding], &granted, &released, &renewed.iter().copied().collect()).join("; ")
        };
        let late = LATE_MS_MAX + LATE_PER_TERM_MS;
        assert_eq!(judge(100, ReleaseCause::Expired, None, &[]), "");
        assert_eq!(judge(100 + late, ReleaseCause::Expired, None, &[]), "");
        assert!(judge(99, ReleaseCause::Expired, None, &[]).contains("early"));
        assert!(judge(101 + late, ReleaseCause::Expired, None, &[]).contains("late"));
        assert_eq!(judge(9_000, ReleaseCause::Expired, None, &[1]), "", "renewed");
        assert_eq!(judge(9_000, ReleaseCause::Released, None, &[]), "");
        assert!(judge(9_000, ReleaseCause::Released, Some(200), &[1]).contains("longer than it may be"));
        assert_eq!(judge(200, ReleaseCause::Expired, Some(200), &[1]), "");
    }

    #[test]
    fn renewals_count_from_when_they_were_asked_for() {
        let mut holding = holding(1, 0, 5, Holding::first_end(0, 0, 100));
        assert_eq!(holding.until, 98);
        holding.renewed(50, 100);
        assert_eq!(holding.until, 148);
        holding.perhaps_renewed(60, 200);
        assert_eq!(holding.until, 148, "what may not have happened extends nothing");
        holding.perhaps_renewed(60, 50);
        assert_eq!(holding.until, 108, "what may have happened shortens");
        holding.renewed(70, 20);
        assert_eq!(holding.until, 88);
    }
}
