//! What a request does to the database, how its results are read, and what a "no" of the database means for whoever asked.

use std::sync::Arc;

use uuid::Uuid;

use crate::contents::Contents;
use crate::error::{Rejection, RejectionKind};
use crate::operation::{Operation, OperationResult};

use super::catalogue::{Resource, named};
use super::refusal::{Refusal, RefusalKind, quoted};
use super::view::etag;

/// What one step of a request did to its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is new.
    Created,
    /// All of it was set.
    Replaced,
    /// Some of it was set.
    Patched,
    /// It is gone.
    Deleted,
}

/// What to answer for one step of a request, once the transaction is committed.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What it is.
    pub resource: Arc<Resource>,
    /// The row. When it was not deleted, the replica shows it.
    pub id: Uuid,
    /// What happened to it.
    pub outcome: Outcome,
    /// Name that other steps of the same request use for it.
    pub reference: Option<String>,
    /// Of a deletion: rows that go with it because nothing else holds them, by resource.
    pub takes_along: Vec<(Arc<str>, usize)>,
}

/// The operations of one request, to be sent as one transaction.
#[derive(Debug, Default)]
pub struct Plan {
    /// In order. Others may be put before and after them, see [`explain`](Self::explain).
    pub operations: Vec<Operation>,
    /// What each of them is for.
    pub(crate) meanings: Vec<Meaning>,
    /// One per step of the request, in its order.
    pub answers: Vec<Answer>,
    /// Rows that the request is about.
    pub(crate) subjects: Vec<Subject>,
}

/// A row that the request is about.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) resource: Arc<Resource>,
    pub(crate) id: Uuid,
    /// Place of its body in the request's.
    pub(crate) pointer: String,
    /// ETags that the client takes, if it said.
    pub(crate) if_match: IfMatch,
}

/// What an operation is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meaning {
    /// Position among the subjects.
    pub(crate) subject: usize,
    pub(crate) what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A `wait` that nobody else has the name.
    NameFree,
    /// A `wait` that the row is what was read.
    RowAsRead,
    /// A `wait` that this row, which the subject needs, is still there.
    Needed(Uuid),
    /// An insert.
    Insert,
    /// A change or deletion of exactly one row.
    ChangeOne,
    /// Takes a row out of what held it, if that is still there.
    Detach,
}

/// Which versions of a row the client is ready to change: the `If-Match` header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum IfMatch {
    /// It does not say.
    #[default]
    None,
    /// `*`: any, as long as the row exists.
    Any,
    /// These, without quotes.
    Of(Vec<String>),
}

/// Most ETags of one `If-Match`.
pub const IF_MATCH_ETAGS_MAX: usize = 16;

impl IfMatch {
    /// From the header's value. Weak ETags never match (RFC 9110 section 13.1.1), so they are refused.
    pub fn parse(header: &str) -> Result<Self, Refusal> {
        let header = header.trim();
        if header == "*" {
            return Ok(Self::Any);
        }
        let malformed = || {
            let detail =
                "If-Match must be * or up to 16 strong ETags in quotes, as the ETag header gives them";
            Refusal::new(RefusalKind::Malformed, "invalid_if_match", detail)
        };
        let etag = |text: &str| {
            let inner = text.trim().strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            inner
                .filter(|inner| !inner.is_empty() && !inner.contains('"'))
                .map(str::to_owned)
                .ok_or_else(malformed)
        };
        let etags =
            header.split(',').take(IF_MATCH_ETAGS_MAX + 1).map(etag).collect::<Result<Vec<_>, _>>()?;
        if etags.len() > IF_MATCH_ETAGS_MAX { Err(malformed()) } else { Ok(Self::Of(etags)) }
    }

    /// Whether this version is one of them.
    #[must_use]
    pub fn takes(&self, etag: &str) -> bool {
        match self {
            Self::None | Self::Any => true,
            Self::Of(etags) => etags.iter().any(|taken| taken == etag),
        }
    }
}

pub(crate) fn stale(resource: &Resource, current: String) -> Refusal {
    let detail = format!("the {} has changed: its ETag is now {current:?}; read it again", resource.title);
    let mut refusal = Refusal::new(RefusalKind::PreconditionFailed, "etag_mismatch", detail);
    refusal.current_etag = Some(current);
    refusal
}

impl Plan {
    /// Whether there is nothing to send: the request changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Whether the results are what the operations are for. `results` are those of [`operations`](Self::operations) only.
    ///
    /// Every change is guarded by a `wait`, so this never fails unless the server does not keep its word; then the text
    /// says which operation did not.
    pub fn verify(&self, results: &[OperationResult]) -> Result<(), String> {
        if results.len() < self.operations.len() {
            return Err(format!("{} results for {} operations", results.len(), self.operations.len()));
        }
        for (position, (meaning, result)) in self.meanings.iter().zip(results).enumerate() {
            let subject = &self.subjects[meaning.subject];
            let kept = match meaning.what {
                What::Insert => result.uuid.is_some(),
                What::ChangeOne => result.count == Some(1),
                What::NameFree | What::RowAsRead | What::Needed(_) | What::Detach => true,
            };
            if !kept {
                return Err(format!(
                    "operation {position} on {} {} did {result:?}",
                    subject.resource.table.name, subject.id
                ));
            }
        }
        Ok(())
    }

