//! A database in memory that judges transactions as ovsdb-server does: operation by operation, then unique names,
//! references and rows without a reference when it commits. It can fail in the ways of a network.
//!
//! Two tables: `Root` (its `name` is unique, `children` are strong references) and `Leaf`, whose rows vanish unless a root
//! refers to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use ovncp_ovn::Uuid;
use ovncp_ovn::error::{Rejection, RejectionKind, TransactError};
use ovncp_ovn::operation::{Condition, Function, Mutation, Mutator, Operation, OperationResult, Until};
use ovncp_ovn::value::{Atom, Datum};
use ovncp_ovn::writer::Transact;
use serde_json::json;

type Row = BTreeMap<String, Datum>;

/// Columns of both tables.
const COLUMNS: [&str; 3] = ["name", "number", "children"];

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    pub(crate) rows: BTreeMap<(String, Uuid), Row>,
}

/// What happens to a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Executed,
    Unavailable,
    NotLeader,
    /// It is not committed, and nobody says so.
    Lost,
    /// It is committed, and nobody says so.
    AnswerLost,
}

/// A committed transaction.
#[derive(Clone, Debug)]
pub(crate) struct Committed {
    pub(crate) operations: Vec<Operation>,
    pub(crate) results: Vec<OperationResult>,
    pub(crate) after: State,
}

#[derive(Debug, Default)]
struct Inner {
    state: State,
    log: Vec<Committed>,
    /// Next in `fates` and `delays`.
    next: usize,
    in_flight: usize,
    in_flight_most: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Fake {
    inner: Mutex<Inner>,
    /// Of each transaction in turn, from the beginning again when there are more.
    fates: Vec<Fate>,
    delays: Vec<(Duration, Duration)>,
}

impl Fake {
    pub(crate) fn new(fates: Vec<Fate>, delays: Vec<(Duration, Duration)>) -> Self {
        Self { fates, delays, ..Self::default() }
    }

    /// Transactions that are committed.
    pub(crate) fn version(&self) -> usize {
        self.inner.lock().unwrap().log.len()
    }

    pub(crate) fn log(&self) -> Vec<Committed> {
        self.inner.lock().unwrap().log.clone()
    }

    pub(crate) fn in_flight_most(&self) -> usize {
        self.inner.lock().unwrap().in_flight_most
    }

    pub(crate) fn sent(&self) -> usize {
        self.inner.lock().unwrap().next
    }

    fn run(&self, operations: Vec<Operation>) -> Result<Vec<OperationResult>, Rejection> {
        let mut inner = self.inner.lock().unwrap();
        let mut after = inner.state.clone();
        let results = after.execute(&operations)?;
        inner.state = after.clone();
        inner.log.push(Committed { operations, results: results.clone(), after });
        Ok(results)
    }
}

impl Transact for Fake {
    async fn transact(&self, operations: Vec<Operation>) -> Result<Vec<OperationResult>, TransactError> {
        let turn = {
            let mut inner = self.inner.lock().unwrap();
            inner.next += 1;
            inner.in_flight += 1;
            inner.in_flight_most = inner.in_flight_most.max(inner.in_flight);
            inner.next - 1
        };
        let fate = self.fates.get(turn % self.fates.len().max(1)).copied().unwrap_or(Fate::Executed);
        let (there, back) = self.delays.get(turn % self.delays.len().max(1)).copied().unwrap_or_default();
        tokio::time::sleep(there).await;
        let unknown = || TransactError::OutcomeUnknown { reason: "cut off".to_owned() };
        let answer = match fate {
            Fate::Executed => self.run(operations).map_err(TransactError::from),
            Fate::Unavailable => Err(TransactError::Unavailable { reason: "away".to_owned() }),
            Fate::NotLeader => Err(reject(None, RejectionKind::NotLeader, "").into()),
            Fate::Lost => Err(unknown()),
            Fate::AnswerLost => {
                let _ = self.run(operations);
                Err(unknown())
            }
        };
        tokio::time::sleep(back).await;
        self.inner.lock().unwrap().in_flight -= 1;
        answer
    }
}

fn reject(operation: Option<usize>, kind: RejectionKind, details: impl Into<String>) -> Rejection {
    Rejection { operation, kind, error: format!("{kind:?}"), details: details.into() }
}

impl State {
    /// Runs a transaction; unchanged when it fails.
    pub(crate) fn execute(&mut self, operations: &[Operation]) -> Result<Vec<OperationResult>, Rejection> {
        let mut next = self.clone();
        let mut deleted = BTreeSet::new();
        let mut results = Vec::new();
        for (position, operation) in operations.iter().enumerate() {
            let result = next.step(operation, &mut deleted);
            results.push(result.map_err(|kind| reject(Some(position), kind, ""))?);
        }
        next.commit()?;
        *self = next;
        Ok(results)
    }

