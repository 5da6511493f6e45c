//! Two sockets of one session, a channel, a user: what each check lets pass and what it finds.

use super::*;

const OWNERS: &str = "session owners";
const ORDER: &str = "messages in order";
const LOSSES: &str = "messages kept";
const KEPT: &str = "sessions kept";

/// A socket of session 7 of user u1 that is welcomed; its process has the socket's number.
fn connect(
    script: &mut Script,
    socket: u64,
    span: [u64; 2],
    since: Option<u64>,
    epoch: u64,
    channels: &[&str],
) {
    let input = json!({"socket": socket, "session": 7, "user": "u1", "since": since});
    let output = json!({"session": 7, "epoch": epoch, "position": 0, "user": "u1", "channels": channels});
    script.ok(socket, span, ("connect", "7"), input, output);
}

fn receive(script: &mut Script, socket: u64, at: u64, frames: Value) {
    script.ok(socket, [at, at + 1], ("receive", "7"), json!({"socket": socket}), json!({"frames": frames}));
}

/// The number that is published is the offset and 100.
fn publish(script: &mut Script, process: u64, span: [u64; 2], to: &str, offset: u64) {
    let input = json!({"to": to, "data": offset + 100});
    script.ok(process, span, ("publish", to), input, json!({"offset": offset}));
}

fn event(channel: &str, offset: u64) -> Value {
    json!({"channel": channel, "offset": offset, "data": offset + 100})
}

fn subscribe(script: &mut Script, socket: u64, span: [u64; 2]) {
    script.ok(socket, span, ("subscribe", "7"), json!({"socket": socket, "channels": ["c1"]}), json!({}));
}

/// Epoch 1 sees 3 and 4, epoch 2 goes on with 6.
fn good() -> Script {
    let mut script = Script::default();
    connect(&mut script, 1, [0, 5], None, 1, &[]);
    subscribe(&mut script, 1, [6, 8]);
    publish(&mut script, 50, [10, 12], "user:u1", 3);
    publish(&mut script, 50, [13, 14], "channel:c1", 4);
    publish(&mut script, 50, [15, 16], "user:u2", 5);
    receive(&mut script, 1, 20, json!([event("user", 3), event("c1", 4)]));
    connect(&mut script, 2, [30, 35], Some(5), 2, &["c1"]);
    publish(&mut script, 50, [40, 42], "session:7", 6);
    receive(&mut script, 2, 45, json!([event("session", 6)]));
    receive(&mut script, 1, 46, json!([{"closed": 4001}]));
    script
}

#[test]
fn a_session_that_moves_once_passes_all_checks() {
    let script = good();
    for name in [OWNERS, ORDER, LOSSES, KEPT] {
        script.passes(name);
    }
    let results = script.results();
    assert_eq!(results.check(OWNERS).unwrap().counts["sockets taken over"], 1);
    assert_eq!(results.check(ORDER).unwrap().counts["messages"], 3);
    assert_eq!(
        results.check(LOSSES).unwrap().counts["messages due"],
        2,
        "6 is the last one: nothing is behind it"
    );
    assert_eq!(results.check(KEPT).unwrap().counts["subscriptions looked at"], 2);
}

#[test]
fn two_sockets_with_one_epoch_are_found() {
    let mut script = good();
    connect(&mut script, 3, [50, 55], Some(7), 2, &["c1"]);
    assert_eq!(script.finding(OWNERS).text, "session 7: two sockets were welcomed with epoch 2");
}

#[test]
fn epochs_grow_in_the_order_of_attaches_and_only_there() {
    let mut script = good();
    // Began before the socket of epoch 2 was welcomed: either may be the later one.
    connect(&mut script, 3, [31, 55], Some(5), 4, &["c1"]);
    connect(&mut script, 4, [33, 56], Some(5), 3, &["c1"]);
    script.passes(OWNERS);
    connect(&mut script, 5, [60, 61], Some(5), 0, &["c1"]);
    assert_eq!(script.finding(OWNERS).text, "session 7: a socket got epoch 0 after another had epoch 4");
}

#[test]
fn an_old_socket_may_be_served_what_was_published_before_it_was_taken_over_only() {
    let mut script = good();
    publish(&mut script, 51, [28, 43], "user:u1", 7);
    receive(&mut script, 1, 60, json!([event("user", 7)]));
    receive(&mut script, 2, 61, json!([event("user", 7)]));
    script.passes(OWNERS);
    receive(&mut script, 1, 62, json!([event("session", 6)]));
    assert_eq!(
        script.finding(OWNERS).text,
        "session 7 had two owners: the socket with epoch 1 was served message 6 (session), published after epoch 2 had \
         been welcomed"
    );
}

