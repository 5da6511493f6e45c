//! The WebSocket edge: the protocol on one node, and every kind of bad input.

use futures_util::{SinkExt, StreamExt};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::socket::{Came, PATIENCE, Socket, open, publish, status};
use crate::support::TestNode;

#[tokio::test]
async fn welcome_subscribe_publish_and_close() {
    let node = TestNode::start().await;
    let mut socket = Socket::open(&node, "?user=ada&node=anything").await;
    let welcome = socket.welcome.clone();
    assert_eq!((&welcome["user"], &welcome["epoch"]), (&json!("ada"), &json!(1)));
    assert_eq!((&welcome["resumed"], &welcome["channels"]), (&json!(false), &json!([])));
    assert!(welcome["resume_url"].as_str().unwrap().contains(socket.id()));
    assert_eq!(socket.id().len(), 32);

    let subscribed = socket.ask(json!({"type": "subscribe", "channels": ["b", "a"]}), "subscribed").await;
    assert_eq!(subscribed["channels"], json!(["a", "b"]));
    // Over HTTP and over the socket, to the channel, the user and the session itself.
    let first = publish(&node, json!({"channel": "a"}), json!({"n": 1})).await;
    let event = socket.expect("event").await;
    assert_eq!((&event["channel"], &event["data"]), (&json!("a"), &json!({"n": 1})));
    assert_eq!(event["offset"], first.to_string());
    publish(&node, json!({"user": "ada"}), json!("for ada")).await;
    assert_eq!(socket.event("user").await, "for ada");
    publish(&node, json!({"user": "bob"}), json!("not for ada")).await;
    for channel in ["session", "user", "b"] {
        socket.send(json!({"type": "publish", "channel": channel, "data": [channel]})).await;
        // The answer and the event, in whichever order.
        let mut frames = [socket.frame().await, socket.frame().await];
        frames.sort_by_key(|frame| frame["type"].as_str().unwrap().to_owned());
        assert_eq!((&frames[0]["channel"], &frames[0]["data"]), (&json!(channel), &json!([channel])));
        assert_eq!((&frames[1]["type"], &frames[1]["offset"]), (&json!("published"), &frames[0]["offset"]));
    }
    let refused = socket.ask(json!({"type": "publish", "channel": "c", "data": 1}), "error").await;
    assert_eq!(refused["code"], "invalid_argument");
    let left = socket.ask(json!({"type": "unsubscribe", "channels": ["a"]}), "unsubscribed").await;
    assert_eq!(left["channels"], json!(["b"]));
    publish(&node, json!({"channel": "a"}), json!("nobody listens")).await;
    publish(&node, json!({"session": socket.number()}), json!("by number")).await;
    assert_eq!(socket.event("session").await, "by number");
    socket.ask(json!({"type": "ping"}), "pong").await;

    socket.send(json!({"type": "close"})).await;
    assert_eq!(socket.closed().await, Some(4009));
    node.get(&format!("/api/v1/cluster/sessions/{}", socket.id())).await.problem(404, "unknown_session");
}

#[tokio::test]
async fn resume_replays_what_was_missed_exactly() {
    let node = TestNode::start().await;
    let mut socket = Socket::open(&node, "?user=ada").await;
    socket.ask(json!({"type": "subscribe", "channels": ["c"]}), "subscribed").await;
    let mut last = 0;
    for n in 0..3 {
        last = publish(&node, json!({"channel": "c"}), json!(n)).await;
        assert_eq!(socket.event("c").await, n);
    }
    socket.stream.close(None).await.unwrap();
    status(&node, socket.id(), "detached").await;
    for n in 3..40 {
        let to = if n % 2 == 0 { json!({"channel": "c"}) } else { json!({"user": "ada"}) };
        publish(&node, to, json!(n)).await;
        publish(&node, json!({"channel": "other"}), json!("not this")).await;
    }
    let mut resumed = socket.resume(&node, &format!("&since={}", last + 1)).await;
    assert_eq!((&resumed.welcome["epoch"], &resumed.welcome["channels"]), (&json!(2), &json!(["c"])));
    for n in 3..40 {
        assert_eq!(resumed.event(if n % 2 == 0 { "c" } else { "user" }).await, n);
    }
    // Live again, and nothing twice.
    publish(&node, json!({"channel": "c"}), json!("live")).await;
    assert_eq!(resumed.event("c").await, "live");
    // Without `since` it begins where the client has been for sure, and misses nothing.
    resumed.stream.close(None).await.unwrap();
    status(&node, socket.id(), "detached").await;
    publish(&node, json!({"channel": "c"}), json!("last")).await;
    let mut again = resumed.resume(&node, "").await;
    let mut seen = Vec::new();
    while seen.last() != Some(&json!("last")) {
        seen.push(again.expect("event").await["data"].clone());
    }
    assert!(seen.contains(&json!("live")), "what was not known to have arrived comes again: {seen:?}");
}

