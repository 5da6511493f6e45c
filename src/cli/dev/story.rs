//! Turns what the processes and nodes show into the few sentences that a person wants to read. Pure: events and
//! the time they were seen at go in, notices come out.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::observe::Seen;
use crate::cli::output::duration;

/// Silence of a living node before it is worth a word.
const SILENT_AFTER: Duration = Duration::from_secs(3);

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    Died { node: String, how: String, led: bool },
    Restarted { node: String, pid: u32 },
    Ready { node: String, took: Duration },
    Leader { node: String, term: u64, took: Option<Duration> },
    NoMajority { running: usize, of: usize },
    Silent { node: String },
    Answers { node: String, after: Duration },
}

/// How a notice looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Good,
    Bad,
    Neutral,
}

/// What was told so far.
#[derive(Debug)]
pub(crate) struct Story {
    nodes: Vec<Node>,
    leader: Option<(String, u64)>,
    /// Since when writes have nobody to go to.
    leaderless_since: Option<Instant>,
    /// Told, and no leader since.
    no_majority: bool,
}

#[derive(Debug)]
struct Node {
    name: String,
    /// When its process was started; `None` while it does not run.
    started: Option<Instant>,
    ready: bool,
    /// Once for each start: an election makes all nodes unready for a moment, which is told as such.
    told_ready: bool,
    reason: Option<String>,
    silent_since: Option<Instant>,
    told_silent: bool,
}

impl Story {
    /// All nodes were just started.
    pub(crate) fn new(names: impl IntoIterator<Item = String>, now: Instant) -> Story {
        let node = |name| Node {
            name,
            started: Some(now),
            ready: false,
            told_ready: false,
            reason: None,
            silent_since: None,
            told_silent: false,
        };
        Story {
            nodes: names.into_iter().map(node).collect(),
            leader: None,
            leaderless_since: Some(now),
            no_majority: false,
        }
    }

    pub(crate) fn leader(&self) -> Option<&(String, u64)> {
        self.leader.as_ref()
    }

    pub(crate) fn is_ready(&self, index: usize) -> bool {
        self.nodes[index].serves()
    }

    /// Why a node is not ready, as it says itself.
    pub(crate) fn reason(&self, index: usize) -> Option<&str> {
        self.nodes[index].reason.as_deref()
    }

    pub(crate) fn ready(&self) -> usize {
        self.nodes.iter().filter(|node| node.serves()).count()
    }

    /// Every running node is ready and there is a leader: nothing is expected to change soon.
    pub(crate) fn is_settled(&self) -> bool {
        self.leaderless_since.is_none()
            && self.nodes.iter().all(|node| node.serves() || node.started.is_none())
    }

    /// A process ended.
    pub(crate) fn died(&mut self, index: usize, how: String, now: Instant) -> Vec<Notice> {
        let node = &mut self.nodes[index];
        (node.started, node.ready, node.reason) = (None, false, None);
        (node.silent_since, node.told_silent) = (None, false);
        let name = node.name.clone();
        let led = self.leader.as_ref().is_some_and(|(leader, _)| *leader == name);
        if led {
            self.leaderless_since.get_or_insert(now);
        }
        let mut notices = vec![Notice::Died { node: name, how, led }];
        if !self.has_majority() && !self.no_majority {
            self.no_majority = true;
            self.leaderless_since.get_or_insert(now);
            notices.push(Notice::NoMajority { running: self.running(), of: self.nodes.len() });
        }
        notices
    }

    /// A process was started again.
    pub(crate) fn restarted(&mut self, index: usize, pid: u32, now: Instant) -> Notice {
        let node = &mut self.nodes[index];
        (node.started, node.told_ready) = (Some(now), false);
        Notice::Restarted { node: node.name.clone(), pid }
    }

    /// A node answered, or did not.
    pub(crate) fn seen(&mut self, seen: &Seen, now: Instant) -> Vec<Notice> {
        // An answer of a process that is known to have ended was on its way too long.
        let Some(started) = self.nodes[seen.index].started else { return Vec::new() };
        let node = &mut self.nodes[seen.index];
        let Some(answer) = &seen.answer else { return node.silence(now).into_iter().collect() };
        let mut notices: Vec<Notice> = node.speech(now).into_iter().collect();
        node.reason.clone_from(&answer.reason);
        if answer.ready && !node.told_ready {
            node.told_ready = true;
            notices.push(Notice::Ready { node: node.name.clone(), took: now - started });
        }
        node.ready = answer.ready;
        match &answer.leader {
            Some(leader) => notices.extend(self.leader_seen(leader, answer.term, now)),
            None if answer.term >= self.leader.as_ref().map_or(0, |(_, term)| *term) => {
                self.leaderless_since.get_or_insert(now);
            }
            None => {}
        }
        notices
    }