    /// Why the database refused, in the words of the request. `before` is the number of operations that were put before
    /// those of the plan; a rejection of one of these is not for here. `contents` is the replica after the rejection.
    #[must_use]
    pub fn explain(&self, rejection: &Rejection, before: usize, contents: &Contents) -> Refusal {
        let position = rejection.operation.and_then(|position| position.checked_sub(before));
        let meaning = position.and_then(|position| self.meanings.get(position));
        match (rejection.kind, meaning) {
            (RejectionKind::WaitFailed, Some(meaning)) => self.explain_wait(*meaning, contents),
            (RejectionKind::ConstraintViolation, None) => self.explain_index(rejection, contents),
            (RejectionKind::ReferentialIntegrity, _) => self.explain_references(rejection, contents),
            (RejectionKind::DuplicateUuid, _) => {
                let detail = "a row with this id exists already: the same request was committed before";
                Refusal::new(RefusalKind::Conflict, "already_created", detail)
            }
            (RejectionKind::UnknownName, _) => Refusal::new(
                RefusalKind::Unsupported,
                "unsupported_by_schema",
                format!("the OVN servers do not know this table or column: {rejection}"),
            ),
            (RejectionKind::ConstraintViolation, Some(meaning)) => {
                let subject = &self.subjects[meaning.subject];
                Refusal::new(RefusalKind::Invalid, "invalid", format!("OVN refuses a value: {rejection}"))
                    .at(subject.pointer.clone())
            }
            _ => Refusal::new(RefusalKind::Database, "ovn_rejected", format!("OVN refuses: {rejection}")),
        }
    }

    fn explain_wait(&self, meaning: Meaning, contents: &Contents) -> Refusal {
        let subject = &self.subjects[meaning.subject];
        let (resource, table) = (&subject.resource, &subject.resource.table.name);
        match meaning.what {
            What::NameFree => {
                let detail = format!("another {} has this name", resource.title);
                Refusal::new(RefusalKind::Conflict, "duplicate_name", detail)
                    .at(format!("{}/name", subject.pointer))
            }
            What::Needed(needed) => {
                let detail = format!("{needed}, which the {} needs, no longer exists", resource.title);
                Refusal::new(RefusalKind::Conflict, "reference_gone", detail).at(subject.pointer.clone())
            }
            What::RowAsRead | What::Insert | What::ChangeOne | What::Detach => match contents
                .row(table, subject.id)
            {
                None => Refusal::not_found(&resource.title, &subject.id.to_string()),
                Some(row) => {
                    let current = etag(resource, row);
                    if subject.if_match.takes(&current) {
                        let detail =
                            format!("the {} changed while this request was made: try again", resource.title);
                        Refusal::new(RefusalKind::Changed, "changed_meanwhile", detail)
                    } else {
                        stale(resource, current)
                    }
                }
            },
        }
    }

    /// `Transaction causes multiple rows in "T" table to have identical values (v) for index on column "c".  First row,
    /// with UUID X, was inserted by this transaction.  Second row, with UUID Y, existed ...`; with several columns
    /// `... on columns "c" and "d". ...`.
    fn explain_index(&self, rejection: &Rejection, contents: &Contents) -> Refusal {
        let Some((before, after)) = rejection.details.split_once("index on column") else {
            let detail = format!("OVN refuses: {rejection}");
            return Refusal::new(RefusalKind::Invalid, "invalid", detail);
        };
        let table = before.split('"').nth(1).unwrap_or_default();
        let columns = after.split(".  ").next().unwrap_or_default();
        let columns: Vec<_> = columns.split('"').skip(1).step_by(2).collect();
        let rows = uuids(after);
        let subject = self.subjects.iter().find(|subject| rows.contains(&subject.id));
        let title = subject.map_or(table, |subject| &subject.resource.title);
        let code = if columns == ["name"] { "duplicate_name" } else { "duplicate" };
        let detail = format!("another {title} has the same {}", columns.join(" and "));
        let others = rows.iter().filter(|row| self.subjects.iter().all(|subject| subject.id != **row));
        let others = others.map(|row| named(contents, table, *row)).collect();
        let refusal = Refusal::new(RefusalKind::Conflict, code, detail).with_rows(others);
        match (subject, columns.first()) {
            (Some(subject), Some(column)) => refusal.at(super::refusal::step(&subject.pointer, column)),
            _ => refusal,
        }
    }

    /// `cannot delete T row X because of 1 remaining reference(s)`, or
    /// `Table T column C row X references nonexistent row Y in table U.`
    fn explain_references(&self, rejection: &Rejection, contents: &Contents) -> Refusal {
        let rows = uuids(&rejection.details);
        let subject = self.subjects.iter().find(|subject| rows.contains(&subject.id));
        if rejection.details.contains("cannot delete") {
            let what = subject.map_or("row", |subject| &subject.resource.title);
            let referrers = rows.first().map_or(&[][..], |row| contents.referrers(*row));
            let referrers = referrers.iter().map(|referrer| named(contents, &referrer.table, referrer.uuid));
            let detail = format!("the {what} is in use: other rows refer to it");
            return Refusal::new(RefusalKind::Conflict, "in_use", detail).with_rows(referrers.collect());
        }
        let mut words = rejection.details.split_ascii_whitespace();
        let column = words.find(|word| *word == "column").and_then(|_| words.next()).unwrap_or_default();
        let missing = rows.last().map_or_else(|| quoted(&rejection.details), ToString::to_string);
        let detail = format!("{column} refers to {missing}, which no longer exists");
        let refusal = Refusal::new(RefusalKind::Conflict, "reference_gone", detail);
        match subject {
            Some(subject) => refusal.at(super::refusal::step(&subject.pointer, column)),
            None => refusal,
        }
    }
}

/// Every uuid in a text.
fn uuids(text: &str) -> Vec<Uuid> {
    let words = text.split(|character: char| !character.is_ascii_hexdigit() && character != '-');
    words.filter(|word| word.len() == 36).filter_map(|word| word.parse().ok()).collect()
}
