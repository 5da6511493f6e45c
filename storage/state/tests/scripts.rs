//! Golden conversations with the state: one rule per file under `scripts/`, named by the file and said by its
//! first comment. `UPDATE_GOLDENFILES=1 cargo test -p ovncp-state --test scripts` rewrites the answers; the
//! diff is the review.
//!
//! Every line begins with the cluster clock. After each entry the invariants are checked, and a twin that was
//! restored from a snapshot has done the same. `advance T` lets time pass without an entry; `limits a=1 ...`
//! starts over with other bounds; `repeat N COMMAND` replaces `%` by 0..N and sums up the replies.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use goldenscript::{Argument, ArgumentConsumer, Context};
use ovncp_state::limits::Limits;
use ovncp_state::{
    EventOffset, InvalidationOffset, MessageOffset, Millis, NodeId, SessionFilter, SessionId, SessionNumber,
    State, WaiterId,
};

mod support;

use support::{Checked, parse, restored, show};

struct Runner {
    clock: Millis,
    checked: Checked,
}

impl Default for Runner {
    fn default() -> Self {
        Self { clock: Millis(0), checked: Checked::new(State::new(), true) }
    }
}

impl goldenscript::Runner for Runner {
    type Command = goldenscript::Command;

    fn run(&mut self, command: &goldenscript::Command, _: &Context) -> Result<String, Box<dyn Error>> {
        if command.name == "repeat" {
            return self.repeat(command);
        }
        let mut args = command.consume_args();
        if let Some(request) = parse::request(&command.name, &mut args)? {
            let applied = self.checked.apply(self.clock, &request);
            return Ok(format!("{}: {}", self.clock, show::applied(&applied)));
        }
        let mut args = command.consume_args();
        let output = self.other(&command.name, &mut args)?;
        args.reject_next()?;
        Ok(output)
    }
}

