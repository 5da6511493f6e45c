//! Variables of the scaling guide that mean nothing here: accepted, with a word on what replaces them.

use std::collections::BTreeMap;

use super::layers::{Origin, Problem};

const SESSIONS_ARE_REPLICATED: &str = "sessions are kept in the replicated state of the nodes";
const RAFT_INSTEAD: &str =
    "the nodes coordinate through Raft themselves; list them in OVNCP_PEERS (`cluster.peers`)";

/// Names, and what replaces them. Where a value is given only that one is accepted.
const IGNORED: [(&str, Option<&str>, &str); 4] = [
    (
        "CACHE_TYPE",
        Some("redis"),
        "each node keeps its cache in its own memory and the invalidation log clears it",
    ),
    ("CACHE_KEY_PREFIX", None, "the cache of a node is its own; its keys need no prefix"),
    ("SESSION_STORE_TYPE", Some("redis"), SESSIONS_ARE_REPLICATED),
    ("SESSION_CLEANUP_INTERVAL", None, "sessions end at their deadline by themselves; SESSION_TTL sets it"),
];

/// Reports every variable that is set and does nothing.
pub(crate) fn check(
    environment: &BTreeMap<String, String>,
    warnings: &mut Vec<Problem>,
    problems: &mut Vec<Problem>,
) {
    for (name, value) in environment.iter().filter(|(_, value)| !value.is_empty()) {
        let origin = Origin::Environment(name.clone());
        if name.starts_with("REDIS_") {
            let message = format!("ignored: {RAFT_INSTEAD}");
            warnings.push(Problem { origin, path: String::new(), message });
            continue;
        }
        let Some((_, expected, replacement)) = IGNORED.iter().find(|(ignored, ..)| ignored == name) else {
            continue;
        };
        match expected {
            Some(expected) if !value.eq_ignore_ascii_case(expected) => problems.push(Problem {
                origin,
                path: String::new(),
                message: format!("`{value}` is not supported: remove it; {replacement}"),
            }),
            _ => warnings.push(Problem {
                origin,
                path: String::new(),
                message: format!("ignored: {replacement}"),
            }),
        }
    }
}
