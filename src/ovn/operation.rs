//! What a transaction does (RFC 7047 section 5.2).
//!
//! Every row gets its uuid from us: an insert names it, and other operations of the same transaction refer to it like to any
//! other row. There are no named uuids, so operations of several callers can stand in one transaction as they are, and an
//! insert that is sent twice is told by [`DuplicateUuid`](crate::error::RejectionKind::DuplicateUuid).

use std::sync::Arc;

use serde_json::{Map, Value as Json, json};
use uuid::Uuid;

use crate::value::Datum;

/// Name of a table or column.
pub type Name = Arc<str>;

/// Values by column.
pub type Columns = Vec<(Name, Datum)>;

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Makes a row.
    Insert {
        /// Where.
        table: Name,
        /// Its uuid, which no row has.
        uuid: Uuid,
        /// Its values; the others have the default of their type.
        row: Columns,
    },
    /// Sets columns of the rows that match.
    Update {
        /// Where.
        table: Name,
        /// Which.
        condition: Condition,
        /// To what.
        row: Columns,
    },
    /// Changes members of sets and maps, or numbers, of the rows that match.
    Mutate {
        /// Where.
        table: Name,
        /// Which.
        condition: Condition,
        /// How.
        mutations: Vec<Mutation>,
    },
    /// Deletes the rows that match.
    Delete {
        /// Where.
        table: Name,
        /// Which.
        condition: Condition,
    },
    /// Reads rows.
    Select {
        /// Where.
        table: Name,
        /// Which.
        condition: Condition,
        /// Columns; none for all of them.
        columns: Option<Vec<Name>>,
    },
    /// Fails the transaction unless the rows that match are, in these columns, exactly `rows`, or, with
    /// [`Until::NotEqual`], unless they are something else. Never waits: it is judged at once.
    Wait {
        /// Where.
        table: Name,
        /// Which.
        condition: Condition,
        /// What of them is compared.
        columns: Vec<Name>,
        /// How.
        until: Until,
        /// With what.
        rows: Vec<Columns>,
    },
    /// Says why, in the server's log of transactions.
    Comment(String),
}

/// How a `wait` compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The rows are these.
    Equal,
    /// They are not.
    NotEqual,
}

/// Clauses that a row must all fulfil. An empty one matches every row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Condition(pub Vec<Clause>);

/// One clause of a condition.
#[derive(Clone, Debug, PartialEq)]
pub struct Clause {
    /// Column, or `_uuid`.
    pub column: Name,
    /// Comparison.
    pub function: Function,
    /// With what.
    pub value: Datum,
}

/// Comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    Greater,
    /// `>=`
    AtLeast,
    /// All these members are in it.
    Includes,
    /// None of these members is in it.
    Excludes,
}

/// A change of one column.
#[derive(Clone, Debug, PartialEq)]
pub struct Mutation {
    /// Which.
    pub column: Name,
    /// How.
    pub mutator: Mutator,
    /// With what.
    pub value: Datum,
}

/// Ways to change a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutator {
    /// Adds members; a key of a map that is there already keeps its value.
    Insert,
    /// Removes members; of a map those whose key, or key and value, are given.
    Delete,
    /// Adds to a number.
    Add,
}

impl Condition {
    /// The row of this uuid.
    #[must_use]
    pub fn uuid(uuid: Uuid) -> Self {
        Self::default().and("_uuid", Function::Equal, uuid)
    }

    /// The rows with this value.
    #[must_use]
    pub fn equal(column: impl Into<Name>, value: impl Into<Datum>) -> Self {
        Self::default().and(column, Function::Equal, value)
    }

    /// Also this clause.
    #[must_use]
    pub fn and(mut self, column: impl Into<Name>, function: Function, value: impl Into<Datum>) -> Self {
        self.0.push(Clause { column: column.into(), function, value: value.into() });
        self
    }

    fn to_wire(&self) -> Json {
        Json::Array(self.0.iter().map(Clause::to_wire).collect())
    }
}

