//! Many writers at once while a cluster of OVN servers loses its leader.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ovncp_ovn::lab::{Lab, LabSettings, Members, Programs};
use reqwest::Method;
use serde_json::json;

use crate::support::TestNode;

/// Writers over the API.
const WRITERS: usize = 100;
/// Ports that each of them makes.
const PORTS_EACH: usize = 3;
/// Longer than elections of three loaded servers take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Makes a port; tries again with the same key until the outcome is known.
async fn make(client: &reqwest::Client, base: &str, name: &str) {
    let begun = Instant::now();
    loop {
        let sent = client
            .request(Method::POST, format!("{base}/api/v1/switches/blue/ports"))
            .header("idempotency-key", name)
            .json(&json!({ "name": name }))
            .send();
        match sent.await.unwrap().status().as_u16() {
            201 => return,
            429 | 503 | 504 | 409 => {}
            other => panic!("{name}: {other}"),
        }
        assert!(begun.elapsed() < PATIENCE, "{name} is never made");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_writers_lose_and_double_nothing_while_leaders_go() {
    if let Err(missing) = Programs::find() {
        return eprintln!("skipped: {missing}");
    }
    let directory = tempfile::Builder::new().prefix("net").tempdir_in("/tmp").unwrap();
    let mut lab =
        Lab::start(LabSettings::northbound_only(directory.path(), Members::Clustered)).await.unwrap();
    let endpoints: Vec<_> = lab.northbound().iter().map(|server| server.tcp_endpoint()).collect();
    let node = TestNode::start_with(&[("ovn.northbound.endpoints", &endpoints.join(","))]).await;
    let begun = Instant::now();
    while node.post("/api/v1/switches", json!({"name": "blue"})).await.status != 201 {
        assert!(begun.elapsed() < PATIENCE, "OVN comes in sync");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (client, base) = (node.client.clone(), node.base.clone());
        writers.spawn(async move {
            for port in 0..PORTS_EACH {
                make(&client, &base, &format!("p-{writer}-{port}")).await;
            }
        });
    }
    // Planned, then by force, with another client that writes in between.
    let leader = lab.northbound_leader().await.unwrap();
    lab.northbound()[leader].transfer_leadership().await.unwrap();
    let leader = until_led(&mut lab).await;
    lab.nbctl(&["lsp-add", "blue", "by-hand"]).await.unwrap();
    lab.northbound_mut()[leader].kill();
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    lab.northbound_mut()[leader].start().await.unwrap();
    until_led(&mut lab).await;

    let mut made: BTreeSet<_> = (0..WRITERS)
        .flat_map(|writer| (0..PORTS_EACH).map(move |port| format!("p-{writer}-{port}")))
        .collect();
    made.insert("by-hand".to_owned());
    // By another client, then from the replica.
    let dump = lab.nbctl(&["--bare", "--columns=name", "list", "Logical_Switch_Port"]).await.unwrap();
    let dumped: Vec<_> = dump.split_whitespace().map(str::to_owned).collect();
    assert_eq!(dumped.len(), made.len(), "nothing twice");
    assert_eq!(dumped.into_iter().collect::<BTreeSet<_>>(), made);
    let begun = Instant::now();
    let listed = loop {
        let listed = node.get("/api/v1/switches/blue/ports?limit=1000&fields=name").await;
        if listed.status == 200 {
            break listed.json();
        }
        assert!(begun.elapsed() < PATIENCE, "OVN comes in sync again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let shown =
        listed["ports"].as_array().unwrap().iter().map(|port| port["name"].as_str().unwrap().to_owned());
    assert_eq!(shown.collect::<BTreeSet<_>>(), made);
}

async fn until_led(lab: &mut Lab) -> usize {
    let begun = Instant::now();
    loop {
        if let Ok(leader) = lab.northbound_leader().await {
            return leader;
        }
        assert!(begun.elapsed() < PATIENCE, "another member leads");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