#[tokio::test]
async fn a_channel_can_be_read_from_the_past_without_repeating_the_others() {
    let node = TestNode::start().await;
    let mut socket = Socket::open(&node, "").await;
    socket.ask(json!({"type": "subscribe", "channels": ["a"]}), "subscribed").await;
    let first = publish(&node, json!({"channel": "b"}), json!("b0")).await;
    publish(&node, json!({"channel": "a"}), json!("a0")).await;
    assert_eq!(socket.event("a").await, "a0");
    publish(&node, json!({"channel": "b"}), json!("b1")).await;
    let past = json!({"type": "subscribe", "channels": ["b"], "since": first.to_string()});
    socket.ask(past, "subscribed").await;
    assert_eq!((socket.event("b").await, socket.event("b").await), (json!("b0"), json!("b1")));
    for to in ["a", "b"] {
        publish(&node, json!({"channel": to}), json!("live")).await;
        assert_eq!(socket.event(to).await, "live");
    }
    // An offset that was never given is said to be none.
    let future = json!({"type": "subscribe", "channels": ["c"], "since": "999999"});
    socket.ask(future, "subscribed").await;
    assert_eq!(socket.expect("reset").await["channel"], "c");
    publish(&node, json!({"channel": "c"}), json!("now")).await;
    assert_eq!(socket.event("c").await, "now");
}

#[tokio::test]
async fn events_of_the_cluster_are_a_channel() {
    let node = TestNode::start().await;
    let mut socket = Socket::open(&node, "").await;
    let subscribed = socket.ask(json!({"type": "subscribe", "channels": ["events"]}), "subscribed").await;
    assert_eq!(subscribed["channels"], json!(["events"]));
    node.acquire("switch:1", json!({"owner": "a"})).await.expect(200);
    let event = socket.expect("event").await;
    assert_eq!((&event["channel"], &event["data"]["type"]), (&json!("events"), &json!("lock_acquired")));
    let offset: u64 = event["offset"].as_str().unwrap().parse().unwrap();
    socket.ask(json!({"type": "unsubscribe", "channels": ["events"]}), "unsubscribed").await;
    node.acquire("switch:2", json!({"owner": "a"})).await.expect(200);
    let again = json!({"type": "subscribe", "channels": ["events"], "since": (offset + 1).to_string()});
    socket.ask(again, "subscribed").await;
    assert_eq!(socket.expect("event").await["data"]["keys"], json!(["switch:2"]));
}

#[tokio::test]
async fn the_invalidation_log_is_a_channel() {
    let node = TestNode::start().await;
    let mut socket = Socket::open(&node, "").await;
    let subscribe = json!({"type": "subscribe", "channels": ["invalidations", "c"]});
    let subscribed = socket.ask(subscribe, "subscribed").await;
    assert_eq!(subscribed["channels"], json!(["c", "invalidations"]));
    let mut offsets = Vec::new();
    for pattern in ["switch:*", "router:1"] {
        let body = json!({"patterns": [pattern], "wait": "none"});
        node.post("/api/v1/cluster/invalidations", body).await.expect(200);
        let event = socket.expect("event").await;
        assert_eq!(
            (&event["channel"], &event["data"]["patterns"]),
            (&json!("invalidations"), &json!([pattern]))
        );
        offsets.push(event["offset"].clone());
    }
    // Another socket reads the same from the place that an offset names.
    let mut other = Socket::open(&node, "").await;
    let since = json!({"type": "subscribe", "channels": ["invalidations"], "since": offsets[1]});
    other.ask(since, "subscribed").await;
    assert_eq!(other.event("invalidations").await["patterns"], json!(["router:1"]));
    let wrong = json!({"type": "subscribe", "channels": ["invalidations"], "since": "7"});
    assert_eq!(
        socket.ask(wrong, "subscribed").await["channels"],
        json!(["c", "invalidations"]),
        "it is read already"
    );
    let mut third = Socket::open(&node, "").await;
    let wrong = json!({"type": "subscribe", "channels": ["invalidations"], "since": "7"});
    assert_eq!(third.ask(wrong, "error").await["code"], "invalid_argument");
}

