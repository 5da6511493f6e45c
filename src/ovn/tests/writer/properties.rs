//! Random requests of many callers against a database that fails at random: every outcome is one that the request could
//! have had alone, at some moment while it ran; nothing is lost and nothing happens twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ovncp_ovn::Uuid;
use ovncp_ovn::error::{RejectionKind, TransactError};
use ovncp_ovn::operation::{Condition, Function, Mutation, Mutator, Operation, OperationResult, Until};
use ovncp_ovn::value::Datum;
use ovncp_ovn::writer::{Writer, WriterSettings};
use proptest::prelude::*;
use tokio::time::Instant;

use super::fake::{Committed, Fake, Fate, State};

/// What a caller asks for. Numbers name rows and names.
#[derive(Clone, Debug)]
enum Ask {
    Create { row: u8, name: u8, checked: bool },
    Rename { row: u8 },
    AddLeaf { row: u8, leaf: u8, checked: bool },
    DropLeaf { row: u8, leaf: u8 },
    Delete { row: u8 },
    DeleteByName { name: u8 },
    Count { row: u8, expected: i64 },
    Read { name: u8 },
    Dangling { row: u8, leaf: u8 },
    Nonsense,
}

#[derive(Clone, Debug)]
struct Call {
    ask: Ask,
    pause_ms: u64,
    /// The caller goes away after this time.
    patience_ms: Option<u64>,
}

fn ask() -> impl Strategy<Value = Ask> {
    let (row, name, leaf) = (0..5_u8, 0..4_u8, 0..5_u8);
    prop_oneof![
        4 => (row.clone(), name.clone(), any::<bool>()).prop_map(|(row, name, checked)| Ask::Create { row, name, checked }),
        2 => row.clone().prop_map(|row| Ask::Rename { row }),
        4 => (row.clone(), leaf.clone(), any::<bool>()).prop_map(|(row, leaf, checked)| Ask::AddLeaf { row, leaf, checked }),
        2 => (row.clone(), leaf.clone()).prop_map(|(row, leaf)| Ask::DropLeaf { row, leaf }),
        2 => row.clone().prop_map(|row| Ask::Delete { row }),
        1 => name.clone().prop_map(|name| Ask::DeleteByName { name }),
        4 => (row.clone(), 0..4_i64).prop_map(|(row, expected)| Ask::Count { row, expected }),
        2 => name.clone().prop_map(|name| Ask::Read { name }),
        1 => (row, leaf).prop_map(|(row, leaf)| Ask::Dangling { row, leaf }),
        1 => Just(Ask::Nonsense),
    ]
}

fn call() -> impl Strategy<Value = Call> {
    let patience = prop_oneof![5 => Just(None), 1 => (0..12_u64).prop_map(Some)];
    (ask(), 0..4_u64, patience).prop_map(|(ask, pause_ms, patience_ms)| Call { ask, pause_ms, patience_ms })
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        20 => Just(Fate::Executed),
        1 => Just(Fate::Unavailable),
        2 => Just(Fate::NotLeader),
        1 => Just(Fate::Lost),
        1 => Just(Fate::AnswerLost),
    ]
}

fn root(row: u8) -> Uuid {
    Uuid::from_u128(0x1000 + u128::from(row))
}

fn leaf(leaf: u8) -> Uuid {
    Uuid::from_u128(0x2000 + u128::from(leaf))
}

fn named(name: u8) -> Datum {
    Datum::from(format!("name-{name}").as_str())
}

fn change(row: u8, column: &str, mutator: Mutator, value: Datum) -> Operation {
    Operation::Mutate {
        table: "Root".into(),
        condition: Condition::uuid(root(row)),
        mutations: vec![Mutation { column: column.into(), mutator, value }],
    }
}

