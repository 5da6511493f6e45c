//! `ovncp elections campaign NAME -- CMD` against a node that behaves as each test needs.

use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use serde_json::json;

use crate::fake::{Answer, Fake, grant};
use crate::support::{Running, ovncp, run, signal, until};

/// As for `ovncp lock`: long against any delay of a busy machine.
const TTL: Duration = Duration::from_secs(10);

fn campaign<'a>(fake: &'a str, command: &[&'a str]) -> std::process::Command {
    let args = ["elections", "campaign", "jobs", "--ttl", "10s", "--wait", "0s", "--endpoint", fake];
    let dashes = if command.is_empty() { None } else { Some("--") };
    ovncp(args.into_iter().chain(dashes).chain(command.iter().copied()))
}

#[test]
fn command_sees_token_and_election_and_its_exit_code_is_the_result() {
    let fake = Fake::granting();
    let done = run(campaign(&fake.url(), &["sh", "-c", "echo $OVNCP_ELECTION $OVNCP_FENCING_TOKEN; exit 7"]));
    assert_eq!((done.code, done.out.as_str()), (Some(7), "jobs 42\n"), "{done:?}");
    let (campaign, resign) = (fake.seen("/campaign"), fake.seen("/resign"));
    assert_eq!((campaign.len(), resign.len()), (1, 1), "won and resigned once");
    assert_eq!(campaign[0].path, "/api/v1/cluster/elections/jobs/campaign");
    assert_eq!(campaign[0].body["secret"], resign[0].body["secret"]);
}

#[test]
fn leading_without_a_command_renews_until_a_signal_and_resigns() {
    let fake = Fake::granting();
    let mut running = Running::start(campaign(&fake.url(), &[]));
    running.line(&["leading jobs, token 42"]);
    let renewals = until("two renewals", || Some(fake.seen("/renew")).filter(|seen| seen.len() >= 2));
    assert!(renewals.iter().all(|seen| seen.key.is_none()), "{renewals:?}");
    signal(running.pid(), Signal::TERM);
    assert_eq!(running.end(), Some(0));
    assert_eq!(fake.seen("/resign").len(), 1);
}

#[test]
fn group_ends_when_the_leader_is_deposed() {
    let fake = Fake::start_with(|verb, body| match verb {
        "renew" => Answer::Json(409, json!({"code": "not_leader", "detail": "deposed for maintenance"})),
        _ => grant(verb, body),
    });
    // `run` returns only when nobody holds the pipe any more: the grandchild, which ignores SIGTERM, included.
    let done = run(campaign(&fake.url(), &["sh", "-c", "(trap '' TERM; sleep 600) & echo up; wait"]));
    assert_eq!((done.code, done.out.as_str()), (Some(6), "up\n"), "{done:?}");
    assert!(done.err.contains("deposed for maintenance"), "{done:?}");
    let idle = run(campaign(&fake.url(), &[]));
    assert_eq!(idle.code, Some(6), "{idle:?}");
}

#[test]
fn group_ends_before_the_term_when_nobody_answers() {
    let fake = Fake::start_with(|verb, body| match verb {
        "campaign" => grant(verb, body),
        _ => Answer::Silence,
    });
    // Each line shows that the command still ran; the last one is the one that counts.
    let done =
        run(campaign(&fake.url(), &["sh", "-c", "trap '' TERM; while :; do date +%s%N; sleep 0.02; done"]));
    assert_eq!(done.code, Some(6), "{done:?}");
    let nanos: Vec<u64> = done.out.lines().map(|line| line.parse().unwrap()).collect();
    let at = |nanos| SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
    // The term began when the campaign was sent, which was before the first line.
    assert!(at(nanos[nanos.len() - 1]) < at(nanos[0]) + TTL);
    assert!(!fake.seen("/renew").is_empty(), "it was tried");
}

#[test]
fn election_that_another_leads_ends_with_5() {
    let held = json!({"code": "election_held", "detail": "led",
        "leader": {"candidate": "somebody", "fencing_token": "1", "ttl_ms": 1_000}});
    let fake = Fake::start(move |_| Answer::Json(409, held.clone()));
    let done = run(campaign(&fake.url(), &["echo", "no"]));
    assert_eq!((done.code, done.out.as_str()), (Some(5), ""), "{done:?}");
    assert!(done.err.contains("somebody"), "{done:?}");
}
