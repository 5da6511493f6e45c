//! When a run was decided: the shortest beginning of its history in which the same check already fails.

use std::time::Duration;

use crate::checker::{self, PlanFacts, Results, Verdict};
use crate::history::History;

/// What found it, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detection {
    /// The check.
    pub check: String,
    /// What it found there first.
    pub finding: String,
    /// Time of the last event without which it would not have been found.
    pub after: Duration,
}

/// The detection in a history whose results are these; none where nothing failed.
///
/// A check that failed stays failed however the history goes on, so the beginning is found by halving. That is
/// exact for what was seen to be wrong at once, and the end of the run for what is judged at its end.
pub fn detect(facts: &PlanFacts, history: &History, results: &Results) -> Option<Detection> {
    let failed = results.checks.iter().find(|check| check.verdict == Verdict::Fail)?;
    let findings = |events: usize| {
        let beginning = History { events: history.events[..events].to_vec() };
        let results = checker::check(facts, &beginning);
        let check = results.checks.into_iter().find(|check| check.name == failed.name)?;
        (check.verdict == Verdict::Fail).then_some(check.findings)
    };
    let (mut passes, mut enough, mut first) = (0, history.events.len(), failed.findings.clone());
    // What the finding names is often enough, and every look at less of the history is faster.
    let named = failed.findings.iter().filter_map(|finding| finding.events.iter().max()).min();
    let named = named.and_then(|last| usize::try_from(*last + 1).ok()).filter(|named| *named < enough);
    if let Some(named) = named
        && let Some(findings) = findings(named)
    {
        (enough, first) = (named, findings);
    }
    while enough - passes > 1 {
        let middle = passes.midpoint(enough);
        match findings(middle) {
            Some(findings) => (enough, first) = (middle, findings),
            None => passes = middle,
        }
    }
    let last = enough.checked_sub(1).and_then(|last| history.events.get(last));
    Some(Detection {
        check: failed.name.clone(),
        finding: first.first().map(|finding| finding.text.clone()).unwrap_or_default(),
        after: Duration::from_nanos(last.map_or(0, |event| event.time_ns)),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::history::{Invocation, Kind, Recorder};

    /// Registers that are written and read one after the other; from `stale` on reads return the first value.
    fn history(operations: u64, stale: u64) -> History {
        let recorder = Recorder::new(None).unwrap();
        let process = recorder.new_process();
        for number in 1..=operations {
            let invocation = |f: &str| Invocation {
                process,
                f: f.to_owned(),
                key: Some("r0".to_owned()),
                node: Some("n1".to_owned()),
            };
            let written = json!({ "value": number, "revision": number });
            recorder.invoke(&invocation("write"), json!({ "value": number }));
            recorder.complete(&invocation("write"), Kind::Ok, written.clone(), None);
            recorder.invoke(&invocation("read"), json!(null));
            let seen = if number < stale { written } else { json!({ "value": 1, "revision": 1 }) };
            recorder.complete(&invocation("read"), Kind::Ok, seen, None);
        }
        let mut history = recorder.history().unwrap();
        history.events.iter_mut().for_each(|event| event.time_ns = event.index * 1_000_000);
        history
    }

    fn facts() -> PlanFacts {
        PlanFacts { workload: "register".to_owned(), time: Duration::from_secs(1), ..PlanFacts::default() }
    }

    #[test]
    fn the_event_that_gave_it_away_is_found() {
        let history = history(60, 40);
        let results = checker::check(&facts(), &history);
        let found = detect(&facts(), &history, &results).unwrap();
        // The completion of the fortieth read: four events per pair, counted from 0.
        assert_eq!(found.after, Duration::from_millis(40 * 4 - 1), "{found:?}");
        assert!(!found.finding.is_empty());
    }

    #[test]
    fn nothing_is_found_in_a_good_history() {
        let history = history(60, 61);
        let results = checker::check(&facts(), &history);
        assert_eq!(detect(&facts(), &history, &results), None);
    }
}
