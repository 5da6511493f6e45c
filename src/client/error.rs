//! How a call can end without success.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

/// Bytes of an answer that is no problem document, as they are shown.
const SHOWN_BYTES_MAX: usize = 200;

/// Why a call did not succeed. Apart from [`Unknown`](Error::Unknown), and [`Protocol`](Error::Protocol) for an answer
/// that cannot be read, nothing happened.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The client cannot be made, or the request cannot be written as a URL.
    #[error("{0}")]
    Setup(String),
    /// No endpoint could be connected to.
    #[error("cannot reach {}", .endpoints.join("; "))]
    Unreachable {
        /// Each endpoint with the reason.
        endpoints: Vec<String>,
    },
    /// A read got no answer in time.
    #[error("no answer in time from {last}")]
    Timeout {
        /// The endpoint that was asked last, and what became of it.
        last: String,
    },
    /// A write got no definite answer in time. **It may have happened and may still happen.** Read the state,
    /// or send the same request with the same key again.
    #[error("the outcome is unknown ({last})")]
    Unknown {
        /// Idempotency key of the write.
        idempotency_key: Option<String>,
        /// What the last try met.
        last: String,
        /// The last answer, if there was one.
        problem: Option<Box<Problem>>,
    },
    /// Fewer than a majority of the voters can be reached.
    #[error("{0}")]
    NoLeader(Box<Problem>),
    /// Every endpoint is overloaded, stopping, lagging or broken.
    #[error("{0}")]
    Unavailable(Box<Problem>),
    /// Somebody else holds the lock, and the request did not wait.
    #[error("{problem}")]
    LockHeld {
        /// Who is in the way, if anybody holds it.
        holder: Option<Holder>,
        /// How many wait.
        queue_length: u64,
        /// As the server said it.
        problem: Box<Problem>,
    },
    /// The lock was not free in time.
    #[error("{problem}")]
    LockTimeout {
        /// Who is in the way, if anybody holds it.
        holder: Option<Holder>,
        /// How many wait.
        queue_length: u64,
        /// As the server said it.
        problem: Box<Problem>,
    },
    /// Somebody else leads, and the campaign did not wait.
    #[error("{problem}")]
    ElectionHeld {
        /// Who leads, if anybody does: the candidate is its owner.
        leader: Option<Holder>,
        /// How many wait.
        queue_length: u64,
        /// As the server said it.
        problem: Box<Problem>,
    },
    /// The election was not won in time.
    #[error("{problem}")]
    ElectionTimeout {
        /// Who leads, if anybody does: the candidate is its owner.
        leader: Option<Holder>,
        /// How many wait.
        queue_length: u64,
        /// As the server said it.
        problem: Box<Problem>,
    },
    /// The lock, or the term, was granted to this request and has been lost since.
    #[error("{0}")]
    LockLost(Box<Problem>),
    /// The secret is not that of a holder or leader: the lock (the term) was given back, it expired, or it is
    /// another's.
    #[error("{0}")]
    NotHolder(Box<Problem>),
    /// A fencing token is older than one that was seen.
    #[error("{0}")]
    Fenced(Box<Problem>),
    /// The register has another revision than asked.
    #[error("{problem}")]
    RevisionMismatch {
        /// Its revision; absent when it does not exist.
        current: Option<u64>,
        /// As the server said it.
        problem: Box<Problem>,
    },
    /// A named limit is reached.
    #[error("{problem}")]
    Limit {
        /// Its name.
        limit: String,
        /// Its value.
        max: Option<u64>,
        /// As the server said it.
        problem: Box<Problem>,
    },
    /// There is no such thing.
    #[error("{0}")]
    NotFound(Box<Problem>),
    /// The call needs the administrator's token.
    #[error("{0}")]
    Denied(Box<Problem>),
    /// The request can never be right.
    #[error("{0}")]
    Invalid(Box<Problem>),
    /// The state of the cluster does not allow it, for a reason that has no variant of its own.
    #[error("{0}")]
    Refused(Box<Problem>),
    /// The answer is none that an ovncp node gives.
    #[error("{0}")]
    Protocol(String),
}

/// What the server said (RFC 9457).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Problem {
    /// Status code.
    #[serde(default)]
    pub status: u16,
    /// Stable name of what is wrong; empty when the answer is no problem document.
    #[serde(default)]
    pub code: String,
    /// What is wrong, for people.
    #[serde(default)]
    pub title: String,
    /// What is wrong here, for people.
    #[serde(default)]
    pub detail: String,
    /// Identity of the request, for the logs of the node.
    #[serde(default)]
    pub request_id: String,
    /// Fields of the case.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

/// Who is in the way of a lock or of a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Who.
    pub owner: String,
    /// Token of its grant.
    pub fencing_token: u64,
    /// What remained of its lease.
    pub ttl: Duration,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words = if self.detail.is_empty() { &self.title } else { &self.detail };
        match (words.is_empty(), self.code.is_empty()) {
            (true, _) => write!(f, "the node answered {}", self.status),
            (false, true) => write!(f, "{words} ({})", self.status),
            (false, false) => write!(f, "{words} ({})", self.code),
        }
    }
}

