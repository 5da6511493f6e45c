use std::time::Instant;

use serde_json::{Value, json};

use super::*;
use crate::client::{Call, Outcome};
use crate::fake::{Act, Fake};
use crate::history::{Kind, Process};

/// A client of the nodes at `urls`, `n1` first; the recorder shows what it did.
pub(super) fn actor(urls: &[&str]) -> (Actor, Recorder) {
    let recorder = Recorder::new(None).unwrap();
    let context = context(urls, &recorder, &watch::channel(false).1);
    (Actor::new(context).unwrap(), recorder)
}

fn context(urls: &[&str], recorder: &Recorder, stop: &watch::Receiver<bool>) -> ClientContext {
    let node = |(position, url): (usize, &&str)| Endpoint {
        name: format!("n{}", position + 1),
        url: (*url).to_owned(),
    };
    ClientContext {
        number: 0,
        recorder: recorder.clone(),
        nodes: watch::channel(urls.iter().enumerate().map(node).collect()).1,
        rng: StdRng::seed_from_u64(1),
        stop: stop.clone(),
        pace: Pace::new(0.0),
        admin_token: None,
        shared: Arc::new(Shared::new(1)),
        time_out_fails: false,
    }
}

async fn ended(actor: &mut Actor, outcome: Outcome<Value>) {
    let node = actor.node().unwrap();
    let invocation = actor.begin("read", Some("r1"), Some(&node), Value::Null);
    actor.end(&invocation, outcome);
}

#[tokio::test]
async fn who_does_not_know_what_happened_goes_on_as_somebody_else() {
    let (mut actor, recorder) = actor(&["http://unused"]);
    ended(&mut actor, Outcome::Ok(json!(1))).await;
    ended(&mut actor, Outcome::Fail("refused".to_owned())).await;
    ended(&mut actor, Outcome::Unknown("timeout".to_owned())).await;
    ended(&mut actor, Outcome::Ok(json!(2))).await;
    let history = recorder.history().unwrap();
    let kinds: Vec<_> = history.events.iter().map(|event| (event.process, event.kind)).collect();
    let (first, second) = (Process::Client(0), Process::Client(1));
    let ends: Vec<_> = kinds.into_iter().skip(1).step_by(2).collect();
    assert_eq!(ends, [(first, Kind::Ok), (first, Kind::Fail), (first, Kind::Info), (second, Kind::Ok)]);
}

#[tokio::test]
async fn the_mutant_of_the_harness_calls_a_time_out_a_failure() {
    let fake = Fake::start([Act::Hang]).await;
    let (mut actor, recorder) = actor(&[&fake.url]);
    actor.context.time_out_fails = true;
    let node = actor.node().unwrap();
    let invocation = actor.begin("write", Some("r1"), Some(&node), json!({ "value": 1 }));
    let call = Call::put("/x", "1").within(Duration::from_millis(50));
    let outcome = actor.ask(&node, &call).await.map(|_| Value::Null);
    actor.end(&invocation, outcome);
    assert_eq!(recorder.with_events(|events| events[1].kind), Kind::Fail);
}

#[tokio::test]
async fn a_client_stays_with_its_node_mostly_and_not_always() {
    let (mut actor, _) = actor(&["http://a", "http://b", "http://c"]);
    let asked: Vec<_> = (0..1_000).map(|_| actor.node().unwrap().name).collect();
    let home = asked.iter().filter(|name| *name == "n1").count();
    assert!((700..1_000).contains(&home), "{home}");
    for other in ["n2", "n3"] {
        assert!(asked.iter().any(|name| name == other));
    }
}

#[tokio::test]
async fn nobody_is_faster_than_the_pace() {
    let mut pace = Pace::new(200.0);
    let began = Instant::now();
    for _ in 0..21 {
        pace.wait().await;
    }
    assert!(began.elapsed() >= Duration::from_millis(100));
}

#[tokio::test]
async fn a_client_without_nodes_does_nothing_and_ends() {
    let (stop, stops) = watch::channel(false);
    let recorder = Recorder::new(None).unwrap();
    let (_nodes, none) = watch::channel(Vec::new());
    let lonely = ClientContext { nodes: none, ..context(&[], &recorder, &stops) };
    let client = tokio::spawn(client(WorkloadKind::Register, lonely));
    tokio::task::yield_now().await;
    stop.send_replace(true);
    client.await.unwrap().unwrap();
    assert_eq!(recorder.history().unwrap().events, []);
}

#[tokio::test]
async fn a_final_read_without_an_answer_is_made_again() {
    let no_leader = Act::Answer("503 Service Unavailable", "", "{\"code\":\"no_leader\"}");
    let found = Act::Answer("200 OK", "etag: \"9\"\r\n", "1");
    // More than are asked for: a connection that ends takes one too.
    let acts = [no_leader.clone(), no_leader].into_iter().chain(vec![found; 20]);
    let fake = Fake::start(acts).await;
    let recorder = Recorder::new(None).unwrap();
    let mut context = context(&[&fake.url], &recorder, &watch::channel(false).1);
    let registers = context.shared.all_registers();
    assert_eq!(registers.len(), 3);
    finish::registers(&mut context).await.unwrap();
    let events = recorder.history().unwrap().events;
    let ended =
        |kind| events.iter().filter(move |event| event.kind == kind).filter_map(|event| event.key.clone());
    assert!(ended(Kind::Fail).count() > 0);
    assert_eq!(ended(Kind::Ok).collect::<std::collections::BTreeSet<_>>(), registers.into_iter().collect());
}
