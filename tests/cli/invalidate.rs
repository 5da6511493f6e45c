//! `invalidate` against real nodes, one of which is killed; `sessions`, `drain` and `resume` against one that answers as
//! it is told to.

use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::dev::Dev;
use crate::fake::{Answer, Fake};
use crate::support::{Running, ovncp, run, signal};

#[test]
fn invalidate_waits_for_all_and_names_who_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(dir.path(), &["--no-restart"]);
    dev.ready();
    let endpoint = dev.endpoint(0);
    let on_first = |args: &[&str]| ovncp(args.iter().copied().chain(["--endpoint", &endpoint]));
    let mut watch = Running::start(on_first(&["watch", "--types", "invalidation", "--since", "0"]));
    let wait = ["invalidate", "switch:*", "a:*:b", "--tag", "t", "--wait", "--timeout", "40s", "-o", "json"];
    let done = run(on_first(&wait));
    assert_eq!(done.code, Some(0), "{done:?}");
    let answer: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!((&answer["complete"], &answer["missing"]), (&json!(true), &json!([])), "{answer}");
    assert_eq!(answer["applied_by"], json!(["node-1", "node-2", "node-3"]), "{answer}");
    watch.line(&["switch:*, a:*:b tags t invalidated at node-1 (entry 0)"]);
    signal(dev.pids()[2], Signal::KILL);
    let late = run(on_first(&["invalidate", "k", "--wait=all", "--timeout", "300ms"]));
    assert_eq!(late.code, Some(1), "{late:?}");
    assert!(late.err.contains("node-3") && late.out.contains("position    0:1"), "{late:?}");
    // A majority is enough for this one, and it is in the log all the same.
    let quorum = run(on_first(&["invalidate", "k", "--wait", "quorum", "--timeout", "40s"]));
    assert_eq!(quorum.code, Some(0), "{quorum:?}");
    watch.line(&["k invalidated at node-1 (entry 1)"]);
    let wrong = run(on_first(&["invalidate", "a\\"]));
    assert_eq!(wrong.code, Some(1), "{wrong:?}");
    assert!(wrong.err.contains("quotes nothing"), "{wrong:?}");
    assert_eq!(run(on_first(&["invalidate"])).code, Some(2), "neither pattern nor tag");
    assert_eq!(run(on_first(&["invalidate", "k", "--wait=some"])).code, Some(2));
    // What follows --wait says for whom; a pattern there is refused, and `all` is never taken for a pattern.
    assert_eq!(run(on_first(&["invalidate", "--wait", "k"])).code, Some(2));
}

fn drain(left: u64) -> Answer {
    Answer::Json(
        200,
        json!({"node_id": "node-2", "total": 9, "left": left, "moved": 9 - left, "rate_per_s": 50,
            "since": "2026-11-22T20:00:00Z", "eta_ms": left * 20, "done": left == 0}),
    )
}

#[test]
fn drain_waits_until_nothing_is_left() {
    let asked = AtomicUsize::new(0);
    let fake = Fake::start(move |verb| match verb {
        "drain" => match asked.fetch_add(1, Ordering::Relaxed) {
            0 => drain(9),
            // A node that fails for a moment is no reason to give up.
            1 => Answer::Json(503, json!({"code": "no_leader", "detail": "no leader"})),
            2 => drain(4),
            _ => drain(0),
        },
        _ => Answer::Json(200, json!({})),
    });
    let done = run(ovncp(["drain", "node-2", "--rate", "7", "--wait", "--endpoint", &fake.url()]));
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.out.contains("9 moved of 9, 0 left"), "{done:?}");
    let first = &fake.seen("drain")[0];
    assert_eq!(
        (first.path.as_str(), &first.body["rate_per_s"]),
        ("/api/v1/cluster/nodes/node-2/drain", &json!(7))
    );
    let resumed = run(ovncp(["resume", "node-2", "--endpoint", &fake.url()]));
    assert_eq!((resumed.code, fake.seen("resume").len()), (Some(0), 1), "{resumed:?}");
}

#[test]
fn drain_tells_when_it_is_taken_back_or_late() {
    let asked = AtomicUsize::new(0);
    let fake = Fake::start(move |_| match asked.fetch_add(1, Ordering::Relaxed) {
        0 => drain(9),
        _ => Answer::Json(404, json!({"code": "not_found", "detail": "the node is not being emptied"})),
    });
    let done = run(ovncp(["drain", "node-2", "--wait", "--endpoint", &fake.url()]));
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.err.contains("resumed"), "{done:?}");
    let slow = Fake::start(|_| drain(5));
    let late = run(ovncp(["drain", "node-2", "--wait", "--timeout", "1s", "--endpoint", &slow.url()]));
    assert_eq!(late.code, Some(1), "{late:?}");
    assert!(late.err.contains("still has 5 sessions"), "{late:?}");
    // Without --wait it only says how it stands.
    let begun = run(ovncp(["drain", "node-2", "-o", "json", "--endpoint", &slow.url()]));
    assert_eq!(begun.code, Some(0), "{begun:?}");
    assert_eq!(serde_json::from_str::<Value>(&begun.out).unwrap()["left"], 5);
}

#[test]
fn sessions_are_listed_shown_moved_and_ended() {
    let session = json!({"session": "7", "user_id": "alice", "node_id": "node-1", "status": "attached", "epoch": 1,
        "created_at": "t", "last_activity": "t", "expires_at": null, "ttl_ms": 1000, "position": "3",
        "channels": ["news"], "metadata": null});
    let fake = Fake::start(move |verb| match verb {
        "sessions?limit=100&user=alice" => {
            Answer::Json(200, json!({"sessions": [session], "count": 1, "next_cursor": null}))
        }
        "7" => Answer::Json(200, session.clone()),
        "migrate" => Answer::Json(400, json!({"code": "invalid_target", "detail": "node-9 cannot take it"})),
        "rotate" => Answer::Json(200, json!({"session_id": "new"})),
        _ => Answer::Json(404, json!({"code": "unknown_session", "detail": "no such session"})),
    });
    let url = fake.url();
    let ask = |args: &[&str]| {
        run(ovncp(["sessions"].into_iter().chain(args.iter().copied()).chain(["--endpoint", &url])))
    };
    let listed = ask(&["list", "--user", "alice"]);
    assert!(listed.out.contains("alice") && listed.out.contains("node-1"), "{listed:?}");
    assert!(ask(&["show", "7"]).out.contains("news"));
    let refused = ask(&["migrate", "7", "node-9"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains("node-9 cannot take it"), "{refused:?}");
    assert_eq!(fake.seen("migrate")[0].body, json!({"target_node_id": "node-9"}));
    assert_eq!(ask(&["rotate", "7"]).out.trim(), "new");
    assert_eq!(ask(&["end", "7"]).code, Some(0));
    let unknown = ask(&["end", "8"]);
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    assert!(unknown.err.contains("no such session"), "{unknown:?}");
}