impl Problem {
    /// From any answer: what is no problem document still has its status and the beginning of its words.
    pub(super) fn read(status: u16, body: &[u8]) -> Self {
        let read = serde_json::from_slice::<Problem>(body).ok();
        let mut problem = read.unwrap_or_else(|| {
            let shown = &body[..body.len().min(SHOWN_BYTES_MAX)];
            Problem { detail: String::from_utf8_lossy(shown).trim().to_owned(), ..Problem::default() }
        });
        // The status line counts, not what a proxy may have left of the body.
        problem.status = status;
        problem
    }

    fn text(&self, field: &str) -> Option<&str> {
        self.fields.get(field)?.as_str()
    }

    /// u64 values travel as decimal strings; plain numbers are taken too.
    fn number(&self, field: &str) -> Option<u64> {
        let value = self.fields.get(field)?;
        value.as_u64().or_else(|| value.as_str()?.parse().ok())
    }

    fn holder(&self) -> Option<Holder> {
        self.who("holder", "owner")
    }

    fn leader(&self) -> Option<Holder> {
        self.who("leader", "candidate")
    }

    fn who(&self, field: &str, name: &str) -> Option<Holder> {
        let holder = self.fields.get(field)?;
        Some(Holder {
            owner: holder.get(name)?.as_str()?.to_owned(),
            fencing_token: holder.get("fencing_token").and_then(Value::as_str)?.parse().ok()?,
            ttl: Duration::from_millis(holder.get("ttl_ms")?.as_u64()?),
        })
    }

    /// Says "not here" or "not now": the next endpoint is asked.
    pub(super) fn is_transient(&self) -> bool {
        match self.status {
            // A reached limit is the state's answer; a full queue is one node's.
            429 => self.code != "limit_exceeded",
            // Any 5xx: a defect or a proxy may have cut off the answer of a write that happened.
            408 | 500..=599 => true,
            _ => false,
        }
    }

    /// Says that a write may have happened. A node that stops may have handed it on before.
    pub(super) fn is_ambiguous(&self) -> bool {
        !matches!(self.code.as_str(), "no_leader" | "queue_full" | "lagging" | "request_timeout")
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        let problem = Box::new(problem);
        match (problem.code.as_str(), problem.status) {
            ("no_leader", _) => Self::NoLeader(problem),
            ("lock_held", _) => Self::LockHeld {
                holder: problem.holder(),
                queue_length: problem.number("queue_length").unwrap_or(0),
                problem,
            },
            ("lock_timeout", _) => Self::LockTimeout {
                holder: problem.holder(),
                queue_length: problem.number("queue_length").unwrap_or(0),
                problem,
            },
            ("election_held", _) => Self::ElectionHeld {
                leader: problem.leader(),
                queue_length: problem.number("queue_length").unwrap_or(0),
                problem,
            },
            ("election_timeout", _) => Self::ElectionTimeout {
                leader: problem.leader(),
                queue_length: problem.number("queue_length").unwrap_or(0),
                problem,
            },
            ("lock_lost" | "term_lost", _) => Self::LockLost(problem),
            ("not_holder" | "not_leader", _) => Self::NotHolder(problem),
            ("fenced", _) => Self::Fenced(problem),
            ("revision_mismatch", _) => {
                Self::RevisionMismatch { current: problem.number("current_revision"), problem }
            }
            ("limit_exceeded", _) => Self::Limit {
                limit: problem.text("limit").unwrap_or_default().to_owned(),
                max: problem.number("max"),
                problem,
            },
            ("", status) if status < 500 => Self::Protocol(format!("{problem}: is this an ovncp node?")),
            (_, 404) => Self::NotFound(problem),
            (_, 401 | 403) => Self::Denied(problem),
            (_, 400 | 405 | 413 | 415 | 422) => Self::Invalid(problem),
            _ if problem.is_transient() => Self::Unavailable(problem),
            _ => Self::Refused(problem),
        }
    }
}

