//! Shows what is going on: one line that moves at a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Plan;
use crate::history::{Event, Kind, Process, Recorder};
use crate::nemesis::conductor::Score;

/// Between two looks at a terminal.
const TERMINAL_PERIOD: Duration = Duration::from_millis(500);
/// Between two lines elsewhere.
const LINE_PERIOD: Duration = Duration::from_secs(10);

/// The display; see [`Shown::end`].
pub(super) struct Shown {
    task: JoinHandle<()>,
    bar: ProgressBar,
}

impl Shown {
    /// Takes the moving line away.
    pub(super) fn end(self) {
        self.task.abort();
        self.bar.finish_and_clear();
    }
}

/// Outcomes counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    /// Events that were looked at.
    seen: usize,
    ok: u64,
    fail: u64,
    info: u64,
}

impl Counts {
    fn go_on(&mut self, events: &[Event]) {
        for event in &events[self.seen..] {
            if event.process == Process::Nemesis || event.f == "leader" {
                continue;
            }
            match event.kind {
                Kind::Invoke => {}
                Kind::Ok => self.ok += 1,
                Kind::Fail => self.fail += 1,
                Kind::Info => self.info += 1,
            }
        }
        self.seen = events.len();
    }

    fn done(&self) -> u64 {
        self.ok + self.fail + self.info
    }
}

/// Begins to show a run.
pub(super) fn show(plan: &Plan, recorder: Recorder, score: Arc<Score>) -> Shown {
    let terminal = std::io::stderr().is_terminal();
    let bar = if terminal { ProgressBar::new(plan.time.as_secs()) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{bar:24} {msg}") {
        bar.set_style(style);
    }
    let (time, drawn) = (plan.time, bar.clone());
    let task = tokio::spawn(async move {
        let period = if terminal { TERMINAL_PERIOD } else { LINE_PERIOD };
        let (start, mut counts) = (Instant::now(), Counts::default());
        let mut ticks = tokio::time::interval_at(start + period, period);
        loop {
            ticks.tick().await;
            let before = counts;
            recorder.with_events(|events| counts.go_on(events));
            let rate = (counts.done() - before.done()) as f64 / period.as_secs_f64();
            let left = time.saturating_sub(start.elapsed());
            let line = line(left, rate, &counts, &score);
            if terminal {
                drawn.set_position(start.elapsed().as_secs().min(time.as_secs()));
                drawn.set_message(line);
            } else {
                eprintln!("{line}");
            }
        }
    });
    Shown { task, bar }
}

fn line(left: Duration, rate: f64, counts: &Counts, score: &Score) -> String {
    let active = score.active.borrow();
    let faults = score.made.load(Ordering::Relaxed);
    let now = if active.is_empty() { String::new() } else { format!(", now {}", active.join(" ")) };
    format!(
        "{:>4} s left  {rate:>5.0} op/s  ok {} fail {} unknown {}  faults {faults}{now}",
        left.as_secs(),
        counts.ok,
        counts.fail,
        counts.info
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::history::Invocation;

    #[test]
    fn outcomes_of_clients_are_counted_once() {
        let recorder = Recorder::new(None).unwrap();
        let mut counts = Counts::default();
        for (f, kind) in
            [("read", Kind::Ok), ("write", Kind::Info), ("leader", Kind::Ok), ("cas", Kind::Fail)]
        {
            let process = recorder.new_process();
            let invocation = Invocation { process, f: f.to_owned(), key: None, node: None };
            recorder.invoke(&invocation, json!(null));
            recorder.complete(&invocation, kind, json!(null), None);
            recorder.with_events(|events| counts.go_on(events));
        }
        assert_eq!((counts.ok, counts.fail, counts.info, counts.seen), (1, 1, 1, 8));
        let score = Score::default();
        score.made.store(2, Ordering::Relaxed);
        score.active.send_replace(vec!["pause".to_owned(), "loss".to_owned()]);
        let line = line(Duration::from_secs(61), 12.4, &counts, &score);
        assert_eq!(line, "  61 s left     12 op/s  ok 1 fail 1 unknown 1  faults 2, now pause loss");
    }
}
