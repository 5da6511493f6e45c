//! `watch` and `elections` against real nodes, one of which is killed.

use rustix::process::Signal;
use serde_json::Value;

use crate::dev::Dev;
use crate::support::{Running, ovncp, run, signal};

#[test]
fn watching_and_leading_go_on_when_a_node_dies() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path(), &[]);
    dev.ready();
    let endpoints: Vec<_> = (0..3).map(|index| dev.endpoint(index)).collect();
    let with_all = |args: &[&str]| {
        let mut command = ovncp(args.iter().copied());
        command.env("OVNCP_ENDPOINTS", endpoints.join(","));
        command
    };
    let mut json =
        Running::start(with_all(&["watch", "--since", "0", "--types", "lock,node_join", "-o", "json"]));
    let mut people = Running::start(with_all(&["watch", "--since", "0"]));
    assert!(json.line(&["node_join"]).contains("node-1"), "the past is replayed");
    people.line(&["leads the cluster, term"]);
    let mut observer = Running::start(with_all(&["elections", "observe", "scheduler"]));
    observer.line(&["nobody leads"]);
    let campaign =
        ["elections", "campaign", "scheduler", "--candidate", "alice", "--value", "{\"url\": \"u\"}"];
    let mut alice = Running::start(with_all(&campaign));
    let won = alice.line(&["leading scheduler, token "]);
    let token = won.rsplit(' ').next().unwrap().to_owned();
    observer.line(&["alice leads, token ", &token, "\"url\":\"u\""]);
    // The node that all of them asked first dies; they go on elsewhere, where they were.
    signal(dev.pids()[0], Signal::KILL);
    let locked = run(with_all(&["lock", "k", "--owner", "me", "--wait", "60s", "--", "true"]));
    assert_eq!(locked.code, Some(0), "{locked:?}");
    let (mut seen, mut last) = (Vec::new(), None);
    while seen.len() < 2 {
        let event: Value = serde_json::from_str(&json.line(&["offset"])).unwrap();
        let offset: u64 = event["offset"].as_str().unwrap().parse().unwrap();
        assert!(last.is_none_or(|last| offset > last), "{offset} after {last:?}");
        last = Some(offset);
        if event["type"] != "node_join" {
            seen.push((event["type"].as_str().unwrap().to_owned(), event["owner"].clone()));
        }
    }
    assert_eq!(seen, [("lock_acquired".to_owned(), "me".into()), ("lock_released".to_owned(), "me".into())]);
    people.line(&["k locked by me (exclusive, token "]);
    // A second candidate is told who leads; then the first one resigns.
    let refused =
        run(with_all(&["elections", "campaign", "scheduler", "--candidate", "bob", "--wait", "0s"]));
    assert_eq!(refused.code, Some(5), "{refused:?}");
    assert!(refused.err.contains("alice leads"), "{refused:?}");
    let shown = run(with_all(&["elections", "show", "scheduler"]));
    assert!(shown.out.contains("alice") && shown.out.contains(&token), "{shown:?}");
    signal(alice.pid(), Signal::TERM);
    assert_eq!(alice.end(), Some(0));
    observer.line(&["nobody leads (alice resigned)"]);
    let once =
        run(with_all(&["elections", "campaign", "scheduler", "--candidate", "bob", "--once", "-o", "json"]));
    let term: Value = serde_json::from_str(&once.out).unwrap();
    assert_eq!(term["candidate"], "bob");
    let listed = run(with_all(&["elections", "list"]));
    assert!(listed.out.contains("scheduler") && listed.out.contains("bob"), "{listed:?}");
    let resign = ["elections", "resign", "scheduler", "--secret", term["secret"].as_str().unwrap()];
    assert_eq!(run(with_all(&resign)).code, Some(0));
    assert_eq!(run(with_all(&resign)).code, Some(6), "not the leader any more");
    // Ctrl-C is how one stops watching, not an error.
    for running in [&mut json, &mut people, &mut observer] {
        signal(running.pid(), Signal::INT);
        assert_eq!(running.end(), Some(0));
    }
    let wrong = run(with_all(&["watch", "--types", "lock,nonsense"]));
    assert_eq!(wrong.code, Some(1), "{wrong:?}");
    assert!(wrong.err.contains("nonsense") && wrong.err.contains("node_update"), "{wrong:?}");
    // The killed node may be on its way back: its pid is not known then. The nodes end with their supervisor.
    drop(dev);
}
