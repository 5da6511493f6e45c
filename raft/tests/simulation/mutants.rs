//! Proof that the harness would notice: each of these is deliberately wrong and must be caught.

use std::time::Duration;

use ovncp_raft::Observer;
use ovncp_state::event::Applied;
use ovncp_state::{ClusterId, LogIndex, NodeId, Reply, Revision, StateHash};
use ovncp_storage::disk::SimDisk;
use ovncp_storage::runtime::Process;
use ovncp_storage::sink::AppliedEntry;
use ovncp_storage::types::Origin;
use tokio::time::sleep;

use crate::check::log::{Ledger, NodeLog};
use crate::clients::Mutant;
use crate::machine::{LyingDisk, Machine};
use crate::nemesis::Trouble;
use crate::scenario::{Failure, Plan, run, simulate};

/// Seeds within which a mutant must be caught.
const SEEDS: u64 = 12;

/// Runs seeds until one fails, and says why.
fn caught<D: Machine>(plan: &Plan) -> String {
    let failure = (0..SEEDS).find_map(|seed| run::<D>(seed, plan).err().map(|failure| (seed, failure)));
    let (seed, Failure { what, .. }) = failure.unwrap_or_else(|| panic!("{plan:?} was not caught"));
    println!("{plan:?}: caught by seed {seed}: {what}");
    what
}

fn client_mutant(mutant: Mutant, kinds: &[Trouble]) -> Plan {
    Plan { mutant: Some(mutant), kinds: Some(kinds.to_vec()) }
}

#[test]
fn a_disk_that_does_not_sync_is_caught() {
    let plan = Plan { kinds: Some(vec![Trouble::PowerLoss, Trouble::KillAll]), mutant: None };
    caught::<LyingDisk>(&plan);
}

#[test]
fn reads_without_a_read_index_are_caught() {
    let what = caught::<SimDisk>(&client_mutant(Mutant::StaleRead, &[Trouble::Split, Trouble::Pause]));
    assert!(what.contains("not linearizable"), "{what}");
}

#[test]
fn a_time_out_taken_for_a_failure_is_caught() {
    let kinds = [Trouble::Split, Trouble::Kill, Trouble::Storm];
    caught::<SimDisk>(&client_mutant(Mutant::UnknownIsFailure, &kinds));
}

#[test]
fn a_retry_without_idempotency_key_is_caught() {
    let kinds = [Trouble::Split, Trouble::Kill, Trouble::Storm];
    caught::<SimDisk>(&client_mutant(Mutant::BlindRetry, &kinds));
}

#[test]
fn a_holder_that_outstays_its_lease_is_caught() {
    caught::<SimDisk>(&client_mutant(Mutant::LateHolder, &[Trouble::Kill]));
}

/// What a ledger says after it was fed.
fn judged(feed: impl FnOnce(&std::sync::Arc<Ledger>)) -> String {
    let failure = simulate(1, |trace| async move {
        let ledger = Ledger::new(trace.clone());
        feed(&ledger);
        trace.first_violation().map_or(Ok(()), Err)
    });
    failure.err().map(|failure| failure.what).unwrap_or_default()
}

fn entry(index: u64, term: u64, revision: u64) -> AppliedEntry {
    let reply = Reply::Written { revision: Revision(revision), deleted: 0 };
    let applied = Applied {
        reply,
        events: Vec::new(),
        notices: Vec::new(),
        appended: ovncp_state::Appended::default(),
    };
    AppliedEntry { index: LogIndex(index), term, origin: Origin::default(), applied }
}

#[test]
fn two_leaders_of_a_term_are_caught() {
    let judge = |second| {
        judged(|ledger| {
            ledger.leads("a", 3, NodeId(1));
            ledger.leads("b", 3, NodeId(second));
        })
    };
    assert!(judge(2).contains("two leaders in term 3"));
    assert_eq!(judge(1), "");
}

#[test]
fn a_second_cluster_is_caught() {
    let what = judged(|ledger| {
        ledger.belongs("a", ClusterId([1; 16]));
        ledger.belongs("b", ClusterId([2; 16]));
    });
    assert!(what.contains("more than one cluster"), "{what}");
}

#[test]
fn different_entries_or_states_at_one_index_are_caught() {
    let judge = |entries: [AppliedEntry; 2]| {
        judged(|ledger| {
            for (who, entry) in ["a", "b"].into_iter().zip(entries) {
                NodeLog::new(who, ledger).applied(&[entry]);
            }
        })
    };
    assert_eq!(judge([entry(5, 1, 5), entry(5, 1, 5)]), "");
    assert!(judge([entry(5, 1, 5), entry(5, 1, 6)]).contains("different entries at 5"));
    assert!(judge([entry(5, 1, 5), entry(5, 2, 5)]).contains("different entries at 5"));
    let what = judged(|ledger| {
        ledger.state("a", LogIndex(9), StateHash([1; 16]));
        ledger.state("b", LogIndex(9), StateHash([2; 16]));
    });
    assert!(what.contains("differ in their states after entry 9"), "{what}");
    let what = judged(|ledger| {
        let mut again = [entry(5, 1, 5), entry(6, 1, 6)];
        again.iter_mut().for_each(|entry| entry.origin.ticket = 7);
        NodeLog::new("a", ledger).applied(&again);
    });
    assert!(what.contains("one proposal, two entries"), "{what}");
    let what = judged(|ledger| NodeLog::new("a", ledger).applied(&[entry(5, 1, 5), entry(5, 1, 5)]));
    assert!(what.contains("went back"), "{what}");
}

#[test]
fn a_task_that_escapes_from_its_process_or_panics_is_caught() {
    let what = |misbehave: fn()| {
        let result = simulate(1, |_| async move {
            let process = Process::new();
            drop(tokio::spawn(process.own(async move { misbehave() })));
            sleep(Duration::from_millis(10)).await;
            Ok(())
        });
        result.err().map(|failure| failure.what).unwrap_or_default()
    };
    assert!(what(|| drop(tokio::spawn(async {}))).contains("escaped"));
    assert_eq!(what(|| drop(ovncp_storage::runtime::spawn(async {}))), "");
    assert!(what(|| panic!("a deliberate panic")).contains("panicked"));
}