/// The operations of a request; the first says whose they are.
fn operations(ticket: usize, ask: &Ask) -> Vec<Operation> {
    let mut operations = vec![Operation::Comment(ticket.to_string())];
    let present = |row| Operation::wait_present("Root", root(row), Condition::uuid(root(row)));
    let insert = |table: &str, uuid, row| Operation::Insert { table: table.into(), uuid, row };
    match *ask {
        Ask::Create { row, name, checked } => {
            operations.extend(checked.then(|| Operation::wait_absent("Root", "name", named(name))));
            operations.push(insert("Root", root(row), vec![("name".into(), named(name))]));
        }
        // To a name that nobody else takes, here and in `Dangling`: see the caveat of the writer.
        Ask::Rename { row } => operations.push(Operation::Update {
            table: "Root".into(),
            condition: Condition::uuid(root(row)),
            row: vec![("name".into(), Datum::from(format!("renamed-{ticket}").as_str()))],
        }),
        Ask::AddLeaf { row, leaf: new, checked } => {
            operations.extend(checked.then(|| present(row)));
            operations.push(insert("Leaf", leaf(new), Vec::new()));
            operations.push(change(row, "children", Mutator::Insert, leaf(new).into()));
        }
        Ask::DropLeaf { row, leaf: old } => {
            operations.push(change(row, "children", Mutator::Delete, leaf(old).into()));
        }
        Ask::Delete { row } => {
            operations
                .push(Operation::Delete { table: "Root".into(), condition: Condition::uuid(root(row)) });
        }
        Ask::DeleteByName { name } => operations.push(Operation::Delete {
            table: "Root".into(),
            condition: Condition::equal("name", named(name)),
        }),
        Ask::Count { row, expected } => {
            let condition = Condition::uuid(root(row));
            operations.push(change(row, "number", Mutator::Add, 1.into()));
            operations.push(Operation::Wait {
                table: "Root".into(),
                condition,
                columns: vec!["number".into()],
                until: Until::Equal,
                rows: vec![vec![("number".into(), expected.into())]],
            });
        }
        Ask::Read { name } => operations.push(Operation::Select {
            table: "Root".into(),
            condition: Condition::equal("name", named(name)),
            columns: None,
        }),
        Ask::Dangling { row, leaf: missing } => {
            let name = Datum::from(format!("adopted-{ticket}").as_str());
            let values = vec![("name".into(), name), ("children".into(), leaf(missing).into())];
            operations.push(insert("Root", root(row), values));
        }
        Ask::Nonsense => operations.push(Operation::Delete {
            table: "Root".into(),
            condition: Condition::default().and("no_such_column", Function::Equal, 1),
        }),
    }
    operations
}

/// How a call went, and what had been committed before and after it.
#[derive(Debug)]
struct Outcome {
    ticket: usize,
    operations: Vec<Operation>,
    /// None: the caller went away.
    answer: Option<Result<Vec<OperationResult>, TransactError>>,
    before: usize,
    after: usize,
}

async fn run(calls: Vec<Vec<Call>>, fake: Arc<Fake>, settings: WriterSettings) -> Vec<Vec<Outcome>> {
    let writer = Writer::new(Arc::clone(&fake), settings);
    let mut callers = Vec::new();
    for (caller, calls) in calls.into_iter().enumerate() {
        let (writer, fake) = (writer.clone(), Arc::clone(&fake));
        callers.push(tokio::spawn(async move {
            let mut outcomes = Vec::new();
            for (position, call) in calls.into_iter().enumerate() {
                tokio::time::sleep(Duration::from_millis(call.pause_ms)).await;
                let ticket = caller * 1_000 + position;
                let operations = operations(ticket, &call.ask);
                let before = fake.version();
                let patience = call.patience_ms.map_or(Duration::from_secs(3_600), Duration::from_millis);
                let submitted = writer.submit(operations.clone());
                let answer = tokio::time::timeout(patience, submitted).await.ok();
                outcomes.push(Outcome { ticket, operations, answer, before, after: fake.version() });
            }
            outcomes
        }));
    }
    let mut outcomes = Vec::new();
    for caller in callers {
        outcomes.push(caller.await.unwrap());
    }
    // Transactions whose callers are gone may still be under way.
    let quiet = Instant::now() + Duration::from_secs(60);
    tokio::time::sleep_until(quiet).await;
    assert_eq!(writer.waiting(), 0, "requests were forgotten");
    outcomes
}