impl Clause {
    fn to_wire(&self) -> Json {
        let function = match self.function {
            Function::Equal => "==",
            Function::NotEqual => "!=",
            Function::Less => "<",
            Function::AtMost => "<=",
            Function::Greater => ">",
            Function::AtLeast => ">=",
            Function::Includes => "includes",
            Function::Excludes => "excludes",
        };
        json!([&*self.column, function, self.value.to_wire()])
    }
}

impl Mutation {
    fn to_wire(&self) -> Json {
        let mutator = match self.mutator {
            Mutator::Insert => "insert",
            Mutator::Delete => "delete",
            Mutator::Add => "+=",
        };
        json!([&*self.column, mutator, self.value.to_wire()])
    }
}

fn row_to_wire(row: &Columns) -> Json {
    Json::Object(row.iter().map(|(name, value)| (name.to_string(), value.to_wire())).collect::<Map<_, _>>())
}

impl Operation {
    /// Fails the transaction when a row of `table` has this value in `column` already. For names that the
    /// schema does not keep unique.
    #[must_use]
    pub fn wait_absent(table: impl Into<Name>, column: &str, value: impl Into<Datum>) -> Self {
        Self::Wait {
            table: table.into(),
            condition: Condition::equal(column, value),
            columns: vec!["_uuid".into()],
            until: Until::Equal,
            rows: Vec::new(),
        }
    }

    /// Fails the transaction unless exactly the row of this uuid fulfils the condition, which must name it.
    #[must_use]
    pub fn wait_present(table: impl Into<Name>, uuid: Uuid, condition: Condition) -> Self {
        Self::Wait {
            table: table.into(),
            condition,
            columns: vec!["_uuid".into()],
            until: Until::Equal,
            rows: vec![vec![("_uuid".into(), uuid.into())]],
        }
    }

    /// As the server takes it.
    #[must_use]
    pub fn to_wire(&self) -> Json {
        match self {
            Self::Insert { table, uuid, row } => {
                json!({"op": "insert", "table": &**table, "uuid": uuid.to_string(), "row": row_to_wire(row)})
            }
            Self::Update { table, condition, row } => {
                json!({"op": "update", "table": &**table, "where": condition.to_wire(), "row": row_to_wire(row)})
            }
            Self::Mutate { table, condition, mutations } => {
                let mutations: Vec<_> = mutations.iter().map(Mutation::to_wire).collect();
                json!({"op": "mutate", "table": &**table, "where": condition.to_wire(), "mutations": mutations})
            }
            Self::Delete { table, condition } => {
                json!({"op": "delete", "table": &**table, "where": condition.to_wire()})
            }
            Self::Select { table, condition, columns } => {
                let mut select = json!({"op": "select", "table": &**table, "where": condition.to_wire()});
                if let Some(columns) = columns {
                    select["columns"] = columns.iter().map(|column| &**column).collect();
                }
                select
            }
            Self::Wait { table, condition, columns, until, rows } => {
                let until = match until {
                    Until::Equal => "==",
                    Until::NotEqual => "!=",
                };
                let columns: Vec<_> = columns.iter().map(|column| &**column).collect();
                let rows: Vec<_> = rows.iter().map(row_to_wire).collect();
                json!({"op": "wait", "timeout": 0, "table": &**table, "where": condition.to_wire(),
                    "columns": columns, "until": until, "rows": rows})
            }
            Self::Comment(comment) => json!({"op": "comment", "comment": comment}),
        }
    }
}

/// What one operation did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OperationResult {
    /// Row that an insert made.
    pub uuid: Option<Uuid>,
    /// Rows that an update, mutate or delete met.
    pub count: Option<u64>,
    /// Rows that a select read, in wire form.
    pub rows: Option<Vec<Json>>,
}

impl OperationResult {
    /// From the server.
    #[must_use]
    pub fn from_wire(result: &Json) -> Self {
        Self {
            uuid: result["uuid"].get(1).and_then(Json::as_str).and_then(|uuid| uuid.parse().ok()),
            count: result["count"].as_u64(),
            rows: result["rows"].as_array().cloned(),
        }
    }
}