impl Runner {
    fn repeat(&mut self, command: &goldenscript::Command) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let count: u64 = args.next_pos().ok_or("count is missing")?.parse()?;
        let name = args.next_pos().ok_or("command is missing")?;
        let args: Vec<_> = args.cloned().collect();
        let mut sums: BTreeMap<String, u64> = BTreeMap::new();
        // The checks are linear in the size of the state: made once at the end here.
        for i in 0..count {
            let fill = |text: &String| text.replace('%', &i.to_string());
            let mut filled = command.clone();
            filled.args = args
                .iter()
                .map(|arg| match arg {
                    Argument::Positional(value) => Argument::Positional(fill(value)),
                    Argument::KeyValue(key, value) => Argument::KeyValue(key.clone(), fill(value)),
                    other => other.clone(),
                })
                .collect();
            let request = parse::request(name, &mut filled.consume_args())?.ok_or("not a command")?;
            self.checked.index += 1;
            let index = ovncp_state::LogIndex(self.checked.index);
            let applied = self.checked.state.apply(ovncp_state::Entry { index, at: self.clock, request });
            let reply = show::reply(&applied.reply);
            let kind = reply.split([' ', ':']).next().unwrap_or_default().to_string();
            *sums.entry(kind).or_default() += 1;
            *sums.entry("events".into()).or_default() += applied.events.len() as u64;
            *sums.entry("notices".into()).or_default() += applied.notices.len() as u64;
        }
        ovncp_state::invariants::check(&self.checked.state)?;
        let sums: Vec<_> = sums.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        Ok(format!("{}: {}", self.clock, sums.join(", ")))
    }

    fn other(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Result<String, Box<dyn Error>> {
        let state = &self.checked.state;
        Ok(match name {
            "advance" => {
                self.clock = self.clock.after(parse::millis(args.next_pos().ok_or("how far?")?)?);
                String::new()
            }
            "clock" => {
                self.clock = parse::millis(args.next_pos().ok_or("to when?")?)?;
                String::new()
            }
            "limits" => {
                self.checked = Checked::new(State::with_limits(bounds(args)?), false);
                String::new()
            }
            "restore" => {
                self.checked.state = restored(state);
                "restored from its own snapshot".to_string()
            }
            "records" => records(state),
            "deadline" => format!("next deadline {:?}", state.next_deadline().map(|deadline| deadline.0)),
            "cluster" => show::cluster(&state.cluster()),
            "nodes" => lines(state.nodes().iter().map(show::node)),
            "node" => {
                let which = args.next_pos().ok_or("which?")?;
                let node =
                    which.parse().map_or_else(|_| state.node_by_name(which), |id| state.node(NodeId(id)));
                node.map_or_else(|| format!("no node {which}"), |node| show::node(&node))
            }
            "lock" => {
                let queue_max = args.take_key("queue").map_or(Ok(10), str::parse)?;
                let key = args.next_pos().ok_or("which?")?;
                state.lock(key, queue_max).map_or_else(|| format!("no lock {key}"), |lock| show::lock(&lock))
            }
            "locks" => {
                let after = args.take_key("after");
                let limit = args.take_key("limit").map_or(Ok(100), str::parse)?;
                let prefix = args.next_pos().unwrap_or_default();
                lines(state.locks(prefix, after, limit, 0).iter().map(show::lock))
            }
            "waiter" => {
                let name = args.next_pos().ok_or("which?")?;
                format!("{name}: {:?}", state.waiter(WaiterId(parse::word(name))))
            }
            "get" => {
                let key = args.next_pos().ok_or("which?")?;
                state.kv(key.as_bytes()).map_or_else(
                    || format!("no register {}", show::bytes(key.as_bytes())),
                    |(meta, value)| format!("{} = {}", show::kv(&meta), show::bytes(&value)),
                )
            }
            "scan" => {
                let after = args.take_key("after").map(str::as_bytes);
                let limit = args.take_key("limit").map_or(Ok(100), str::parse)?;
                let prefix = args.next_pos().unwrap_or_default().as_bytes();
                lines(state.kv_scan(prefix, after, limit).iter().map(show::kv))
            }
            "events" => {
                let limit = args.take_key("limit").map_or(Ok(100), str::parse)?;
                let since = EventOffset(args.next_pos().unwrap_or("0").parse()?);
                match state.events(since, limit) {
                    Ok(events) => lines(events.iter().map(show::event)),
                    Err(reset) => format!("reset: kept are {}..{}", reset.first, reset.next),
                }
            }
            other => return self.later(other, args),
        })
    }

    /// Sessions, messages and invalidations.
    fn later(&self, name: &str, args: &mut ArgumentConsumer<'_>) -> Result<String, Box<dyn Error>> {
        let state = &self.checked.state;
        let limit = args.take_key("limit").map_or(Ok(100), str::parse)?;
        Ok(match name {
            "sessions" => {
                let user = args.take_key("user");
                let node = args.take_key("on").map(str::parse).transpose()?.map(NodeId);
                let after = args.take_key("after").map(str::parse).transpose()?.map(SessionNumber);
                let listed = state.sessions(after, limit, SessionFilter { user, node });
                format!("of {}: {}", state.sessions_len(), lines(listed.iter().map(show::session)))
            }
            "session" => {
                let which = args.next_pos().ok_or("which?")?;
                let found = which.parse().map_or_else(
                    |_| state.session_by_id(&SessionId(parse::word(which))),
                    |number| state.session(SessionNumber(number)),
                );
                found.map_or_else(|| format!("no session {which}"), |session| show::session(&session))
            }
            "load" => {
                let node = NodeId(args.next_pos().ok_or("whose?")?.parse()?);
                let totals = state.session_totals(node);
                format!("node {node}: {} known, {} attached", totals.known, totals.attached)
            }
            "place" => {
                let without = args.take_key("without").map(str::parse).transpose()?.map(NodeId);
                let keys = std::iter::from_fn(|| args.next_pos());
                let placed = keys.map(|key| state.place(key.as_bytes(), without));
                let placed: Vec<_> =
                    placed.map(|node| node.map_or("none".to_string(), |node| node.to_string())).collect();
                placed.join(" ")
            }
            "drained" => {
                let node = NodeId(args.next_pos().ok_or("which?")?.parse()?);
                state.drain(node).map_or_else(
                    || format!("node {node} does not drain"),
                    |drain| {
                        let (since, total, left) = (drain.since, drain.total, drain.left);
                        format!(
                            "node {node} since {since}: {left} of {total} left, {} per second",
                            drain.rate_per_s
                        )
                    },
                )
            }
            "messages" => {
                let since = MessageOffset(args.next_pos().unwrap_or("0").parse()?);
                match state.messages(since, limit) {
                    Ok(messages) => lines(messages.iter().map(|message| show::message(message))),
                    Err(reset) => show::reset(&reset),
                }
            }
            "invalidations" => {
                let since = InvalidationOffset(args.next_pos().unwrap_or("0").parse()?);
                match state.invalidations(since, limit) {
                    Ok(entries) => lines(entries.iter().map(|entry| show::invalidation(entry))),
                    Err(reset) => show::reset(&reset),
                }
            }
            "reports" => {
                let reports = state.cleared();
                lines(reports.iter().map(|(node, next)| format!("node {node} has cleared up to {next}")))
            }
            other => return Err(format!("unknown command {other}").into()),
        })
    }
}

