//! Why a transaction did not happen, or may have.

use std::fmt;

/// Why there is no result. Only [`OutcomeUnknown`](Self::OutcomeUnknown) leaves it open whether anything was committed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransactError {
    /// The database is out of reach and the transaction was not sent.
    #[error("OVN database unavailable: {reason}")]
    Unavailable {
        /// What keeps it away.
        reason: String,
    },
    /// It was sent and its answer is lost: it may have been committed, or still be.
    #[error("outcome unknown: {reason}")]
    OutcomeUnknown {
        /// What happened to the answer.
        reason: String,
    },
    /// The database says no; nothing was committed.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// It is larger than this client sends.
    #[error("the transaction exceeds {limit} of {max}")]
    TooLarge {
        /// Name of the bound in snake case.
        limit: &'static str,
        /// Its value.
        max: usize,
    },
    /// More transactions wait than this client keeps.
    #[error("{max} transactions wait already")]
    QueueFull {
        /// The bound.
        max: usize,
    },
}

/// The database's "no".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Rejection {
    /// Which of the caller's operations failed; none when it was the commit of all of them.
    pub operation: Option<usize>,
    /// What kind of error it is.
    pub kind: RejectionKind,
    /// The database's word for it.
    pub error: String,
    /// The database's sentence about it, perhaps empty.
    pub details: String,
}

impl fmt::Display for Rejection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.error)?;
        if !self.details.is_empty() {
            write!(out, ": {}", self.details)?;
        }
        match self.operation {
            Some(operation) => write!(out, " (operation {operation})"),
            None => Ok(()),
        }
    }
}

/// Kinds of rejections, RFC 7047 section 4.1.3 and 5.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectionKind {
    /// A value out of its range, too many or too few of them, or an index that is not unique.
    ConstraintViolation,
    /// A reference to a row that does not exist, or a row that is deleted and still referred to.
    ReferentialIntegrity,
    /// An insert with the uuid of a row that exists.
    DuplicateUuid,
    /// The condition of a `wait` did not hold.
    WaitFailed,
    /// No such column or table in the schema of this server.
    UnknownName,
    /// The server does not understand the operation.
    Syntax,
    /// A mutation has no result.
    Arithmetic,
    /// The server has no room, or its disk failed.
    Resources,
    /// This member does not lead. Nothing happened; another member may take it.
    NotLeader,
    /// This client may not do that.
    Permission,
    /// Anything else.
    Other,
}

impl RejectionKind {
    /// From the `error` member of a result.
    #[must_use]
    pub fn from_wire(error: &str) -> Self {
        match error {
            "constraint violation" => Self::ConstraintViolation,
            "referential integrity violation" => Self::ReferentialIntegrity,
            "duplicate uuid" => Self::DuplicateUuid,
            "timed out" => Self::WaitFailed,
            "unknown column" | "unknown table" => Self::UnknownName,
            "syntax error" | "duplicate uuid name" | "type error" => Self::Syntax,
            "domain error" | "range error" => Self::Arithmetic,
            "resources exhausted" | "I/O error" => Self::Resources,
            "not leader" | "cluster error" => Self::NotLeader,
            "permission error" => Self::Permission,
            _ => Self::Other,
        }
    }
}