#[test]
fn what_nobody_published_or_not_to_this_session_is_found() {
    let mut script = good();
    receive(&mut script, 2, 50, json!([event("user", 8)]));
    assert_eq!(script.finding(ORDER).text, "session 7: message 8 (user) was published by nobody");

    let mut script = good();
    publish(&mut script, 50, [50, 51], "user:u2", 8);
    receive(&mut script, 2, 55, json!([event("user", 8)]));
    assert_eq!(script.finding(ORDER).text, "session 7: message 8 (user) was published to user:u2");

    let mut script = good();
    publish(&mut script, 50, [50, 51], "channel:c2", 8);
    receive(&mut script, 2, 55, json!([event("c2", 8)]));
    assert_eq!(script.finding(ORDER).text, "session 7: message 8 (c2) although it never asked to listen");

    let mut script = good();
    script.fail(50, [50, 51], ("publish", "user:u1"), json!({"to": "user:u1", "data": 108}), "no_leader");
    receive(&mut script, 2, 55, json!([event("user", 8)]));
    assert_eq!(script.finding(ORDER).text, "session 7: message 8 (user) was refused when it was published");

    let mut script = good();
    receive(&mut script, 2, 50, json!([event("user", 8)]));
    publish(&mut script, 50, [60, 61], "user:u1", 8);
    assert_eq!(script.finding(ORDER).text, "session 7: message 8 (user) arrived before it was published");
}

#[test]
fn an_unknown_publication_may_arrive_or_not_but_at_one_offset() {
    let mut script = good();
    script.info(60, [50, 51], ("publish", "user:u1"), json!({"to": "user:u1", "data": 900}));
    script.info(61, [50, 51], ("publish", "user:u1"), json!({"to": "user:u1", "data": 901}));
    receive(&mut script, 2, 55, json!([{"channel": "user", "offset": 8, "data": 900}]));
    script.passes(ORDER);
    script.passes(LOSSES);
    receive(&mut script, 2, 57, json!([{"channel": "user", "offset": 9, "data": 900}]));
    assert_eq!(script.finding(ORDER).text, "one publication stands at two offsets, 8 and 9");
}

#[test]
fn an_acknowledged_offset_is_where_the_message_stands() {
    let mut script = good();
    receive(&mut script, 2, 55, json!([{"channel": "user", "offset": 9, "data": 103}]));
    assert_eq!(script.finding(ORDER).text, "one publication stands at two offsets, 3 and 9");

    let mut script = good();
    script.ok(52, [50, 51], ("publish", "x"), json!({"to": "user:u9", "data": 77}), json!({"offset": 6}));
    assert_eq!(script.finding(ORDER).text, "message 6 was acknowledged to two who published");
}

#[test]
fn messages_that_come_twice_again_or_too_early_are_found() {
    let mut script = good();
    receive(&mut script, 1, 22, json!([event("user", 3)]));
    assert_eq!(script.finding(ORDER).text, "session 7, epoch 1: message 3 (user) came twice");

    let mut script = good();
    receive(&mut script, 2, 50, json!([event("c1", 4)]));
    assert_eq!(
        script.finding(ORDER).text,
        "session 7, epoch 2: message 4 (c1) came again, although the socket goes on from 5"
    );

    let mut script = good();
    publish(&mut script, 50, [50, 51], "session:7", 8);
    publish(&mut script, 50, [52, 53], "session:7", 9);
    receive(&mut script, 2, 55, json!([event("session", 9), event("session", 8)]));
    assert_eq!(script.finding(ORDER).text, "session 7, epoch 2: message 8 (session) came after message 9");
}

#[test]
fn a_message_that_never_comes_is_found_unless_a_reset_names_it() {
    let lost = |frames: Value| {
        let mut script = good();
        publish(&mut script, 50, [50, 51], "channel:c1", 8);
        publish(&mut script, 50, [52, 53], "user:u1", 9);
        receive(&mut script, 2, 55, frames);
        script
    };
    lost(json!([event("c1", 8), event("user", 9)])).passes(LOSSES);
    let script = lost(json!([event("user", 9)]));
    let finding = script.finding(LOSSES);
    assert_eq!(finding.text, "session 7: message 8 (channel:c1) never came, though later ones did");
    assert_eq!(finding.lines.len(), 2);
    let reset = |first: u64| json!({"reset": "session", "first": first, "next": 10});
    let script = lost(json!([reset(9), event("user", 9)]));
    script.passes(LOSSES);
    assert_eq!(script.results().check(LOSSES).unwrap().counts["messages lost and told so"], 1);
    let script = lost(json!([reset(8), event("user", 9)]));
    script.finding(LOSSES);
}

