//! Why a request is refused: what is wrong, where, and what to do about it.

use std::fmt;

use uuid::Uuid;

/// Most problems that one refusal lists. The rest is counted, not listed.
pub const PROBLEMS_MAX: usize = 64;

/// Most characters of a value or name that a problem repeats.
pub const QUOTED_CHARS_MAX: usize = 80;

/// One thing that is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Where in the body, as a JSON pointer (RFC 6901); empty for the body as a whole. For what does not stand in the
    /// body, such as a parameter of the query, its name.
    pub pointer: String,
    /// What is wrong and what would be right, as a sentence about that place.
    pub problem: String,
    /// Stable word for it, in snake case.
    pub code: &'static str,
}

/// What kind of answer a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The request is not understood at all.
    Malformed,
    /// Well formed, but with impossible values.
    Invalid,
    /// The thing itself does not exist.
    NotFound,
    /// The state of the network forbids it.
    Conflict,
    /// The row is no longer what `If-Match` says.
    PreconditionFailed,
    /// Larger than what is taken.
    TooLarge,
    /// The server's schema has no such thing.
    Unsupported,
    /// What the plan was made from has changed since: a new plan, made after a barrier, may succeed.
    Changed,
    /// The database refused for a reason of its own.
    Database,
}

/// A request is refused; nothing happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Kind of answer.
    pub kind: RefusalKind,
    /// Stable word for it, in snake case.
    pub code: &'static str,
    /// A sentence for people.
    pub detail: String,
    /// What is wrong with the body, place by place.
    pub problems: Vec<Invalid>,
    /// Problems beyond those listed.
    pub problems_left_out: u32,
    /// Rows that stand in the way: who refers to it, or who has the name.
    pub rows: Vec<Named>,
    /// The ETag that the row has now, where `If-Match` did not hold.
    pub current_etag: Option<String>,
}

/// A row, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its table.
    pub table: String,
    /// Its column that is meant, if one is.
    pub column: Option<String>,
    /// The row.
    pub id: Uuid,
    /// Its name, if it has one.
    pub name: Option<String>,
}

impl fmt::Display for Named {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.table, self.id)?;
        if let Some(name) = &self.name {
            write!(out, " ({})", quoted(name))?;
        }
        Ok(())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.detail)
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    /// Of this kind, without places.
    #[must_use]
    pub fn new(kind: RefusalKind, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind,
            code,
            detail: detail.into(),
            problems: Vec::new(),
            problems_left_out: 0,
            rows: Vec::new(),
            current_etag: None,
        }
    }

    pub(crate) fn not_found(what: &str, id: &str) -> Self {
        Self::new(RefusalKind::NotFound, "not_found", format!("there is no {what} {}", quoted(id)))
    }

    pub(crate) fn too_large(limit: &'static str, max: usize) -> Self {
        Self::new(RefusalKind::TooLarge, "too_large", format!("{limit} is {max}: send less at once"))
    }

    pub(crate) fn with_rows(mut self, rows: Vec<Named>) -> Self {
        self.rows = rows;
        self
    }

    pub(crate) fn at(mut self, pointer: impl Into<String>) -> Self {
        let (problem, code) = (self.detail.clone(), self.code);
        self.problems.push(Invalid { pointer: pointer.into(), problem, code });
        self
    }
}

/// Collects what is wrong with one request, bounded.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    listed: Vec<Invalid>,
    left_out: u32,
    /// A refusal that says more than a place could, such as a conflict. The first one is the answer.
    refusal: Option<Refusal>,
}

impl Problems {
    pub(crate) fn add(&mut self, pointer: impl Into<String>, code: &'static str, problem: impl Into<String>) {
        if self.listed.len() < PROBLEMS_MAX {
            self.listed.push(Invalid { pointer: pointer.into(), problem: problem.into(), code });
        } else {
            self.left_out += 1;
        }
    }

    /// Notes a refusal and where it belongs. If nothing is wrong with the values themselves, it is the answer.
    pub(crate) fn refuse(&mut self, refusal: Refusal, pointer: impl Into<String>) {
        self.add(pointer, refusal.code, refusal.detail.clone());
        self.refusal.get_or_insert(refusal);
    }

    pub(crate) fn count(&self) -> usize {
        self.listed.len() + self.left_out as usize
    }

    /// The refusal, if anything is wrong.
    pub(crate) fn finish(self) -> Result<(), Refusal> {
        let Some(first) = self.listed.first() else { return Ok(()) };
        let place = if first.pointer.is_empty() { "the body" } else { &first.pointer };
        let count = self.listed.len() + self.left_out as usize;
        let more = match count {
            1 => String::new(),
            count => format!(" (and {} more)", count - 1),
        };
        let detail = format!("{place} {}{more}", first.problem);
        let same = |refusal: &Refusal| self.listed.iter().all(|listed| listed.code == refusal.code);
        let mut refusal = match self.refusal {
            // A conflict is the answer only if it is the only kind of problem: values come first.
            Some(refusal) if same(&refusal) => refusal,
            _ => Refusal::new(RefusalKind::Invalid, "invalid", ""),
        };
        if refusal.detail.is_empty() || count > 1 {
            refusal.detail = detail;
        }
        refusal.problems = self.listed;
        refusal.problems_left_out = self.left_out;
        Err(refusal)
    }
}

/// As people quote it, cut short.
pub(crate) fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS_MAX) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// This pointer and one more step.
pub(crate) fn step(pointer: &str, key: &str) -> String {
    format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_bounded() {
        let mut problems = Problems::default();
        for number in 0..PROBLEMS_MAX + 10 {
            problems.add(format!("/{number}"), "wrong_type", "must be a string");
        }
        let refusal = problems.finish().unwrap_err();
        assert_eq!((refusal.problems.len(), refusal.problems_left_out), (PROBLEMS_MAX, 10));
        assert_eq!(refusal.detail, "/0 must be a string (and 73 more)");
    }

    #[test]
    fn values_come_before_conflicts() {
        let taken = || Refusal::new(RefusalKind::Conflict, "duplicate_name", "is taken");
        let mut problems = Problems::default();
        problems.refuse(taken(), "/name");
        assert_eq!(problems.finish().unwrap_err().kind, RefusalKind::Conflict);
        let mut problems = Problems::default();
        problems.refuse(taken(), "/name");
        problems.add("/tag", "wrong_type", "must be an integer");
        let refusal = problems.finish().unwrap_err();
        assert_eq!((refusal.kind, refusal.problems.len()), (RefusalKind::Invalid, 2));
    }

    #[test]
    fn keys_are_escaped_in_pointers() {
        assert_eq!(step("/external_ids", "a/b~c"), "/external_ids/a~1b~0c");
    }
}