    fn matching(&self, table: &str, condition: &Condition) -> Result<Vec<(String, Uuid)>, RejectionKind> {
        let mut found = Vec::new();
        for clause in &condition.0 {
            if &*clause.column != "_uuid" && !COLUMNS.contains(&&*clause.column) {
                return Err(RejectionKind::UnknownName);
            }
        }
        for (key, row) in self.rows.iter().filter(|((of, _), _)| of == table) {
            let fulfilled = condition.0.iter().all(|clause| {
                let uuid = Datum::from(key.1);
                let value = if &*clause.column == "_uuid" { &uuid } else { &row[&*clause.column] };
                match clause.function {
                    Function::Equal => *value == clause.value,
                    Function::Includes => {
                        clause.value.atoms().iter().all(|atom| value.atoms().contains(atom))
                    }
                    other => panic!("the tests do not use {other:?}"),
                }
            });
            if fulfilled {
                found.push(key.clone());
            }
        }
        Ok(found)
    }

    fn step(
        &mut self,
        operation: &Operation,
        deleted: &mut BTreeSet<(String, Uuid)>,
    ) -> Result<OperationResult, RejectionKind> {
        let mut result = OperationResult::default();
        match operation {
            Operation::Insert { table, uuid, row } => {
                let key = (table.to_string(), *uuid);
                if self.rows.contains_key(&key) || deleted.contains(&key) {
                    return Err(RejectionKind::DuplicateUuid);
                }
                let mut values: Row =
                    COLUMNS.iter().map(|column| ((*column).to_owned(), Datum::default())).collect();
                values.insert("number".to_owned(), Datum::from(0));
                values.extend(row.iter().map(|(column, value)| (column.to_string(), value.clone())));
                self.rows.insert(key, values);
                result.uuid = Some(*uuid);
            }
            Operation::Update { table, condition, row } => {
                let met = self.matching(table, condition)?;
                for key in &met {
                    let values = self.rows.get_mut(key).unwrap();
                    values.extend(row.iter().map(|(column, value)| (column.to_string(), value.clone())));
                }
                result.count = Some(met.len() as u64);
            }
            Operation::Mutate { table, condition, mutations } => {
                let met = self.matching(table, condition)?;
                for key in &met {
                    mutations.iter().for_each(|mutation| mutate(self.rows.get_mut(key).unwrap(), mutation));
                }
                result.count = Some(met.len() as u64);
            }
            Operation::Delete { table, condition } => {
                let met = self.matching(table, condition)?;
                result.count = Some(met.len() as u64);
                self.rows.retain(|key, _| !met.contains(key));
                deleted.extend(met);
            }
            Operation::Select { table, condition, .. } => {
                let met = self.matching(table, condition)?;
                let values =
                    |key: &(String, Uuid)| json!([key.1.to_string(), format!("{:?}", self.rows[key])]);
                result.rows = Some(met.iter().map(values).collect());
            }
            Operation::Wait { table, condition, columns, until, rows } => {
                let found = self.matching(table, condition)?;
                let column = |(of, uuid): &(String, Uuid)| match &*columns[0] {
                    "_uuid" => Datum::from(*uuid),
                    other => self.rows[&(of.clone(), *uuid)][other].clone(),
                };
                let found: BTreeSet<_> = found.iter().map(column).collect();
                let wanted: BTreeSet<_> = rows.iter().map(|row| row[0].1.clone()).collect();
                if (found == wanted) != (*until == Until::Equal) {
                    return Err(RejectionKind::WaitFailed);
                }
            }
            Operation::Comment(_) => {}
        }
        Ok(result)
    }

    fn commit(&mut self) -> Result<(), Rejection> {
        let mut names = BTreeMap::new();
        let mut alive = BTreeSet::new();
        for ((table, uuid), row) in &self.rows {
            if table == "Root" {
                if let Some(other) = names.insert(row["name"].clone(), *uuid) {
                    let details = format!("rows <{uuid}> and <{other}> have the same name");
                    return Err(reject(None, RejectionKind::ConstraintViolation, details));
                }
                alive.extend(row["children"].atoms().iter().filter_map(Atom::as_uuid));
            }
        }
        let leaves = self.rows.keys().filter(|(table, _)| table == "Leaf").map(|(_, uuid)| *uuid);
        let leaves: BTreeSet<_> = leaves.collect();
        if let Some(missing) = alive.difference(&leaves).next() {
            return Err(reject(None, RejectionKind::ReferentialIntegrity, format!("no row {missing}")));
        }
        self.rows.retain(|(table, uuid), _| table == "Root" || alive.contains(uuid));
        Ok(())
    }
}

fn mutate(row: &mut Row, mutation: &Mutation) {
    let value = row.get_mut(&*mutation.column).unwrap();
    match mutation.mutator {
        Mutator::Add => {
            let number = |datum: &Datum| match datum {
                Datum::Atom(Atom::Integer(number)) => *number,
                other => panic!("{other:?} is no number"),
            };
            *value = Datum::from(number(value) + number(&mutation.value));
        }
        Mutator::Insert => {
            *value = Datum::set(value.atoms().iter().chain(mutation.value.atoms()).cloned());
        }
        Mutator::Delete => {
            let gone = mutation.value.atoms();
            *value = Datum::set(value.atoms().iter().filter(|atom| !gone.contains(atom)).cloned());
        }
    }
}