impl Error {
    /// What the server said, where it said something.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::NoLeader(problem)
            | Self::Unavailable(problem)
            | Self::LockHeld { problem, .. }
            | Self::LockTimeout { problem, .. }
            | Self::ElectionHeld { problem, .. }
            | Self::ElectionTimeout { problem, .. }
            | Self::LockLost(problem)
            | Self::NotHolder(problem)
            | Self::Fenced(problem)
            | Self::RevisionMismatch { problem, .. }
            | Self::Limit { problem, .. }
            | Self::NotFound(problem)
            | Self::Denied(problem)
            | Self::Invalid(problem)
            | Self::Refused(problem) => Some(problem),
            Self::Unknown { problem, .. } => problem.as_deref(),
            Self::Setup(_) | Self::Unreachable { .. } | Self::Timeout { .. } | Self::Protocol(_) => None,
        }
    }

    /// The stable code of what the server said.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.problem().map(|problem| problem.code.as_str()).filter(|code| !code.is_empty())
    }

    /// Whether this proves that the caller does not hold the lock or the term that it asked about.
    pub(super) fn is_loss(&self) -> bool {
        match self {
            Self::NotHolder(_) | Self::LockLost(_) | Self::Fenced(_) => true,
            Self::NotFound(problem) => matches!(problem.code.as_str(), "unknown_lock" | "unknown_election"),
            _ => false,
        }
    }

    /// Whether one who still waits asks again.
    pub(super) fn is_not_yet(&self) -> bool {
        match self {
            Self::LockTimeout { .. }
            | Self::LockHeld { .. }
            | Self::ElectionTimeout { .. }
            | Self::ElectionHeld { .. } => true,
            // Granted to an earlier try and gone before we heard of it: as good as not granted.
            Self::LockLost(_) => true,
            // The node through which it waited was given up.
            Self::Refused(problem) => problem.code == "wait_cancelled",
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn error(status: u16, body: &Value) -> Error {
        Problem::read(status, body.to_string().as_bytes()).into()
    }

    #[test]
    fn codes_become_variants_with_their_fields() {
        let holder = json!({"owner": "a", "fencing_token": "7", "ttl_ms": 1_500});
        let held = json!({"code": "lock_held", "detail": "held", "holder": holder, "queue_length": 3});
        let Error::LockHeld { holder: Some(holder), queue_length: 3, .. } = error(409, &held) else {
            panic!("{held}");
        };
        assert_eq!((holder.owner.as_str(), holder.fencing_token), ("a", 7));
        let mismatch = error(412, &json!({"code": "revision_mismatch", "current_revision": "18"}));
        assert!(matches!(mismatch, Error::RevisionMismatch { current: Some(18), .. }));
        let absent = error(412, &json!({"code": "revision_mismatch", "current_revision": null}));
        assert!(matches!(absent, Error::RevisionMismatch { current: None, .. }));
        let limit = error(429, &json!({"code": "limit_exceeded", "limit": "waiters", "max": 10}));
        assert!(matches!(limit, Error::Limit { ref limit, max: Some(10), .. } if limit == "waiters"));
        assert!(matches!(error(409, &json!({"code": "not_holder"})), Error::NotHolder(_)));
        let leader = json!({"candidate": "a", "fencing_token": "7", "ttl_ms": 1_500});
        let led = error(409, &json!({"code": "election_held", "leader": leader, "queue_length": 3}));
        assert!(
            matches!(&led, Error::ElectionHeld { leader: Some(leader), queue_length: 3, .. }
                if leader.owner == "a"),
            "{led:?}"
        );
        assert!(matches!(error(409, &json!({"code": "not_leader"})), Error::NotHolder(_)));
        assert!(matches!(error(409, &json!({"code": "term_lost"})), Error::LockLost(_)));
        assert!(matches!(error(412, &json!({"code": "fenced"})), Error::Fenced(_)));
        assert!(matches!(error(404, &json!({"code": "unknown_key"})), Error::NotFound(_)));
        assert!(matches!(error(401, &json!({"code": "unauthorized"})), Error::Denied(_)));
        assert!(matches!(error(422, &json!({"code": "invalid_body"})), Error::Invalid(_)));
        assert!(matches!(error(409, &json!({"code": "would_lose_quorum"})), Error::Refused(_)));
        assert!(matches!(error(503, &json!({"code": "draining"})), Error::Unavailable(_)));
        assert!(matches!(error(500, &json!({"code": "internal_error"})), Error::Unavailable(_)));
    }

    #[test]
    fn what_is_no_problem_document_is_said_with_its_status() {
        let foreign = Error::from(Problem::read(404, b"<html>nothing here</html>"));
        assert!(matches!(&foreign, Error::Protocol(words) if words.contains("nothing here")), "{foreign}");
        let proxy = Problem::read(502, b"bad gateway");
        assert!(proxy.is_transient() && proxy.is_ambiguous());
        assert_eq!(proxy.to_string(), "bad gateway (502)");
        assert_eq!(Problem::read(500, b"").to_string(), "the node answered 500");
    }

    #[test]
    fn only_what_surely_did_not_happen_is_unambiguous() {
        let read = |status, code: &str| Problem::read(status, json!({"code": code}).to_string().as_bytes());
        for (status, code) in [(503, "no_leader"), (429, "queue_full"), (503, "lagging")] {
            assert!(read(status, code).is_transient() && !read(status, code).is_ambiguous(), "{code}");
        }
        for (status, code) in
            [(504, "outcome_unknown"), (503, "draining"), (503, "node_stopped"), (500, "internal_error")]
        {
            assert!(read(status, code).is_transient() && read(status, code).is_ambiguous(), "{code}");
        }
        assert!(!read(429, "limit_exceeded").is_transient(), "the state said so");
    }
}