#[tokio::test]
async fn the_newest_socket_has_the_session() {
    let node = TestNode::start().await;
    let mut first = Socket::open(&node, "").await;
    let mut second = first.resume(&node, "").await;
    assert_eq!(first.closed().await, Some(4001));
    publish(&node, json!({"session": first.id()}), json!(1)).await;
    assert_eq!(second.event("session").await, 1);
    // All at once: one stays, each of the others is told.
    let id = first.id().to_owned();
    let query = format!("?session={id}");
    let claims = (0..8).map(|_| open(&node, &query));
    let claims = futures_util::future::join_all(claims).await;
    assert_eq!(second.closed().await, Some(4001));
    let mut staying = Vec::new();
    let mut moved = 0;
    for claim in claims {
        let (stream, header) = claim.unwrap();
        let mut socket = Socket { stream, welcome: Value::Null, header };
        publish(&node, json!({"session": id}), json!("who?")).await;
        let closed = async {
            loop {
                match socket.came().await {
                    Came::Closed(code) => return Some(code),
                    Came::Frame(frame) if frame["data"] == "who?" => return None,
                    Came::Frame(_) => {}
                }
            }
        };
        match closed.await {
            Some(code) => {
                assert_eq!(code, Some(4001));
                moved += 1;
            }
            None => staying.push(socket),
        }
    }
    // One that was overtaken may have had a message before; it is closed all the same.
    let shown = status(&node, &id, "attached").await;
    assert_eq!(shown["epoch"], 10);
    let mut open_still = 0;
    for mut socket in staying {
        publish(&node, json!({"session": id}), json!("still?")).await;
        loop {
            match socket.came().await {
                Came::Closed(code) => {
                    assert_eq!(code, Some(4001));
                    moved += 1;
                    break;
                }
                Came::Frame(frame) if frame["data"] == "still?" => {
                    open_still += 1;
                    break;
                }
                Came::Frame(_) => {}
            }
        }
    }
    assert_eq!((open_still, moved), (1, 7));
}

#[tokio::test]
async fn bad_frames_are_answered_and_then_the_socket_is_closed() {
    let node = TestNode::start().await;
    let deep = format!("{{\"type\":\"publish\",\"channel\":\"user\",\"data\":{}", "[".repeat(20_000));
    for (message, code) in [
        (Message::binary(vec![1, 2, 3]), 1003),
        (Message::text("no json"), 1007),
        (Message::text("[]"), 1007),
        (Message::text("{\"type\":"), 1007),
        (Message::text(deep), 1007),
        (Message::text(format!("{{\"type\":\"{}\"}}", "x".repeat(70_000))), 1009),
        (Message::text("x".repeat(1_000_000)), 1009),
        (Message::binary(vec![0; 4_000_000]), 1009),
    ] {
        let mut socket = Socket::open(&node, "").await;
        // The server may close before all of it is sent.
        let _ = tokio::time::timeout(PATIENCE, socket.stream.send(message)).await.expect("it is taken");
        assert_eq!(socket.closed().await, Some(code));
        status(&node, socket.id(), "detached").await;
    }
    let mut socket = Socket::open(&node, "").await;
    for n in 0..16 {
        let frame = if n % 2 == 0 { json!({"type": "dance"}) } else { json!({"type": "ping", "x": n}) };
        socket.send(frame).await;
        let code = if n % 2 == 0 { "invalid_body" } else { "unknown_field" };
        assert_eq!(socket.expect("error").await["code"], code);
    }
    assert_eq!(socket.closed().await, Some(1008));
}

#[tokio::test]
async fn subscriptions_are_bounded() {
    let node = TestNode::start().await;
    let mut socket = Socket::open(&node, "").await;
    let names = |range: std::ops::Range<u32>| range.map(|n| format!("c{n}")).collect::<Vec<_>>();
    let refused = socket.ask(json!({"type": "subscribe", "channels": names(0..100)}), "error").await;
    assert_eq!((&refused["code"], &refused["fields"]["max"]), (&json!("limit_exceeded"), &json!(64)));
    socket.ask(json!({"type": "subscribe", "channels": names(0..60)}), "subscribed").await;
    let refused = socket.ask(json!({"type": "subscribe", "channels": names(60..70)}), "error").await;
    assert_eq!(refused["code"], "limit_exceeded");
    let taken = socket.ask(json!({"type": "subscribe", "channels": names(50..64)}), "subscribed").await;
    assert_eq!(taken["channels"].as_array().unwrap().len(), 64);
    for wrong in ["", "user", "a\u{7}", &"x".repeat(257)] {
        let refused = socket.ask(json!({"type": "subscribe", "channels": [wrong]}), "error").await;
        assert_eq!(refused["code"], "invalid_argument");
    }
}