    fn leader_seen(&mut self, leader: &str, term: u64, now: Instant) -> Option<Notice> {
        let runs = self.nodes.iter().any(|node| node.name == leader && node.started.is_some());
        let known = self.leader.as_ref();
        // Others name a leader that died until they notice, and one without a majority leads nobody.
        if !runs || !self.has_majority() || known.is_some_and(|(_, known)| term < *known) {
            return None;
        }
        let same = known.is_some_and(|(name, known)| (name.as_str(), *known) == (leader, term));
        let news = !same || std::mem::take(&mut self.no_majority);
        let took = self.leaderless_since.take().map(|since| now - since);
        self.leader = Some((leader.to_owned(), term));
        self.no_majority = false;
        news.then(|| Notice::Leader { node: leader.to_owned(), term, took })
    }

    fn has_majority(&self) -> bool {
        self.running() * 2 > self.nodes.len()
    }

    fn running(&self) -> usize {
        self.nodes.iter().filter(|node| node.started.is_some()).count()
    }
}

impl Node {
    /// It said that it is ready, and has not fallen silent since.
    fn serves(&self) -> bool {
        self.ready && !self.told_silent
    }

    fn silence(&mut self, now: Instant) -> Option<Notice> {
        let since = *self.silent_since.get_or_insert(now);
        // A node that starts is not silent, it is not there yet.
        if !self.ready || self.told_silent || now - since < SILENT_AFTER {
            return None;
        }
        self.told_silent = true;
        Some(Notice::Silent { node: self.name.clone() })
    }

    fn speech(&mut self, now: Instant) -> Option<Notice> {
        let since = self.silent_since.take()?;
        let told = std::mem::take(&mut self.told_silent);
        told.then(|| Notice::Answers { node: self.name.clone(), after: now - since })
    }
}

impl Notice {
    pub(crate) fn mood(&self) -> Mood {
        match self {
            Notice::Died { .. } | Notice::NoMajority { .. } | Notice::Silent { .. } => Mood::Bad,
            Notice::Ready { .. } | Notice::Leader { .. } | Notice::Answers { .. } => Mood::Good,
            Notice::Restarted { .. } => Mood::Neutral,
        }
    }

    pub(crate) fn text(&self) -> String {
        match self {
            Notice::Died { node, how, led: true } => format!("{node} died: {how}. It was the leader"),
            Notice::Died { node, how, led: false } => format!("{node} died: {how}"),
            Notice::Restarted { node, pid } => format!("{node} restarted, pid {pid}"),
            Notice::Ready { node, took } => format!("{node} is ready, {} after its start", duration(*took)),
            Notice::Leader { node, term, took: Some(took) } => {
                format!("{node} is the leader of term {term}, elected in {}", duration(*took))
            }
            Notice::Leader { node, term, took: None } => format!("{node} is the leader of term {term}"),
            Notice::NoMajority { running, of } => format!(
                "{running} of {of} nodes run, which is no majority: writes answer 503 no_leader until another returns"
            ),
            Notice::Silent { node } => format!("{node} runs but does not answer"),
            Notice::Answers { node, after } => format!("{node} answers again, after {}", duration(*after)),
        }
    }

