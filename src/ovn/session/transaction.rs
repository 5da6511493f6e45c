//! A transaction on its way: as text for the server, and its answer as results.

use bytes::Bytes;
use serde_json::Value as Json;
use tokio::sync::oneshot;

use crate::error::{Rejection, RejectionKind, TransactError};
use crate::operation::{Operation, OperationResult};
use crate::wire::message::Answer;

/// Most operations of one transaction.
pub const OPERATIONS_MAX: usize = 100_000;
/// Largest transaction, as text.
pub const TRANSACTION_BYTES_MAX: usize = 64 << 20;

/// How a transaction ended for the session that was to send it.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The server has answered.
    Answered(Answer),
    /// It was not sent.
    NotSent(String),
    /// It was sent, and no answer came.
    Unanswered(String),
}

/// A transaction that waits for its turn, or for its answer.
#[derive(Debug)]
pub(crate) struct Transaction {
    /// Parameters of the call.
    pub(crate) params: Bytes,
    pub(crate) ended: oneshot::Sender<Ended>,
}

/// The parameters of `transact`.
pub(crate) fn encode(database: &str, operations: &[Operation]) -> Result<Bytes, TransactError> {
    if operations.len() > OPERATIONS_MAX {
        return Err(TransactError::TooLarge { limit: "operations", max: OPERATIONS_MAX });
    }
    let mut text = Vec::with_capacity(64 + 256 * operations.len());
    text.push(b'[');
    text.extend_from_slice(Json::from(database).to_string().as_bytes());
    for operation in operations {
        text.push(b',');
        text.extend_from_slice(operation.to_wire().to_string().as_bytes());
        if text.len() > TRANSACTION_BYTES_MAX {
            return Err(TransactError::TooLarge { limit: "transaction_bytes", max: TRANSACTION_BYTES_MAX });
        }
    }
    text.push(b']');
    Ok(text.into())
}

/// What an answer to a transaction of `operations` operations says.
pub(crate) fn decode(answer: &Answer, operations: usize) -> Result<Vec<OperationResult>, TransactError> {
    let unreadable =
        || TransactError::OutcomeUnknown { reason: "the server's answer cannot be read".to_owned() };
    let results = match answer {
        // The call as a whole is refused, so nothing of it was done.
        Answer::Error(error) => {
            let error: Json = serde_json::from_slice(error).map_err(|_| unreadable())?;
            return Err(rejection(None, &error).into());
        }
        Answer::Result(results) => serde_json::from_slice::<Vec<Json>>(results).map_err(|_| unreadable())?,
    };
    // One result for each operation, null behind one that failed; one more result when the commit failed.
    if let Some(failed) = results.iter().position(|result| result.get("error").is_some()) {
        let operation = Some(failed).filter(|failed| *failed < operations);
        return Err(rejection(operation, &results[failed]).into());
    }
    if results.len() != operations || results.iter().any(Json::is_null) {
        return Err(unreadable());
    }
    Ok(results.iter().map(OperationResult::from_wire).collect())
}

fn rejection(operation: Option<usize>, error: &Json) -> Rejection {
    let word = error["error"].as_str().or_else(|| error.as_str()).unwrap_or("unknown error").to_owned();
    let details = error["details"].as_str().unwrap_or_default().to_owned();
    Rejection { operation, kind: RejectionKind::from_wire(&word), error: word, details }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(text: &'static str) -> Answer {
        Answer::Result(Bytes::from_static(text.as_bytes()))
    }

    fn rejected(answer: &Answer, operations: usize) -> Rejection {
        match decode(answer, operations) {
            Err(TransactError::Rejected(rejection)) => rejection,
            other => panic!("a rejection, not {other:?}"),
        }
    }

    #[test]
    fn each_operation_has_its_result() {
        let answer = result(r#"[{"uuid":["uuid","11111111-1111-4111-8111-111111111112"]},{"count":2},{}]"#);
        let results = decode(&answer, 3).unwrap();
        assert_eq!((results[0].uuid.is_some(), results[1].count, results.len()), (true, Some(2), 3));
        assert_eq!(decode(&result("[]"), 0), Ok(Vec::new()));
    }

    #[test]
    fn a_failure_names_its_operation_or_the_commit() {
        let answer = result(r#"[{},{"error":"timed out","details":"x"},null]"#);
        let failed = rejected(&answer, 3);
        assert_eq!((failed.operation, failed.kind), (Some(1), RejectionKind::WaitFailed));
        let answer = result(r#"[{},{},{"error":"referential integrity violation","details":"no row"}]"#);
        let failed = rejected(&answer, 2);
        assert_eq!((failed.operation, failed.kind), (None, RejectionKind::ReferentialIntegrity));
        assert_eq!(failed.details, "no row");
        let answer = Answer::Error(Bytes::from_static(br#"{"error":"unknown database","details":"N"}"#));
        assert_eq!(rejected(&answer, 2).error, "unknown database");
        let answer = Answer::Error(Bytes::from_static(b"\"unknown method\""));
        assert_eq!(rejected(&answer, 2).error, "unknown method");
    }

    #[test]
    fn an_answer_that_says_nothing_leaves_the_outcome_open() {
        for text in ["[{}]", "[{},{},{}]", "[{},null]", "{}", "null"] {
            let decoded = decode(&result(text), 2);
            assert!(matches!(decoded, Err(TransactError::OutcomeUnknown { .. })), "{text}: {decoded:?}");
        }
    }

    #[test]
    fn a_transaction_has_a_largest_size() {
        let comment = Operation::Comment("x".repeat(TRANSACTION_BYTES_MAX / 2));
        let limit = |operations: &[Operation]| match encode("N", operations) {
            Err(TransactError::TooLarge { limit, .. }) => Some(limit),
            _ => None,
        };
        assert_eq!(limit(std::slice::from_ref(&comment)), None);
        assert_eq!(limit(&[comment.clone(), comment]), Some("transaction_bytes"));
        assert_eq!(limit(&vec![Operation::Comment(String::new()); OPERATIONS_MAX + 1]), Some("operations"));
    }
}