#[test]
fn a_gap_between_two_sockets_is_found_wherever_the_later_message_came() {
    let mut script = good();
    publish(&mut script, 50, [50, 51], "user:u1", 8);
    publish(&mut script, 50, [52, 53], "user:u1", 9);
    connect(&mut script, 3, [60, 61], Some(7), 3, &["c1"]);
    receive(&mut script, 3, 65, json!([event("user", 9)]));
    assert_eq!(
        script.finding(LOSSES).text,
        "session 7: message 8 (user:u1) never came, though later ones did"
    );
}

#[test]
fn nobody_is_owed_what_was_published_before_it_surely_listened() {
    let mut script = Script::default();
    publish(&mut script, 50, [1, 2], "user:u1", 1);
    connect(&mut script, 1, [1, 5], None, 1, &[]);
    // While it subscribes, and after it may have left again.
    publish(&mut script, 50, [7, 8], "channel:c1", 2);
    subscribe(&mut script, 1, [6, 9]);
    publish(&mut script, 50, [20, 21], "user:u1", 3);
    receive(&mut script, 1, 25, json!([event("user", 3)]));
    script.passes(LOSSES);
    publish(&mut script, 50, [30, 31], "channel:c1", 4);
    publish(&mut script, 50, [32, 33], "user:u1", 5);
    script.ok(1, [34, 35], ("unsubscribe", "7"), json!({"socket": 1, "channels": ["c1"]}), json!({}));
    receive(&mut script, 1, 40, json!([event("user", 5)]));
    script.passes(LOSSES);
}

#[test]
fn the_last_message_of_all_has_to_come() {
    let mut script = good();
    script.ok(70, [90, 95], ("final-session", "7"), json!({}), json!({}));
    script.passes(LOSSES);
    script.fail(70, [96, 99], ("final-session", "7"), json!({}), "never came");
    let text = "session 7: the last message to it was acknowledged and never came";
    assert_eq!(script.finding(LOSSES).text, text);
    let mut script = good();
    script.fail(70, [96, 99], ("final-session", "7"), json!({}), "no_leader");
    let results = script.results();
    assert_eq!(results.check(LOSSES).unwrap().verdict, Verdict::Unknown);
}

#[test]
fn a_session_that_is_gone_without_anybody_having_ended_it_is_found() {
    let input = json!({"socket": 9, "session": 7, "since": 7});
    let mut script = good();
    script.info(8, [50, 52], ("end", "7"), Value::Null);
    script.fail(9, [60, 61], ("connect", "7"), input.clone(), "session_ended");
    script.passes(KEPT);
    assert_eq!(script.results().check(KEPT).unwrap().counts["ended sessions refused"], 1);
    let mut script = good();
    script.fail(9, [60, 61], ("connect", "7"), input, "session_ended");
    assert_eq!(script.finding(KEPT).text, "session 7 is gone, and nobody ended it");
}

#[test]
fn a_session_that_was_ended_is_no_more() {
    let mut script = good();
    script.ok(8, [50, 52], ("end", "7"), Value::Null, json!({}));
    connect(&mut script, 9, [60, 61], Some(7), 3, &["c1"]);
    assert_eq!(script.finding(KEPT).text, "session 7 was ended and welcomes a socket");
}

#[test]
fn a_subscription_that_is_lost_is_found() {
    let mut script = good();
    connect(&mut script, 9, [60, 61], Some(7), 3, &[]);
    assert_eq!(script.finding(KEPT).text, "session 7 has lost its subscription to c1");
}

#[test]
fn a_session_that_forgets_what_was_delivered_is_found() {
    let mut script = good();
    let resume = |script: &mut Script, socket: u64, since: Option<u64>, epoch: u64, position: u64| {
        let input = json!({"socket": socket, "session": 7, "user": "u1", "since": since});
        let output =
            json!({"session": 7, "epoch": epoch, "position": position, "user": "u1", "channels": ["c1"]});
        script.ok(socket, [40 + 4 * socket, 42 + 4 * socket], ("connect", "7"), input, output);
    };
    resume(&mut script, 3, None, 3, 7);
    // What the client asked for says nothing about what the cluster knows.
    resume(&mut script, 4, Some(5), 4, 5);
    resume(&mut script, 5, None, 5, 7);
    script.passes(OWNERS);
    resume(&mut script, 6, None, 6, 6);
    assert_eq!(script.finding(OWNERS).text, "session 7 went back from 7 to 6 when it was resumed");
}

#[test]
fn a_replaced_socket_that_stays_open_is_found_and_the_newest_may() {
    let stale = |script: &mut Script, epoch: u64| {
        let input = json!({"socket": epoch, "epoch": epoch});
        script.fail(80, [95, 96], ("final-stale", "7"), input, "still open");
    };
    let mut script = good();
    stale(&mut script, 2);
    script.passes(OWNERS);
    stale(&mut script, 1);
    assert_eq!(script.finding(OWNERS).text, "session 7: the socket with epoch 1 was never closed");
}