#[tokio::test]
async fn a_socket_that_never_reads_is_closed_and_resumes() {
    let node = TestNode::start().await;
    let socket = Socket::open(&node, "?user=ada").await;
    let id = socket.id().to_owned();
    // More than the kernel, the socket's buffers and its queue hold.
    let text = "x".repeat(30_000);
    let mut count = 0;
    let detached = async {
        loop {
            let data = json!({"n": count, "text": text});
            publish(&node, json!({"user": "ada"}), data).await;
            count += 1;
            if count % 50 == 0 {
                let shown = node.get(&format!("/api/v1/cluster/sessions/{id}")).await.expect(200);
                if shown["status"] == "detached" {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE * 3, detached).await.expect("a slow consumer is closed");
    let text =
        node.client.get(format!("{}/metrics", node.metrics)).send().await.unwrap().text().await.unwrap();
    assert!(text.contains("ovncp_websocket_closes_total{code=\"4008\"} 1"), "{text}");
    // What it has not read is not lost: from the beginning again, in order, without a gap, as far as it is kept.
    let position: u64 = socket.welcome["position"].as_str().unwrap().parse().unwrap();
    let mut resumed = socket.resume(&node, &format!("&since={position}")).await;
    let mut expected = 0;
    while expected < count {
        let frame = resumed.frame().await;
        if frame["type"] == "reset" {
            expected = frame["first"].as_str().unwrap().parse::<u64>().unwrap() - position;
            continue;
        }
        assert_eq!(frame["data"]["n"], expected);
        expected += 1;
    }
}

#[tokio::test]
async fn what_is_no_upgrade_is_refused_by_http() {
    let node = TestNode::start().await;
    let plain = node.get("/ws").await;
    plain.problem(426, "upgrade_required");
    assert_eq!(plain.header("upgrade"), "websocket");
    let old = node.call(Method::GET, "/ws").header("connection", "Upgrade").header("upgrade", "websocket");
    old.send().await.problem(400, "malformed_request");
    let (status, problem, _) = open(&node, "?sesion=1").await.unwrap_err();
    assert_eq!((status, &problem["code"]), (400, &json!("malformed_request")));
    let (status, problem, _) = open(&node, "?since=-1").await.unwrap_err();
    assert_eq!((status, &problem["code"]), (422, &json!("invalid_argument")));
    let (status, problem, _) = open(&node, &format!("?user={}", "x".repeat(300))).await.unwrap_err();
    assert_eq!((status, &problem["code"]), (422, &json!("invalid_argument")));
    // Sessions that are none: told over the socket, since pages see no status of an upgrade.
    for query in ["?session=0123456789abcdef0123456789abcdef", "?session=x", "?session="] {
        let (stream, _) = open(&node, query).await.unwrap();
        let mut socket = Socket { stream, welcome: Value::Null, header: String::new() };
        assert_eq!(socket.came().await, Came::Closed(Some(4009)), "{query}");
    }
}

#[tokio::test]
async fn open_sockets_hold_no_request_and_count_as_connections() {
    let settings = [("server.concurrent_requests_max", "2"), ("server.connections_max", "40")];
    let node = TestNode::start_with(&settings).await;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(Socket::open(&node, "").await);
    }
    // Whoever says no name has one of its own: the limit of sessions per user is nobody else's.
    let users: std::collections::BTreeSet<_> =
        sockets.iter().map(|socket| socket.welcome["user"].to_string()).collect();
    assert_eq!(users.len(), sockets.len());
    node.get("/api/v1/cluster").await.expect(200);
    let metrics = || async {
        let answer = node.client.get(format!("{}/metrics", node.metrics)).send().await.unwrap();
        answer.text().await.unwrap()
    };
    let value = |text: &str, name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{text}"));
        line.trim().parse().unwrap()
    };
    let text = metrics().await;
    assert!(value(&text, "ovncp_http_connections ") >= 20.0);
    assert!((value(&text, "ovncp_sessions_active{node_id=\"node-1\"} ") - 20.0).abs() < 0.1);
    assert!((value(&text, "ovncp_sessions_total{node_id=\"node-1\"} ") - 20.0).abs() < 0.1);
    for mut socket in sockets {
        socket.stream.close(None).await.unwrap();
        while let Some(Ok(_)) = socket.stream.next().await {}
    }
    let freed = async {
        loop {
            let text = metrics().await;
            if value(&text, "ovncp_http_connections ") < 20.0
                && value(&text, "ovncp_sessions_active{node_id=\"node-1\"} ") < 0.5
            {
                return text;
            }
        }
    };
    let text = tokio::time::timeout(PATIENCE, freed).await.expect("closed sockets give everything back");
    assert!((value(&text, "ovncp_sessions_total{node_id=\"node-1\"} ") - 20.0).abs() < 0.1);
}
