//! `ovncp lock KEY -- CMD` against a node that behaves as each test needs.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::fake::{Answer, Fake, grant};
use crate::support::{Running, is_alive, ovncp, run, signal, until};

/// Long against any delay of a busy machine: a lock that shall be kept is, and one that is lost leaves seconds
/// between its end and that of the command.
const TTL: Duration = Duration::from_secs(10);

fn lock<'a>(fake: &'a str, command: &[&'a str]) -> std::process::Command {
    let args = ["lock", "switch:a/b", "--ttl", "10s", "--endpoint", fake, "--"];
    ovncp(args.into_iter().chain(command.iter().copied()))
}

#[test]
fn command_sees_token_and_key_and_its_exit_code_is_the_result() {
    let fake = Fake::granting();
    let done = run(lock(&fake.url(), &["sh", "-c", "echo $OVNCP_LOCK_KEY $OVNCP_FENCING_TOKEN; exit 7"]));
    assert_eq!((done.code, done.out.as_str()), (Some(7), "switch:a/b 42\n"), "{done:?}");

    let (acquire, release) = (fake.seen("/acquire"), fake.seen("/release"));
    assert_eq!((acquire.len(), release.len()), (1, 1), "acquired and released once");
    assert_eq!(acquire[0].path, "/api/v1/cluster/locks/switch%3Aa%2Fb/acquire");
    assert_eq!(acquire[0].body["secret"], release[0].body["secret"]);
    assert!(acquire[0].body["secret"].as_str().unwrap().len() >= 32, "at least 128 bits");
}

#[test]
fn command_that_cannot_be_run_ends_as_in_a_shell_and_releases() {
    let fake = Fake::granting();
    let done = run(lock(&fake.url(), &["/no/such/command"]));
    assert_eq!(done.code, Some(127), "{done:?}");
    assert_eq!(fake.seen("/release").len(), 1);
}

#[test]
fn lock_is_renewed_while_the_command_runs() {
    let fake = Fake::granting();
    let mut running =
        Running::start(lock(&fake.url(), &["sh", "-c", "echo up; read line < /dev/null; sleep 600"]));
    running.line(&["up"]);
    let renewals = until("two renewals", || Some(fake.seen("/renew")).filter(|seen| seen.len() >= 2));
    // A renewal that repeats an older one's answer would prove a lease that is not there.
    assert!(renewals.iter().all(|seen| seen.key.is_none()), "{renewals:?}");
    signal(running.pid(), Signal::TERM);
    assert_eq!(running.end(), Some(128 + 15), "the signal is passed on, the command ends by it");
    assert_eq!(fake.seen("/release").len(), 1);
}

#[test]
fn group_ends_when_the_lock_is_taken_away() {
    let fake = Fake::start_with(|verb, body| match verb {
        "renew" => Answer::Json(409, json!({"code": "not_holder", "detail": "released by an administrator"})),
        _ => grant(verb, body),
    });
    // `run` returns only when nobody holds the pipe any more: the grandchild, which ignores SIGTERM, included.
    let done = run(lock(&fake.url(), &["sh", "-c", "(trap '' TERM; sleep 600) & echo up; wait"]));
    assert_eq!((done.code, done.out.as_str()), (Some(6), "up\n"), "{done:?}");
    assert!(done.err.contains("released by an administrator"), "{done:?}");
}

#[test]
fn group_ends_before_the_ttl_when_nobody_answers() {
    let fake = Fake::start_with(|verb, body| match verb {
        "acquire" => grant(verb, body),
        _ => Answer::Silence,
    });
    // Each line shows that the command still ran; the last one is the one that counts.
    let ticking = "trap '' TERM; while :; do date +%s%N; sleep 0.02; done";
    let begun = std::time::SystemTime::UNIX_EPOCH;
    let done = run(lock(&fake.url(), &["sh", "-c", ticking]));
    assert_eq!(done.code, Some(6), "{done:?}");
    let nanos: Vec<u64> = done.out.lines().map(|line| line.parse().unwrap()).collect();
    let (first, last) = (nanos[0], nanos[nanos.len() - 1]);
    // The TTL began when the acquire was sent, which was before the first line.
    assert!(begun + Duration::from_nanos(last) < begun + Duration::from_nanos(first) + TTL);
    assert!(!fake.seen("/renew").is_empty(), "it was tried");
}

#[test]
fn lock_that_others_hold_ends_with_5() {
    let held = json!({"code": "lock_held", "detail": "held",
        "holder": {"owner": "somebody", "fencing_token": "1", "ttl_ms": 1_000}});
    let fake = Fake::start(move |_| Answer::Json(409, held.clone()));
    let done = run(ovncp(["lock", "k", "--wait", "0s", "--endpoint", &fake.url(), "--", "echo", "no"]));
    assert_eq!((done.code, done.out.as_str()), (Some(5), ""), "{done:?}");
    assert!(done.err.contains("somebody"), "{done:?}");
}

#[test]
fn acquire_fails_over_with_the_same_request() {
    let broken = Fake::start(|_| Answer::Json(503, json!({"code": "no_leader"})));
    let good = Fake::granting();
    let args = ["lock", "k", "--endpoint", &broken.url(), "--endpoint", &good.url(), "--", "true"];
    let done = run(ovncp(args));
    assert_eq!(done.code, Some(0), "{done:?}");
    let (first, second) = (&broken.seen("/acquire")[0], &good.seen("/acquire")[0]);
    assert!(first.key.is_some() && first.key == second.key);
    assert_eq!(first.body, second.body);
    assert!(first.at <= second.at);
}

#[test]
fn command_dies_with_a_killed_holder() {
    let fake = Fake::granting();
    let mut running = Running::start(lock(&fake.url(), &["sh", "-c", "echo pid $$; exec sleep 600"]));
    let line = running.line(&["pid "]);
    let pid: u32 = line.trim_start_matches("pid ").parse().unwrap();
    signal(running.pid(), Signal::KILL);
    until("the command ends", || (!is_alive(pid)).then_some(()));
}