    pub(crate) fn json(&self) -> Value {
        let (event, mut value) = match self {
            Notice::Died { node, how, led } => ("died", json!({"node": node, "how": how, "was_leader": led})),
            Notice::Restarted { node, pid } => ("restarted", json!({"node": node, "pid": pid})),
            Notice::Ready { node, took } => ("ready", json!({"node": node, "took_ms": ms(*took)})),
            Notice::Leader { node, term, took } => {
                ("leader", json!({"node": node, "term": term, "took_ms": took.map(ms)}))
            }
            Notice::NoMajority { running, of } => ("no_majority", json!({"running": running, "of": of})),
            Notice::Silent { node } => ("silent", json!({"node": node})),
            Notice::Answers { node, after } => ("answers", json!({"node": node, "after_ms": ms(*after)})),
        };
        value["event"] = event.into();
        value
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::observe::Answer;
    use super::*;

    struct Script {
        story: Story,
        begun: Instant,
    }

    impl Script {
        fn new() -> Script {
            let begun = Instant::now();
            Script { story: Story::new((1..=3).map(|n| format!("node-{n}")), begun), begun }
        }

        fn at(&self, ms: u64) -> Instant {
            self.begun + Duration::from_millis(ms)
        }

        fn answer(&mut self, ms: u64, index: usize, leader: Option<&str>, term: u64) -> Vec<String> {
            let leads = leader.map(str::to_owned);
            let answer = Answer { ready: leads.is_some(), leader: leads, term, ..Answer::default() };
            let seen = Seen { index, answer: Some(answer) };
            self.story.seen(&seen, self.at(ms)).iter().map(Notice::text).collect()
        }

        fn silence(&mut self, ms: u64, index: usize) -> Vec<String> {
            self.story.seen(&Seen { index, answer: None }, self.at(ms)).iter().map(Notice::text).collect()
        }

        fn died(&mut self, ms: u64, index: usize) -> Vec<String> {
            let notices = self.story.died(index, "killed by SIGKILL".to_owned(), self.at(ms));
            notices.iter().map(Notice::text).collect()
        }

        fn formed() -> Script {
            let mut script = Script::new();
            for index in 0..3 {
                script.answer(500, index, Some("node-2"), 1);
            }
            assert!(script.story.is_settled());
            script
        }
    }

    #[test]
    fn formation_is_told_once() {
        let mut script = Script::new();
        assert_eq!(script.answer(300, 0, None, 0), Vec::<String>::new());
        let told = script.answer(500, 1, Some("node-2"), 1);
        let leader = "node-2 is the leader of term 1, elected in 500 ms";
        assert_eq!(told, ["node-2 is ready, 500 ms after its start", leader]);
        assert_eq!(script.answer(600, 1, Some("node-2"), 1), Vec::<String>::new());
    }

    #[test]
    fn election_is_timed_from_the_death_of_the_leader() {
        let mut script = Script::formed();
        assert_eq!(script.died(10_000, 1), ["node-2 died: killed by SIGKILL. It was the leader"]);
        // The others have not noticed yet.
        assert_eq!(script.answer(10_100, 0, Some("node-2"), 1), Vec::<String>::new());
        assert!(!script.story.is_settled());
        assert_eq!(script.answer(10_200, 0, None, 2), Vec::<String>::new());
        let told = script.answer(10_300, 2, Some("node-3"), 2);
        assert_eq!(told[told.len() - 1], "node-3 is the leader of term 2, elected in 300 ms");
        assert_eq!(told.len(), 1, "nobody became ready who was not: {told:?}");
        assert_eq!(script.answer(10_310, 0, Some("node-3"), 2), Vec::<String>::new());
    }

    #[test]
    fn planned_transfer_has_no_election_time() {
        let mut script = Script::formed();
        assert_eq!(script.answer(9_000, 0, Some("node-1"), 2), ["node-1 is the leader of term 2"]);
        // A straggler that has not heard of it.
        assert_eq!(script.answer(9_001, 2, Some("node-2"), 1), Vec::<String>::new());
        assert_eq!(script.story.leader(), Some(&("node-1".to_owned(), 2)));
    }

    #[test]
    fn death_of_a_follower_leaves_the_leader() {
        let mut script = Script::formed();
        assert_eq!(script.died(10_000, 0), ["node-1 died: killed by SIGKILL"]);
        let at = script.at(13_000);
        assert_eq!(script.story.restarted(0, 77, at).text(), "node-1 restarted, pid 77");
        let told = script.answer(13_400, 0, Some("node-2"), 1);
        assert_eq!(told, ["node-1 is ready, 400 ms after its start"]);
        assert!(script.story.is_settled());
    }

    #[test]
    fn loss_of_the_majority_is_told_once_and_ends_with_a_leader() {
        let mut script = Script::formed();
        script.died(10_000, 0);
        let told = script.died(11_000, 2);
        assert!(told[1].starts_with("1 of 3 nodes run, which is no majority"), "{told:?}");
        assert_eq!(script.answer(12_000, 1, None, 1), Vec::<String>::new());
        let at = script.at(14_000);
        script.story.restarted(0, 77, at);
        let told = script.answer(15_000, 1, Some("node-2"), 2);
        assert_eq!(told[told.len() - 1], "node-2 is the leader of term 2, elected in 4.0 s");
    }

    #[test]
    fn paused_node_is_silent_and_then_answers() {
        let mut script = Script::formed();
        assert_eq!(script.silence(1_000, 0), Vec::<String>::new());
        assert_eq!(script.silence(4_000, 0), ["node-1 runs but does not answer"]);
        assert_eq!(script.story.ready(), 2, "a silent node is not counted as ready");
        assert!(!script.story.is_settled());
        assert_eq!(script.silence(5_000, 0), Vec::<String>::new());
        assert_eq!(script.answer(31_000, 0, Some("node-2"), 1), ["node-1 answers again, after 30.0 s"]);
    }
}