fn bounds(args: &mut ArgumentConsumer<'_>) -> Result<Limits, Box<dyn Error>> {
    let mut limits = Limits::default();
    while let Some((name, value)) = args.next_key() {
        let value = value.parse()?;
        *match name {
            "locks_held" => &mut limits.locks_held,
            "holders_per_key" => &mut limits.holders_per_key,
            "waiters_per_key" => &mut limits.waiters_per_key,
            "waiters" => &mut limits.waiters,
            "kv_keys" => &mut limits.kv_keys,
            "kv_bytes" => &mut limits.kv_bytes,
            "nodes" => &mut limits.nodes,
            "events_kept" => &mut limits.events_kept,
            "events_kept_bytes" => &mut limits.events_kept_bytes,
            "requests_kept" => &mut limits.requests_kept,
            "expiries_per_apply" => &mut limits.expiries_per_apply,
            "sessions" => &mut limits.sessions,
            "sessions_per_user" => &mut limits.sessions_per_user,
            "sessions_bytes" => &mut limits.sessions_bytes,
            "locks_per_session" => &mut limits.locks_per_session,
            "messages_kept" => &mut limits.messages_kept,
            "messages_kept_bytes" => &mut limits.messages_kept_bytes,
            "invalidations_kept" => &mut limits.invalidations_kept,
            "invalidations_kept_bytes" => &mut limits.invalidations_kept_bytes,
            other => return Err(format!("unknown limit {other}").into()),
        } = value;
    }
    Ok(limits)
}

fn records(state: &State) -> String {
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    for record in state.records() {
        let debug = format!("{record:?}");
        *kinds.entry(debug.split('(').next().unwrap_or_default().to_string()).or_default() += 1;
    }
    let kinds: Vec<_> = kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    kinds.join(", ")
}

fn lines(lines: impl Iterator<Item = String>) -> String {
    let lines: Vec<_> = lines.collect();
    if lines.is_empty() { "nothing".to_string() } else { lines.join("\n") }
}

/// Runs every script of a folder. All of them run; the first failure is reported with its file.
fn run(folder: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts").join(folder);
    let mut scripts: Vec<PathBuf> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    scripts.sort();
    assert!(!scripts.is_empty(), "no scripts in {}", folder.display());
    for script in scripts {
        println!("script {}", script.display());
        goldenscript::run(&mut Runner::default(), &script).unwrap();
    }
}

macro_rules! folders {
    ($($folder:ident),*) => {
        $(#[test]
        fn $folder() {
            run(stringify!($folder));
        })*

        #[test]
        fn no_folder_is_forgotten() {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
            let mut found: Vec<_> = fs::read_dir(root)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            found.sort();
            let mut known = vec![$(stringify!($folder)),*];
            known.sort_unstable();
            assert_eq!(found, known);
        }
    };
}

folders!(events, invalidations, kv, limits, locks, membership, messages, requests, sessions, snapshot, time);