/// The requests of a transaction with their results, by ticket, in order.
fn members(committed: &Committed) -> Vec<(usize, &[Operation], &[OperationResult])> {
    let starts = committed.operations.iter().enumerate();
    let starts: Vec<_> = starts
        .filter(|(_, operation)| matches!(operation, Operation::Comment(_)))
        .map(|(at, _)| at)
        .collect();
    let ends = starts.iter().skip(1).copied().chain([committed.operations.len()]);
    let member = |(start, end): (&usize, usize)| {
        let Operation::Comment(ticket) = &committed.operations[*start] else { unreachable!() };
        let range = *start..end;
        (ticket.parse().unwrap(), &committed.operations[range.clone()], &committed.results[range])
    };
    starts.iter().zip(ends).map(member).collect()
}

/// Whether running these one after the other, in some order, gives these results and ends in this state.
fn is_serial(state: &State, left: &[(usize, &[Operation], &[OperationResult])], end: &State) -> bool {
    if left.is_empty() {
        return state == end;
    }
    (0..left.len()).any(|position| {
        let mut next = state.clone();
        let (_, operations, results) = left[position];
        if next.execute(operations).as_deref() != Ok(results) {
            return false;
        }
        let others: Vec<_> =
            left.iter().enumerate().filter(|(at, _)| *at != position).map(|(_, member)| *member).collect();
        is_serial(&next, &others, end)
    })
}

fn check(outcomes: &[Vec<Outcome>], log: &[Committed]) -> Result<(), TestCaseError> {
    let mut states = vec![State::default()];
    let mut committed = BTreeMap::new();
    for (version, transaction) in log.iter().enumerate() {
        let members = members(transaction);
        for (ticket, _, results) in &members {
            let twice = committed.insert(*ticket, (version, results.to_vec())).is_some();
            prop_assert!(!twice, "request {ticket} happened twice");
        }
        prop_assert!(is_serial(&states[version], &members, &transaction.after), "{transaction:#?}");
        states.push(transaction.after.clone());
    }
    for outcomes in outcomes {
        let mut last = None;
        for outcome in outcomes {
            let found = committed.get(&outcome.ticket);
            match &outcome.answer {
                Some(Ok(results)) => {
                    prop_assert_eq!(Some(results), found.map(|(_, results)| results), "{:?}", outcome);
                    let version = found.map(|(version, _)| *version);
                    prop_assert!(last < version, "out of order: {outcome:?}");
                    last = version;
                }
                Some(Err(TransactError::Rejected(rejection))) => {
                    prop_assert!(found.is_none(), "rejected, but committed: {outcome:?}");
                    let same = |state: &State| {
                        let alone = state.clone().execute(&outcome.operations);
                        alone.is_err_and(|alone| {
                            (alone.operation, alone.kind) == (rejection.operation, rejection.kind)
                        })
                    };
                    prop_assert!(
                        states[outcome.before..=outcome.after].iter().any(same),
                        "not rejected alone: {outcome:?}"
                    );
                    prop_assert_ne!(rejection.kind, RejectionKind::NotLeader);
                }
                Some(Err(TransactError::OutcomeUnknown { .. })) | None => {}
                Some(Err(_)) => prop_assert!(found.is_none(), "refused, but committed: {outcome:?}"),
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn every_outcome_is_one_that_the_request_could_have_had_alone(
        calls in prop::collection::vec(prop::collection::vec(call(), 1..4), 1..14),
        fates in prop::collection::vec(fate(), 1..40),
        delays in prop::collection::vec((0..6_u64, 0..6_u64), 1..10),
        in_flight_max in 1..5_usize,
        requests_max in 1..7_usize,
        queue_requests_max in prop_oneof![Just(3_usize), Just(1_000)],
    ) {
        // A fate that never changes would keep a request for ever.
        let fates = fates.into_iter().chain([Fate::Executed]).collect();
        let milliseconds = |(there, back)| (Duration::from_millis(there), Duration::from_millis(back));
        let delays = delays.into_iter().map(milliseconds).collect();
        let fake = Arc::new(Fake::new(fates, delays));
        let settings = WriterSettings { in_flight_max, requests_max, queue_requests_max, ..WriterSettings::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let outcomes = runtime.unwrap().block_on(run(calls, Arc::clone(&fake), settings));
        prop_assert!(fake.in_flight_most() <= in_flight_max);
        check(&outcomes, &fake.log())?;
    }
}
